"""Statistics of a study's table, against closed forms."""

from pathlib import Path

import numpy as np
import pytest

from trip.ablation.study import Study, write_scores
from trip.ablation.table import Estimate, bootstrap, grid, markdown, paired, read_scores, seed_by_clip, tabulate


def test_the_interval_of_one_seed_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(3, 2, (1, 400))
    found = bootstrap(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.interval[0] == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.interval[1] == pytest.approx(found.value + half, abs=0.1 * half)


def test_the_interval_spans_what_seeds_differ_in() -> None:
    """Clips are alike, seeds are 0, 3, 6: the mean of three draws is 0 or 6 in 1 of 27 cases each."""
    found = bootstrap(np.repeat([[0.0], [3.0], [6.0]], 50, axis=1))
    assert (found.value, found.interval) == (3, (0, 6))


def test_a_paired_difference_cancels_what_clips_share() -> None:
    rng = np.random.default_rng(1)
    clips, noise = rng.normal(0, 10, (1, 100)), rng.normal(0, 0.1, (2, 3, 100))
    difference = paired(clips + noise[0] + 0.2, clips + noise[1])
    assert difference.excludes_zero and difference.value == pytest.approx(0.2, abs=0.05)
    assert difference.interval[1] - difference.interval[0] < 0.2 < bootstrap(clips + noise[0]).interval[1]
    assert (difference.seeds, difference.clips) == (3, 100)


@pytest.mark.parametrize(("low", "high", "excludes"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False)])
def test_excludes_zero(low: float, high: float, excludes: bool) -> None:
    assert Estimate((low + high) / 2, (low, high), 3, 10).excludes_zero is excludes


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


def spoil(path, **changes):
    """The file with arrays changed, or without those that are None."""
    with np.load(path) as file:
        arrays = {name: value for name, value in (dict(file) | changes).items() if value is not None}
    write_scores(path, arrays)


HOSTILE_SCORES = [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:-200]),
    lambda path: path.write_bytes(b"PK" + bytes(500)),
    lambda path: spoil(path, snr=None),
    lambda path: spoil(path, errors=np.zeros(3)),
    lambda path: spoil(path, errors=np.full((4, 8, 3), np.nan)),
    lambda path: spoil(path, snr=np.zeros(5)),
    lambda path: spoil(path, flow=np.array(["a", "b"])),
    lambda path: spoil(path, flow=np.zeros((2, 2))),
    lambda path: spoil(path, flow=np.array([{}, None], object)),
    lambda path: spoil(path, more=np.zeros(2**28 // 8 + 8)),
]


@pytest.mark.parametrize("change", HOSTILE_SCORES)
def test_files_that_are_no_scores_are_one_line_that_names_them(tmp_path, change):
    path = tmp_path / "scores" / "tnf-0.npz"
    write_scores(path, {"errors": np.ones((4, 8, 3)), "snr": np.ones(8), "flow": np.ones(4)})
    assert set(read_scores(path)) == {"eps-1", "eps-2", "eps-3", "eps-4", "x0", "flow"}
    change(path)
    with pytest.raises(ValueError, match=r"^\S+tnf-0\.npz holds no scores of a study [^\n]+$"):
        read_scores(path)


def test_scores_of_other_clips_are_not_compared(tmp_path):
    for name, clips in (("tnf-0", 4), ("tnf-1", 5)):
        scores = {"errors": np.ones((clips, 8, 3)), "snr": np.ones(8)}
        write_scores(tmp_path / "scores" / f"{name}.npz", scores)
    with pytest.raises(ValueError, match=r"tnf-1\.npz holds scores of other clips than tnf-0\.npz; delete it"):
        seed_by_clip(tmp_path, "tnf", 2)
    (tmp_path / "scores" / "tnf-1.npz").rename(tmp_path / "scores" / "optimal-0.npz")
    with pytest.raises(ValueError, match=r"scores of optimal in \S+ are of other clips than those of tnf; delete one"):
        tabulate(Study(variants=("tnf", "optimal"), seeds=1), tmp_path)
