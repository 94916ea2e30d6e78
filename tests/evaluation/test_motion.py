"""Motion measured on clips whose motion is known."""

import json
import math
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import binomtest

from trip.data.captions import all_captions
from trip.data.synthetic import make_cutout, make_photo
from trip.evaluation import motion
from trip.evaluation.motion import CAMERA_MOVES, OBJECT_MOVES, CameraMotion, ObjectMotion, Pair
from trip.evaluation.motion_pairs import camera_pairs, object_pairs, rendered_camera_pairs

SIZE, FRAMES = 64, 8


def texture(seed=0, size=160):
    """Smooth random colours with detail at several scales."""
    rng = np.random.default_rng(seed)
    scales = [cv2.resize(rng.random((n, n, 3)), (size, size), interpolation=cv2.INTER_CUBIC) for n in (5, 20, 50)]
    image = sum(scales)
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def moved(shift=(0.0, 0.0), zoom=1.0, turn=0.0, seed=0, size=SIZE, frames=FRAMES):
    """A clip whose content moves by `shift` pixels, grows by `zoom` and turns clockwise by `turn` radians."""
    source, middle = texture(seed), (size - 1) / 2
    clip = []
    for t in np.linspace(0, 1, frames):
        angle, scale = -turn * t, zoom**-t
        back = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        offset = np.array([79.5, 79.5]) - back @ (np.array([middle, middle]) + t * np.array(shift))
        matrix = np.column_stack([back, offset])
        clip.append(cv2.warpAffine(source, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))
    return np.stack(clip)


def measured(clip) -> CameraMotion:
    return motion.camera_motion(motion.dense_flows(clip).sum(0))


def with_object(kind, amount=0.25, camera=0.0):
    """A patch that moves `amount` widths over a background that moves `camera` widths the same way; and its mask."""
    name, sign = OBJECT_MOVES[kind]
    step = sign * SIZE * np.array([name == "u", name == "v"], float)
    clip, patch = moved(shift=camera * step), texture(seed=1)[:20, :20]
    mask = np.zeros((SIZE, SIZE), bool)
    for i, frame in enumerate(clip):
        x, y = np.rint((SIZE - 20) / 2 + amount * step * (i / (FRAMES - 1) - 0.5)).astype(int)
        frame[y : y + 20, x : x + 20] = patch
        if i == 0:
            mask[y : y + 20, x : x + 20] = True
    return clip, mask


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


# ----------------------------------------------------------------------------------------------------- objects


@pytest.mark.parametrize("kind", OBJECT_MOVES)
def test_object_motion(kind):
    clip, mask = with_object(kind)
    found = motion.object_motion(motion.dense_flows(clip), mask)
    name, sign = OBJECT_MOVES[kind]
    assert sign * getattr(found, name) == pytest.approx(16, rel=0.3)
    assert [other for other in OBJECT_MOVES if found.follows(other, SIZE)] == [kind]


def test_an_object_on_a_moving_background_does_not_count():
    clip, mask = with_object("move_left", camera=0.1)
    found = motion.object_motion(motion.dense_flows(clip), mask)
    assert found.moves("move_left", SIZE) and not found.is_still_behind(SIZE)
    assert not found.follows("move_left", SIZE)


def test_a_still_object_does_not_count():
    clip, mask = with_object("move_left", amount=0.0)
    found = motion.object_motion(motion.dense_flows(clip), mask)
    assert found == ObjectMotion(0.0, 0.0, 0.0)
    assert not any(found.follows(kind, SIZE) for kind in OBJECT_MOVES)


def test_points_are_carried_along_a_constant_flow():
    flows = np.broadcast_to(np.float32([1.5, -0.5]), (4, SIZE, SIZE, 2)).copy()
    path = motion.carried_points(flows, np.float32([[20, 30], [40, 41]]))
    np.testing.assert_allclose(path[-1], [[26, 28], [46, 39]], atol=1e-5)


# -------------------------------------------------------------------------------------------- quality and rates


def test_sharpness_and_psnr():
    clip = moved()
    blurred = np.stack([clip[0], cv2.GaussianBlur(clip[0], (0, 0), 1.5)])
    assert motion.sharpness_ratio(clip) == pytest.approx(1.0)
    assert motion.sharpness_ratio(blurred) < 0.6
    assert motion.psnr(clip[0] * 0, clip[0] * 0 + 0.1) == pytest.approx(20, abs=1e-4)
    assert motion.psnr(clip[0], clip[0]) == math.inf


@pytest.mark.parametrize("successes, total", [(0, 9), (9, 9), (1, 8), (183, 200), (200, 200)])
def test_wilson_interval_is_scipys(successes, total):
    interval = binomtest(successes, total).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(motion.wilson_interval(successes, total), [interval.low, interval.high], atol=1e-12)


