"""Rendered clips move as their kind says: measured by dense optical flow on drawn photographs."""

import json
import os
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from trip.data.synthetic.bank import SceneBank, make_cutout, make_photo
from trip.data.synthetic.captions import CAMERA_KINDS, EFFECT_KINDS, KINDS, OPPOSITE
from trip.data.synthetic.scenes import (
    AMOUNTS,
    OBJECT_AMOUNTS,
    SyntheticMotion,
    camera_path,
    composite,
    draw_clip,
    draw_kind,
    object_path,
)

SIGNS = {  # index into (u, v, divergence, curl) and the sign, y pointing down
    "pan_left": (0, 1),
    "pan_right": (0, -1),
    "tilt_up": (1, 1),
    "tilt_down": (1, -1),
    "zoom_in": (2, 1),
    "zoom_out": (2, -1),
    "rotate_clockwise": (3, 1),
    "rotate_counterclockwise": (3, -1),
}


def drawn_picture(seed: int, width: int = 360, height: int = 300) -> np.ndarray:
    """Soft coloured noise at several scales: textured everywhere, so that flow is measurable."""
    generator = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for cells in (6, 14, 30):
        noise = generator.uniform(-60, 60, (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def drawn_object() -> np.ndarray:
    """A red disc with a hole off its centre, RGBA."""
    rgba = np.zeros((80, 80, 4), np.uint8)
    cv2.circle(rgba, (40, 40), 36, (230, 40, 30, 255), -1)
    cv2.circle(rgba, (54, 32), 9, (250, 250, 90, 255), -1)
    return rgba


@pytest.fixture(scope="module")
def bank() -> SceneBank:
    photos = tuple(make_photo(f"noise-{seed}", "coloured noise", drawn_picture(seed)) for seed in range(3))
    return SceneBank(photos, (make_cutout("red ball", drawn_object()), make_cutout("orange", drawn_object())))


def measured_motion(frames: np.ndarray) -> np.ndarray:
    """Summed mean u, v, divergence and curl (at the border), in widths of the picture."""
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    large = [cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), (192, 192), interpolation=cv2.INTER_CUBIC) for f in frames]
    total = np.zeros(4)
    for before, after in pairwise(large):
        flow = flow_of.calc(before, after, None)
        u, v = flow[..., 0] / 192, flow[..., 1] / 192
        divergence = (np.gradient(u, axis=1) + np.gradient(v, axis=0)).mean() / 2 * 96
        curl = (np.gradient(v, axis=1) - np.gradient(u, axis=0)).mean() / 2 * 96
        total += [u.mean(), v.mean(), divergence, curl]
    return total


@pytest.mark.parametrize("kind", CAMERA_KINDS)
def test_camera_moves_have_the_sign_of_their_name(bank: SceneBank, kind: str) -> None:
    axis, sign = SIGNS[kind]
    for seed in range(2):
        clip = draw_clip(np.random.default_rng(seed), bank, kind=kind)
        motion = measured_motion(clip.frames)
        assert np.abs(motion).argmax() == axis
        assert motion[axis] * sign > 0.05


@pytest.mark.parametrize("kind", ["pan_left", "tilt_down"])
def test_amount_is_the_measured_displacement(bank: SceneBank, kind: str) -> None:
    clip = draw_clip(np.random.default_rng(5), bank, kind=kind, speed="normal")
    axis, sign = SIGNS[kind]
    assert measured_motion(clip.frames)[axis] * sign == pytest.approx(clip.params["amount"], rel=0.15)


@pytest.mark.parametrize("speed", ["slow", "normal", "fast"])
def test_speed_bounds_the_amount(bank: SceneBank, speed: str) -> None:
    for kind, table in (("zoom_in", AMOUNTS), ("rotate_clockwise", AMOUNTS), ("move_up", OBJECT_AMOUNTS)):
        amounts = [
            draw_clip(np.random.default_rng(i), bank, kind=kind, speed=speed, num_frames=2).params["amount"]
            for i in range(20)
        ]
        assert table[speed][0] <= min(amounts) and max(amounts) <= table[speed][1]


