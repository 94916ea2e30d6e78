"""Moves of cameras and objects, asked and answered: on clips whose motion is known."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from lab.motion import fidelity
from lab.motion.fidelity import OBJECT_MOVES, ObjectMotion
from lab.motion.pairs import camera_pairs, object_pairs, rendered_camera_pairs

from moving_clips import FRAMES, SIZE, moved, texture
from trip.data.synthetic.bank import make_cutout, make_photo
from trip.data.synthetic.captions import all_captions
from trip.evaluation.motion import CAMERA_MOVES, dense_flows


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


# ----------------------------------------------------------------------------------------------------- objects


@pytest.mark.parametrize("kind", OBJECT_MOVES)
def test_object_motion(kind):
    clip, mask = with_object(kind)
    found = fidelity.object_motion(dense_flows(clip), mask)
    name, sign = OBJECT_MOVES[kind]
    assert sign * getattr(found, name) == pytest.approx(16, rel=0.3)
    assert [other for other in OBJECT_MOVES if found.follows(other, SIZE)] == [kind]


def test_an_object_on_a_moving_background_does_not_count():
    clip, mask = with_object("move_left", camera=0.1)
    found = fidelity.object_motion(dense_flows(clip), mask)
    assert found.moves("move_left", SIZE) and not found.is_still_behind(SIZE)
    assert not found.follows("move_left", SIZE)


def test_a_still_object_does_not_count():
    clip, mask = with_object("move_left", amount=0.0)
    found = fidelity.object_motion(dense_flows(clip), mask)
    assert found == ObjectMotion(0.0, 0.0, 0.0)
    assert not any(found.follows(kind, SIZE) for kind in OBJECT_MOVES)


def test_points_are_carried_along_a_constant_flow():
    flows = np.broadcast_to(np.float32([1.5, -0.5]), (4, SIZE, SIZE, 2)).copy()
    path = fidelity.carried_points(flows, np.float32([[20, 30], [40, 41]]))
    np.testing.assert_allclose(path[-1], [[26, 28], [46, 39]], atol=1e-5)


def test_what_no_object_can_be_is_one_clear_line():
    clip, mask = with_object("move_left")
    flows = dense_flows(clip)
    with pytest.raises(ValueError, match="empty"):
        fidelity.object_motion(flows, np.zeros_like(mask))
    with pytest.raises(ValueError, match="smaller object"):
        fidelity.object_motion(flows, np.ones_like(mask))


def test_sharpness():
    clip = moved()
    blurred = np.stack([clip[0], cv2.GaussianBlur(clip[0], (0, 0), 1.5)])
    assert fidelity.sharpness_ratio(clip) == pytest.approx(1.0)
    assert fidelity.sharpness_ratio(blurred) < 0.6


# ---------------------------------------------------------------------------------------------- pairs and models


def photo(seed):
    return make_photo(f"photo{seed}", "a pattern", (texture(seed, 200) * 255).astype(np.uint8), 200)


PHOTOS = (photo(0), photo(1))


def test_direction_agreement_of_truth_and_of_stills():
    pairs = rendered_camera_pairs(PHOTOS, 16, seed=3)
    truth = {pair.seed: pair.truth for pair in pairs}
    stills = np.stack([np.repeat(p.image[None], 16, axis=0) for p in pairs]) / np.float32(255)
    found = fidelity.direction_agreement(lambda images, prompts, seeds: np.stack([truth[s] for s in seeds]), pairs, 5)
    none = fidelity.direction_agreement(lambda images, prompts, seeds: stills[: len(images)], pairs)
    assert found.rate.successes == found.rate.total == 16
    assert list(found.per_kind) == list(CAMERA_MOVES)
    assert all(rate.total == 2 for rate in found.per_kind.values())
    assert none.rate.value == 0


def test_generate_must_return_a_clip_for_every_pair():
    pairs = camera_pairs(PHOTOS, 2)
    with pytest.raises(ValueError, match="one for each"):
        fidelity.direction_agreement(lambda images, prompts, seeds: moved()[None], pairs)


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
        found = fidelity.object_motion(dense_flows(pair.truth), pair.mask)
        assert found.follows(pair.kind, SIZE)


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
