r"""The numbers of an image-to-video evaluation: pure functions over features and pixels. Sums are in float64.

**Fréchet distance** of two sets of features, as Gaussians,

.. math:: d^2 = |\mu_1 - \mu_2|^2 + \mathrm{tr}\,\Sigma_1 + \mathrm{tr}\,\Sigma_2
    - 2\,\mathrm{tr}\,(\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}.

The last trace is the sum of the singular values of :math:`R_1^\top R_2` for any roots :math:`R_i R_i^\top = \Sigma_i`.
Roots come from the eigenvalues; those that rounding cannot tell from zero are left out, because their roots would not
be small. No square root of a matrix that is not symmetric is taken. The estimate is biased upwards, more so the fewer
clips there are, so that it means nothing without their number.

**Intervals** are at 95 %. Means over clips: percentiles of the mean over clips drawn with replacement. Shares:
Wilson's. Fréchet distances: clips (with all their frames) are drawn with replacement, on both sides independently; a
drawn set repeats clips, which adds bias of its own, so only the spread is kept: percentiles around the draws' mean,
moved to the value. They say how much the number would vary with other clips of the same count, not how far it is
biased.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from trip.evaluation.motion import dense_flows, wilson_interval

Interval = tuple[float, float]

RESAMPLES = 1000
FRECHET_RESAMPLES = 100
LARGEST_RESAMPLED = 512
"""Largest matrix whose singular values are taken `FRECHET_RESAMPLES` times; above, a distance has no interval."""

CONSECUTIVE, TO_FIRST = "consecutive", "to-first"
PAIRINGS = (CONSECUTIVE, TO_FIRST)

PSNR_CAP = 100.0
"""dB of pictures that are equal, or nearly."""

DYNAMIC_FLOW = 6 / 256
"""Flow between frames, in shorter sides, above which VBench counts a step as dynamic."""

DYNAMIC_TOP = 0.05
"""Share of the pixels, those that move most, whose mean flow VBench looks at."""

DYNAMIC_SHARE = 4 / 16
"""Share of the frames that must be dynamic for a clip to be."""

DYNAMIC_FPS = 8.0
"""Frames per second that VBench thins clips out to first."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of an evaluation.

    Attributes:
        name: as printed; names the network where it is a substitute. value: the number.
        n: clips that it is made of. interval: at 95 %, see the module; None where there is none.
        features: name of the network, "" for pixels. note: what a reader must know.
    """

    name: str
    value: float
    n: int
    interval: Interval | None = None
    features: str = ""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: value, n, interval, features, and the note where there is one."""
        record: dict[str, Any] = {"value": self.value, "n": self.n}
        record["interval"] = list(self.interval) if self.interval else None
        return record | {"features": self.features} | ({"note": self.note} if self.note else {})


# ------------------------------------------------------------------------------------------- Fréchet distance


