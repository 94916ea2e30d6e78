"""Filling a cache: killed and resumed, in one process or several, refused when it is of something else."""

import dataclasses
import json
import os
import signal
import string
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch.testing import assert_close
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import tiny_models
from trip import files
from trip.apps.cli import main
from trip.data.cache.latents import LatentClips, shard_paths, write_shard
from trip.data.sets.decoding import ClipFault, Decoding
from trip.data.sets.examples import Example
from trip.data.sources import ExampleClips, RenderedClip, SyntheticClips
from trip.data.synthetic.procedural import procedural_bank
from trip.data.synthetic.scenes import SyntheticMotion
from trip.data.video.writing import write_video
from trip.files import lock_folder
from trip.text import encode_text
from trip.training.batches import encode_clips, open_source
from trip.training.cache import Task, encode_parts, fill_cache
from trip.training.config import TrainingConfig
from trip.training.encoders import CaptionEncoder, LatentEncoder, module_sha256
from trip.training.parts import load_start
from trip.training.run import train

CLIPS, SHARD, BATCH = 11, 4, 2  # shards of 4, 4 and 3 clips
FAULTY = (2, 9)


@dataclasses.dataclass(frozen=True)
class Counted:
    """Clips of noise that note in a file when they are rendered; some fault, one ends its process, one stalls."""

    log: str
    clips: int = CLIPS
    faulty: tuple[int, ...] = FAULTY
    deadly: int = -1
    stalled: int = -1
    seconds: float = 0.0
    caption: str = "clip"

    def __len__(self) -> int:
        return self.clips

    def fingerprint(self) -> dict:
        return {"source": "noise", "caption": self.caption}

    def clip(self, index: int) -> RenderedClip:
        with open(self.log, "a") as log:
            log.write(f"{index} {os.getpid()}\n")
        time.sleep(120 if index == self.stalled else self.seconds)
        if index == self.deadly:
            os._exit(11)
        if index in self.faulty:
            raise ClipFault(f"k{index}", "too_short", "3 frames, 4 are needed")
        frames = np.random.default_rng(index).integers(0, 256, (4, 32, 32, 3), np.uint8)
        return RenderedClip(key=f"k{index}", frames=frames, description={"caption": f"{self.caption} {index % 3}"})


def tiny_vae(seed: int = 0, gain: float = 1.0) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=4,
        scaling_factor=0.5 * gain,
        shift_factor=0.25,
    ).eval()


def tiny_text(seed: int = 0, max_length: int = 12) -> CaptionEncoder:
    torch.manual_seed(seed)
    letters = [*string.ascii_lowercase, *string.digits, *(c + "</w>" for c in string.ascii_lowercase + string.digits)]
    vocab = {piece: i for i, piece in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    config = CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=12, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=12)
    model = CLIPTextModel(config).eval()
    return CaptionEncoder(tokenizer=tokenizer, model=model, max_length=max_length, zero_padding=True)


def fill(source, output, **changes):
    settings = {"text": tiny_text(), "shard_size": SHARD, "batch_size": BATCH, **changes}
    return fill_cache(source, settings.pop("vae", None) or tiny_vae(), output, **settings)


def counted(folder: Path, **changes) -> Counted:
    return Counted(log=str(folder / "log"), **changes)


def rendered(source: Counted) -> list[tuple[int, int]]:
    """(clip, process) in the order in which clips were rendered; whole lines only."""
    text = Path(source.log).read_text() if Path(source.log).exists() else ""
    return [(int(a), int(b)) for a, b in (line.split() for line in text.split("\n")[:-1])]


