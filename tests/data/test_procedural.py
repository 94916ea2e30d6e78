"""Drawn pictures are seeded, differ, are textured at every scale, and make every kind of clip."""

import re

import numpy as np
import pytest

from trip.data.synthetic.bank import SceneBank
from trip.data.synthetic.captions import KINDS
from trip.data.synthetic.procedural import COLOURS, SHAPES, procedural_bank, shape_outline
from trip.data.synthetic.scenes import SyntheticMotion, draw_clip


@pytest.fixture(scope="module")
def bank() -> SceneBank:
    return procedural_bank(0, 32, photos=6, objects=12)


def test_same_seed_same_bank(bank):
    again, other = procedural_bank(0, 32, photos=4, objects=3), procedural_bank(1, 32, photos=4, objects=3)
    for first, second in zip(bank.photos, again.photos, strict=False):  # more of them change none
        assert first.name == second.name and first.caption == second.caption
        np.testing.assert_array_equal(first.levels[0], second.levels[0])
    for first, second in zip(bank.objects, again.objects, strict=False):
        np.testing.assert_array_equal(first.rgba, second.rgba)
    for first, second in zip(bank.photos, other.photos, strict=False):
        assert first.levels[0].shape != second.levels[0].shape or not np.array_equal(first.levels[0], second.levels[0])


def test_pictures_are_wide_enough_and_textured(bank):
    for photo in bank.photos:
        assert min(photo.height, photo.width) == 5 * 32
        for level in photo.levels[:5]:
            grey = level.mean(-1)
            slopes = np.abs(np.diff(grey, axis=1)).reshape(-1)
            assert slopes.mean() > 0.8 and grey.std() > 8, photo.name


def test_objects_are_what_they_are_called(bank):
    assert len({cutout.name for cutout in bank.objects}) == 12
    for cutout in bank.objects:
        colour, shape = cutout.name.split()
        assert shape in SHAPES and cutout.rgba.shape == (96, 96, 4)
        solid = cutout.rgba[cutout.rgba[..., 3] > 254]
        wanted = np.array(COLOURS[colour]) - np.mean(COLOURS[colour])
        found = solid[:, :3].mean(0) - solid[:, :3].mean()
        assert np.abs(wanted - found).max() < 45, cutout.name
        assert 0.15 < (cutout.rgba[..., 3] > 127).mean() < 0.95
        assert cutout.rgba[[0, -1]].max() == cutout.rgba[:, [0, -1]].max() == 0
        assert (cutout.rgba[..., :3] <= cutout.rgba[..., 3:] + 1e-3).all()


def test_a_ring_has_a_hole(bank):
    ring = next(cutout for cutout in bank.objects if cutout.name.endswith("ring"))
    assert ring.rgba[48, 48, 3] == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_reach_radius_one(shape):
    radii = np.hypot(*shape_outline(shape, 0.3).T)
    assert radii.max() == pytest.approx(1) and radii.min() > 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_clip(bank, kind):
    clip = draw_clip(np.random.default_rng(3), bank, size=32, num_frames=8, kind=kind)
    change = np.abs(np.diff(clip.frames.astype(int), axis=0)).mean((1, 2, 3))
    assert clip.frames.shape == (8, 32, 32, 3) and clip.caption
    assert (change == 0).all() if kind == "still" else change.mean() > 0.3


def test_a_set_of_clips_needs_nothing(bank):
    clips = SyntheticMotion(bank, size=32, num_frames=4, seed=7)
    np.testing.assert_array_equal(clips[5].frames, clips[5].frames)
    assert len({clips[i].caption for i in range(20)}) > 15


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"seed": -1}, "seed (=-1)"), ({"size": 4}, "size (=4)"), ({"photos": 0}, "photos (=0)")],
)
def test_arguments_out_of_range(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        procedural_bank(**{"seed": 0, "size": 32, **arguments})
