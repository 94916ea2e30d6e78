"""Latent cache: complete shards only, exact order on resume, and no mixing of two caches."""

import itertools
import multiprocessing
import os

import pytest
import torch
from torch.utils.data import DataLoader

from trip.data import latents as module
from trip.data.latents import LatentClips, batched, open_cache, shard_paths, shuffled, write_shard


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

    monkeypatch.setattr(module.os, "replace", killed)
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


@pytest.mark.parametrize("start", [0, 1, 6, 7, 8, 20, 21])
def test_shuffled_resumes_in_the_same_order(start):
    whole = list(itertools.islice(shuffled(7, seed=3), 40))
    assert list(itertools.islice(shuffled(7, seed=3, start=start), 40 - start)) == whole[start:]


def test_every_epoch_has_every_clip_in_an_order_of_its_own():
    order = list(itertools.islice(shuffled(50, seed=0), 150))
    epochs = [order[i : i + 50] for i in (0, 50, 100)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert order != list(itertools.islice(shuffled(50, seed=1), 150))


def test_batches_lose_nothing():
    assert list(batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(itertools.islice(batched(itertools.count(), 2), 2)) == [[0, 1], [2, 3]]
    assert list(batched([], 3)) == []
