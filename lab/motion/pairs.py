"""Questions for `lab.motion.fidelity`: photographs with prompts, reproducible from a seed.

Camera moves are asked of whole photographs, cut centrally as the pipeline cuts them; objects are pasted onto
photographs at run time, so that their masks are known. Ground truth (the same kinds of move, rendered) comes from the
renderer that also makes the training clips; for a camera move the picture is then a part of the photograph that leaves
room to move.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from lab.motion.fidelity import OBJECT_MOVES, Image, Pair
from trip.data.synthetic.bank import Cutout, Photo, SceneBank
from trip.data.synthetic.captions import draw_caption
from trip.data.synthetic.scenes import OBJECT_AMOUNTS, composite, draw_clip
from trip.evaluation.motion import CAMERA_MOVES

SPEED_CYCLE = ("normal", "slow", "normal", "fast")
"""Shares of the adverbs in the wordings, as in training."""

OBJECT_WIDTHS = (0.25, 0.45)
"""Range of an object's longer side, in widths of the picture."""


def whole_photo(photo: Photo, size: int) -> Image:
    """The photograph at size x size, cut centrally, shrunk by area."""
    image = photo.levels[0]
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    if side == size:
        return square
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


def plan(kinds: Sequence[str], photos: Sequence[Photo], count: int) -> list[tuple[str, Photo, str]]:
    """(kind, photo, speed) of `count` pairs: moves in turn, every photograph with every move, speeds spread.

    Raises:
        ValueError: `count` is not positive.
    """
    if count < 1:
        raise ValueError(f"count (={count}) must be at least 1; ask for more pairs")
    rows = []
    for number in range(count):
        round_, kind = divmod(number, len(kinds))
        rows.append((kinds[kind], photos[round_ % len(photos)], SPEED_CYCLE[(round_ + kind // 2) % len(SPEED_CYCLE)]))
    return rows


def camera_pairs(
    photos: Sequence[Photo], count: int, *, size: int = 64, seed: int = 0, split: str = "heldout"
) -> list[Pair]:
    """`count` pairs of whole photographs and prompts of the eight camera moves; no two are alike.

    Args:
        photos: to choose from, each used equally often. size: width and height of the stills, pixels.
        seed: of the wordings and, with the pair's number, of the model's noise. split: of the wordings.
    """
    rng, pairs = np.random.default_rng([seed, 0]), []
    seen: set[tuple[str, str]] = set()
    for number, (kind, photo, speed) in enumerate(plan(tuple(CAMERA_MOVES), photos, count)):
        prompt = fresh_caption(rng, kind, split, photo, speed, seen)
        pairs.append(
            Pair(whole_photo(photo, size), prompt, kind, pair_seed(seed, number), photo=photo.name, speed=speed)
        )
    return pairs


def fresh_caption(
    rng: np.random.Generator, kind: str, split: str, photo: Photo, speed: str, seen: set[tuple[str, str]]
) -> str:
    """A wording that this photograph has not had yet."""
    for _ in range(1000):
        prompt = draw_caption(kind, rng, split, photo.caption, speed)
        if (photo.name, prompt) not in seen:
            seen.add((photo.name, prompt))
            return prompt
    raise ValueError(f"{photo.name} has had every {split} wording of {kind}; ask for fewer pairs or add photographs")


def rendered_camera_pairs(
    photos: Sequence[Photo],
    count: int,
    *,
    size: int = 64,
    num_frames: int = 16,
    seed: int = 0,
    split: str = "heldout",
) -> list[Pair]:
    """The same plan with rendered clips: `truth` moves as prompted, `image` is its first frame."""
    rng, pairs = np.random.default_rng([seed, 0]), []
    for number, (kind, photo, speed) in enumerate(plan(tuple(CAMERA_MOVES), photos, count)):
        bank = SceneBank((photo,), ())
        clip = draw_clip(rng, bank, size=size, num_frames=num_frames, split=split, kind=kind, speed=speed)
        pair = Pair(clip.frames[0], clip.caption, kind, pair_seed(seed, number), photo=photo.name, speed=speed)
        truth = clip.frames.astype(np.float32) / 255
        pairs.append(replace(pair, truth=truth, details={"amount": clip.params["amount"]}))
    return pairs


def object_pairs(
    photos: Sequence[Photo],
    cutouts: Sequence[Cutout],
    count: int,
    *,
    size: int = 64,
    num_frames: int = 16,
    seed: int = 0,
    split: str = "heldout",
) -> list[Pair]:
    """`count` composites and prompts "the OBJECT moves left" (right, up, down), with masks and rendered truth."""
    rng, pairs = np.random.default_rng([seed, 1]), []
    for number, (kind, photo, speed) in enumerate(plan(tuple(OBJECT_MOVES), photos, count)):
        cutout = cutouts[(number // len(OBJECT_MOVES) + number) % len(cutouts)]
        amount, width = float(rng.uniform(*OBJECT_AMOUNTS[speed])), float(rng.uniform(*OBJECT_WIDTHS))
        frames, place = composite(whole_photo(photo, size), cutout, kind, amount, width, rng, num_frames)
        pairs.append(
            Pair(
                image=frames[0],
                prompt=draw_caption(kind, rng, split, cutout.name, speed),
                kind=kind,
                seed=pair_seed(seed, number),
                photo=photo.name,
                speed=speed,
                mask=place["mask"],
                truth=frames.astype(np.float32) / 255,
                details={"object": cutout.name, "amount": amount, "width": width},
            )
        )
    return pairs


def pair_seed(seed: int, number: int) -> int:
    """Seed of the model's noise for pair `number` of a set."""
    return 1_000_000 * seed + number
