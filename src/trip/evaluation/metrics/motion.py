"""How much clips move, whether they are dynamic, and whether the flow explains what changes."""

from trip.evaluation.clips import Batch
from trip.evaluation.metric import ClipMetric, Metric, Result, mean_result, register_metric, share_result
from trip.evaluation.motion import FLOW


@register_metric("motion")
class Motion(ClipMetric):
    """Flow magnitude, dynamic degree and warping error, see `trip.evaluation.motion.ClipMotion`."""

    def update(self, batch: Batch) -> None:
        """All of every clip."""
        for motion in batch.motions:
            for name, value in vars(motion).items():
                self.extend(name, [value])

    def result(self, real: Metric | None) -> list[Result]:
        """A mean, a share and a mean."""
        dynamic = [bool(value) for value in self.numbers["dynamic"]]
        note = "mean squared error in [0, 1], visible pixels; a frozen clip scores 0"
        return [
            mean_result(FLOW, self.numbers["flow"], seed=self.seed),
            share_result("Dynamic degree (DIS), %", dynamic, note="VBench's rule with DIS instead of RAFT"),
            mean_result("Warping error (DIS)", self.numbers["warping_error"], note=note, seed=self.seed),
        ]
