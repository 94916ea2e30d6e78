"""Latent cache: complete shards only, exact order on resume, and no mixing of two caches."""

import itertools
import json
import multiprocessing
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from trip.data.cache import latents as module
from trip.data.cache.latents import (
    LatentClips,
    open_cache,
    shard_paths,
    write_empty_text,
    write_shard,
)
from trip.data.sources import CachedClips


def shard(index, clips=3):
    rng = torch.Generator().manual_seed(index)
    about = [{"kind": "pan", "number": 10 * index + i, "text": "é\u2028\n"} for i in range(clips)]
    return torch.randn(clips, 4, 2, 3, 5, generator=rng), about  # n f c h w


def test_clips_come_back_with_their_descriptions(tmp_path):
    sizes = [3, 1, 4]
    for index, size in enumerate(sizes):
        write_shard(tmp_path, index, *shard(index, size))
    clips = LatentClips(tmp_path)
    assert len(clips) == 8
    expected = [(x, d) for i, n in enumerate(sizes) for x, d in zip(*shard(i, n), strict=True)]
    for (found, about), (x, d) in zip((clips[i] for i in range(8)), expected, strict=True):
        assert found.dtype == torch.float16 and found.shape == (2, 4, 3, 5)  # c f h w
        assert torch.equal(found, x.half().movedim(0, 1)) and about == d
    assert torch.equal(clips[-1][0], clips[7][0])
    with pytest.raises(IndexError):
        clips[8]


