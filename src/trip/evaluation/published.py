"""The paper's figures, and whether a number may stand beside them.

A number compares only if network, data, length and size are the paper's, and a Fréchet distance only at a large count.
Everything that differs is said; nothing is guessed: a report that does not name its data is not comparable.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trip.evaluation.metric import GENERATED, Result
from trip.evaluation.report import Report

TRIP = "TRIP"
PAPER_FRAMES, PAPER_SIZE = 16, "256x256"

FEWEST_CLIPS = 1000
"""Clips below which a Fréchet distance is not set beside the paper's: its bias upwards is then too large to ignore.
The paper's own counts are not known to us."""


class Figure(NamedTuple):
    """TRIP's number on a data set."""

    data: str
    value: float


PUBLISHED = (
    ("WebVid-10M", "F-Consistency_4", {"T2V-Zero": 91.59, "VideoComposer": 88.78, TRIP: 95.36}),
    ("WebVid-10M", "F-Consistency_all", {"T2V-Zero": 92.15, "VideoComposer": 92.52, TRIP: 96.41}),
    ("WebVid-10M", "FVD", {"T2V-Zero": 279, "VideoComposer": 231, TRIP: 38.9}),
    ("DTDB", "FID", {"AL": 65.1, "cINN": 31.9, TRIP: 24.8}),
    ("DTDB", "FVD", {"AL": 934.2, "cINN": 451.6, TRIP: 433.9}),
    ("MSR-VTT", "FID", {"CogVideo": 23.59, "ModelScopeT2V": 11.09, "VideoComposer": 31.29, TRIP: 9.68}),
    ("MSR-VTT", "FVD", {"CogVideo": 1294, "ModelScopeT2V": 550, "VideoComposer": 208, TRIP: 91.3}),
)
"""Tables 1 to 3 of the paper (arXiv 2403.17005): data set, metric, method -> value."""

NETWORKS = {"FVD": "I3D", "FID": "Inception", "F-Consistency_4": "CLIP", "F-Consistency_all": "CLIP"}
"""Metric -> what the name of the paper's network begins with."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the paper has beside a number.

    Attributes:
        figures: TRIP's, on the data set of the report, else on all; empty: the paper has none.
        reasons: why the number does not compare; empty: it does. cautions: what stays open even so.
    """

    figures: tuple[Figure, ...] = ()
    reasons: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()

    @property
    def comparable(self) -> bool:
        """Whether the number may be set beside the figures."""
        return bool(self.figures) and not self.reasons


def compare(result: Result, report: Report) -> Comparison:
    """The paper's figures for a number of a report, and what stands between them."""
    base = base_name(result.name)
    ours = tuple(Figure(data, values[TRIP]) for data, metric, values in PUBLISHED if metric == base)
    figures = tuple(figure for figure in ours if figure.data == report.data) or ours
    if not figures:
        return Comparison()
    return Comparison(
        figures=figures,
        reasons=tuple(differences(base, result, report, figures)),
        cautions=("the paper does not say which frames are paired, nor which CLIP",) if base.startswith("F-") else (),
    )


def base_name(name: str) -> str:
    """A metric's name without pairing and network.

    >>> base_name("F-Consistency_4 to-first (EfficientNet-Lite0)")
    'F-Consistency_4'
    """
    return name.partition(" (")[0].removesuffix(" to-first")


def differences(base: str, result: Result, report: Report, figures: Sequence[Figure]) -> Iterator[str]:
    """What of network, data, length, size and count is not the paper's."""
    if not result.features.startswith(NETWORKS[base]):
        yield f"substitute features: {result.features or 'none'}, not {NETWORKS[base]}"
    if not any(figure.data == report.data for figure in figures):
        what = f"other data: {report.data}" if report.data else "the data are not named"
        yield f"{what}; the paper's: {', '.join(figure.data for figure in figures)}"
    if report.num_frames != PAPER_FRAMES:
        yield f"other length: {report.num_frames} frames, not {PAPER_FRAMES}"
    if (sizes := report.sides[GENERATED].sizes) != [PAPER_SIZE]:
        yield f"other size: {', '.join(sizes)}, not {PAPER_SIZE}"
    if base in ("FVD", "FID") and result.n < FEWEST_CLIPS:
        yield f"other N: {result.n} clips, and a Fréchet distance is biased upwards below {FEWEST_CLIPS}"
