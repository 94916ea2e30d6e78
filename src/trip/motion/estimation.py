r"""Motion read off a clip: one similarity per frame for the camera, one rigid motion per object, else dense flow.

A dense flow that is chained over a small clip is too coarse for what it is wanted for, a full-size photograph moved
along it: straight lines wobble, and objects leave doubles. So the simplest motion that explains the clip is fitted:

1. *camera*: DIS flow between neighbouring frames, checked forward and backward; a similarity by RANSAC, chained; then
   every frame is registered against the first one directly (flow of what is left, RANSAC again), which takes out the
   drift of the chain, and the path is smoothed.
2. *objects*: what still moves against the camera is cut into segments of the first frame; each gets one rigid motion
   per frame, registered against the first frame directly (ECC, Evangelidis and Psarakis 2008, blind to brightness).
   Which pixels are the object's is decided by which motion explains them over the whole clip.
3. *dense*: where neither explains the clip, e.g. ripples: the chained flow, registered against the first frame too.

Arrays in here are numpy's, h w 2, in pixels of the enlarged clip; what comes out are fields (`trip.motion.fields`).
"""

from dataclasses import dataclass
from itertools import pairwise, product

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from trip.motion.fields import (
    Field,
    Matrices,
    Motion,
    Share,
    from_matrices,
    grid,
    inside,
    resize,
    resize_share,
    sample,
    seen_from_frames,
    warp,
)
from trip.motion.flow import dis_flow

LEAST_SIDE = 16
"""Shorter side, pixels, of frames in which motion can be seen."""

SIDE = 192
"""Shorter side, pixels, at which motion is estimated: three times that of a base clip, for DIS's 8-pixel patches."""

AGREEMENT = 0.006
"""Largest difference of a flow and its return that still counts, in widths."""

TOLERANCE = 0.004
"""Largest distance from a fitted motion of a flow that follows it, in widths."""

STEADY, SMALLEST_TREMBLE = 2.0, 0.0005
"""Weight of second differences in the camera's path, and the scatter, in widths, that is not held against a frame."""

PRICE = 0.03
"""Share of the misfit that each of shift, scale and turn must take away to be the camera's."""

SMALLEST_MOVE = 0.02
"""Way against the camera from which on something is an object of its own, in widths."""

SMALLEST_OBJECT = 0.02
"""Area of the smallest object, in shares of the picture."""

STILL = 0.005
"""Largest displacement of a camera that stands still, in widths: a third of a pixel of a base clip."""

WORTH = 5.0
"""Factor by which dense flow must explain a clip better, in squared error, than what is rigid."""

SMALLEST_SEED = 0.003
"""The same of what an object is searched from."""

LARGEST_OBJECT = 0.5
"""Area from which on an object would be the scene, in shares of the picture."""

CLEARLY, LEAST_MISFIT = 0.65, 0.04
"""Share of the camera's misfit that an object's motion may leave over its pixels, and the least such misfit, of 1."""

WELL_ALIGNED = 0.9
"""Correlation from which on a registration needs no second guess."""

MOST_OBJECTS = 4
"""Segments that are looked at; the rest follows the camera."""

MEAN = np.full((1, 3), 1 / 3)
"""Of the colours, for `cv2.transform`."""

Grey = Float32[np.ndarray, "h w"]
Places = Float32[np.ndarray, "h w 2"]
Mask = Bool[np.ndarray, "h w"]
Map = Float[np.ndarray, "3 3"]
"""Place in a frame -> place in the still, in pixels."""


@dataclass(frozen=True)
class Estimate(Motion):
    """A clip's motion, and how it was explained.

    Attributes:
        kind: "still", "camera", "objects" (they move, the rest follows the camera) or "dense".
        camera: place in frame i -> place in the still, in widths: the motion of what is no object.
        objects: of every object its share of the still's pixels, n 1 h w, at `SIDE`; no object is none.
        maps: of every object, as `camera` of the rest.
    """

    kind: str
    camera: Matrices
    objects: Float[Tensor, "n 1 side _"]
    maps: Float[Tensor, "n f 3 3"]