def test_errors_are_one_clear_line():
    clip, mask = with_object("move_left")
    flows = motion.dense_flows(clip)
    with pytest.raises(ValueError, match="at least 2"):
        motion.dense_flows(clip[:1])
    with pytest.raises(ValueError, match="NaN"):
        motion.dense_flows(clip * np.float32("nan"))
    with pytest.raises(ValueError, match="empty"):
        motion.object_motion(flows, np.zeros_like(mask))
    with pytest.raises(ValueError, match="smaller object"):
        motion.object_motion(flows, np.ones_like(mask))
    with pytest.raises(ValueError, match="no camera move"):
        CameraMotion(0, 0, 0, 0).follows("move_left", SIZE)
    with pytest.raises(ValueError, match="0 to 3"):
        motion.wilson_interval(4, 3)


# ---------------------------------------------------------------------------------------------- pairs and models


def photo(seed):
    return make_photo(f"photo{seed}", "a pattern", (texture(seed, 200) * 255).astype(np.uint8), 200)


PHOTOS = (photo(0), photo(1))


def test_direction_agreement_of_truth_and_of_stills():
    pairs = rendered_camera_pairs(PHOTOS, 16, seed=3)
    truth = {pair.seed: pair.truth for pair in pairs}
    stills = np.stack([np.repeat(p.image[None], 16, axis=0) for p in pairs]) / np.float32(255)
    found = motion.direction_agreement(lambda images, prompts, seeds: np.stack([truth[s] for s in seeds]), pairs, 5)
    none = motion.direction_agreement(lambda images, prompts, seeds: stills[: len(images)], pairs)
    assert found.rate.successes == found.rate.total == 16
    assert list(found.per_kind) == list(CAMERA_MOVES)
    assert all(rate.total == 2 for rate in found.per_kind.values())
    assert none.rate.value == 0


def test_generate_must_return_a_clip_for_every_pair():
    pairs = camera_pairs(PHOTOS, 2)
    with pytest.raises(ValueError, match="one for each"):
        motion.direction_agreement(lambda images, prompts, seeds: moved()[None], pairs)


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match=r"count \(=0\) must be at least 1"):
        camera_pairs(PHOTOS, 0)


def test_camera_pairs_are_balanced_distinct_and_reproducible():
    pairs, again = camera_pairs(PHOTOS, 64, seed=1), camera_pairs(PHOTOS, 64, seed=1)
    assert [p.prompt for p in pairs] == [p.prompt for p in again]
    assert {kind: sum(p.kind == kind for p in pairs) for kind in CAMERA_MOVES} == dict.fromkeys(CAMERA_MOVES, 8)
    assert len({(p.photo, p.prompt) for p in pairs}) == len({p.seed for p in pairs}) == 64
    assert all(p.image.shape == (SIZE, SIZE, 3) for p in pairs)
    trained = {caption for kind in CAMERA_MOVES for caption in all_captions(kind, "train")}
    assert not trained & {p.prompt.rstrip(".").lower() for p in pairs}


def test_object_pairs_hold_the_mask_of_their_first_frame():
    square = np.full((30, 30, 4), 255, np.uint8)
    square[..., :3] = (texture(5, 30) * 255).astype(np.uint8)
    pairs = object_pairs(PHOTOS, (make_cutout("box", square),), 8)
    assert [p.kind for p in pairs] == [*OBJECT_MOVES] * 2
    for pair in pairs:
        np.testing.assert_array_equal(pair.image, np.rint(pair.truth[0] * 255))
        assert "box" in pair.prompt
        found = motion.object_motion(motion.dense_flows(pair.truth), pair.mask)
        assert found.follows(pair.kind, SIZE)


def test_pair_needs_no_more_than_picture_and_prompt():
    assert Pair(np.zeros((8, 8, 3), np.uint8), "pan", "pan_left", 0).mask is None


def test_fidelity_is_the_mean_psnr_of_the_later_frames_to_the_rendered_ones(tmp_path):
    from benchmarks.motion import Settings, heldout_set, run

    settings = Settings(json=tmp_path / "out.json", baseline="static", rows="fidelity", count=8, num_frames=4)
    row = run(settings)["results"]["fidelity"]
    pairs = rendered_camera_pairs(heldout_set()[0], 8, num_frames=4)
    errors = [((pair.truth[1:] - pair.truth[:1]) ** 2).mean() for pair in pairs]
    assert row["mean_psnr_db"] == pytest.approx(np.mean(-10 * np.log10(errors)), abs=0.01)
    assert row["n"] == 8 and row["interval_95"][0] < row["mean_psnr_db"] < row["interval_95"][1]


@pytest.mark.slow
def test_command_line(tmp_path):
    root = Path(__file__).parents[2]
    base = [sys.executable, "-m", "benchmarks.motion", "--baseline", "static", "--json", str(tmp_path / "out.json")]
    options = ["--count", "8", "--object-count", "4", "--filmstrips", str(tmp_path / "strips")]
    subprocess.run([*base, *options], cwd=root, check=True)
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["results"]["camera"]["successes"] == report["results"]["objects"]["successes"] == 0
    assert report["results"]["sharpness"]["median"] == 1
    assert sorted(p.name for p in (tmp_path / "strips").iterdir()) == ["camera-00.png", "objects-00.png"]
    bad = subprocess.run([*base, "--rows", "camera,colour"], cwd=root, capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1 and "colour" in bad.stderr