class GaussianStatistics:
    """Mean and covariance of features that come in parts; memory d x d, whatever their number.

    Kept are the count, the mean and the sum of outer products about the mean, which merge without cancellation
    (Chan, Golub and LeVeque 1979).
    """

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self.mean = np.zeros(dimension)
        self.scatter = np.zeros((dimension, dimension))

    @classmethod
    def of(cls, features: Float[np.ndarray, "n d"]) -> "GaussianStatistics":
        """Statistics of one set."""
        statistics = cls(features.shape[1])
        statistics.add(features)
        return statistics

    def add(self, features: Float[np.ndarray, "n d"]) -> None:
        """Take in more features.

        Raises:
            ValueError: another width, or values that are not finite.
        """
        if features.shape[1] != len(self.mean):
            raise ValueError(f"features have width {features.shape[1]}, not {len(self.mean)}; use one network")
        if not np.isfinite(features).all():
            raise ValueError("features have NaN or infinite values; look at the clips that they come from")
        if len(features):
            values = features.astype(np.float64)
            mean = values.mean(0)
            self._merge(len(values), mean, (values - mean).T @ (values - mean))

    def merge(self, other: "GaussianStatistics") -> None:
        """Take in another set's statistics."""
        self._merge(other.count, other.mean, other.scatter)

    def _merge(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self.count + count
        if not count:
            return
        shift = mean - self.mean
        self.scatter = self.scatter + scatter + np.outer(shift, shift) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """The unbiased one.

        Raises:
            ValueError: fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} sample has no covariance; give at least 2")
        return self.scatter / (self.count - 1)


def frechet_distance(first: GaussianStatistics, second: GaussianStatistics) -> float:
    """Squared Fréchet distance of two Gaussians (see the module); never below 0.

    Raises:
        ValueError: fewer than two features on a side, or two widths.
    """
    if len(first.mean) != len(second.mean):
        raise ValueError(f"features have widths {len(first.mean)} and {len(second.mean)}; use one network for both")
    roots = [covariance_root(side.covariance) for side in (first, second)]
    shared = np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum() if all(r.size for r in roots) else 0.0
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    return max(float(((first.mean - second.mean) ** 2).sum() + traces - 2 * shared), 0.0)


def covariance_root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d r"]:
    """R with R R^T = covariance, r = its numerical rank."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0)
    return vectors[:, kept] * np.sqrt(values[kept])


def frechet_of_samples(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "m d"]) -> float:
    """The same of two sets of features; quicker where they are fewer than they are wide.

    There the roots are the centred features themselves, R = X^T / sqrt(n - 1), and only n x n matrices arise.
    """
    if min(len(first), len(second)) >= first.shape[1]:
        return frechet_distance(GaussianStatistics.of(first), GaussianStatistics.of(second))
    means = [side.mean(0, dtype=np.float64) for side in (first, second)]
    roots = [(x - mean) / math.sqrt(len(x) - 1) for x, mean in zip((first, second), means, strict=True)]
    shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    traces = sum(float((root**2).sum()) for root in roots)
    return max(float(((means[0] - means[1]) ** 2).sum() + traces - 2 * shared), 0.0)


class FeatureSet:
    """Features of a folder as they come: statistics, and the features themselves while a bootstrap can use them."""

    def __init__(self, name: str, dimension: int) -> None:
        self.name = name
        self.clips = 0
        self.statistics = GaussianStatistics(dimension)
        self._kept: list[np.ndarray] | None = []

    def add(self, features: Float[np.ndarray, "b f d"]) -> None:
        """Take in clips with f features each; f = 1 where a clip has one."""
        self.clips += len(features)
        self.statistics.add(features.reshape(-1, features.shape[-1]))
        if self._kept is not None:
            self._kept.append(features)
        if min(self.statistics.count, features.shape[-1]) > LARGEST_RESAMPLED:
            self._kept = None

    def clipwise(self) -> Float[np.ndarray, "b f d"] | None:
        """All features by clip, or None where there are too many to resample."""
        return np.concatenate(self._kept) if self._kept else None


def frechet_metric(
    name: str, generated: FeatureSet, reference: FeatureSet, *, allow_few: bool = False, seed: int = 0
) -> Metric:
    """FVD, FID and the like, with their number of clips.

    Args:
        name: of the metric. generated, reference: features of both sides, by one network.
        allow_few: do not insist on more features than their width. seed: of the bootstrap.

    Raises:
        ValueError: too few features for a covariance of full rank, or fewer than 2 clips.
    """
    width, clips = len(generated.statistics.mean), (generated.clips, reference.clips)
    samples_each = generated.statistics.count // max(generated.clips, 1)
    enough = check_samples(name, width, clips, samples_each, allow_few)
    sides = sides_of(clips)
    note = sides if enough else f"{sides}: too few for {width} features, far too high; compare at equal counts only"
    value = frechet_distance(generated.statistics, reference.statistics)
    interval = frechet_interval(value, generated, reference, seed)
    return Metric(name=name, value=value, n=generated.clips, interval=interval, features=generated.name, note=note)


def check_samples(name: str, width: int, clips: tuple[int, int], samples_each: int, allow_few: bool) -> bool:
    """Whether (generated, real) clips give more samples than features.

    Raises:
        ValueError: they do not and few are not allowed, or there is a single clip.
    """
    if min(clips) < 2:
        raise ValueError(f"{name} of {sides_of(clips)} has no covariance; give at least 2 clips a side")
    enough = min(clips) * samples_each > width
    if not enough and not allow_few:
        raise ValueError(
            f"{name} of {sides_of(clips)} would be mostly sampling error, {width} features need more than {width} "
            "samples; add clips, or accept it with --allow-few (allow_few=True)"
        )
    return enough


