"""What a clip is conditioned on, in latents: one value that sampler, denoiser, fusion and training pass on.

The image noise prior needs a clean latent per frame and how far it may be wrong. Every control is a statement of
that kind: `reference` says where frame i is thought to be, `spread` how far from there it may end up, and `pinned`
where there is no doubt at all. The paper is the plainest one: the still for every frame, its first frame pinned.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trip.noise_prior import Clip, Reference, per_clip

Mask = Float[Tensor, "#b 1 #f #h #w"]
Spread = Float[Tensor, "#b #c f #h #w"]
TextStates = Float[Tensor, "b n d"]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What is known of a clip's frames: ``z_0^i`` is Gaussian about `mean` with the standard deviation `spread`.

    Attributes:
        mean: clean latents, one frame for all or one each.
        spread: 0 where there is no doubt, infinite where nothing is said.
    """

    mean: Reference
    spread: Spread


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Everything that the clips of a batch are conditioned on.

    Attributes:
        reference: r, the prior's clean latents, one frame per clip (the paper) or one per frame.
        spread: sigma, the RMS of z_0 - r: a table (f,) or (c, f), or a map b (1|c) f h w; None for the fusion's own.
        pinned: 1 where the estimate is the reference, 0 where it is free; None pins nothing.
        added: what is said beside the reference to a network that was trained with the reference alone: its estimate
            and this are weighed against each other (`trip.references`).
        image: the picture as the backbone sees it, zeros where it is dropped; None for a backbone that sees none.
        text: features of the prompts. null_text: of the negative prompts, for guidance.
    """

    reference: Reference
    spread: Tensor | None = None
    pinned: Mask | None = None
    added: Statement | None = None
    image: Float[Tensor, "b c 1 h w"] | None = None
    text: TextStates | None = None
    null_text: TextStates | None = None

    def without_text(self) -> "Condition":
        """The negative prompt in place of the prompt.

        Raises:
            ValueError: there is none.
        """
        if self.null_text is None:
            raise ValueError("guidance needs null_text (=None); pass it or set the guidance scale to 1")
        return replace(self, text=self.null_text)

    def without_image(self) -> "Condition":
        """The backbone sees zeros; the prior keeps its reference."""
        return self if self.image is None else replace(self, image=torch.zeros_like(self.image))

    def repeat(self, count: int) -> "Condition":
        """The batch `count` times, one after the other."""
        return Condition.stack([self] * count)

    def to(self, *arguments: Any) -> "Condition":
        """Every tensor moved or cast by `Tensor.to`."""
        return _each([self], lambda _, values: values[0].to(*arguments))

    def pin(self, clip: Clip) -> Clip:
        """The clip with what is certain where it is pinned."""
        if self.pinned is None:
            return clip
        certain = self.reference
        if self.added is not None:
            certain = torch.where(self.added.spread == 0, self.added.mean, certain)
        return torch.where(self.pinned.bool(), certain.to(clip.dtype), clip)

    @staticmethod
    def stack(conditions: Sequence["Condition"]) -> "Condition":
        """One batch out of several, of which each fills the same fields; tables and shared masks stay as they are."""
        return conditions[0] if len(conditions) == 1 else _each(conditions, _joined)


SHARED = ("pinned", "spread")
"""Fields that may hold one value for all clips."""


def _joined(name: str, values: list[Tensor]) -> Tensor:
    """One batch; what is shared by all clips of all branches stays as it is."""
    shared = name in SHARED and (values[0].ndim < 3 or (len(values[0]) == 1 and all(v is values[0] for v in values)))
    return values[0] if shared else torch.cat(values)


def _each(values: Sequence[Any], function: Callable[[str, list[Tensor]], Tensor], name: str = "") -> Any:
    """The same dataclass with `function` of each field's name and tensors; None stays None."""
    if values[0] is None or isinstance(values[0], Tensor):
        return values[0] if values[0] is None else function(name, list(values))
    names = [field.name for field in fields(values[0])]
    return replace(values[0], **{each: _each([getattr(v, each) for v in values], function, each) for each in names})


def still(image: Float[Tensor, "b c 1 h w"], *, keep: Float[Tensor, "b"] | None = None, **others: Any) -> Condition:
    """The paper's condition: the given picture is every frame's reference, and what the backbone sees.

    Args:
        keep: 0 where the backbone sees zeros in its place. others: fields of `Condition`.
    """
    return Condition(reference=image, image=image if keep is None else image * per_clip(keep, image), **others)


def first_frame(num_frames: int, device: torch.device | str = "cpu") -> Float[Tensor, "1 1 f 1 1"]:
    """The mask that pins frame 1, which is the given picture."""
    mask = torch.zeros(1, 1, num_frames, 1, 1, device=device)
    mask[:, :, 0] = 1
    return mask
