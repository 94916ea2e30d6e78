"""The paper's figures, and whether a number may stand beside them.

A number compares only if network, data, length and size are the paper's, and a Fréchet distance only at a large count.
Everything that differs is said; nothing is guessed: a report that does not name its data is not comparable.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TRIP = "TRIP"
PAPER_FRAMES, PAPER_SIZE = 16, "256x256"

FEWEST_CLIPS = 1000
"""Clips below which a Fréchet distance is not set beside the paper's: its bias upwards is then too large to ignore.
The paper's own counts are not known to us."""


@dataclass(frozen=True)
class Figure:
    """One published number: of a method, on a data set."""

    data: str
    metric: str
    method: str
    value: float


FIGURES = tuple(
    Figure(data, metric, method, value)
    for data, metric, methods in (
        ("WebVid-10M", "F-Consistency_4", {"T2V-Zero": 91.59, "VideoComposer": 88.78, TRIP: 95.36}),
        ("WebVid-10M", "F-Consistency_all", {"T2V-Zero": 92.15, "VideoComposer": 92.52, TRIP: 96.41}),
        ("WebVid-10M", "FVD", {"T2V-Zero": 279, "VideoComposer": 231, TRIP: 38.9}),
        ("DTDB", "FID", {"AL": 65.1, "cINN": 31.9, TRIP: 24.8}),
        ("DTDB", "FVD", {"AL": 934.2, "cINN": 451.6, TRIP: 433.9}),
        ("MSR-VTT", "FID", {"CogVideo": 23.59, "ModelScopeT2V": 11.09, "VideoComposer": 31.29, TRIP: 9.68}),
        ("MSR-VTT", "FVD", {"CogVideo": 1294, "ModelScopeT2V": 550, "VideoComposer": 208, TRIP: 91.3}),
    )
    for method, value in methods.items()
)
"""Tables 1 to 3 of the paper (arXiv 2403.17005)."""

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


def compare(name: str, metric: Mapping[str, Any], settings: Mapping[str, Any]) -> Comparison:
    """The paper's figures for a metric of a report, and what stands between them.

    Args:
        name, metric: an entry of the report's ``"metrics"``.
        settings: the report's; ``"data"`` is the name of its data set, where it was one of the paper's.
    """
    base = base_name(name)
    ours = [figure for figure in FIGURES if figure.method == TRIP and figure.metric == base]
    data = settings.get("data")
    figures = tuple(figure for figure in ours if figure.data == data) or tuple(ours)
    if not figures:
        return Comparison()
    reasons = [
        other_network(base, str(metric.get("features", ""))),
        other_data(figures, data),
        *other_clips(settings),
        too_few(base, int(metric["n"])),
    ]
    caution = "the paper does not say which frames are paired, nor which CLIP" if base.startswith("F-") else ""
    return Comparison(figures=figures, reasons=tuple(filter(None, reasons)), cautions=tuple(filter(None, (caution,))))


def base_name(name: str) -> str:
    """A metric's name without pairing and network.

    >>> base_name("F-Consistency_4 to-first (EfficientNet-Lite0)")
    'F-Consistency_4'
    """
    return name.partition(" (")[0].removesuffix(" to-first")


def other_network(base: str, features: str) -> str:
    """What to say of a substitute network; empty: it is the paper's."""
    usual = NETWORKS[base]
    return "" if features.startswith(usual) else f"substitute features: {features or 'none'}, not {usual}"


def other_data(figures: tuple[Figure, ...], data: object) -> str:
    """What to say of clips from elsewhere; empty: they are the paper's."""
    if any(figure.data == data for figure in figures):
        return ""
    what = f"other data: {data}" if data else "the data are not named"
    return f"{what}; the paper's: {', '.join(figure.data for figure in figures)}"


def other_clips(settings: Mapping[str, Any]) -> list[str]:
    """What to say of clips of another length or size."""
    reasons = []
    frames, sizes = settings.get("num_frames"), settings.get("generated", {}).get("sizes", [])
    if frames is not None and frames != PAPER_FRAMES:
        reasons.append(f"other length: {frames} frames, not {PAPER_FRAMES}")
    if sizes and list(sizes) != [PAPER_SIZE]:
        reasons.append(f"other size: {', '.join(sizes)}, not {PAPER_SIZE}")
    return reasons


def too_few(base: str, count: int) -> str:
    """What to say of a Fréchet distance of few clips."""
    if base not in ("FVD", "FID") or count >= FEWEST_CLIPS:
        return ""
    return f"other N: {count} clips, and a Fréchet distance is biased upwards below {FEWEST_CLIPS}"
