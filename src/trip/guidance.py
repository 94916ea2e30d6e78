r"""Classifier-free guidance on the estimate of z_0: which branches a step evaluates, and how they are combined.

Guidance is an affine combination whose weights sum to one, so it is the same in z_0, epsilon, v and flow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trip.condition import Condition
from trip.noise_prior import SMALLEST_NOISE, Clip

Interval = tuple[float, float]
ALWAYS: Interval = (0.0, 1.0)
"""The whole schedule, as an interval of t over the number of training timesteps, both ends included."""


@dataclass(frozen=True)
class Branch:
    """One conditional estimate of the guidance and its weight, float or (f,)."""

    weight: float | Tensor
    text: bool
    image: bool

    def of(self, condition: Condition) -> Condition:
        """What the network is shown in this branch."""
        condition = condition if self.text else condition.without_text()
        return condition if self.image else condition.without_image()


CONDITIONED = (Branch(1.0, text=True, image=True),)
"""The branches of a step without guidance."""


@dataclass(frozen=True)
class Plan:
    """What one step evaluates.

    Attributes:
        branches: to evaluate. rescale: see `rescale_guidance`.
        keep: what guidance changes is needed again. reuse: add what it changed when it was last evaluated.
    """

    branches: tuple[Branch, ...]
    rescale: float = 0.0
    keep: bool = False
    reuse: bool = False

    def condition(self, condition: Condition) -> Condition:
        """The conditions of all branches, stacked along the batch in branch order."""
        return Condition.stack([branch.of(condition) for branch in self.branches])

    def combine(self, x0: Float[Tensor, "kb c f h w"], change: Clip | None, noise: Tensor) -> tuple[Clip, Clip | None]:
        """(the guided estimate out of the branches', what guidance changed where that is kept).

        The change is kept **as a velocity**, ``(guided - conditioned) / noise``: on z_0 it shrinks with the noise, as
        the estimates themselves draw together.
        """
        if self.branches is CONDITIONED:
            return (x0 + noise * change if self.reuse and change is not None else x0), change
        guided = combine(x0, self.branches, self.rescale)
        if not self.keep:
            return guided, None
        return guided, (guided - x0.chunk(len(self.branches))[0]) / noise.clamp_min(SMALLEST_NOISE)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly a clip follows its prompt and its image, and where in the schedule that is evaluated.

    Guidance matters where the clip's content is decided, and does harm or nothing elsewhere (Kynkäänniemi et al.,
    2404.07724), so it may act in an interval only; in it, one evaluation may serve several steps.

    Attributes:
        scale: of the text; (f,) gives every frame its own. 1 skips the unconditional branch.
        image_scale: InstructPix2Pix's second scale; 1 skips its branch.
        rescale: 0 to 1, see `rescale_guidance`.
        interval: where guidance acts, as t over the number of training timesteps: 1 is noise, 0 the clip.
            Outside it a step costs one evaluation.
        every: in the interval, evaluate all branches in every n-th step only, and keep what they changed in between.

    Raises:
        ValueError: an interval outside [0, 1], or fewer than one step an evaluation.
    """

    scale: float | Float[Tensor, "f"] = 1.0
    image_scale: float = 1.0
    rescale: float = 0.0
    interval: Interval = ALWAYS
    every: int = 1

    def __post_init__(self):
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"guidance_interval (={low:g}, {high:g}) must be 0 <= low <= high <= 1; correct it")
        if self.every < 1:
            raise ValueError(f"guidance_every (={self.every}) must be at least 1; raise it")

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches of two-scale guidance that have to be evaluated, the fully conditioned one first.

        InstructPix2Pix (2211.09800), Eq. 3, ``e(0,0) + g_i (e(i,0) - e(0,0)) + g_t (e(i,t) - e(i,0))``, is
        ``g_t e(i,t) + (g_i - g_t) e(i,0) + (1 - g_i) e(0,0)``. Branches of weight zero are left out: g_t = g_i = 1
        costs one evaluation a step, g_i = 1 (classifier-free guidance) two. The first is kept where the others are
        measured against it.
        """
        branches = [
            Branch(self.scale, text=True, image=True),
            Branch(self.image_scale - self.scale, text=False, image=True),
            Branch(1 - self.image_scale, text=False, image=False),
        ]
        keep_first = self.rescale > 0 or self.every > 1
        return tuple(b for i, b in enumerate(branches) if torch.as_tensor(b.weight).any() or (keep_first and i == 0))

    @property
    def needs_null_text(self) -> bool:
        """Whether any step shows the network the negative prompt."""
        return any(not branch.text for branch in self.branches)

    def plan(self, step: int, positions: Sequence[float]) -> Plan:
        """What step `step` evaluates, given all steps' positions in the schedule, t over the training timesteps."""
        low, high = self.interval
        if not low <= positions[step] <= high:
            return Plan(CONDITIONED)
        entered = step  # the first of the steps in the interval that lead up to this one
        while entered and low <= positions[entered - 1] <= high:
            entered -= 1
        if (step - entered) % self.every:
            return Plan(CONDITIONED, reuse=True)
        return Plan(self.branches, self.rescale, keep=self.every > 1)


def combine(x0: Float[Tensor, "kb c f h w"], branches: Sequence[Branch], guidance_rescale: float = 0.0) -> Clip:
    """Weighted sum of the branches' estimates, rescaled to the fully conditioned one."""
    parts = x0.chunk(len(branches))
    weights = [torch.as_tensor(b.weight, dtype=x0.dtype, device=x0.device) for b in branches]
    terms = [w.reshape(-1, 1, 1) * part for w, part in zip(weights, parts, strict=True)]
    guided = torch.stack(terms).sum(0)
    return rescale_guidance(guided, parts[0], guidance_rescale) if guidance_rescale > 0 else guided


def rescale_guidance(guided: Clip, conditioned: Clip, strength: float) -> Clip:
    """Guidance rescale of Lin et al. (2305.08891), Eqs. 15 and 16, **applied to the estimate of z_0**.

    ``guided <- strength * guided * std(conditioned) / std(guided) + (1 - strength) * guided``, the standard
    deviation over each clip. The paper rescales the network's output; on z_0 it bounds what it is meant to
    bound, the contrast of the picture, and has the same effect whatever the prediction type and timestep.
    """
    over = tuple(range(1, guided.ndim))
    ratio = conditioned.std(over, keepdim=True) / guided.std(over, keepdim=True).clamp_min(1e-8)
    return guided * (strength * ratio + (1 - strength))