def estimate_motion(clip: Float[Tensor, "f 3 H W"]) -> Estimate:
    """The motion of every frame against the first one.

    Args:
        clip: RGB in [0, 1].

    Raises:
        ValueError: fewer than two frames, frames below 16 pixels, values that are not finite.
    """
    frames, height, width = clip.shape[0], clip.shape[2], clip.shape[3]
    if frames < 2:
        raise ValueError(f"{frames} frame has no motion; pass a clip of at least 2")
    if min(height, width) < LEAST_SIDE:
        least = f"{LEAST_SIDE} x {LEAST_SIDE}"
        raise ValueError(f"{width} x {height} pixels are too few to see motion in; pass frames of at least {least}")
    if not bool(torch.isfinite(clip).all()):
        raise ValueError("the clip has NaN or infinite values; generate it with dtype=torch.float32")
    return _Clip(clip).estimate()


@dataclass(frozen=True)
class _Object:
    """Pixels of the still that move as one, and their map per frame."""

    share: Mask
    maps: list[Map]


class _Clip:
    """The frames of one clip, grey and enlarged, and what is found out about them step by step."""

    def __init__(self, clip: Tensor) -> None:
        self.size = clip.shape[2], clip.shape[3]
        self.clip = clip.detach().cpu().float()
        self.colour = [_at_side(frame) for frame in self.clip.permute(0, 2, 3, 1).numpy()]
        self.grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in self.colour]
        self.bytes = [np.clip(np.rint(grey * 255), 0, 255).astype(np.uint8) for grey in self.grey]
        self.height, self.width = self.grey[0].shape
        self.places = np.stack(np.meshgrid(np.arange(self.width), np.arange(self.height)), -1).astype(np.float32)
        self.back = [dis_flow(later, earlier) for earlier, later in pairwise(self.bytes)]
        self.forth = [dis_flow(earlier, later) for earlier, later in pairwise(self.bytes)]

    def estimate(self) -> Estimate:
        """The simplest motion that explains the clip (see the module)."""
        camera = self.camera()
        if self.is_still(camera):
            camera = [np.eye(3)] * len(camera)
        objects = self.objects(camera)
        field, visible = self.rigid(camera, objects)
        kind = "objects" if objects else "still" if self.is_still(camera) else "camera"
        confidence = self.likeness(field)
        flowing, shown = self.dense()
        fits = self.likeness(flowing)
        gain = _misfit(confidence, visible * shown) / _misfit(fits, visible * shown)
        if gain > WORTH and float((flowing - field).norm(dim=1).mean()) > STILL:
            kind, field, visible, confidence, objects = "dense", flowing, shown, fits, []
        shares = np.zeros((len(objects), 1, self.height, self.width), np.float32)
        for share, each in zip(shares, objects, strict=True):
            share[0] = each.share
        maps = [self.in_widths(each.maps) for each in objects]
        matrices = self.in_widths(camera)
        return Estimate(
            field, visible, confidence, kind, matrices, torch.from_numpy(shares),
            torch.stack(maps) if maps else matrices[None][:0],
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------- camera

    def camera(self) -> list[Map]:
        """One similarity per frame, to the still: chained, registered, smoothed, and registered from there again."""
        maps = [np.eye(3)]
        for index, (back, forth) in enumerate(zip(self.back, self.forth, strict=True)):
            step = self.similarity(self.bytes[index + 1], back, self.agree(back, forth))
            maps.append(self.registered(index + 1, maps[-1] @ step))
        guesses = self.smoothed(maps)
        found = self.smoothed([guesses[0], *(self.registered(i, each) for i, each in enumerate(guesses[1:], 1))])
        return self.simplest(found)

    def simplest(self, maps: list[Map]) -> list[Map]:
        """The path without what explains too little: of shift, scale and turn each must earn `PRICE`.

        A model's clip that zooms also turns a little by its errors, and one with falling snow creeps. Pictures are
        compared without their low frequencies, where the full path shows the still.
        """
        middle = np.array([(self.width - 1) / 2, (self.height - 1) / 2])
        path = np.stack([_path_point(each, middle, self.width) for each in maps])
        fine = [_fine(grey) for grey in self.grey]
        seen = [self.within(_moved(each, self.places)) for each in maps]
        tried = []
        for kept in product((0, 1), repeat=3):
            part = path * np.repeat(kept, (2, 1, 1))
            some = [np.eye(3), *(_path_map(each, middle, self.width) for each in part[1:])]
            gaps = [
                float(np.abs(_warped(fine[0], _moved(each, self.places)) - grey)[where].mean())
                for each, grey, where in zip(some[1:], fine[1:], seen[1:], strict=True)
                if where.any()
            ]
            tried.append((float(np.mean(gaps or [0.0])) * (1 + PRICE * sum(kept)), sum(kept), some))
        return min(tried, key=lambda each: each[:2])[2]

    def registered(self, index: int, guess: Map) -> Map:
        """A frame's map, corrected by the flow between the frame and the still moved as guessed."""
        places = _moved(guess, self.places)
        shown = _warped(self.bytes[0], places, cv2.INTER_CUBIC)
        flow, back = dis_flow(self.bytes[index], shown), dis_flow(shown, self.bytes[index])
        return guess @ self.similarity(self.bytes[index], flow, self.agree(flow, back) & self.within(places))

    def smoothed(self, maps: list[Map]) -> list[Map]:
        """A path without tremble: second differences are held against it, frames that are off count little.

        A clip that a model made repeats its still badly in places, and a frame may be registered wrongly. The path is
        smoothed as shift of the middle, log of the scale and turn, all as ways in widths; steady moves are left as they
        are.
        """
        middle = np.array([(self.width - 1) / 2, (self.height - 1) / 2])
        measured = np.stack([_path_point(each, middle, self.width) for each in maps])
        bends = np.diff(np.eye(len(maps)), 2, axis=0)
        padded = np.pad(measured, ((2, 2), (0, 0)), mode="reflect", reflect_type="odd") if len(maps) > 4 else None
        path = measured if padded is None else np.median(np.stack([padded[i : i + len(maps)] for i in range(5)]), 0)
        for _ in range(20):
            off = np.linalg.norm(measured - path, axis=1)
            scale = max(1.5 * float(np.median(off)), SMALLEST_TREMBLE)
            weights = 1 / (1 + (off / (2 * scale)) ** 2) ** 2
            weights[0] = 1e6
            path = np.linalg.solve(np.diag(weights) + STEADY * bends.T @ bends, weights[:, None] * measured)
        return [np.eye(3), *(_path_map(each, middle, self.width) for each in path[1:])]

    def is_still(self, maps: list[Map]) -> bool:
        """Whether the camera stands still."""
        ways = [np.linalg.norm(_moved(each, self.places) - self.places, axis=-1).max() for each in maps]
        return float(max(ways)) < STILL * self.width

    def agree(self, flow: Places, back: Places) -> Bool[np.ndarray, "h w"]:
        """Where a flow and its return agree."""
        gap = flow + _warped(back, self.places + flow)
        return cv2.magnitude(gap[..., 0], gap[..., 1]) < AGREEMENT * self.width

    def within(self, places: Places, margin: float = 0.02) -> Bool[np.ndarray, "h w"]:
        """Which places lie inside the still, and not at its very edge."""
        x, y, edge = places[..., 0], places[..., 1], margin * self.width
        return (x > edge) & (y > edge) & (x < self.width - 1 - edge) & (y < self.height - 1 - edge)

    def similarity(self, picture: np.ndarray, flow: Places, trusted: Bool[np.ndarray, "h w"]) -> Map:
        """The similarity that most of a flow's trusted and textured places follow; the identity of too few."""
        chosen = trusted & self.within(self.places) & _textured(picture)
        points = self.places[chosen]
        if len(points) < 50:
            return np.eye(3)
        thinned = np.linspace(0, len(points) - 1, min(len(points), 4000)).astype(int)
        start, end = points[thinned], (points + flow[chosen])[thinned]
        return _similarity(start, end, TOLERANCE * self.width)

    # ------------------------------------------------------------------------------------------------ objects

    def objects(self, camera: list[Map]) -> list["_Object"]:
        """What moves against the camera, each with one rigid motion."""
        found = []
        for seed in _segments(self.strays(camera), self.width * self.height):
            share, maps = seed, [np.eye(3)] * len(self.grey)
            for _ in range(3):
                before, maps = share, self.tracked(share)
                share = self.claimed(maps, camera, seed)
                if share.mean() < SMALLEST_OBJECT / 2 or (share ^ before).sum() < 0.02 * share.sum():
                    break
            if self.explained(share, maps, camera):
                found.append(_Object(share, maps))
        return found

    def strays(self, camera: list[Map]) -> Int[np.ndarray, "h w"]:
        """First frame in which each of the still's pixels has left the camera's way; the number of frames if none."""
        track, kept = self.places, np.ones(self.places.shape[:2], bool)
        onset = np.full(kept.shape, len(self.grey))
        for index, (forth, back) in enumerate(zip(self.forth, self.back, strict=True), 1):
            kept &= _warped(self.agree(forth, back).astype(np.float32), track) > 0.5
            track = track + _warped(forth, track)
            stray = np.linalg.norm(_moved(camera[index], track) - self.places, axis=-1) > SMALLEST_MOVE * self.width
            onset[stray & kept & self.within(track) & (onset > index)] = index
        return onset

    def tracked(self, share: Mask) -> list[Map]:
        """One rigid map per frame, to the still: carried on by the flow or at the speed so far, then registered."""
        maps = [np.eye(3)]
        for index in range(1, len(self.grey)):
            guesses = [maps[-1] @ np.linalg.inv(self.step_of(index - 1, maps[-1], share))]
            if index > 1:
                guesses.append(_rigid(maps[-1] @ np.linalg.inv(maps[-2]) @ maps[-1]))
            found = [self.aligned(index, guesses[0], share)]
            if found[0][0] < WELL_ALIGNED:
                found += [self.aligned(index, guess, share) for guess in guesses[1:]]
            maps.append(max(found, key=lambda each: each[0])[1])
        return maps

    def step_of(self, index: int, back: Map, share: Mask) -> Map:
        """How an object moves from a frame to the next, by the flow over its pixels; not at all of too few."""
        here = _warped(share.astype(np.float32), _moved(back, self.places), border=cv2.BORDER_CONSTANT) > 0.5
        chosen = here & self.agree(self.forth[index], self.back[index])
        start = self.places[chosen]
        if len(start) < 30:
            return np.eye(3)
        return _rigid(_similarity(start, start + self.forth[index][chosen], 2 * TOLERANCE * self.width), start.mean(0))

    def aligned(self, index: int, guess: Map, share: Mask) -> tuple[float, Map]:
        """A frame's rigid map, registered against the object in the still, and how well; the guess if it fails."""
        mask = cv2.erode(share.astype(np.uint8) * 255, np.ones((3, 3), np.uint8))
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-5)
        start = guess[:2].astype(np.float32)
        try:
            score, found = cv2.findTransformECC(
                self.grey[index], self.grey[0], start, cv2.MOTION_EUCLIDEAN, stop, mask, 5
            )  # fmt: skip
        except cv2.error:  # it did not converge, or nothing of the mask is in sight
            return -1.0, guess
        found = np.vstack([found, [0, 0, 1]]).astype(np.float64)
        far = np.linalg.norm(_moved(found, self.places) - _moved(guess, self.places), axis=-1)
        seen = _warped(mask, _moved(guess, self.places), border=cv2.BORDER_CONSTANT) > 127
        return (score, found) if seen.any() and far[seen].max() < 0.05 * self.width else (-1.0, guess)

    def claimed(self, maps: list[Map], camera: list[Map], seed: Mask) -> Mask:
        """Pixels of the still that follow an object's motion rather than the camera's, near its seed."""
        own, other = self.misfit(maps), self.misfit(camera)
        reach = 2 * round(0.06 * self.width) + 1
        near = cv2.dilate(seed.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))) > 0
        share = ((own < other) & near).astype(np.uint8)
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        share = cv2.morphologyEx(cv2.morphologyEx(share, cv2.MORPH_OPEN, disc), cv2.MORPH_CLOSE, disc)
        return _filled_main(share)

    def misfit(self, maps: list[Map]) -> Grey:
        """How badly a motion explains each of the still's pixels, mean over the frames that show it."""
        total, count = np.zeros_like(self.grey[0]), np.full_like(self.grey[0], 1e-3)
        for colour, back in zip(self.colour[1:], maps[1:], strict=True):
            at = _moved(np.linalg.inv(back), self.places)
            seen = self.within(at, 0)
            error = np.minimum(cv2.transform(cv2.absdiff(_warped(colour, at), self.colour[0]), MEAN), 0.2)
            total, count = total + np.where(seen, error, 0), count + seen
        return cv2.GaussianBlur((total / count).astype(np.float32), (0, 0), 2)

    def explained(self, share: Mask, maps: list[Map], camera: list[Map]) -> bool:
        """Whether an object is worth having: neither tiny nor the scene, textured, and not explained by the camera.

        Flow over a clear sky follows nothing: what it does there against the camera is no object.
        """
        if not SMALLEST_OBJECT < share.mean() < LARGEST_OBJECT:
            return False
        texture = _texture(self.bytes[0])
        own, other = self.misfit(maps)[share].mean(), self.misfit(camera)[share].mean()
        clearly = CLEARLY if self.is_still(camera) else CLEARLY / 1.5
        clear = other > LEAST_MISFIT and own < clearly * other
        return bool(clear and np.median(texture[share]) > 0.5 * np.median(texture))

    # -------------------------------------------------------------------------------------------------- dense

    def dense(self) -> tuple[Field, Share]:
        """Chained flow, every frame registered against the still, and where it is to be seen there."""
        places, trusted = [self.places], [np.ones(self.places.shape[:2], np.float32)]
        for index, (back, forth) in enumerate(zip(self.back, self.forth, strict=True), 1):
            at = self.places + back
            guess = _warped(places[-1], at)
            shown = _warped(self.bytes[0], guess, cv2.INTER_CUBIC)
            flow, again = dis_flow(self.bytes[index], shown), dis_flow(shown, self.bytes[index])
            held = self.agree(flow, again)
            flow = cv2.GaussianBlur(np.where(held[..., None], flow, 0), (0, 0), 0.015 * self.width)
            places.append(_warped(guess, self.places + flow))
            kept = _warped(trusted[-1], at) * self.agree(back, forth)
            trusted.append(np.maximum(kept, cv2.GaussianBlur(held.astype(np.float32), (0, 0), 0.01 * self.width) > 0.5))
        moved = torch.from_numpy(np.stack(places) - self.places).permute(0, 3, 1, 2) / self.width
        shares = torch.from_numpy(np.stack(trusted).astype(np.float32))[:, None]
        field = resize(moved, *self.size)
        return field, resize_share(shares, *self.size) * inside(field)

    # ------------------------------------------------------------------------------------------------- output

    def rigid(self, camera: list[Map], objects: list["_Object"]) -> tuple[Field, Share]:
        """The camera's field with the objects laid over it, and what of the frames the still shows."""
        field = self.field(camera)
        visible, shares = inside(field), [self.share(each.share) for each in objects]
        for share in shares:  # the camera's content is hidden where the still shows an object
            visible = visible * (1 - seen_from_frames(share[None].expand(len(field), -1, -1, -1), field))
        for share, each in zip(shares, objects, strict=True):
            own = self.field(each.maps)
            here = sample(share[None], grid(*self.size) + own, border="zeros") > 0.5
            field, visible = torch.where(here, own, field), torch.where(here, inside(own), visible)
        return field, visible

    def likeness(self, field: Field) -> Share:
        """How well the still moved along a field shows every frame, exp(-(e / 0.1)^2).

        e is the mean difference of the colours around a pixel, less what is common to a sixteenth of the picture:
        brightness that drifts is no motion.
        """
        shown = warp(self.clip[:1], field, "bilinear")[0].transpose(0, 1)
        gap = (shown - self.clip).permute(0, 2, 3, 1).numpy()
        spread = 0.06 * self.size[1]
        errors = [
            cv2.GaussianBlur(np.abs(each - cv2.GaussianBlur(each, (0, 0), spread)).mean(-1), (0, 0), spread / 6)
            for each in gap
        ]
        return torch.from_numpy(np.exp(-((np.stack(errors) / 0.1) ** 2)))[:, None]

    def share(self, mask: Mask) -> Float[Tensor, "1 H W"]:
        """A mask at the clip's size."""
        return resize_share(torch.from_numpy(mask.astype(np.float32))[None, None], *self.size)[0]

    def in_widths(self, maps: list[Map]) -> Matrices:
        """Maps between pixels as maps between places in widths."""
        to_pixels = np.array([[self.width, 0, -0.5], [0, self.width, -0.5], [0, 0, 1]])
        return torch.from_numpy(np.stack([np.linalg.inv(to_pixels) @ each @ to_pixels for each in maps]))

    def field(self, maps: list[Map]) -> Field:
        return from_matrices(self.in_widths(maps), *self.size)