def content(output: Path) -> dict[str, bytes]:
    """Every file of a cache but the lock; faults in the order of clips."""
    files = {path.name: path.read_bytes() for path in output.iterdir() if path.name != ".lock"}
    return {name: b"\n".join(sorted(x.split(b"\n"))) if name == "faults.jsonl" else x for name, x in files.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The cache that an uninterrupted run makes."""
    folder = tmp_path_factory.mktemp("whole")
    source = counted(folder)
    found = fill(source, folder / "cache")
    assert found.clips == found.encoded == CLIPS - 2 and found.faults == {"too_short": 2}
    assert [clip for clip, _ in rendered(source)] == list(range(CLIPS))
    return folder / "cache"


# ----------------------------------------------------------------------------------------------- interruption


@pytest.mark.parametrize(("moment", "workers"), [(1, 0), (6, 0), (9, 2)])
def test_a_killed_run_goes_on_and_encodes_nothing_twice(moment, workers, whole, tmp_path):
    """SIGKILL in the middle of clip `moment`: whole shards stay, and the rest is made as if nothing had happened."""
    source, output = counted(tmp_path), tmp_path / "cache"
    command = [sys.executable, __file__, str(tmp_path), str(moment), str(workers)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}  # for tiny_models
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    while moment not in dict(rendered(source)) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    wait_for_end({pid for _, pid in rendered(source)})
    there = [k for k in range(3) if shard_paths(output, k)[0].exists()]
    assert workers or there == list(range(moment // SHARD))
    kept = {i for k in there for i in range(k * SHARD, (k + 1) * SHARD)}
    before = len(rendered(source))
    fill(source, output)
    again = [clip for clip, _ in rendered(source)[before:]]
    assert sorted(again) == sorted(set(range(CLIPS)) - kept)
    elsewhere = {shard_paths(output, k)[0].name for k in there}  # by a process that may have had fewer threads
    found, wanted = ({n: v for n, v in content(cache).items() if n not in elsewhere} for cache in (output, whole))
    assert found == wanted or workers
    assert_same(output, whole)
    assert fill(source, output).encoded == 0
    assert len(rendered(source)) == before + len(again)


def wait_for_end(processes: set[int]) -> None:
    """Orphans end by themselves, within seconds."""
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < until, f"processes {processes} go on without their parent"
        time.sleep(0.05)


def assert_same(output: Path, expected: Path) -> None:
    """Same clips, text and faults; latents equal up to the rounding of another number of threads."""
    found, wanted = LatentClips(output), LatentClips(expected)
    assert list(found.descriptions) == list(wanted.descriptions)
    for i in range(len(wanted)):
        assert_close(found[i][0], wanted[i][0], atol=2e-3, rtol=2e-3)
        assert_close(found.text(i), wanted.text(i), atol=2e-3, rtol=2e-3)
    assert content(output)["faults.jsonl"] == content(expected)["faults.jsonl"]


def test_what_a_killed_run_left_unfinished_is_cleared(whole, tmp_path):
    """Faults of a shard that was not finished, half of a shard."""
    source, output = counted(tmp_path), tmp_path / "cache"
    fill(source, output)
    for path in shard_paths(output, 2):
        path.unlink()
    (output / ".trip-ab12cd_3").mkdir()
    for name in (files.MARK, "clips-00002.safetensors"):
        (output / ".trip-ab12cd_3" / name).write_bytes(b"half")
    files._swept.discard(output)  # as in a new process
    fill(source, output)
    assert content(output) == content(whole)


@pytest.mark.parametrize(
    "line", ["{", "[1]", "{}", '{"shard": "../x", "index": 1, "key": "k", "reason": "r", "message": "m"}']
)
def test_a_list_of_faults_that_is_none_is_an_error(tmp_path, line):
    source = counted(tmp_path)
    fill(source, tmp_path / "cache")
    (tmp_path / "cache" / "faults.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"faults\.jsonl line 1 is no"):
        fill(source, tmp_path / "cache")


def test_two_workers_equal_one(whole, tmp_path):
    source = counted(tmp_path, seconds=0.2)
    assert fill(source, tmp_path / "cache", workers=2).clips == CLIPS - 2
    assert_same(tmp_path / "cache", whole)
    clips, processes = zip(*rendered(source), strict=True)
    assert sorted(clips) == list(range(CLIPS)) and os.getpid() not in processes


def test_a_clip_that_ends_its_process_is_left_out_alone(tmp_path):
    source = counted(tmp_path, clips=6, faulty=(), deadly=5)
    found = fill(source, tmp_path / "cache", workers=1)
    assert found.faults == {"crashed": 1} and found.clips == 5
    clips = LatentClips(tmp_path / "cache")
    assert [about["key"] for about in clips.descriptions] == ["k0", "k1", "k2", "k3", "k4"]
    fault = json.loads((tmp_path / "cache" / "faults.jsonl").read_text())
    assert fault["index"] == 5 and fault["shard"] == 1 and fault["reason"] == "crashed"


def test_only_one_process_fills_a_cache(tmp_path):
    with lock_folder(tmp_path / "cache", "filled"), pytest.raises(ValueError, match="is being filled by another"):
        fill(counted(tmp_path), tmp_path / "cache")
    fill(counted(tmp_path), tmp_path / "cache")


# --------------------------------------------------------------------------------------------------- contents


def test_latents_equal_the_pipelines(whole, tmp_path):
    """As `TripPipeline.encode_image` scales and shifts them."""
    vae, source, clips = tiny_vae(), counted(tmp_path), LatentClips(whole)
    assert clips.latent_shape == (4, 4, 16, 16)
    for index, number in ((0, 0), (2, 3), (8, 10)):  # clips 2 and 9 are left out
        pixels = torch.from_numpy(source.clip(number).frames).permute(0, 3, 1, 2) / 127.5 - 1
        expected = (vae.encode(pixels).latent_dist.mode() - 0.25) * 0.5
        assert_close(clips[index][0], expected.movedim(0, 1).half(), atol=2e-3, rtol=2e-3)
        assert clips[index][1] == {"key": f"k{number}", "caption": f"clip {number % 3}"}


def test_text_equals_features_encoded_directly(whole):
    text, clips = tiny_text(), LatentClips(whole)
    captions = ["", *(about["caption"] for about in clips.descriptions)]
    assert len(set(captions)) == 4
    direct = [encode_text(text.tokenizer, text.model, [caption], 12, True)[0] for caption in captions]
    found = [clips.empty_text, *(clips.text(i) for i in range(len(clips)))]
    for features, expected in zip(found, direct, strict=True):
        assert features.dtype == torch.float16 and features.shape == (12, 8)
        assert_close(features, expected.half(), atol=2e-3, rtol=2e-3)
    assert not torch.equal(clips.text(0), clips.text(1)) and not torch.equal(clips.text(0), clips.empty_text)


def test_a_cache_without_text_keeps_the_captions(tmp_path):
    fill(counted(tmp_path), tmp_path / "cache", text=None)
    clips = LatentClips(tmp_path / "cache")
    assert clips.text(0) is None and clips.empty_text is None and clips.descriptions[1]["caption"] == "clip 1"


def test_faults_are_recorded_with_their_reasons(whole):
    faults = [json.loads(line) for line in (whole / "faults.jsonl").read_text().splitlines()]
    assert faults[0] == {
        "shard": 0, "index": 2, "key": "k2", "reason": "too_short", "message": "3 frames, 4 are needed",
    }  # fmt: skip
    assert [fault["index"] for fault in faults] == list(FAULTY)
    assert len(LatentClips(whole)) == CLIPS - len(FAULTY)


def test_a_source_of_faults_alone_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"none of the 5 clips can be used \(the first: k0: 3 frames"):
        fill(counted(tmp_path, clips=5, faulty=tuple(range(5))), tmp_path / "cache")


@pytest.mark.parametrize(("gain", "dtype"), [(1e6, "float16"), (float("nan"), "float32")])
def test_values_that_the_dtype_cannot_hold_are_an_error(gain, dtype, tmp_path):
    remedy = "make the cache with dtype float32 or bfloat16" if dtype == "float16" else "check the encoder's weights"
    with pytest.raises(ValueError, match=f"the latents of clip 'k0' .*{remedy}"):
        fill(counted(tmp_path), tmp_path / "cache", vae=tiny_vae(gain=gain), dtype=getattr(torch, dtype))
    assert not list((tmp_path / "cache").glob("clips-*"))
    if dtype == "float16":
        fill(counted(tmp_path), tmp_path / "wide", vae=tiny_vae(gain=gain), dtype=torch.bfloat16)
        latents, _ = LatentClips(tmp_path / "wide")[0]
        assert latents.dtype == torch.bfloat16 and latents.abs().max() > 65504


def test_a_size_that_the_autoencoder_cannot_halve_is_an_error(tmp_path):
    task = Task(counted(tmp_path), LatentEncoder(vae=tiny_vae()))
    odd = RenderedClip(key="k", frames=np.zeros((4, 32, 31, 3), np.uint8), description={})
    with pytest.raises(ValueError, match=r"size \(=31x32\) must be a multiple of the autoencoder's 2"):
        task.encoder([odd])


def test_bfloat16_computation_is_close(tmp_path):
    clips = [counted(tmp_path).clip(i) for i in (0, 1)]
    exact, fast = (
        LatentEncoder(vae=tiny_vae(), dtype=torch.float32, precision=p)(clips) for p in (torch.float32, torch.bfloat16)
    )
    assert not torch.equal(exact, fast)
    assert (exact - fast).norm() < 0.03 * exact.norm()


# ------------------------------------------------------------------------------------------------- refusals


CHANGES = {
    "vae_sha256": lambda: {"vae": tiny_vae(seed=1)},
    "text_sha256": lambda: {"text": tiny_text(seed=1)},
    "text_tokens": lambda: {"text": tiny_text(max_length=10)},
    "zero_text_padding": lambda: {"text": dataclasses.replace(tiny_text(), zero_padding=False)},
    "dtype": lambda: {"dtype": torch.float32},
    "precision": lambda: {"precision": torch.bfloat16},
    "shard_size": lambda: {"shard_size": 5},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_cache_of_other_encoders_or_settings_is_refused(name, whole, tmp_path):
    before = content(whole)
    with pytest.raises(ValueError, match=rf"is of something else \({name}: \S+ there, \S+ wanted\)"):
        fill(counted(tmp_path), whole, **CHANGES[name]())
    assert content(whole) == before and not rendered(counted(tmp_path))


def test_a_cache_with_text_is_not_filled_further_without(whole, tmp_path):
    with pytest.raises(ValueError, match=r"text_sha256: \S+ there, None wanted"):
        fill(counted(tmp_path), whole, text=None)


@pytest.mark.parametrize(("name", "value"), [("size", (16, 16)), ("fps", 4.0), ("num_frames", 3)])
def test_a_cache_of_other_samples_is_refused(name, value, tmp_path):
    examples, decoding = two_clips(tmp_path), Decoding(num_frames=4, fps=8.0, size=(32, 32))
    fill(ExampleClips(examples, decoding), tmp_path / "cache")
    changed = dataclasses.replace(decoding, **{name: value})
    with pytest.raises(ValueError, match=rf"something else \({name}: .* there, .* wanted\)"):
        fill(ExampleClips(examples, changed), tmp_path / "cache")
    other = [examples[0], dataclasses.replace(examples[1], caption="a cat")]
    with pytest.raises(ValueError, match=r"something else \(source_sha256: "):
        fill(ExampleClips(other, decoding), tmp_path / "cache")


def two_clips(folder: Path) -> list[Example]:
    frames = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    write_video(folder / "a.mp4", frames, 8.0)
    (folder / "b.mp4").write_bytes(b"no clip")
    return [Example(key=n, video=folder / f"{n}.mp4", caption="a dog") for n in ("a", "b")]


def test_a_hash_does_not_depend_on_how_a_model_was_saved(tmp_path):
    vae, text = tiny_vae(), tiny_text()
    vae.save_pretrained(tmp_path / "vae")
    text.model.save_pretrained(tmp_path / "text")
    assert module_sha256(AutoencoderKL.from_pretrained(tmp_path / "vae")) == module_sha256(vae)
    assert module_sha256(CLIPTextModel.from_pretrained(tmp_path / "text")) == module_sha256(text.model)
    with torch.no_grad():
        vae.encoder.conv_in.bias[0] += 1e-3
    assert module_sha256(vae) != module_sha256(tiny_vae()) != module_sha256(tiny_vae(gain=2.0))


# ------------------------------------------------------------------------------------------------- sources


def test_files_are_cached_with_variants_and_faults(tmp_path):
    source = ExampleClips(two_clips(tmp_path), Decoding(num_frames=4, fps=8.0, size=(32, 32)), variants=3)
    found = fill(source, tmp_path / "cache")
    assert found.clips == 3 and found.faults == {"not_video": 3}
    clips = LatentClips(tmp_path / "cache")
    assert list(clips.descriptions) == [{"key": "a", "caption": "a dog", "variant": v} for v in range(3)]
    assert len({clips[i][0].sum().item() for i in range(3)}) > 1
    manifest = clips.manifest
    assert manifest["num_frames"] == 4 and manifest["fps"] == 8.0 and manifest["size"] == [32, 32]


def test_synthetic_clips_are_cached_without_text_and_can_be_added_to(tmp_path):
    bank = procedural_bank(0, 32, photos=2, objects=2)

    def source(length):
        return SyntheticClips(SyntheticMotion(bank, size=32, num_frames=4, length=length))

    done = []
    fill(source(4), tmp_path / "cache", text=None)
    found = fill(source(10), tmp_path / "cache", text=None, on_clips=done.append)
    assert found.clips == 10 and found.encoded == 6 and done[0] == 4 and sum(done) == 10
    assert {"kind", "reverse_kind", "speed", "subject", "key"} <= LatentClips(tmp_path / "cache").descriptions[9].keys()
    with pytest.raises(ValueError, match=r"clips-00002\.\* was made of 2 clips and 4 are wanted; delete it"):
        fill(source(12), tmp_path / "cache", text=None)
    with pytest.raises(ValueError, match="has no caption of its own; leave text out"):
        fill(source(4), tmp_path / "captioned")


def test_an_older_cache_is_refused_and_left_as_it_is(tmp_path):
    """Of the first format: no dtype, and another hash."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cache.json").write_text('{"vae_sha256": "88", "shard_size": 4}')
    write_shard(tmp_path / "cache", 0, torch.zeros(4, 2, 3, 4, 4), [{"kind": "still"}] * 4)
    with pytest.raises(ValueError, match="dtype: None there, 'float16' wanted"):
        fill(counted(tmp_path), tmp_path / "cache")
    assert len(LatentClips(tmp_path / "cache")) == 4


