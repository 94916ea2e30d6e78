"""Fréchet distances against closed forms and independent implementations."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg

from trip.evaluation.frechet import (
    LARGEST_RESAMPLED,
    FeatureSet,
    Gaussian,
    frechet_distance,
    frechet_of_samples,
    redrawn,
)
from trip.evaluation.metrics.frechet import frechet_result


def gaussian(count: int, width: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """Correlated features."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + shift).astype(np.float32)


def feature_set(features: np.ndarray, name: str = "toy") -> FeatureSet:
    found = FeatureSet(name, features.shape[-1])
    found.add(features.reshape(len(features), -1, features.shape[-1]))
    return found


def of(features: np.ndarray) -> Gaussian:
    return feature_set(features).gaussian


@pytest.mark.parametrize("count", [300, 40])
def test_frechet_distance_is_scipys(count):
    x, y = gaussian(count, 20).astype(float), gaussian(count + 5, 20, seed=1, shift=0.3).astype(float)
    root = linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    found = frechet_distance(of(x), of(y))
    assert found == pytest.approx(expected, rel=1e-9)


def test_diagonal_covariances_have_a_closed_form():
    a, b = np.array([1.0, 4.0, 0.0, 9.0, 1e-6]), np.array([4.0, 1.0, 2.0, 9.0, 1e6])
    first, second = Gaussian(np.zeros(5), np.diag(a)), Gaussian(np.array([3.0, 0, 0, 0, 0]), np.diag(b))
    expected = 9 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("counts", [(6, 9), (40, 12), (50, 60)])
def test_few_samples_take_a_shorter_way_to_the_same_distance(counts):
    x, y = gaussian(counts[0], 16), gaussian(counts[1], 16, seed=3, shift=1)
    direct = frechet_distance(of(x), of(y))
    assert frechet_of_samples(x, y) == pytest.approx(direct, rel=1e-6)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 99))
def test_streamed_statistics_are_those_of_the_whole(parts, seed):
    x = gaussian(sum(parts), 4, seed=seed, shift=1000)
    found = FeatureSet("toy", 4)
    for part in np.split(x, np.cumsum(parts)[:-1]):
        found.add(part[:, None])
    exact = x.astype(np.float64)
    assert found.count == found.clips == len(x)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.scatter, (exact - exact.mean(0)).T @ (exact - exact.mean(0)), atol=1e-8)


@given(st.integers(0, 50), st.integers(2, 30), st.integers(2, 30))
def test_distance_is_symmetric_and_zero_of_a_set_and_itself(seed, n, m):
    x, y = of(gaussian(n, 8, seed)), of(gaussian(m, 8, seed + 1, shift=2))
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9 * np.trace(x.covariance))
    assert frechet_distance(x, y) > 0


@given(st.integers(0, 50), st.floats(-100, 100), st.integers(2, 30))
def test_translation_adds_its_squared_length(seed, shift, n):
    x = gaussian(n, 8, seed).astype(np.float64)
    moved = x + shift * np.eye(8)[seed % 8]
    found = frechet_distance(of(x), of(moved))
    assert found == pytest.approx(shift**2, rel=1e-9, abs=1e-9 * np.var(x) * 8)


def test_a_distance_carries_its_counts_features_and_interval():
    x, y = feature_set(gaussian(60, 8)), feature_set(gaussian(50, 8, seed=1, shift=1))
    found = frechet_result("FVD", x, y)
    assert (found.name, found.n, found.features) == ("FVD", 60, "toy")
    assert found.note == "60 clips against 50 real ones"
    assert found.interval[0] < found.value < found.interval[1]
    assert found == frechet_result("FVD", x, y) != frechet_result("FVD", x, y, seed=1)
    assert json.loads(json.dumps(found.as_dict())) == {
        "value": found.value,
        "n": 60,
        "interval": list(found.interval),
        "features": "toy",
        "note": found.note,
    }


def test_the_interval_covers_the_spread_over_sets_of_clips():
    """Over sets of 40 clips against one reference, 95 % intervals are about as wide as the distances spread."""
    rng = np.random.default_rng(0)
    reference = feature_set(rng.normal(size=(400, 4)))
    found = [frechet_result("FVD", feature_set(rng.normal(0.8, 1, (40, 4))), reference) for _ in range(20)]
    spread = np.std([metric.value for metric in found]) * 2 * 1.96
    widths = [metric.interval[1] - metric.interval[0] for metric in found]
    assert 0.6 < np.mean(widths) / spread < 1.6


def test_too_few_clips_are_refused_unless_allowed():
    three = feature_set(gaussian(3, 8)), feature_set(gaussian(3, 8, seed=1))
    with pytest.raises(ValueError, match="8 features need more than 8 samples; add clips, or accept it") as caught:
        frechet_result("FVD", *three)
    assert "\n" not in str(caught.value) and "3 clips against 3 real ones" in str(caught.value)
    allowed = frechet_result("FVD", *three, allow_few=True)
    assert allowed.n == 3 and "too few for 8 features" in allowed.note
    with pytest.raises(ValueError, match="at least 2 clips"):
        frechet_result("FVD", feature_set(gaussian(1, 8)), three[0], allow_few=True)


def test_frames_of_a_clip_are_drawn_together_and_large_sets_have_no_interval():
    frames = np.repeat(gaussian(5, 2)[:, None], 4, axis=1)
    drawn = redrawn(frames, np.random.default_rng(0)).reshape(5, 4, 2)
    assert (drawn == drawn[:, :1]).all()
    large = feature_set(np.ones((2, LARGEST_RESAMPLED + 1, LARGEST_RESAMPLED + 1), np.float32))
    assert large.clipwise() is None and large.count == 2 * (LARGEST_RESAMPLED + 1)


def test_features_must_be_of_one_network_and_finite():
    four = feature_set(gaussian(5, 4))
    with pytest.raises(ValueError, match="width 3, not 4"):
        four.add(gaussian(5, 3)[:, None])
    with pytest.raises(ValueError, match="widths 4 and 3"):
        frechet_distance(four.gaussian, of(gaussian(5, 3)))
    with pytest.raises(ValueError, match="NaN"):
        four.add(np.full((1, 1, 4), np.nan, np.float32))
    with pytest.raises(ValueError, match="1 sample has no covariance"):
        of(gaussian(1, 4))
