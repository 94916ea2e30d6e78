"""F-Consistency: how alike the features of a clip's frames are. By CLIP, else by EfficientNet-Lite0, and it says so."""

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from trip.evaluation.clips import Batch
from trip.evaluation.features.base import FeatureNetwork
from trip.evaluation.metric import ClipMetric, Result, mean_result, register_metric
from trip.evaluation.motion import FLOW

CONSECUTIVE, TO_FIRST = "consecutive", "to-first"
PAIRINGS = (CONSECUTIVE, TO_FIRST)
FIRST_FEW = 4
"""Frames of F-Consistency_4."""

KINDS = {
    (f"F-Consistency_{label}{' to-first' if pairing == TO_FIRST else ''}"): (pairing, count)
    for pairing in PAIRINGS
    for label, count in ((str(FIRST_FEW), FIRST_FEW), ("all", None))
}
"""Name -> pairing, and how many frames from the first."""


@register_metric("f-consistency")
class FConsistency(ClipMetric):
    """F-Consistency_4 and _all, in both pairings; never without the flow, since a frozen clip wins it."""

    @property
    def network(self) -> FeatureNetwork:
        """CLIP where one is named, else EfficientNet-Lite0."""
        return self.networks.text_and_frames or self.networks.local("efficientnet-lite0")

    @property
    def flow(self) -> Result:
        """How much the clips move."""
        return mean_result(FLOW, self.numbers["flow"], seed=self.seed)

    def check(self, clips: int, real: int, frames: int) -> None:
        """The network must be at hand."""
        assert self.network

    def update(self, batch: Batch) -> None:
        """Consistencies, and how much the clips move."""
        frames = batch.features(self.network)
        for name, (pairing, count) in KINDS.items():
            if count is None or frames.shape[1] >= count:
                self.extend(name, frame_consistency(frames, pairing, count))
        self.extend("flow", [motion.flow for motion in batch.motions])

    def result(self, real: "FConsistency | None") -> list[Result]:
        """Named after the network unless it is CLIP."""
        features = self.network.name
        substitute = "" if self.networks.text_and_frames else f" ({features})"
        return [
            mean_result(
                f"{name}{substitute}",
                self.numbers[name],
                features=features,
                note=f"pairs: {pairing}; a frozen clip scores 100",
                seed=self.seed,
            )
            for name, (pairing, _) in KINDS.items()
            if name in self.numbers
        ] + [self.flow]

    def warnings(self, real: "FConsistency | None") -> list[str]:
        """Clips that are stiller than the real ones."""
        line = motion_warning(self.flow, real and real.flow)
        return [line] if line else []


def frame_consistency(
    features: Float[Tensor, "b f d"], pairing: str = CONSECUTIVE, num_frames: int | None = None
) -> Float[np.ndarray, " b"]:
    """F-Consistency of every clip in percent: the mean cosine of pairs of frames' features.

    Args:
        features: of the frames. pairing: "consecutive" (i, i + 1) or "to-first" (1, i); the paper says neither.
        num_frames: only the first so many frames (4 for F-Consistency_4), or all.

    Raises:
        ValueError: another pairing, or fewer frames than needed.
    """
    needed = 2 if num_frames is None else max(num_frames, 2)
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing {pairing!r} is unknown; choose one of {', '.join(PAIRINGS)}")
    if features.shape[1] < needed:
        raise ValueError(f"clips have {features.shape[1]} frames, F-Consistency needs {needed}; use longer clips")
    unit = F.normalize(features[:, :num_frames].double(), dim=-1)
    others = unit[:, :-1] if pairing == CONSECUTIVE else unit[:, :1]
    return 100 * (unit[:, 1:] * others).sum(-1).mean(1).numpy()


def motion_warning(generated: Result, reference: Result | None) -> str | None:
    """Why a high F-Consistency may mean little, or None: stillness wins it, a frozen clip scores 100.

    Args:
        generated, reference: the same measure of motion, of generated and of real clips.
    """
    if reference is None:
        if generated.value > 0:
            return None
        return "the generated clips do not move at all, and F-Consistency of a frozen clip is 100: it says nothing here"
    if generated.value >= reference.value:
        return None
    sides = f"{generated.name}: {generated.value:.3g} against {reference.value:.3g}"
    return (
        f"the generated clips move {generated.value / reference.value:.0%} as much as the real ones ({sides}), and "
        "F-Consistency rewards stillness (a frozen clip scores 100): read it with the motion, not alone"
    )
