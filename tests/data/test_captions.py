"""Wordings: enough of them, disjoint between splits and between opposite moves, repeatable."""

import numpy as np
import pytest

from trip.data.synthetic.captions import (
    ADVERBS,
    CAMERA_KINDS,
    KINDS,
    OBJECT_KINDS,
    SPEEDS,
    all_captions,
    draw_caption,
)


def test_camera_moves_have_enough_wordings() -> None:
    for kind in CAMERA_KINDS:
        assert len(all_captions(kind, speed="normal")) >= 25, kind
        assert len(all_captions(kind, "heldout", speed="normal")) >= 6, kind
    for kind in OBJECT_KINDS[:4]:
        assert len(all_captions(kind, "heldout", speed="normal")) >= 6, kind


def test_every_wording_belongs_to_one_kind_and_one_split() -> None:
    owners: dict[str, set[tuple[str, str]]] = {}
    for kind in KINDS:
        for split in ("train", "heldout"):
            for caption in all_captions(kind, split):
                owners.setdefault(caption.lower(), set()).add((kind, split))
    shared = {caption: owner for caption, owner in owners.items() if len(owner) > 1}
    assert not shared


def test_wordings_hold_no_markers() -> None:
    texts = [text for kind in KINDS for split in ("train", "heldout") for text in all_captions(kind, split)]
    assert not [text for text in texts if set("~^[]|{}") & set(text) or "  " in text or text != text.strip()]


def test_directions_are_mirrored_whole() -> None:
    wrong = {"pan_left": "right", "pan_right": "left", "tilt_up": "down", "tilt_down": "up", "zoom_in": "out"}
    for kind, word in wrong.items():
        for split in ("train", "heldout"):
            assert not [c for c in all_captions(kind, split) if word in c.replace("outwards", "").split()]
    counter = all_captions("rotate_counterclockwise") + all_captions("rotate_counterclockwise", "heldout")
    assert all("counter" in caption or "anti" in caption for caption in counter)


def test_issue_wordings_are_known() -> None:
    assert "the camera pans left" in all_captions("pan_left")
    assert "the camera tilts up" in all_captions("tilt_up")
    assert "the camera zooms out" in all_captions("zoom_out")
    assert "the picture rotates counter-clockwise" in all_captions("rotate_counterclockwise")
    assert "the owl moves left" in all_captions("move_left", name="owl")


@pytest.mark.parametrize("kind", KINDS)
def test_same_generator_same_caption(kind: str) -> None:
    first = [draw_caption(kind, np.random.default_rng(i), subject="a fox") for i in range(20)]
    second = [draw_caption(kind, np.random.default_rng(i), subject="a fox") for i in range(20)]
    assert first == second
    assert len(set(first)) > 3


def test_drawn_captions_come_from_their_split() -> None:
    generator = np.random.default_rng(0)
    for kind in CAMERA_KINDS:
        for split in ("train", "heldout"):
            known = {caption.lower() for caption in all_captions(kind, split)}
            drawn = {draw_caption(kind, generator, split).rstrip(".").lower() for _ in range(50)}
            assert drawn <= known


def test_adverb_tells_the_speed() -> None:
    generator = np.random.default_rng(0)
    words = {speed: set(ADVERBS[speed]) | {"slow", "gentle", "quick", "rapid"} for speed in SPEEDS}
    for speed in ("slow", "fast"):
        for _ in range(50):
            caption = draw_caption("pan_left", generator, speed=speed).lower().rstrip(".")
            assert words[speed] & set(caption.split()), caption
    plain = {word for _ in range(200) for word in draw_caption("pan_left", generator).lower().strip(".").split()}
    assert not plain & (words["slow"] | set(ADVERBS["fast"]))


def test_object_captions_name_the_object_with_its_article() -> None:
    generator = np.random.default_rng(0)
    captions = [draw_caption("move_up", generator, subject="owl") for _ in range(100)]
    assert all("owl" in caption for caption in captions)
    assert not [caption for caption in captions if "a owl" in caption.lower().replace("sea owl", "")]


def test_scene_is_named_sometimes() -> None:
    generator = np.random.default_rng(0)
    named = ["a lion" in draw_caption("pan_left", generator, subject="a lion").lower() for _ in range(300)]
    assert 60 < sum(named) < 140


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "fly"}, "kind"),
        ({"kind": "pan_left", "split": "test"}, "split"),
        ({"kind": "pan_left", "speed": "warp"}, "speed"),
        ({"kind": "move_left"}, "needs subject"),
        ({"kind": "rain", "speed": "fast"}, "use 'normal'"),
    ],
)
def test_bad_requests_are_explained(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_caption(rng=np.random.default_rng(0), **arguments)