def test_parts_of_a_shard_may_come_in_any_order(tmp_path, monkeypatch):
    """As from several workers: the shard is in the order of its clips all the same."""

    def backwards(*arguments):
        return reversed(list(encode_parts(*arguments)))

    monkeypatch.setattr("trip.training.cache.encode_parts", lambda *a: (part for part in backwards(*a)))
    fill(counted(tmp_path), tmp_path / "cache")
    keys = [about["key"] for about in LatentClips(tmp_path / "cache").descriptions]
    assert keys == [f"k{i}" for i in range(CLIPS) if i not in FAULTY]


def test_the_command_caches_synthetic_motion_too(config: TrainingConfig, tmp_path: Path, capsys) -> None:
    """The clips of the run's own "procedural" source, encoded; more of them later; training reads them in no time."""
    model, cache = tmp_path / "model", str(tmp_path / "drawn")
    tiny_models.saved(tiny_models.text_to_video_pipeline(), model)
    sizes = ["--num-frames", "4", "--size", "16", "--shard-size", "4", "--workers", "0", "--device", "cpu", "--quiet"]
    command = ["data", "cache", "--data", "procedural", "--model", str(model), "--output", cache, *sizes]
    for count, new in (("4", 4), ("8", 4)):
        assert main([*command, "--count", count]) == 0
        assert f"trip: {count} clips, {new} of them new" in capsys.readouterr().err
    settings = dataclasses.replace(config, data=cache, num_frames=4, size=16, fps=8.0, vae=str(model / "vae"))
    drawn = open_source(dataclasses.replace(settings, data="procedural"))
    samples = [drawn.draw(index, np.random.default_rng(0)) for index in (0, 5)]
    expected = encode_clips(samples, load_start(settings).components["vae"], torch.device("cpu"))
    assert_close(
        torch.stack([LatentClips(cache)[index][0] for index in (0, 5)]).float(), expected, atol=2e-3, rtol=2e-3
    )
    assert train(settings, tmp_path / "run", cpu=True, quiet=True)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(0 < record["data_wait"] < 1 and record["seconds"] > 0 for record in log)


if __name__ == "__main__":  # the run that is killed
    folder, moment, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    fill(counted(folder, stalled=moment), folder / "cache", workers=workers)