def _misfit(likeness: Share, visible: Share) -> float:
    """Mean squared error that a likeness stands for, where it is visible."""
    error = -torch.log(likeness.clamp_min(1e-6))
    return float((error * visible).sum() / visible.sum().clamp_min(1)) + 1e-4


def _at_side(frame: Float32[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "h w 3"]:
    """A frame at `SIDE`."""
    scale = SIDE / min(frame.shape[:2])
    size = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
    return cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)


def _warped(
    values: np.ndarray, places: Places, interpolation: int = cv2.INTER_LINEAR, border: int = cv2.BORDER_REPLICATE
) -> np.ndarray:
    """Values at places (x, y), by default held at the border."""
    return cv2.remap(values, places, None, interpolation, borderMode=border)  # pyright: ignore


def _moved(matrix: Map, places: Places) -> Places:
    """Places under an affine map."""
    return cv2.transform(places, matrix[:2])  # pyright: ignore


def _similarity(start: Float[np.ndarray, "n 2"], end: Float[np.ndarray, "n 2"], tolerance: float) -> Map:
    """The similarity that most points follow; the identity if there is none.

    RANSAC with three times the tolerance finds it, least squares with weights that shrink to the points' own scatter
    (Geman and McClure's) refine it: exact on clean flow, and not at the mercy of a few points on a poor one.
    """
    found, _ = cv2.estimateAffinePartial2D(
        np.ascontiguousarray(start), np.ascontiguousarray(end), method=cv2.RANSAC,
        ransacReprojThreshold=3 * tolerance, maxIters=500, confidence=0.999,
    )  # fmt: skip
    if found is None:
        return np.eye(3)
    matrix = np.vstack([found, [0, 0, 1]])
    a, b = start.astype(np.float64) @ (1, 1j), end.astype(np.float64) @ (1, 1j)  # a similarity is linear in these
    for _ in range(10):
        off = np.linalg.norm(start @ matrix[:2, :2].T + matrix[:2, 2] - end, axis=1)
        near = off < 3 * tolerance
        if near.sum() < 10:
            break
        weights = near / (1 + (off / max(1.5 * float(np.median(off[near])), tolerance / 20)) ** 2) ** 2
        mean_a, mean_b = (weights @ a) / weights.sum(), (weights @ b) / weights.sum()
        power = weights @ np.abs(a - mean_a) ** 2
        if power <= 0:
            break
        factor = (weights * (a - mean_a).conj()) @ (b - mean_b) / power
        shift = mean_b - factor * mean_a
        matrix = np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag], [0, 0, 1]])
    return matrix