def sides_of(clips: tuple[int, int]) -> str:
    """How many are compared with how many."""
    return f"{clips[0]} clips against {clips[1]} real ones"


def frechet_interval(value: float, generated: FeatureSet, reference: FeatureSet, seed: int) -> Interval | None:
    """Spread of the distance over clips (see the module); None where it would take too long."""
    first, second = generated.clipwise(), reference.clipwise()
    if first is None or second is None:
        return None
    rng = np.random.default_rng(seed)
    draws = [frechet_of_samples(redrawn(first, rng), redrawn(second, rng)) for _ in range(FRECHET_RESAMPLES)]
    low, high = np.percentile(draws, [2.5, 97.5]) - np.mean(draws)
    return max(value + float(low), 0.0), max(value + float(high), 0.0)


def redrawn(features: Float[np.ndarray, "b f d"], rng: np.random.Generator) -> Float[np.ndarray, "n d"]:
    """As many clips drawn with replacement, as one list of features."""
    drawn = features[rng.integers(0, len(features), len(features))]
    return drawn.reshape(-1, features.shape[-1])


# ------------------------------------------------------------------------------------------- means over clips


def mean_metric(name: str, values: Sequence[float], *, features: str = "", note: str = "", seed: int = 0) -> Metric:
    """Mean of one number a clip, with a bootstrap interval over clips.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError(f"{name} has no clips to average over; give at least 1")
    numbers = np.asarray(values, np.float64)
    interval = bootstrap_interval(numbers, seed)
    return Metric(
        name=name, value=float(numbers.mean()), n=len(numbers), interval=interval, features=features, note=note
    )


def bootstrap_interval(values: Float[np.ndarray, " n"], seed: int = 0) -> Interval | None:
    """95 % percentiles of the mean over clips drawn with replacement; None of a single clip."""
    if len(values) < 2:
        return None
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def share_metric(name: str, outcomes: Sequence[bool], *, note: str = "") -> Metric:
    """Share of clips in percent, with Wilson's interval.

    Raises:
        ValueError: no outcomes.
    """
    if not len(outcomes):
        raise ValueError(f"{name} has no clips to count; give at least 1")
    low, high = wilson_interval(sum(outcomes), len(outcomes))
    value = 100 * sum(outcomes) / len(outcomes)
    return Metric(name=name, value=value, n=len(outcomes), interval=(100 * low, 100 * high), note=note)


# ------------------------------------------------------------------------------------- consistency and similarity


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


def text_similarity(frames: Float[Tensor, "b f d"], texts: Float[Tensor, "b d"]) -> Float[np.ndarray, " b"]:
    """100 x cosine of every frame's features with its clip's text, mean over frames."""
    unit, text = F.normalize(frames.double(), dim=-1), F.normalize(texts.double(), dim=-1)
    return 100 * (unit * text[:, None]).sum(-1).mean(1).numpy()


def motion_warning(generated: Metric, reference: Metric | None) -> str | None:
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


# ------------------------------------------------------------------------------------------------- first frame


def psnr(pictures: Float[Tensor, "b c H W"], others: Float[Tensor, "b c H W"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1], at most `PSNR_CAP`."""
    error = ((pictures.double() - others.double()) ** 2).flatten(1).mean(1)
    return -10 * torch.log10(error.clamp(min=10 ** (-PSNR_CAP / 10)))


def ssim(pictures: Float[Tensor, "b c H W"], others: Float[Tensor, "b c H W"]) -> Float[Tensor, " b"]:
    """Structural similarity of pictures in [0, 1] (Wang et al. 2004), mean over channels and places.

    Gaussian window of 11 x 11 pixels, deviation 1.5, wholly inside the picture; K1 = 0.01, K2 = 0.03.

    Raises:
        ValueError: a side below 11 pixels.
    """
    if min(pictures.shape[-2:]) < 11:
        raise ValueError(f"pictures of {tuple(pictures.shape[-2:])} pixels are smaller than SSIM's 11 x 11 window")
    x, y = pictures.double(), others.double()
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (var_x + var_y + 0.03**2)
    return (light * structure).flatten(1).mean(1)


