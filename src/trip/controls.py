r"""What a clip is told beside its first picture: further pictures, a loop, a region, and motion given by hand.

Each is a statement about frames (`trip.references`), so all of them go together. A picture for frame k says
``N(z^k, sigma(|i - k|)^2)`` of frame i. Motion given by hand says that frame i is the still moved along a field, as far
as the still shows what is there: its spread is what interpolation loses where it does, and sigma(i) where not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from trip.condition import Condition, Statement
from trip.inputs import Still, as_images, one_per_clip, shown, size_of, to_pixels, whole
from trip.motion.camera import CameraPath, parse_camera
from trip.motion.drags import Drag, drag_motion, parse_drag
from trip.motion.fields import Motion, warp
from trip.noise_prior import Clip
from trip.references import check_keys, keyframes, masked, product, spread_at

LEAST_SPREAD = 0.05
"""Of motion given by hand, in units of the latents: what warping the picture loses where it is visible."""


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Controls of a clip, checked.

    Attributes:
        keys: pictures by frame, beside frame 0. loop: the first frame follows the last.
        mask: 1 where the clip moves, 0 where it is the still, H W with the picture's proportions.
        camera, drags: motion given by hand.
    """

    keys: Mapping[int, Still] = field(default_factory=dict)
    loop: bool = False
    mask: Float[Tensor, "H W"] | None = None
    camera: CameraPath | None = None
    drags: tuple[Drag, ...] = ()

    @classmethod
    def of(
        cls,
        num_frames: int,
        *,
        last_image: Any = None,
        keys: Any = None,
        video: Any = None,
        loop: bool = False,
        mask: Any = None,
        camera: Any = None,
        drags: Any = (),
    ) -> "Controls":
        """What a caller gave, see `TripPipeline.__call__`.

        Raises:
            ValueError: something of another kind, outside the clip, given twice, or together with what it excludes.
        """
        return cls(
            keys=pictures_by_frame(num_frames, last_image, keys, video),
            loop=bool(loop),
            mask=None if mask is None else as_mask(mask),
            camera=parse_camera(camera) if isinstance(camera, str) else camera,
            drags=tuple(parse_drag(drag) if isinstance(drag, str) else drag for drag in as_list(drags)),
        ).checked(num_frames)

    def checked(self, num_frames: int) -> "Controls":
        """These controls, if they go together."""
        if self.loop and num_frames - 1 in self.keys:
            raise ValueError("a loop ends where it begins and has no last picture of its own; leave one of them out")
        if self.loop and self.camera is not None:
            raise ValueError(
                "a loop comes back to its first picture, and a camera path does not; leave one of them out"
            )
        if (self.loop or self.camera is not None) and num_frames < 2:
            raise ValueError(f"num_frames (={num_frames}) has no motion; raise it to 2 or more")
        return self

    def __bool__(self) -> bool:
        return bool(self.keys or self.loop or self.drags) or self.mask is not None or self.camera is not None

    def motion(self, still: Still, num_frames: int, height: int, width: int) -> Motion | None:
        """The motion that is given by hand: the drags of what the picture shows, seen by the moving camera.

        Args:
            height, width: of the fields, with the proportions of the clip, which shows the middle of the picture.
        """
        path = None if self.camera is None else self.camera.motion(num_frames, height, width)
        if not self.drags:
            return path
        picture = pixels_of(seen_by(still, height, width))
        moved = drag_motion(self.drags, num_frames, height, width, still=picture)
        return moved if path is None else moved.then(path)

    def condition(
        self,
        stills: Sequence[Still],
        size: tuple[int, int, int],
        encode: Callable[[Float[Tensor, "b 3 f H W"]], Clip],
        clips: int,
        sigma: Tensor,
        *,
        still_only: bool,
        **others: Any,
    ) -> Condition:
        """What `clips` clips are conditioned on.

        Args:
            stills: their first pictures, one for all or for as many clips each. size: (f, H, W) in pixels.
            encode: latents of frames in [-1, 1]. sigma: the fusion's table.
            still_only: the network was trained with the still alone. others: fields of `Condition`.
        """
        num_frames, height, width = size

        def latents(pictures: Sequence[Still]) -> Clip:
            encoded = encode(torch.cat([to_pixels(picture, height, width) for picture in pictures])[:, :, None])
            return one_per_clip(encoded, clips, encoded.device)

        keys = {0: latents(stills)} | {number: latents([key]) for number, key in sorted(self.keys.items())}
        condition = keyframes(keys, num_frames, sigma, loop=self.loop, still_only=still_only, **others)
        if motion := self.motion(stills[0], num_frames, height, width):
            pictures = [pixels_of(seen_by(still, height, width))[None] * 2 - 1 for still in stills]
            frames = encode(torch.cat([warp(picture, motion.field) for picture in pictures]))
            said = moved(one_per_clip(frames, clips, frames.device), motion, sigma)
            condition = with_motion(condition, said, still_only)
        if self.mask is not None:
            small = area_mask(self.mask, *keys[0].shape[-2:]).to(keys[0].device)
            condition = masked(condition, small, num_frames, sigma)
        return condition


# ---------------------------------------------------------------------------------------------------- statements