@pytest.mark.parametrize("kind", CAMERA_KINDS)
def test_reversed_path_is_the_opposite_path(kind: str) -> None:
    forth = camera_path(kind, 0.2, 64, 16)
    back = camera_path(OPPOSITE[kind], 0.2, 64, 16)[::-1]
    steps = [(b.x - a.x, b.y - a.y, b.zoom / a.zoom, b.turn - a.turn) for a, b in pairwise(forth)]
    mirrored = [(b.x - a.x, b.y - a.y, b.zoom / a.zoom, b.turn - a.turn) for a, b in pairwise(back)]
    np.testing.assert_allclose(steps, mirrored, atol=1e-12)
    np.testing.assert_allclose(steps, np.tile(steps[:1], (15, 1)), atol=1e-12)  # constant speed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "num_frames"), [(64, 16), (48, 5)])
def test_every_kind_renders(bank: SceneBank, kind: str, size: int, num_frames: int) -> None:
    clip = draw_clip(np.random.default_rng(0), bank, kind=kind, size=size, num_frames=num_frames)
    assert clip.frames.shape == (num_frames, size, size, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.kind == kind and clip.caption
    changed = np.abs(clip.frames[1].astype(int) - clip.frames[0]).max()
    assert (changed == 0) == (kind == "still")


def test_views_never_leave_the_photo() -> None:
    inner = np.full((90, 150, 3), 128, np.uint8)
    marked = cv2.copyMakeBorder(inner[2:-2, 2:-2], 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(128, 128, 128))
    bank = SceneBank((make_photo("grey", "grey", marked),), (make_cutout("ball", drawn_object()),))
    for kind in CAMERA_KINDS:
        for seed in range(5):
            frames = draw_clip(np.random.default_rng(seed), bank, kind=kind, speed="fast").frames
            assert np.ptp(frames.reshape(-1, 3), axis=0).max() <= 1  # no border colour, no interpolation seams


@pytest.mark.parametrize(
    ("kind", "axis", "sign"),
    [("move_left", 1, -1), ("move_right", 1, 1), ("move_up", 0, -1), ("move_down", 0, 1)],
)
def test_object_moves_and_background_stays(kind: str, axis: int, sign: int) -> None:
    background = drawn_picture(7, 64, 64)
    background[..., 0] //= 4  # little red: the object is easy to find
    frames, place = composite(
        background, make_cutout("ball", drawn_object()), kind, 0.25, 0.3, np.random.default_rng(2), 16
    )
    red = [np.argwhere(f[..., 0].astype(int) - f[..., 1] > 120).mean(0) for f in (frames[0], frames[-1])]
    moved = red[1] - red[0]
    assert moved[axis] * sign == pytest.approx(16, abs=1.5)
    assert abs(moved[1 - axis]) < 1.5
    assert place["mask"].sum() == pytest.approx(np.pi * (0.27 / 2 * 64) ** 2, rel=0.2)
    untouched = np.abs(frames.astype(int) - background).max((0, 3)) == 0
    assert untouched.mean() > 0.4


def test_bounce_returns_and_sway_keeps_its_foot() -> None:
    bounce = object_path("bounce", 0.2, (30.0, 40.0), 16.0, 64, 16)
    assert bounce[0].y == pytest.approx(bounce[-1].y)
    assert min(pose.y for pose in bounce) < 40 - 0.18 * 64
    assert all(pose.pivot == 8.0 for pose in object_path("sway", 15.0, (30.0, 40.0), 16.0, 64, 16))


@pytest.mark.parametrize("kind", EFFECT_KINDS)
def test_effects_start_from_the_photograph(bank: SceneBank, kind: str) -> None:
    effect = draw_clip(np.random.default_rng(4), bank, kind=kind)
    still = draw_clip(np.random.default_rng(4), bank, kind="still")
    assert np.abs(effect.frames[0].astype(int) - still.frames[0]).max() <= 1


def test_mix_of_kinds() -> None:
    generator = np.random.default_rng(0)
    kinds = [draw_kind(generator) for _ in range(2000)]
    assert sum(kind in CAMERA_KINDS for kind in kinds) / 2000 == pytest.approx(0.5, abs=0.04)
    assert sum(kind in EFFECT_KINDS for kind in kinds) / 2000 == pytest.approx(0.15, abs=0.03)
    assert set(kinds) == set(KINDS)


def prepared_folder(root: Path) -> Path:
    rows = []
    for folder in ("photos", "objects"):
        (root / folder).mkdir()
    for index, split in enumerate(("train", "train", "heldout")):
        cv2.imwrite(str(root / f"photos/p{index}.png"), drawn_picture(index))
        cv2.imwrite(str(root / f"objects/o{index}.png"), drawn_object())
        rows.append(
            {
                "kind": "photo",
                "name": f"p{index}",
                "caption": "noise",
                "file": f"photos/p{index}.png",
                "split": split,
            }
        )
        rows.append(
            {
                "kind": "object",
                "name": f"o{index}",
                "caption": f"ball {index}",
                "file": f"objects/o{index}.png",
                "split": split,
            }
        )
    (root / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_dataset_is_a_function_of_seed_and_index(tmp_path: Path) -> None:
    folder = prepared_folder(tmp_path)
    first, second = SyntheticMotion(folder, seed=3), SyntheticMotion(folder, seed=3)
    for index in (7, 0, 7):
        np.testing.assert_array_equal(first[index].frames, second[index].frames)
        assert first[index].caption == second[index].caption
    other = SyntheticMotion(folder, seed=4)
    assert [other[i].caption for i in range(8)] != [first[i].caption for i in range(8)]
    assert next(iter(first)).caption == first[0].caption


def test_splits_use_their_own_pictures(tmp_path: Path) -> None:
    folder = prepared_folder(tmp_path)
    heldout = SyntheticMotion(folder, split="heldout", length=5)
    assert len(heldout) == 5
    assert {heldout[i].params["photo"] for i in range(5)} == {"p2"}
    with pytest.raises(IndexError, match="outside"):
        heldout[5]


def test_bad_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lab\.photographs"):
        SyntheticMotion(tmp_path)
    with pytest.raises(ValueError, match="split"):
        SyntheticMotion(tmp_path, split="test")
    (tmp_path / "index.jsonl").write_text("")
    with pytest.raises(ValueError, match="0 photos"):
        SyntheticMotion(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file": "../photos/p0.png"}, "line 1: .* leads out of"),
        ({"file": "/etc/passwd"}, "line 1: .* leads out of"),
        ({"file": "http://127.0.0.1/p.png"}, "line 1: .* is a URL"),
        ({"file": "pipe.png"}, "pipe.png"),
        ({"file": "none.png"}, "none.png"),
        ({"file": "index.jsonl"}, "index.jsonl"),
        ({"file": None}, "line 1 has no file"),
        ({"file": "a\0b"}, "line 1: .*no file's name"),
        ({"caption": "\ud800"}, "line 1 has no caption"),
        ({"name": ["x"]}, "line 1 has no name"),
        ({"kind": "object", "file": "index.jsonl"}, "index.jsonl is no cut-out"),
        ({"split": {}}, "line 1 has no split"),
    ],
)
def test_an_index_of_somebody_else_is_one_line_and_leads_nowhere(tmp_path: Path, change: dict, words: str) -> None:
    folder = prepared_folder(tmp_path)
    os.mkfifo(folder / "pipe.png")
    index = folder / "index.jsonl"
    first, *others = index.read_text().splitlines()
    index.write_text("\n".join([json.dumps(json.loads(first) | change), *others]))
    with pytest.raises(ValueError, match=words) as caught:
        SyntheticMotion(folder)
    assert "\n" not in str(caught.value)
