"""Bytes that a training run keeps on every device from step to step; activations come on top.

All of it is float32, as accelerate keeps it: mixed precision casts weights for a step, and keeps none of the casts.

==========  =============================================================================
weights     of the denoiser, trained or not
gradients   of what is trained; DistributedDataParallel keeps them, in the buckets that it reduces
moments     AdamW: two; Muon: one (its vectors, which have two, are too small to matter)
averages    of what is trained, and exported
==========  =============================================================================
"""

from dataclasses import astuple, dataclass

FLOAT = 4
MOMENTS = {"adamw": 2, "muon": 1}


@dataclass(frozen=True, kw_only=True)
class StateBytes:
    """Bytes on one device."""

    weights: int
    gradients: int
    moments: int
    averages: int

    @property
    def total(self) -> int:
        """Sum of all."""
        return sum(astuple(self))


def state_bytes(parameters: int, trained: int, optimizer: str = "adamw", *, shards: int = 1) -> StateBytes:
    """Bytes of a run's state on one device.

    Args:
        parameters: of UNet and fusion. trained: of them, changed by the run. optimizer: "adamw" or "muon".
        shards: devices that share weights, gradients, moments and averages (FSDP2); rounded up.

    Raises:
        ValueError: an unknown optimiser.
    """
    if optimizer not in MOMENTS:
        raise ValueError(f"optimizer={optimizer!r} is unknown; choose 'adamw' or 'muon'")
    whole, part = (FLOAT * -(-count // shards) for count in (parameters, trained))
    return StateBytes(
        weights=whole,
        gradients=part,
        moments=MOMENTS[optimizer] * part,
        averages=part,
    )