def _path_point(matrix: Map, middle: Float[np.ndarray, "2"], width: int) -> Float[np.ndarray, "4"]:
    """Shift of the middle, log of the scale and turn of a similarity, as ways in widths a third of a width off."""
    shift = (matrix[:2, :2] @ middle + matrix[:2, 2] - middle) / width
    scale = 0.5 * np.log(max(float(np.linalg.det(matrix[:2, :2])), 1e-6))
    return np.array([*shift, scale / 3, np.arctan2(matrix[1, 0], matrix[0, 0]) / 3])


def _path_map(point: Float[np.ndarray, "4"], middle: Float[np.ndarray, "2"], width: int) -> Map:
    """The similarity that `_path_point` describes."""
    factor = np.exp(3 * (point[2] + 1j * point[3]))
    matrix = np.array([[factor.real, -factor.imag, 0], [factor.imag, factor.real, 0], [0, 0, 1]])
    matrix[:2, 2] = middle + width * point[:2] - matrix[:2, :2] @ middle
    return matrix


def _fine(grey: Grey) -> Grey:
    """A picture without its low frequencies."""
    return grey - cv2.GaussianBlur(grey, (0, 0), 0.06 * grey.shape[1])


def _texture(picture: np.ndarray) -> Grey:
    """Mean slope around every pixel."""
    slope = np.abs(cv2.Sobel(picture, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(picture, cv2.CV_32F, 0, 1))
    return cv2.GaussianBlur(slope, (0, 0), 3)


def _textured(picture: np.ndarray) -> Bool[np.ndarray, "h w"]:
    """The 70 % of the picture with most texture around them."""
    texture = _texture(picture)
    return texture > np.quantile(texture, 0.3)


def _segments(onset: Int[np.ndarray, "h w"], area: int) -> list[Mask]:
    """Connected parts of what moves, largest first, without specks and without the scene.

    Flow drags an object's surroundings along, but only once the object gets there: of each part, what set out first.
    """
    moving = (onset < onset.max()).astype(np.uint8)
    opened = cv2.morphologyEx(moving, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    sizes = stats[1:, cv2.CC_STAT_AREA]
    order = [label for label in np.argsort(-sizes)[:MOST_OBJECTS] + 1 if sizes[label - 1] > SMALLEST_SEED * area]
    parts = [(labels == label) & (onset <= np.quantile(onset[labels == label], 0.2) + 1) for label in order]
    return [part for part in parts if SMALLEST_SEED < part.sum() / area < LARGEST_OBJECT]


def _filled_main(share: np.ndarray) -> Mask:
    """The largest connected part, without holes."""
    outlines, _ = cv2.findContours(share, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(share)
    if outlines:
        cv2.drawContours(filled, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)  # pyright: ignore
    return filled > 0


def _rigid(matrix: Map, centre: np.ndarray | None = None) -> Map:
    """The turn and shift nearest to a similarity, the same at `centre`."""
    middle = np.zeros(2) if centre is None else centre
    turn = matrix[:2, :2] / np.sqrt(max(float(np.linalg.det(matrix[:2, :2])), 1e-12))
    rigid = np.eye(3)
    rigid[:2, :2] = turn
    rigid[:2, 2] = matrix[:2, :2] @ middle + matrix[:2, 2] - turn @ middle
    return rigid
