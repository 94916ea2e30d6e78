"""Resuming is exact, and a kill at any moment leaves a usable checkpoint."""

import errno
import os
import shutil
import signal

import pytest
import torch
from torch import nn

from trip import files
from trip.training import checkpoint
from trip.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint


def toy(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    groups = [{"params": list(model[0].parameters()), "lr": 1e-2}, {"params": list(model[1:].parameters()), "lr": 1e-3}]
    return model, torch.optim.AdamW(groups)


def train(model, optimizer, steps):
    for step in steps:
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def state(model, optimizer):
    moments = optimizer.state_dict()["state"]
    return [*model.state_dict().values(), *(moments[i][k] for i in sorted(moments) for k in sorted(moments[i]))]


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def tensors(model):
    return {"model": model.state_dict()}


def save(folder, run, step, keep=0, **counters):
    return save_checkpoint(folder, tensors(run[0]), [run[1]], {"step": step, **counters}, keep)


def load(path, run):
    return load_checkpoint(path, tensors(run[0]), [run[1]])


def newest(folder):
    found = checkpoints(folder)
    return found[max(found)]


def test_a_resumed_run_is_bit_identical(tmp_path):
    whole = toy()
    train(*whole, range(10))
    half = toy()
    train(*half, range(5))
    path = save(tmp_path, half, 5, seconds=1.5)
    resumed = toy(seed=1)
    assert load(path, resumed) == {"step": 5, "seconds": 1.5}
    train(*resumed, range(5, 10))
    assert same(state(*resumed), state(*whole))
    assert [g["lr"] for g in resumed[1].param_groups] == [1e-2, 1e-3]


def test_a_checkpoint_before_the_first_step_resumes(tmp_path):
    run, other = toy(), toy(seed=1)
    assert load(save(tmp_path, run, 0), other) == {"step": 0}
    assert same(state(*other), state(*run))


def test_the_newest_are_kept(tmp_path):
    run = toy()
    for step in (2, 10, 9, 30):
        save(tmp_path, run, step, keep=2)
    assert list(checkpoints(tmp_path)) == [10, 30]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-10", "step-30"]


def test_other_weights_are_refused_and_named(tmp_path):
    path = save(tmp_path, toy(), 1)
    wider = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.Linear(16, 1))
    with pytest.raises(ValueError, match=r"step-1 holds other weights than this run trains \(5 differ, e.g. 0.bias"):
        load_checkpoint(path, tensors(wider), [torch.optim.AdamW(wider.parameters())])


def test_moments_that_an_optimizer_leaves_out_are_no_obstacle(tmp_path):
    """SGD without momentum stores None."""
    model, _ = toy()
    run = model, torch.optim.SGD(model.parameters(), lr=0.1)
    train(*run, range(2))
    assert load(save(tmp_path, run, 2), run) == {"step": 2}


@pytest.mark.parametrize("call", range(2))
def test_a_full_disk_is_one_line_and_loses_nothing(call, tmp_path, monkeypatch):
    run, calls = toy(), []
    train(*run, [1])
    save(tmp_path, run, 1)
    before = [x.clone() for x in state(*run)]

    def full(state, path, real=checkpoint.save_file):
        calls.append(path)
        if len(calls) > call:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(state, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match=r"step-2 cannot be written \(the disk is full: free some space\); earlier ones"):
        save(tmp_path, run, 2, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]
    assert load(newest(tmp_path), run) == {"step": 1} and same(state(*run), before)


def kill_after(calls):
    """Let the next `calls` file operations happen, half of the one after, and be killed."""
    left = [calls]

    def guard(function, half):
        def guarded(*args, **kwargs):
            if left[0] == 0:
                half(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return function(*args, **kwargs)

        return guarded

    def half_file(tensors, path):
        path.write_bytes(b"half")

    def half_tree(path, ignore_errors=False):
        for file in sorted(file for file in path.rglob("*") if file.is_file())[:1]:
            file.unlink()

    checkpoint.save_file = guard(checkpoint.save_file, half_file)
    os.replace = guard(os.replace, lambda *_: None)
    shutil.rmtree = guard(shutil.rmtree, half_tree)


def save_killed(folder, run, step, calls):
    """Save in a process that is killed after `calls` operations; True if the save came to its end instead."""
    child = os.fork()
    if child == 0:
        try:
            files._swept.clear()  # as in a new process
            kill_after(calls)
            save(folder, run, step, keep=1)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("first", range(9))
def test_two_kills_while_saving_leave_a_consistent_checkpoint(first, tmp_path):
    """Step 1 is saved; the saves of steps 2 and 3 are killed, at every moment each."""
    for second in range(first % 3, 9, 3):
        folder, run, states = tmp_path / str(second), toy(), {}
        for step in (1, 2, 3):
            train(*run, [step])
            states[step] = [x.clone() for x in state(*run)]
            save_killed(folder, run, step, {1: 99, 2: first, 3: second}[step])
        loaded = toy(seed=1)
        counters = load(newest(folder), loaded)
        assert same(state(*loaded), states[counters["step"]])
        assert save_killed(folder, run, 4, 99)
        assert load(newest(folder), loaded) == {"step": 4} and same(state(*loaded), states[3])
        assert [p.name for p in folder.iterdir()] == ["step-4"]


def test_the_kills_above_cover_a_whole_save(tmp_path):
    run = toy()
    save(tmp_path, run, 0)
    assert save_killed(tmp_path, run, 1, 8) and not save_killed(tmp_path, run, 2, 2)


def test_a_checkpoint_with_files_of_others_is_not_deleted(tmp_path):
    run = toy()
    save(tmp_path, run, 1)
    (tmp_path / "step-1" / "thesis.txt").write_text("years")
    for step in (2, 3):
        save(tmp_path, run, step, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-3"]
    save(tmp_path, run, 1)
    assert (tmp_path / "step-1.kept-1" / "thesis.txt").read_text() == "years" and list(checkpoints(tmp_path)) == [1, 3]
