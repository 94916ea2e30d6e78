"""Motion measured on clips whose motion is known."""

import math

import cv2
import numpy as np
import pytest
from scipy import ndimage

from moving_clips import FRAMES, SIZE, moved
from trip.evaluation import motion
from trip.evaluation.motion import CAMERA_MOVES, CameraMotion


def measured(clip) -> CameraMotion:
    return motion.camera_motion(motion.dense_flows(clip).sum(0))


# ------------------------------------------------------------------------------------------------ camera moves


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"shift": (12, 0)}, {"u": 12}),
        ({"shift": (-9, 0)}, {"u": -9}),
        ({"shift": (0, 12)}, {"v": 12}),
        ({"shift": (0, -9)}, {"v": -9}),
        ({"zoom": 1.4}, {"divergence": math.log(1.4) * SIZE / 2}),
        ({"zoom": 1 / 1.4}, {"divergence": -math.log(1.4) * SIZE / 2}),
        ({"turn": 0.4}, {"curl": 0.4 * SIZE / 2}),
        ({"turn": -0.4}, {"curl": -0.4 * SIZE / 2}),
    ],
)
def test_known_motion_has_the_right_sign_and_size(options, expected):
    found, truth = vars(measured(moved(**options))), dict.fromkeys(("u", "v", "divergence", "curl"), 0.0) | expected
    for name, value in truth.items():
        assert found[name] == pytest.approx(value, rel=0.12, abs=0.6), name


def test_linear_field_is_recovered_exactly():
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    flow = np.stack([1 + 0.1 * x - 0.2 * y, 2 + 0.2 * x + 0.1 * y], axis=-1)
    found = motion.camera_motion(flow)
    np.testing.assert_allclose([found.u, found.v], [1, 2], atol=1e-9)
    np.testing.assert_allclose([found.divergence, found.curl], [0.1 * SIZE / 2, 0.2 * SIZE / 2], atol=1e-9)


@pytest.mark.parametrize("kind", CAMERA_MOVES)
def test_a_move_follows_its_own_prompt_alone(kind):
    name, sign = CAMERA_MOVES[kind]
    options = {
        "u": {"shift": (sign * 10.0, 0.0)},
        "v": {"shift": (0.0, sign * 10.0)},
        "divergence": {"zoom": 1.35**sign},
        "curl": {"turn": sign * 0.35},
    }[name]
    found = measured(moved(**options))
    assert [other for other in CAMERA_MOVES if found.follows(other, SIZE)] == [kind]
    assert found.classify(SIZE) == kind


def test_moves_below_five_percent_do_not_count():
    assert CameraMotion(3.3, 0, 0, 0).follows("pan_left", SIZE)
    assert not CameraMotion(3.1, 0, 0, 0).follows("pan_left", SIZE)
    assert not CameraMotion(5, -6, 0, 0).follows("pan_left", SIZE)
    assert CameraMotion(3.1, 0, 0, 0).classify(SIZE) == "none"


def test_a_static_clip_never_counts():
    still = np.repeat(moved()[:1], FRAMES, axis=0)
    noisy = np.clip(still + np.random.default_rng(0).normal(0, 0.06, still.shape), 0, 1)
    for clip in (still, noisy):
        assert measured(clip).classify(SIZE) == "none"
    assert vars(measured(still)) == dict.fromkeys(("u", "v", "divergence", "curl"), 0.0)


def test_flow_does_not_depend_on_the_number_of_threads():
    clip, threads, flows = moved(shift=(8.0, 3.0)), cv2.getNumThreads(), []
    try:
        for count in (1, 3):
            cv2.setNumThreads(count)
            flows.append(motion.dense_flows(clip))
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(*flows)


def test_larger_and_oblong_frames():
    clip = moved(shift=(16.0, 0.0), size=96)[:, 16:80]
    assert measured(clip).u == pytest.approx(16, rel=0.1)


def test_errors_are_one_clear_line():
    with pytest.raises(ValueError, match="at least 2"):
        motion.dense_flows(moved()[:1])
    with pytest.raises(ValueError, match="NaN"):
        motion.dense_flows(moved() * np.float32("nan"))
    with pytest.raises(ValueError, match="no camera move"):
        CameraMotion(0, 0, 0, 0).follows("move_left", SIZE)


# ---------------------------------------------------------------------------------------------- how much moves


def sliding(step: int, count: int = 6, size: int = 64) -> np.ndarray:
    """A smooth random picture that slides left by `step` pixels a frame."""
    rng = np.random.default_rng(0)
    wide = ndimage.gaussian_filter(rng.random((size, size + step * count, 3)), (2, 2, 0))
    wide = (255 * (wide - wide.min()) / np.ptp(wide)).astype(np.uint8)
    return np.stack([wide[:, i * step : i * step + size] for i in range(count)])


def test_motion_of_a_sliding_picture():
    slides, still = motion.clip_motion(sliding(3)), motion.clip_motion(sliding(0))
    assert slides.flow == pytest.approx(100 * 3 / 64, rel=0.1) and slides.dynamic
    assert vars(still) == {"flow": 0.0, "dynamic": False, "warping_error": 0.0}
    assert not motion.clip_motion(sliding(1)).dynamic  # below 6 pixels in 256
    assert motion.clip_motion(sliding(1, count=12), fps=24).dynamic  # thinned to 8 a second, it moves 3 a frame


def test_warping_error_is_small_where_flow_explains_and_large_where_frames_flicker():
    slides = sliding(3)
    flicker = slides.copy()
    flicker[1::2] = flicker[1::2] // 2
    smooth, worse = (motion.clip_motion(clip).warping_error for clip in (slides, flicker))
    assert smooth < 2e-3 and worse > 10 * smooth


def test_warping_error_leaves_out_what_leaves_the_picture_or_does_not_return():
    pixels = np.zeros((2, 8, 8, 3), np.float32)
    pixels[1] = 0.5
    zero, away = np.zeros((1, 8, 8, 2), np.float32), np.full((1, 8, 8, 2), 20, np.float32)
    assert motion.warping_error(pixels, zero, zero) == pytest.approx(0.25)
    assert motion.warping_error(pixels, away, -away) == 0
    assert motion.warping_error(pixels, zero, away) == 0
