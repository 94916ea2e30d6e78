r"""From pictures to conditions: still, keyframes, loop, observed frames, chained chunks, masks, warps.

Everything known of frame i is a statement, ``z_0^i ~ N(r^i, sigma_i^2)``. The still says ``N(z^1, sigma(i - 1)^2)``,
where sigma(d) is the measured RMS change over d frames (a fusion's table). Independent statements multiply: precisions
add, and the mean is weighted by them,

    1 / sigma^2 = sum_k 1 / sigma_k^2,        r = sigma^2 sum_k r_k / sigma_k^2.

One statement is the paper, unchanged. Two keyframes whose variance grows linearly with the distance are the Brownian
bridge: the mean moves linearly from one to the other, with variance d_1 d_2 / (d_1 + d_2).

Frames are counted from 0, in latent frames; distances beyond a table have its last value.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trip.condition import Condition, Mask, Spread, Statement
from trip.noise_prior import Clip

Still = Float[Tensor, "b c 1 h w"]
Table = Float[Tensor, "d"] | Float[Tensor, "c d"]
"""sigma by distance, per channel or not; sigma(0) is 0."""


# ------------------------------------------------------------------------------------------------- the algebra


def product(statements: Sequence[Statement]) -> Statement:
    """What independent statements say together. One alone is returned as it is; a certain one overrules the others.

    Raises:
        ValueError: none.
    """
    if not statements:
        raise ValueError("there is nothing to condition on; give at least one picture")
    if len(statements) == 1:
        return statements[0]
    spreads = torch.stack(torch.broadcast_tensors(*(statement.spread.float() for statement in statements)))
    least = spreads.amin(0)
    # Precisions relative to the greatest one: finite for any spread, and 1 or 0 where one is certain.
    relative = torch.where(least.isinf() | (spreads == least), 1.0, (least / spreads) ** 2)
    total = relative.sum(0)
    mean = sum(weight * statement.mean.float() for weight, statement in zip(relative, statements, strict=True)) / total
    return Statement(mean=mean, spread=least * total.rsqrt())  # pyright: ignore[reportArgumentType]


def spread_at(sigma: Table, distance: Int[Tensor, "f"]) -> Float[Tensor, "1 _ f 1 1"]:
    """sigma(d) of every frame, shaped for a clip."""
    table = sigma if sigma.ndim == 2 else sigma[None]
    return table[:, distance.clamp(0, table.shape[-1] - 1).to(table.device)][None, :, :, None, None]


# ------------------------------------------------------------------------------------------------- statements


def from_still(image: Still, num_frames: int, sigma: Table, at: int = 0) -> Statement:
    """The picture is frame `at`: ``N(z, sigma(|i - at|)^2)``. A frame outside the clip may be named too."""
    distance = (torch.arange(num_frames, device=image.device) - at).abs()
    return Statement(mean=image, spread=spread_at(sigma, distance))


def between_keys(
    keys: Mapping[int, Still], num_frames: int, sigma: Table, *, loop: bool = False, beside_still: bool = False
) -> list[Statement]:
    """Two statements: of every frame's nearest key at or before it, and of the nearest one after it.

    Args:
        keys: latents by frame number.
        loop: the clip's first frame follows its last, so that every key is also one clip earlier and later.
        beside_still: leave out what frame 0 says, as something that the network knows.
    """
    periods = (-num_frames, 0, num_frames) if loop else (0,)
    places = sorted((number + period, number) for number in keys for period in periods)
    places = [place for place in places if place[0] or not beside_still]
    before = [max((place for place in places if place[0] <= i), default=None) for i in range(num_frames)]
    after = [min((place for place in places if place[0] > i), default=None) for i in range(num_frames)]
    return [_nearest(side, keys, sigma) for side in (before, after) if any(side)]


def _nearest(side: list[tuple[int, int] | None], keys: Mapping[int, Still], sigma: Table) -> Statement:
    """The statement of one key for every frame, infinite where there is none."""
    some = next(iter(keys.values()))
    distance = torch.tensor([0 if place is None else abs(i - place[0]) for i, place in enumerate(side)])
    silent = torch.tensor([place is None for place in side], device=some.device)[None, None, :, None, None]
    mean = torch.cat([some if place is None else keys[place[1]] for place in side], dim=2)
    spread = spread_at(sigma, distance).to(some.device)
    return Statement(mean=mean, spread=torch.where(silent, torch.inf, spread))


# ------------------------------------------------------------------------------------------------- conditions


def keyframes(
    keys: Mapping[int, Still],
    num_frames: int,
    sigma: Table,
    *,
    loop: bool = False,
    still_only: bool = False,
    **others: Any,
) -> Condition:
    """Pictures given for some of the frames: a still (frame 0 alone), first and last, any number, or a loop.

    Every frame refers to the key before and the key after it; the keys themselves are pinned. Frame 0 alone is the
    paper's condition, whose spread is the fusion's own.

    Args:
        keys: latents by frame number, frame 0 among them: it is what the backbone sees.
        sigma: the fusion's table.
        still_only: the network was trained with the still alone, so all else is said beside it.
        others: fields of `Condition`.

    Raises:
        ValueError: no frame 0, or a key outside the clip.
    """
    check_keys(keys, num_frames)
    fields = {"pinned": frames_mask(keys, num_frames, keys[0].device), "image": keys[0], **others}
    if list(keys) == [0] and not loop:
        return Condition(reference=keys[0], **fields)
    said = product(between_keys(keys, num_frames, sigma, loop=loop, beside_still=still_only))
    if still_only:
        return Condition(reference=keys[0], added=said, **fields)
    return Condition(reference=said.mean, spread=said.spread, **fields)


def observed(frames: Clip, num_frames: int, sigma: Table, *, still_only: bool = False, **others: Any) -> Condition:
    """The first frames of the clip are known (video prediction): they are pinned, later ones refer to the last.

    Args:
        frames: their latents, one or more.
    """
    return keyframes(dict(enumerate(frames.split(1, dim=2))), num_frames, sigma, still_only=still_only, **others)


def chained(
    last: Clip, image: Still, num_frames: int, sigma: Table, *, still_only: bool = False, **others: Any
) -> Condition:
    """A chunk that goes on where one ended: its last latents are the new one's first, and the still keeps speaking.

    The still's word has the spread of the greatest distance there is a measurement for: it says little about motion,
    and stops colours and detail from drifting from one chunk to the next.

    Args:
        last: the latents both chunks have. image: the still that the first chunk began with.
    """
    condition = observed(last, num_frames, sigma, still_only=still_only, **{"image": image, **others})
    far = torch.full((num_frames,), sigma.shape[-1] - 1)
    anchor = Statement(mean=image, spread=spread_at(sigma, far).to(image.device))
    if still_only:
        return replace(condition, added=product([anchor] if condition.added is None else [condition.added, anchor]))
    spread = spread_at(sigma, torch.arange(num_frames)) if condition.spread is None else condition.spread
    both = product([Statement(mean=condition.reference, spread=spread), anchor])
    return replace(condition, reference=both.mean, spread=both.spread)


def chunk_lengths(num_frames: int, limit: int | None, overlap: int) -> list[int]:
    """Frames of the chunks that make a long clip; each begins with the last `overlap` frames of the one before.

    Raises:
        ValueError: the limit is not above the overlap.
    """
    if limit is None or num_frames <= limit:
        return [num_frames]
    if limit <= overlap:
        raise ValueError(f"limit (={limit}) must be above the overlap (={overlap}) for a clip in chunks; lower one")
    whole, rest = divmod(num_frames - limit, limit - overlap)
    return [limit] * (1 + whole) + [overlap + rest] * (rest > 0)


def warped(reference: Clip, spread: Spread, image: Still, **others: Any) -> Condition:
    """Motion given by hand or read off a clip: every frame refers to the still moved along it.

    Args:
        reference: the still's latents warped to every frame. spread: small where the still is visible, large where
            something is uncovered.
    """
    pinned = frames_mask([0], reference.shape[2], image.device)
    return Condition(**{"reference": reference, "spread": spread, "pinned": pinned, "image": image, **others})


def masked(condition: Condition, mask: Mask, num_frames: int, sigma: Table) -> Condition:
    """Motion in a region: the spread times a mask in [0, 1]; where it is 0 the clip is the reference.

    Args:
        mask: 1 moves, 0 stands still, broadcastable to b 1 f h w.
    """
    own = spread_at(sigma, torch.arange(num_frames)).to(mask.device)
    spread = own if condition.spread is None else condition.spread
    spread = spread if spread.ndim == 5 else spread_at(spread, torch.arange(num_frames))
    pinned = (mask == 0).float()
    if condition.pinned is not None:
        pinned = torch.maximum(*torch.broadcast_tensors(pinned, condition.pinned))
    return replace(condition, spread=spread * mask, pinned=pinned)


def check_keys(keys: Mapping[int, Any], num_frames: int) -> None:
    """Raise ValueError unless there is a key for frame 0 and all lie in the clip."""
    if 0 not in keys:
        raise ValueError("there is no picture for frame 0; give the clip its first picture")
    if outside := [number for number in keys if not 0 <= number < num_frames]:
        raise ValueError(f"keyframe {outside[0]} lies outside the clip's frames 0 to {num_frames - 1}; move it inside")


def frames_mask(
    numbers: Iterable[int], num_frames: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "1 1 f 1 1"]:
    """The mask of whole frames, 1 for those named."""
    mask = torch.zeros(1, 1, num_frames, 1, 1, device=device)
    mask[:, :, list(numbers)] = 1
    return mask