def test_clips_stack_in_a_data_loader(tmp_path):
    write_shard(tmp_path, 0, *shard(0, 4))
    batch, about = next(iter(DataLoader(LatentClips(tmp_path), batch_size=4)))
    assert batch.shape == (4, 2, 4, 3, 5) and about["number"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_while_writing_leaves_no_shard_or_a_whole_one(moment, tmp_path, monkeypatch):
    """Killed before or after each of the two renames."""
    write_shard(tmp_path, 0, *shard(0))
    replace, calls = os.replace, itertools.count()

    def killed(source, target):
        call = next(calls)
        if call == moment // 2 and moment % 2:
            replace(source, target)
        if call == moment // 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, 1, *shard(1))
    monkeypatch.undo()
    clips = LatentClips(tmp_path)
    assert len(clips) == (6 if moment == 3 else 3)
    assert [about["number"] for _, about in clips] == [0, 1, 2, 10, 11, 12][: len(clips)]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    write_shard(tmp_path, 1, *shard(1))
    assert len(LatentClips(tmp_path)) == 6


def die_in_a_shard(folder):
    module.save_file = lambda tensors, path: (path.write_bytes(b"half"), os._exit(9))
    write_shard(folder, 1, *shard(1))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12: the parent has threads
def test_a_killed_process_leaves_nothing_that_is_read(tmp_path):
    write_shard(tmp_path, 0, *shard(0))
    process = multiprocessing.get_context("fork").Process(target=die_in_a_shard, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not shard_paths(tmp_path, 1)[0].exists()
    assert len(LatentClips(tmp_path)) == 3


def test_a_shard_needs_one_description_a_clip(tmp_path):
    with pytest.raises(AssertionError, match="3 clips with 2 descriptions"):
        write_shard(tmp_path, 0, shard(0)[0], shard(0)[1][:2])


def test_an_empty_cache_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no latent shards; make them with"):
        LatentClips(tmp_path)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_clips_are_read_by_several_processes(tmp_path):
    for index in range(3):
        write_shard(tmp_path, index, *shard(index))
    clips = LatentClips(tmp_path)
    assert clips[4][0].any()  # a shard is mapped in this process
    expected = torch.stack([clips[i][0] for i in range(9)])
    sent = pickle.dumps(clips)
    assert len(sent) < 4000
    assert torch.equal(torch.stack([latents for latents, _ in pickle.loads(sent)]), expected)
    found = torch.cat([batch for batch, _ in DataLoader(clips, batch_size=3, num_workers=2)])
    assert torch.equal(found, expected)


def test_items_are_copies_of_one_clip(tmp_path):
    """A view would carry its whole shard along when it is sent to another process, and write to the mapping."""
    write_shard(tmp_path, 0, *shard(0))
    clips = LatentClips(tmp_path)
    before, _ = clips[1]
    clips[1][0].zero_()
    assert torch.equal(clips[1][0], before)
    assert before.untyped_storage().nbytes() == before.numel() * 2


def test_only_what_is_asked_for_is_read(tmp_path):
    """Resident memory grows by far less than the cache when few clips of many shards are read."""
    for index in range(4):
        write_shard(tmp_path, index, torch.ones(16, 4, 8, 128, 128), [{}] * 16)
    clips = LatentClips(tmp_path)
    with open("/proc/self/statm") as statm:
        before = int(statm.read().split()[1])
        for index in range(0, len(clips), 16):
            assert clips[index][0].isfinite().all()
        statm.seek(0)
        grown = (int(statm.read().split()[1]) - before) * os.sysconf("SC_PAGE_SIZE")
    whole = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert whole > 60e6 and grown < 0.25 * whole


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_text_and_dtype_come_back(tmp_path, dtype):
    latents, about = shard(0)
    text = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(7))
    open_cache(tmp_path, {"seed": 3})
    write_shard(tmp_path, 0, latents, about, text=text, dtype=dtype)
    write_empty_text(tmp_path, text[0] + 1, dtype)
    clips = LatentClips(tmp_path)
    assert clips.manifest == {"seed": 3} and clips.latent_shape == (2, 4, 3, 5) == tuple(clips[0][0].shape)
    for index in range(3):
        assert torch.equal(clips[index][0], latents[index].to(dtype).movedim(0, 1))
        assert torch.equal(clips.text(index), text[index].to(dtype))
    assert torch.equal(clips.empty_text, (text[0] + 1).to(dtype))


def test_a_cache_of_the_first_format_opens(tmp_path):
    """Without text, keys, dtype and hash of the config."""
    old = {"vae_sha256": "88ee", "size": 64, "num_frames": 16, "seed": 0, "shard_size": 512}
    (tmp_path / "cache.json").write_text(json.dumps(old, indent=2) + "\n")
    write_shard(tmp_path, 0, *shard(0))
    clips = LatentClips(tmp_path)
    assert clips.manifest == old and clips.text(2) is None and clips.empty_text is None
    assert clips.descriptions[2]["number"] == 2 and len(clips.descriptions) == len(clips) == 3


def test_a_shard_of_faults_alone_is_passed_over(tmp_path):
    write_shard(tmp_path, 0, *shard(0))
    write_shard(tmp_path, 1, torch.empty(0, 0, 0, 0, 0), [])
    write_shard(tmp_path, 2, *shard(2))
    clips = LatentClips(tmp_path)
    assert [clips[i][1]["number"] for i in range(len(clips))] == [0, 1, 2, 20, 21, 22]
    assert torch.equal(clips[3][0], shard(2)[0][0].half().movedim(0, 1))


def test_overflow_names_the_clip_and_the_dtypes_that_hold_it(tmp_path):
    latents, about = shard(0)
    latents[1, 2, 0, 0, 0] = 70_000
    about[1]["key"] = "dog.mp4"
    with pytest.raises(
        ValueError, match=r"clip 'dog.mp4' reach 7e\+04, more than float16 holds; .* float32 or bfloat16"
    ):
        write_shard(tmp_path, 0, latents, about)
    assert not list(tmp_path.iterdir())
    write_shard(tmp_path, 0, latents, about, dtype=torch.bfloat16)
    latents[2] = float("nan")
    with pytest.raises(ValueError, match="clip '2' come out of the encoder as NaN"):
        write_shard(tmp_path, 1, latents[2:], [{"key": "2"}], dtype=torch.float32)


def test_shards_that_do_not_fit_are_named(tmp_path):
    write_shard(tmp_path, 0, *shard(0))
    write_shard(tmp_path, 1, torch.zeros(1, 4, 2, 3, 6), [{}])
    with pytest.raises(ValueError, match="mixes latents c f h w"):
        LatentClips(tmp_path)
    shard_paths(tmp_path, 1)[1].write_text("{}\n{}\n")
    with pytest.raises(ValueError, match=r"clips-00001\.safetensors holds 1 clips with 2 descriptions"):
        LatentClips(tmp_path)


def test_a_cache_of_something_else_names_every_difference(tmp_path):
    about = {"vae": "a", "size": (64, 64), "frames": 16}
    open_cache(tmp_path / "cache", about)
    open_cache(tmp_path / "cache", about)
    with pytest.raises(ValueError) as error:
        open_cache(tmp_path / "cache", {"vae": "b", "size": (64, 64), "fps": 8})
    message = str(error.value)
    assert "vae: 'a' there, 'b' wanted" in message
    assert "frames: 16 there, None wanted" in message and "fps: None there, 8 wanted" in message
    assert "size" not in message and message.endswith("choose another folder or delete it")
    assert "\n" not in message


def damage(folder: Path, name: str, content: bytes | str | None = None, **tensors: torch.Tensor) -> Path:
    """A good cache of one shard with one file replaced."""
    write_shard(folder, 0, *shard(0))
    if tensors:
        save_file(tensors, folder / name)
    else:
        (folder / name).write_bytes(content if isinstance(content, bytes) else (content or "").encode())
    return folder


TENSORS, LINES = "clips-00000.safetensors", "clips-00000.jsonl"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (TENSORS, b"", "is damaged"),
        (TENSORS, b"\xff" * 64, "is damaged"),
        (TENSORS, struct.pack("<Q", 2**62) + b"{}", "is damaged"),
        (TENSORS, struct.pack("<Q", 4096) + b"[" * 4096, "is damaged"),
        (TENSORS, {"other": torch.zeros(3)}, "not latents n f c h w"),
        (TENSORS, {"latents": torch.zeros(3, 4)}, "not latents n f c h w"),
        (TENSORS, {"latents": torch.zeros(3, 4, 2, 3, 5), "text": torch.zeros(2, 8, 8)}, "not latents"),
        (TENSORS, {"latents": torch.zeros(2, 4, 2, 3, 5)}, "2 clips with 3 descriptions"),
        (TENSORS, {"latents": torch.zeros(3, 4, 2, 3, 5, dtype=torch.int8)}, "no floating-point"),
        (LINES, "{}\n{\n{}\n", r"jsonl line 2 is not JSON"),
        (LINES, "{}\n[]\n{}\n", "line 2 is no object"),
        (LINES, "{}\n" + '{"a":' * 100_000 + "\n{}\n", "line 2 is nested too deeply"),
        (LINES, b"{}\n\xff\n{}\n", "line 2 is not text"),
        ("cache.json", "[1]", "cache.json is no object"),
        ("cache.json", b"\xff\xfe{", "cache.json"),
        ("empty-text.safetensors", b"x", "empty-text.safetensors is damaged"),
        ("empty-text.safetensors", {"text": torch.zeros(3)}, "has no text tokens d"),
    ],
)
def test_a_damaged_cache_is_one_line_that_names_the_file(tmp_path, name, content, words):
    damage(tmp_path, name, **content) if isinstance(content, dict) else damage(tmp_path, name, content)
    with pytest.raises(ValueError, match=words) as caught:
        list(LatentClips(tmp_path))
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [TENSORS, LINES, "cache.json", "empty-text.safetensors"])
def test_a_cache_reads_nothing_outside_and_waits_for_nothing(tmp_path, name):
    folder = damage(tmp_path / "cache", "cache.json", "{}")
    write_empty_text(folder, torch.zeros(2, 3))
    (folder / name).replace(tmp_path / name)
    for target in (tmp_path / name, Path("/dev/zero"), None):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target) if target else os.mkfifo(folder / name)
        with pytest.raises(ValueError, match=rf"{name} (leads out of|cannot be read)"):
            LatentClips(folder)


@pytest.mark.parametrize(
    "about",
    [
        {}, {"caption": 5}, {"caption": None}, {"caption": "\ud800"}, {"kind": "x"}, {"kind": ["pan_left"]},
        {"kind": "pan_left", "reverse_kind": 3}, {"kind": "pan_left", "speed": "warp"}, {"kind": "move_left"},
        {"kind": "move_left", "subject": ["cat"]}, {"kind": "pan_left", "subject": 5},
    ],
)  # fmt: skip
def test_a_description_of_which_no_caption_can_be_made_is_found_at_once(tmp_path, about):
    write_shard(tmp_path, 0, shard(0)[0], [{"caption": "good"}, {"kind": "pan_left", "reverse_kind": None}, about])
    with pytest.raises(ValueError, match=r"^clip 2 of .* has "):
        CachedClips(LatentClips(tmp_path), {})