def moved(frames: Clip, motion: Motion, sigma: Tensor) -> Statement:
    """Latents of the still moved along a field: certain where it is visible, as uncertain as ever where not."""
    seen = motion.resize(*frames.shape[-2:]).visible.to(frames).transpose(0, 1)[None]
    table = spread_at(sigma, torch.arange(frames.shape[2])).to(frames.device)
    return Statement(mean=frames, spread=(seen * LEAST_SPREAD**2 + (1 - seen) * table**2).sqrt())


def with_motion(condition: Condition, said: Statement, still_only: bool) -> Condition:
    """The condition, and what motion given by hand says; of the still that is all, since it has moved."""
    if still_only:
        others = [] if condition.added is None else [condition.added]
        return replace(condition, added=product([*others, said]))
    if condition.spread is None:
        return replace(condition, reference=said.mean, spread=said.spread)
    both = product([Statement(mean=condition.reference, spread=condition.spread), said])
    return replace(condition, reference=both.mean, spread=both.spread)


# ---------------------------------------------------------------------------------------------------- what is given


def first_picture(image: Any, video: Any) -> Any:
    """The picture of frame 0: the image, or the first one of a video.

    Raises:
        ValueError: neither, or both.
    """
    if (image is None) == (video is None):
        raise ValueError(f"image and video are {'both' if video is not None else 'not'} given; pass one of them")
    return image if video is None else as_images(video)[:1]


def pictures_by_frame(num_frames: int, last_image: Any, keys: Any, video: Any) -> dict[int, Still]:
    """One picture for each frame that has one, beside frame 0.

    Raises:
        ValueError: no pictures, frames outside the clip, or two pictures for one frame.
    """
    if keys is not None and not isinstance(keys, Mapping):
        raise ValueError(f"keyframes (={shown(keys)}) must be pictures by frame number; pass a dict")
    given = [(whole("keyframe", number, least=0), picture) for number, picture in (keys or {}).items()]
    if video is not None:
        given += list(enumerate(as_images(video)))[1:]
    if last_image is not None:
        given.append((num_frames - 1, last_image))
    found: dict[int, Still] = {}
    for number, picture in given:
        if number == 0:
            raise ValueError("keyframe 0 is the picture itself, which is given already; leave it out")
        if number in found:
            raise ValueError(f"frame {number} has two pictures; give one")
        (found[number],) = one_picture(picture)
    check_keys({0: None, **found}, num_frames)
    return found


def one_picture(picture: Any) -> list[Still]:
    """A list of one picture."""
    pictures = as_images(picture)
    if len(pictures) != 1:
        raise ValueError(f"{len(pictures)} pictures are given for one frame; give one")
    return pictures


def as_list(values: Any) -> list[Any]:
    """Several values, or one."""
    if values is None:
        return []
    return list(values) if isinstance(values, list | tuple) else [values]


def as_mask(mask: Any) -> Float[Tensor, "H W"]:
    """White (1) moves, black (0) stands still: of a picture its luma, of an array H W its values in [0, 1].

    Raises:
        ValueError: anything else, or a mask without anything that moves.
    """
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask.convert("L"), dtype=np.float32) / 255
    values = torch.as_tensor(mask).float() if isinstance(mask, np.ndarray | Tensor) else None
    if values is None or values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"mask (={shown(mask)}) must be a grey picture; pass a PIL image, or an array (H, W)")
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(f"mask has values from {values.min():g} to {values.max():g}; give 0 (still) to 1 (moves)")
    if not bool((values > 0).any()):
        raise ValueError("mask is black everywhere, so nothing would move; paint white what is to move")
    return values


def check_mask(mask: Float[Tensor, "H W"], still: Still) -> None:
    """Raise ValueError unless the mask has the picture's proportions."""
    height, width = size_of(still)
    if abs(mask.shape[0] / mask.shape[1] - height / width) > 1.5 / min(*mask.shape, height, width):
        raise ValueError(
            f"mask of {mask.shape[1]} x {mask.shape[0]} does not fit the picture's {width} x {height}; "
            "give one of its proportions"
        )


def area_mask(mask: Float[Tensor, "H W"], height: int, width: int) -> Float[Tensor, "1 1 1 h w"]:
    """The mask at the size of latents; a latent that is 0 stands still with all of its pixels."""
    seen = seen_by(mask[None], height, width)
    assert isinstance(seen, Tensor)
    return F.interpolate(seen[None], (height, width), mode="area")[:, :, None]


def pixels_of(still: Still) -> Float[Tensor, "3 H W"]:
    """RGB in [0, 1]."""
    if isinstance(still, Tensor):
        return still.float()
    return torch.from_numpy(np.array(still)).permute(2, 0, 1).float() / 255


def seen_by(still: Still, height: int, width: int) -> Still:
    """The part of a picture that a clip of this size shows, at the picture's own resolution."""
    rows, columns = size_of(still)
    side = min(rows / height, columns / width)
    part = round(side * height), round(side * width)
    top, left = (rows - part[0]) // 2, (columns - part[1]) // 2
    if isinstance(still, Image.Image):
        return still.crop((left, top, left + part[1], top + part[0]))
    assert isinstance(still, Tensor)
    return still[:, top : top + part[0], left : left + part[1]]