def smooth(pictures: Float[Tensor, "b c H W"]) -> Float[Tensor, "b c h w"]:
    """Means under the Gaussian window, where it fits."""
    offsets = torch.arange(-5, 6, dtype=pictures.dtype)
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = (window / window.sum()).expand(pictures.shape[1], 1, 1, 11)
    rows = F.conv2d(pictures, window, groups=pictures.shape[1])
    return F.conv2d(rows, window.mT.reshape(-1, 1, 11, 1), groups=pictures.shape[1])


# ------------------------------------------------------------------------------------------------------ motion


@dataclass(frozen=True, kw_only=True)
class ClipMotion:
    """Motion of one clip.

    Attributes:
        flow: mean magnitude of the flow between frames, percent of the width.
        dynamic: whether it counts as dynamic, see `is_dynamic`.
        warping_error: see `warping_error`.
    """

    flow: float
    dynamic: bool
    warping_error: float


def clip_motion(frames: UInt8[np.ndarray, "f H W 3"], fps: float = DYNAMIC_FPS) -> ClipMotion:
    """Flow, dynamic degree and warping error of a clip, all by OpenCV's DIS flow; no weights.

    Raises:
        ValueError: fewer than two frames.
    """
    pixels = frames.astype(np.float32) / np.float32(255)
    forward = dense_flows(pixels)
    backward = np.ascontiguousarray(dense_flows(pixels[::-1])[::-1])
    step = max(1, round(fps / DYNAMIC_FPS))
    thinned = pixels[::step]
    flows = forward if step == 1 else dense_flows(thinned) if len(thinned) > 1 else forward[:0]
    return ClipMotion(
        flow=float(100 * np.linalg.norm(forward, axis=-1).mean() / frames.shape[2]),
        dynamic=is_dynamic(flows),
        warping_error=warping_error(pixels, forward, backward),
    )


def is_dynamic(flows: Float[np.ndarray, "g H W 2"]) -> bool:
    """VBench's dynamic degree of one clip (Huang et al. 2024), given the flow between frames at about 8 a second.

    A step is dynamic if the mean flow of the 5 % of pixels that move most exceeds 6 pixels per 256 of the shorter side;
    a clip, if so many steps are as a quarter of its frames. VBench takes RAFT's flow; here it is DIS's.
    """
    sizes = np.linalg.norm(flows, axis=-1).reshape(len(flows), -1)
    top = max(int(sizes.shape[1] * DYNAMIC_TOP), 1)
    most = np.partition(sizes, -top, axis=1)[:, -top:].mean(1)
    steps = int((most > DYNAMIC_FLOW * min(flows.shape[1:3])).sum())
    return steps >= max(round(DYNAMIC_SHARE * (len(flows) + 1)), 1)


def warping_error(
    pixels: Float[np.ndarray, "f H W 3"],
    forward: Float[np.ndarray, "g H W 2"],
    backward: Float[np.ndarray, "g H W 2"],
) -> float:
    """Mean squared difference of a frame and the next one warped back onto it (Lai et al. 2018), pixels in [0, 1].

    Occluded pixels are left out: those whose flow and its return differ, ``|f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5``
    (Sundaram et al. 2010), and those whose flow leaves the picture. 0 where nothing is left.
    """
    errors, weights = 0.0, 0
    for i, flow in enumerate(forward):
        grid = pixel_grid(*flow.shape[:2]) + flow
        back = warped(backward[i], grid)
        gap = ((flow + back) ** 2).sum(-1)
        seen = gap <= 0.01 * ((flow**2).sum(-1) + (back**2).sum(-1)) + 0.5
        seen &= ((grid >= 0) & (grid <= np.float32(flow.shape[1::-1]) - 1)).all(-1)
        error = ((warped(pixels[i + 1], grid).astype(np.float64) - pixels[i]) ** 2).mean(-1)
        errors, weights = errors + float(error[seen].sum()), weights + int(seen.sum())
    return errors / weights if weights else 0.0


def pixel_grid(height: int, width: int) -> Float[np.ndarray, "H W 2"]:
    """(x, y) of every pixel."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def warped(values: Float[np.ndarray, "H W c"], grid: Float[np.ndarray, "H W 2"]) -> Float[np.ndarray, "H W c"]:
    """Values at places (x, y), bilinear, held at the border."""
    maps = np.ascontiguousarray(grid, np.float32)
    return cv2.remap(np.ascontiguousarray(values), maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # pyright: ignore
