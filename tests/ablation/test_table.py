"""Statistics of a study's table, against closed forms."""

from pathlib import Path

import numpy as np
import pytest

from trip.ablation.study import Study, write_scores
from trip.ablation.table import Estimate, bootstrap, grid, markdown, paired, read_scores, tabulate


def test_the_interval_of_one_seed_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(3, 2, (1, 400))
    found = bootstrap(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.1 * half)


def test_the_interval_spans_what_seeds_differ_in() -> None:
    """Clips are alike, seeds are 0, 3, 6: the mean of three draws is 0 or 6 in 1 of 27 cases each."""
    found = bootstrap(np.repeat([[0.0], [3.0], [6.0]], 50, axis=1))
    assert (found.low, found.value, found.high) == (0, 3, 6)


def test_a_paired_difference_cancels_what_clips_share() -> None:
    rng = np.random.default_rng(1)
    clips, noise = rng.normal(0, 10, (1, 100)), rng.normal(0, 0.1, (2, 3, 100))
    difference = paired(clips + noise[0] + 0.2, clips + noise[1])
    assert difference.excludes_zero and difference.value == pytest.approx(0.2, abs=0.05)
    assert difference.high - difference.low < 0.2 < bootstrap(clips + noise[0]).high
    assert (difference.seeds, difference.clips) == (3, 100)


@pytest.mark.parametrize(("low", "high", "excludes"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False)])
def test_excludes_zero(low: float, high: float, excludes: bool) -> None:
    assert Estimate((low + high) / 2, low, high, 3, 10).excludes_zero is excludes


def scores(offset: float, clips: int = 12) -> dict[str, np.ndarray]:
    errors = np.arange(clips)[:, None, None] / 100 + offset + np.zeros((1, 8, 4))
    errors[:, :, 0] = 1e6  # the first frame does not count
    return {
        "errors": errors.astype(np.float32),
        "snr": np.array([8.0, 8, 4, 4, 2, 2, 1, 1]),
        "follows": np.array([1.0, 0, 0, 1]),
        "flow": np.full(4, 0.5),
    }


def test_scores_become_numbers_a_clip(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores" / "tnf-0.npz", scores(1.0))
    found = read_scores(tmp_path / "scores" / "tnf-0.npz")
    expected = 1 + np.arange(12) / 100
    np.testing.assert_allclose(found["x0"], expected, rtol=1e-6)
    for quarter, snr in enumerate((8, 4, 2, 1), 1):
        np.testing.assert_allclose(found[f"eps-{quarter}"], snr * expected, rtol=1e-6)
    assert found["follows"].tolist() == [100, 0, 0, 100]


def test_the_table_says_how_many_and_marks_what_differs(tmp_path: Path) -> None:
    for seed in range(2):
        write_scores(tmp_path / "scores" / f"tnf-{seed}.npz", scores(1.0 + seed / 1000))
        write_scores(tmp_path / "scores" / f"trip-minus-{seed}.npz", scores(1.5 + seed / 1000))
    table = tabulate(Study(variants=("tnf", "trip-minus", "trip-c"), seeds=3), tmp_path)
    assert table["rows"].keys() == {"tnf", "trip-minus"}
    entry = table["differences"]["tnf"]["trip-minus"]["x0"]
    assert entry["value"] == pytest.approx(0.5, abs=1e-6) and (entry["seeds"], entry["clips"]) == (2, 12)
    assert table["differences"]["tnf"]["trip-minus"]["flow"]["value"] == 0
    text = markdown(table)
    assert "| TRIP- (no shortcut) | **4 (4 to 4)** |" in text and "0 (0 to 0) |" in text
    assert grid(table["rows"], ("follows",), bold=False).splitlines()[0] == "| | moves as prompted, % |"
