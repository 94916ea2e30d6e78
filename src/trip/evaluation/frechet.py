r"""Fréchet distance of two sets of features, as Gaussians. Sums are in float64.

.. math:: d^2 = |\mu_1 - \mu_2|^2 + \mathrm{tr}\,\Sigma_1 + \mathrm{tr}\,\Sigma_2
    - 2\,\mathrm{tr}\,(\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}.

The last trace is the sum of the singular values of :math:`R_1^\top R_2` for any roots :math:`R_i R_i^\top = \Sigma_i`.
Roots come from the eigenvalues; those that rounding cannot tell from zero are left out, because their roots would not
be small. No square root of a matrix that is not symmetric is taken. The estimate is biased upwards, more so the fewer
clips there are, so that it means nothing without their number.

**Interval.** Clips (with all their frames) are drawn with replacement, on both sides independently; a drawn set repeats
clips, which adds bias of its own, so only the spread is kept: percentiles around the draws' mean, moved to the value.
It says how much the number would vary with other clips of the same count, not how far it is biased.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from trip.evaluation.intervals import Interval

RESAMPLES = 100
LARGEST_RESAMPLED = 512
"""Largest matrix whose singular values are taken `RESAMPLES` times; above, a distance has no interval."""


class Gaussian(NamedTuple):
    """Mean and unbiased covariance of features."""

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]


class FeatureSet:
    """One network's features of many clips: their mean and covariance, and themselves while a bootstrap can use them.

    Kept are the count, the mean and the sum of outer products about the mean, which parts add to without cancellation
    (Chan, Golub and LeVeque 1979): memory d x d, whatever the number of clips.

    Args:
        name: of the network. dimension: width d of its features.
    """

    def __init__(self, name: str, dimension: int) -> None:
        self.name = name
        self.clips = self.count = 0
        self.mean = np.zeros(dimension)
        self.scatter = np.zeros((dimension, dimension))
        self._kept: list[np.ndarray] | None = []

    def add(self, features: Float[np.ndarray, "b f d"]) -> None:
        """Take in clips with f features each; f = 1 where a clip has one.

        Raises:
            ValueError: another width, or values that are not finite.
        """
        if features.shape[-1] != len(self.mean):
            raise ValueError(f"features have width {features.shape[-1]}, not {len(self.mean)}; use one network")
        if not np.isfinite(features).all():
            raise ValueError("features have NaN or infinite values; look at the clips that they come from")
        self._accumulate(features.reshape(-1, features.shape[-1]).astype(np.float64))
        self.clips += len(features)
        if self._kept is not None:
            self._kept.append(features)
        if min(self.count, features.shape[-1]) > LARGEST_RESAMPLED:
            self._kept = None

    def _accumulate(self, values: Float[np.ndarray, "n d"]) -> None:
        count, mean = len(values), values.mean(0)
        total, shift, centred = self.count + count, mean - self.mean, values - mean
        self.scatter += centred.T @ centred + np.outer(shift, shift) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    @property
    def gaussian(self) -> Gaussian:
        """The features as a Gaussian.

        Raises:
            ValueError: fewer than two features.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} sample has no covariance; give at least 2")
        return Gaussian(self.mean, self.scatter / (self.count - 1))

    def clipwise(self) -> Float[np.ndarray, "b f d"] | None:
        """All features by clip, or None where there are too many to resample."""
        return np.concatenate(self._kept) if self._kept else None


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Squared Fréchet distance of two Gaussians (see the module); never below 0.

    Raises:
        ValueError: two widths.
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
    sides = [side.astype(np.float64) for side in (first, second)]
    means = [side.mean(0) for side in sides]
    if min(len(first), len(second)) >= first.shape[1]:
        return frechet_distance(*(Gaussian(mean, np.cov(x.T)) for x, mean in zip(sides, means, strict=True)))
    roots = [(x - mean) / math.sqrt(len(x) - 1) for x, mean in zip(sides, means, strict=True)]
    shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    traces = sum(float((root**2).sum()) for root in roots)
    return max(float(((means[0] - means[1]) ** 2).sum() + traces - 2 * shared), 0.0)


def frechet_interval(value: float, generated: FeatureSet, reference: FeatureSet, seed: int) -> Interval | None:
    """Spread of the distance over clips (see the module); None where it would take too long."""
    first, second = generated.clipwise(), reference.clipwise()
    if first is None or second is None:
        return None
    rng = np.random.default_rng(seed)
    draws = [frechet_of_samples(redrawn(first, rng), redrawn(second, rng)) for _ in range(RESAMPLES)]
    low, high = np.percentile(draws, [2.5, 97.5]) - np.mean(draws)
    return max(value + float(low), 0.0), max(value + float(high), 0.0)


def redrawn(features: Float[np.ndarray, "b f d"], rng: np.random.Generator) -> Float[np.ndarray, "n d"]:
    """As many clips drawn with replacement, as one list of features."""
    drawn = features[rng.integers(0, len(features), len(features))]
    return drawn.reshape(-1, features.shape[-1])
