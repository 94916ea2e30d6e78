"""Sources of clips: the same clip at every call, and a fingerprint that differs where a clip does."""

import dataclasses
import json

import numpy as np
import pytest

from trip.data.sets.decoding import ClipFault, Decoding
from trip.data.sets.examples import Example
from trip.data.sources import ExampleClips, SyntheticClips
from trip.data.synthetic.captions import OPPOSITE, draw_caption
from trip.data.synthetic.procedural import procedural_bank
from trip.data.synthetic.scenes import SyntheticMotion
from trip.data.video.writing import write_video

DECODING = Decoding(num_frames=4, fps=8.0, size=(32, 32))


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> list[Example]:
    """Two clips of 24 frames that brighten with time, and one of 2 frames."""
    folder = tmp_path_factory.mktemp("clips")
    for name, count in (("a", 24), ("b", 24), ("short", 2)):
        frames = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.full((32, 32, 3), 10, np.uint8)
        write_video(folder / f"{name}.mp4", frames, 8.0)
    return [Example(key=n, video=folder / f"{n}.mp4", caption=f"clip {n}") for n in ("a", "b", "short")]


@pytest.fixture(scope="module")
def bank():
    return procedural_bank(0, 32, photos=2, objects=2)


def test_variants_start_at_different_frames_that_depend_on_seed_key_and_variant(examples):
    source = ExampleClips(examples[:2], DECODING, variants=6)
    assert len(source) == 12
    clips = [source.clip(i) for i in range(12)]
    assert [c.key for c in clips] == ["a"] * 6 + ["b"] * 6
    assert [c.description for c in clips[6:8]] == [{"caption": "clip b", "variant": v} for v in (0, 1)]
    starts = [c.frames[0].mean().round() for c in clips]
    assert len(set(starts[:6])) > 2 and starts[:6] != starts[6:]
    alone = ExampleClips(examples[1:2], DECODING, variants=6)
    np.testing.assert_array_equal(alone.clip(3).frames, clips[9].frames)
    others = ExampleClips(examples[:2], DECODING, variants=6, seed=1)
    assert [others.clip(i).frames[0].mean().round() for i in range(12)] != starts


def test_a_fault_is_an_error_and_never_a_clip(examples, tmp_path):
    missing = Example(key="gone", video=tmp_path / "gone.mp4", caption="")
    source = ExampleClips([examples[2], missing], DECODING)
    for index, reason in enumerate(("too_short", "missing")):
        with pytest.raises(ClipFault) as fault:
            source.clip(index)
        assert fault.value.reason == reason


def test_fingerprint_of_examples_follows_keys_captions_and_settings(examples):
    about = ExampleClips(examples, DECODING).fingerprint()
    assert json.loads(json.dumps(about)) == {**about, "size": [32, 32]}
    assert about["num_frames"] == 4 and about["fps"] == 8.0
    renamed = [dataclasses.replace(examples[0], caption="another"), *examples[1:]]
    others = [
        ExampleClips(renamed, DECODING),
        ExampleClips(examples[:2], DECODING),
        ExampleClips(examples, dataclasses.replace(DECODING, fps=4.0)),
        ExampleClips(examples, dataclasses.replace(DECODING, size=(32, 16))),
        ExampleClips(examples, DECODING, variants=2),
        ExampleClips(examples, DECODING, seed=1),
    ]
    assert all(other.fingerprint() != about for other in others)
    patient = dataclasses.replace(DECODING, timeout=1.0)
    assert ExampleClips(examples, patient).fingerprint() == about


def test_variants_must_be_positive(examples):
    with pytest.raises(ValueError, match=r"variants \(=0\) must be at least 1"):
        ExampleClips(examples, DECODING, variants=0)


def test_synthetic_clips_carry_what_their_captions_are_drawn_from(bank):
    source = SyntheticClips(SyntheticMotion(bank, size=32, num_frames=4, length=20))
    for index in range(20):
        clip = source.clip(index)
        assert clip.frames.shape == (4, 32, 32, 3)
        about = json.loads(json.dumps(clip.description))
        assert about == clip.description and about["reverse_kind"] == OPPOSITE.get(about["kind"])
        rng = np.random.default_rng(0)
        assert draw_caption(about["kind"], rng, subject=about["subject"], speed=about["speed"])


def test_fingerprint_of_synthetic_clips_follows_pictures_and_settings_but_not_length(bank):
    def about(bank=bank, **changes):
        settings = {"size": 32, "num_frames": 4, "seed": 0, "length": 20, **changes}
        return SyntheticClips(SyntheticMotion(bank, **settings)).fingerprint()

    assert about() == about(length=40) == about(bank=procedural_bank(0, 32, photos=2, objects=2))
    others = [about(size=16), about(num_frames=5), about(seed=1), about(split="heldout"), about(procedural_bank(1, 32))]
    assert all(other != about() for other in others)
