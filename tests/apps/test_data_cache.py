"""`trip data cache`: a data set and a model in, latents and text out; refusals in one line."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import tyro
from diffusers import AutoencoderKL
from torch.testing import assert_close
from tyro.conf import FlagCreatePairsOff

from trip.apps.cache import cache
from trip.apps.cache_options import DataCache
from trip.apps.data import data
from trip.apps.data_options import DataSynth
from trip.data.cache.latents import LatentClips
from trip.data.sets.datasets import read_examples
from trip.pipeline import TripPipeline


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Four clips, one of them empty."""
    folder = tmp_path_factory.mktemp("synth") / "clips"
    data(DataSynth(output=folder, count=4, size=32, num_frames=8, quiet=True))
    (folder / "clip-000002.mp4").write_bytes(b"")
    return folder


@pytest.fixture
def options(clips, model, tmp_path) -> DataCache:
    sizes = {"num_frames": 4, "size": 32, "shard_size": 2, "workers": 0}
    return DataCache(
        source=str(clips), model=str(model), output=tmp_path / "latents", quiet=True, device="cpu", **sizes
    )


def test_a_data_set_is_cached_for_training(options, clips, model, capsys):
    assert cache(options) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(options.output)
    assert printed.err.splitlines()[-1] == "trip: 3 clips, 3 of them new; left out: 1 empty"
    found = LatentClips(options.output)
    assert found.latent_shape == (4, 4, 16, 16)
    captions = {example.key: example.caption for example in read_examples(clips)}
    assert {about["key"]: about["caption"] for about in found.descriptions} == {
        key: caption for key, caption in captions.items() if key != "clip-000002.mp4"
    }
    pipeline = TripPipeline.from_pretrained(model)
    prompts = [about["caption"] for about in found.descriptions]
    features, empty = pipeline.encode_prompt(prompts, negative_prompt=[""])
    assert_close(torch.stack([found.text(i) for i in range(3)]).float(), features, atol=2e-3, rtol=2e-3)
    assert_close(found.empty_text.float(), empty[0], atol=2e-3, rtol=2e-3)
    fault = json.loads((options.output / "faults.jsonl").read_text())
    assert fault["key"] == "clip-000002.mp4" and fault["reason"] == "empty"


def test_a_second_run_encodes_nothing_and_another_size_is_refused(options, capsys):
    cache(dataclasses.replace(options, text=False))
    cache(dataclasses.replace(options, text=False))
    assert "3 clips, 0 of them new; left out: 1 empty" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"size: \[32, 32\] there, \[16, 16\] wanted"):
        cache(dataclasses.replace(options, text=False, size=16))


def test_synthetic_motion_has_splits(options, tmp_path):
    drawn = dataclasses.replace(options, source="procedural", count=2)
    for split in ("train", "heldout"):
        cache(dataclasses.replace(drawn, split=split, output=tmp_path / split))
        assert json.loads((tmp_path / split / "cache.json").read_text())["split"] == split
    with pytest.raises(ValueError, match=r"split: 'heldout' there, 'train' wanted"):
        cache(dataclasses.replace(drawn, output=tmp_path / "heldout"))
    with pytest.raises(ValueError, match=r"split \(='test'\) is not one of \('train', 'heldout'\)"):
        cache(dataclasses.replace(drawn, split="test", output=tmp_path / "test"))


def test_another_autoencoder_takes_the_place_of_the_models(options, model, tmp_path):
    drawn = dataclasses.replace(options, source="procedural", count=2)
    cache(drawn)
    cache(dataclasses.replace(drawn, vae=model / "vae", output=tmp_path / "same"))
    found = [LatentClips(folder)[0][0] for folder in (options.output, tmp_path / "same")]
    assert torch.equal(*found)
    vae = AutoencoderKL.from_pretrained(model / "vae")
    with torch.no_grad():
        vae.quant_conv.weight.mul_(-1)
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(ValueError, match=r"vae_sha256: '.*' there, '.*' wanted"):
        cache(dataclasses.replace(drawn, vae=tmp_path / "vae"))
    with pytest.raises(ValueError, match=r"unet. is a ResidualUNet3D; choose one of AutoencoderKL"):
        cache(dataclasses.replace(drawn, vae=model / "unet"))


def test_a_count_takes_the_first_clips(options, clips):
    cache(dataclasses.replace(options, count=2, text=False))
    keys = [about["key"] for about in LatentClips(options.output).descriptions]
    assert keys == [example.key for example in read_examples(clips)[:2]]


def test_captions_that_are_cut_or_empty_are_told(options, clips, tmp_path, capsys):
    folder = shutil.copytree(clips, tmp_path / "clips")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    rows[0]["text"], rows[1]["text"] = "", "word " * 500
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cache(dataclasses.replace(options, source=str(folder), text=False))
    assert "trip: of 4 captions 1 have more than the text encoder's" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"variants": 2}, {"fps": 4.0}, {"captions": "all"}, {"video_column": "x"}])
def test_what_synthetic_motion_has_not_is_refused(options, change):
    with pytest.raises(ValueError, match=r"is of clips, and procedural is synthetic motion; leave it out"):
        cache(dataclasses.replace(options, source="procedural", **change))


@pytest.mark.parametrize("name", ["batch_size", "shard_size", "variants"])
def test_counts_must_be_positive(options, name):
    with pytest.raises(ValueError, match=r"\(=0\) must be at least 1"):
        cache(dataclasses.replace(options, **{name: 0}))


def test_flags():
    flags = "--data clips --model m --output o --num-frames 8 --size 64 --fps 4 --variants 3 --workers 2 --batch-size 4"
    more = "--dtype float32 --seed 5 --no-text --caption-column text"
    found = tyro.cli(DataCache, args=f"{flags} {more}".split(), config=(FlagCreatePairsOff,))
    assert found == DataCache(
        source="clips", model="m", output=Path("o"), num_frames=8, size=64, fps=4.0, variants=3, workers=2,
        batch_size=4, dtype="float32", seed=5, text=False, caption_column="text",
    )  # fmt: skip
