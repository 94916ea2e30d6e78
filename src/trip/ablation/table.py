"""The table of a study: means over seeds and clips, their intervals, and paired differences.

**Intervals** are 95 % percentiles of a two-way bootstrap: seeds and clips are drawn with replacement, the same clips
for all seeds. **Differences** are paired: a variant's value less the reference's on the same seed and clip, with the
same draws, so that what clips and seeds have in common cancels. With three seeds the seeds' part is coarse; N is
always said.
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from trip.ablation.study import Study, plain, scores_path
from trip.ablation.variants import VARIANTS
from trip.data.text import open_regular, printable
from trip.files import write_json

RESAMPLES = 2000
REFERENCES = ("tnf", "tnf-optimal")

METRICS = {
    "eps-1": "noise error, t < 250",
    "eps-2": "t < 500",
    "eps-3": "t < 750",
    "eps-4": "t >= 750",
    "x0": "z_0 error",
    "follows": "moves as prompted, %",
    "consistency-4-consecutive": "F-Consistency_4",
    "consistency-all-consecutive": "F-Consistency_all",
    "consistency-4-to-first": "F-Consistency_4, to first",
    "consistency-all-to-first": "F-Consistency_all, to first",
    "flow": "flow, % of width",
}
"""Names in scores and titles in the table. Errors are of frames 2 and later."""

PERCENT = ("follows",)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and clips with its interval."""

    value: float
    interval: tuple[float, float] | list[float]
    seeds: int
    clips: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        low, high = self.interval
        return low > 0 or high < 0

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3g} ({low:.3g} to {high:.3g})"


def read_scores(path: Path) -> dict[str, Float[np.ndarray, " n"]]:
    """One number a clip for every metric that a scores file holds.

    Raises:
        ValueError: not a file of scores.
    """
    try:
        arrays = read_arrays(path)
        errors, snr = arrays.pop("errors").astype(np.float64)[:, :, 1:].mean(2), arrays.pop("snr")
        quarters = np.split(errors * snr, 4, axis=1)
        numbers = {f"eps-{q}": quarter.mean(1) for q, quarter in enumerate(quarters, 1)} | {"x0": errors.mean(1)}
        numbers |= {name: values * (100 if name in PERCENT else 1) for name, values in arrays.items()}
        found = {name: numbers[name].astype(np.float64) for name in METRICS if name in numbers}
        if not all(values.ndim == 1 and len(values) and np.isfinite(values).all() for values in found.values()):
            raise ValueError("numbers that are not finite, or not one a clip")
    except MALFORMED as error:
        reason = printable(error, 200)
        raise ValueError(f"{path} holds no scores of a study ({reason}); delete it to score again") from None
    return found


MALFORMED = (zipfile.BadZipFile, zlib.error, OSError, KeyError, IndexError, TypeError, ValueError, EOFError)
MALFORMED += (NotImplementedError, SyntaxError, RuntimeError, OverflowError, AttributeError)
"""What NumPy and the readers below it raise at a file that is none of theirs."""

LARGEST_SCORES = 2**28
"""Bytes of a file of scores, unpacked."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; no pickles."""
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        if sum(member.file_size for member in archive.infolist()) > LARGEST_SCORES:
            raise ValueError(f"more than {LARGEST_SCORES >> 20} MiB")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)


def seed_by_clip(folder: Path, name: str, seeds: int) -> dict[str, Float[np.ndarray, "s n"]]:
    """Every metric of a variant, over the seeds that are there.

    Raises:
        ValueError: files that are no scores, or of other clips than each other.
    """
    found = [path for seed in range(seeds) if (path := scores_path(folder, name, seed)).is_file()]
    scores = [read_scores(path) for path in found]
    for path, some in zip(found, scores, strict=True):
        if shapes(some) != shapes(scores[0]):
            raise ValueError(f"{path} holds scores of other clips than {found[0].name}; delete it to score again")
    return {m: np.stack([s[m] for s in scores]) for m in (scores[0] if scores else {})}


def shapes(scores: dict[str, np.ndarray]) -> dict[str, int]:
    """How many clips each metric was measured on."""
    return {name: values.shape[-1] for name, values in scores.items()}


def bootstrap(values: Float[np.ndarray, "s n"], seed: int = 0) -> Estimate:
    """Mean and two-way bootstrap interval."""
    rng = np.random.default_rng(seed)
    count, clips = values.shape
    draws = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        rows, columns = rng.integers(0, count, count), rng.integers(0, clips, clips)
        draws[i] = values[rows].mean(0)[columns].mean()
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(float(values.mean()), (float(low), float(high)), count, clips)


def paired(values: Float[np.ndarray, "s n"], reference: Float[np.ndarray, "r n"]) -> Estimate:
    """Interval of the difference on the seeds that both have."""
    seeds = min(len(values), len(reference))
    return bootstrap(values[:seeds] - reference[:seeds])


def tabulate(study: Study, folder: Path) -> dict[str, Any]:
    """All numbers of a study: ``{"rows": {variant: {metric: ...}}, "differences": {reference: {variant: ...}}}``."""
    scores = {name: seed_by_clip(folder, name, study.seeds) for name in study.variants}
    scores = {name: metrics for name, metrics in scores.items() if metrics}
    for name, metrics in scores.items():
        reference = next(iter(scores))
        both = shapes(metrics).keys() & shapes(scores[reference]).keys()
        if any(shapes(metrics)[m] != shapes(scores[reference])[m] for m in both):
            raise ValueError(
                f"scores of {name} in {folder} are of other clips than those of {reference}; delete one to score again"
            )
    rows = {name: {m: asdict(bootstrap(v)) for m, v in metrics.items()} for name, metrics in scores.items()}
    differences = {
        reference: {
            name: {m: asdict(paired(v, scores[reference][m])) for m, v in metrics.items() if m in scores[reference]}
            for name, metrics in scores.items()
            if name != reference
        }
        for reference in REFERENCES
        if reference in scores
    }
    return {"rows": rows, "differences": differences}


# ------------------------------------------------------------------------------------------------- as markdown


def markdown(table: dict[str, Any], metrics: Sequence[str] = tuple(METRICS)) -> str:
    """The rows, then the differences from each reference; a difference whose interval excludes 0 is bold."""
    parts = [grid(table["rows"], metrics, bold=False)]
    for reference, rows in table["differences"].items():
        parts.append(f"Less {VARIANTS[reference].title}, paired (bold: the interval excludes 0):")
        parts.append(grid(rows, metrics, bold=True))
    return "\n\n".join(parts)


def grid(rows: dict[str, dict[str, Any]], metrics: Sequence[str], bold: bool) -> str:
    """One markdown table: a line a variant."""
    there = [m for m in metrics if any(m in row for row in rows.values())]
    lines = ["| | " + " | ".join(METRICS[m] for m in there) + " |", "|---" * (len(there) + 1) + "|"]
    for name in VARIANTS:
        if name in rows:
            cells = [cell(rows[name][m], bold) if m in rows[name] else "" for m in there]
            lines.append(f"| {VARIANTS[name].title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(entry: dict[str, Any], bold: bool) -> str:
    """Value and interval."""
    estimate = Estimate(**entry)
    return f"**{estimate}**" if bold and estimate.excludes_zero else str(estimate)


def write_table(study: Study, folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Write STUDY/table.json: the numbers, the settings and where they were made."""
    table = tabulate(study, folder) | {"study": plain(study), **record}
    write_json(folder / "table.json", table, indent=1)
    return table
