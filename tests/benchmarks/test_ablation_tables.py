"""The tables of docs/results/ablations.md: from finished studies only, one set at a time."""

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.ablations import Settings, main, tables, tuning_table
from benchmarks.pages import with_tables

from trip.ablation.study import Study, open_study, write_scores

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = ("tnf", "tnf-optimal", "trip-minus")
PAGE = "\n".join(
    f"<!-- table: synthetic-{name} -->\n<!-- end -->" for name in ("errors", "clips", "less-tnf", "less-tnf-optimal")
)


def study_in(folder: Path, variants: tuple[str, ...] = VARIANTS) -> Path:
    """A study of one seed whose k-th variant has an error of k."""
    open_study(Study(variants=variants, seeds=1), folder)
    for k, name in enumerate(VARIANTS):
        errors = np.full((5, 8, 4), k, np.float32)
        scores = {"errors": errors, "snr": np.ones(8), "follows": np.array([1.0, 0]), "flow": np.full(2, 0.5)}
        write_scores(folder / "scores" / f"{name}-0.npz", scores)
    return folder


def test_a_finished_study_fills_the_page_and_stays_in_the_json(tmp_path: Path) -> None:
    folder, page, results = study_in(tmp_path / "study"), tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(PAGE)
    main(Settings(json=results, page=page, synthetic=folder))
    text = page.read_text()
    assert "| TNF on variance-optimal | 1 (1 to 1) | 1 (1 to 1) |" in text
    assert "| TRIP (TNF from scratch) | **-1 (-1 to -1)** |" in text, "less tnf-optimal"
    assert "| moves as prompted, % | flow, % of width |" in text
    page.write_text(PAGE)
    main(Settings(json=results, page=page))
    assert page.read_text() == text
    assert json.loads(results.read_text())["synthetic"]["study"]["seeds"] == 1


def test_what_is_not_finished_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    folder, results = study_in(tmp_path / "study", (*VARIANTS, "prior")), tmp_path / "results.json"
    with pytest.raises(ValueError, match="is not done, prior-0 is one of 1 without scores"):
        main(Settings(json=results, real=folder))
    with pytest.raises(ValueError, match="holds no study"):
        main(Settings(json=results, real=tmp_path))
    with pytest.raises(ValueError, match="holds no results yet"):
        main(Settings(json=results))
    assert not results.exists()


def test_what_was_tuned_is_said() -> None:
    found = tables({"synthetic": {"rows": {}, "differences": {}, "tuning": {"[0.9, 0.5]": 1.234, "[0.5, 0.0]": 2.0}}})
    assert found["tuning"] == tuning_table({"[0.9, 0.5]": 1.234, "[0.5, 0.0]": 2.0})
    assert found["tuning"].splitlines()[2:] == ["| 0.9 to 0.5 | 1.23 |", "| 0.5 to 0.0 | 2 |"]


def test_the_page_shows_the_json() -> None:
    results = json.loads((ROOT / "docs/results/ablations.json").read_text())
    page = (ROOT / "docs/results/ablations.md").read_text()
    assert with_tables(page, tables(results)) == page
