"""Resuming is exact, and a kill at any moment leaves a usable checkpoint."""

import os
import shutil

import pytest
import torch
from torch import nn

from trip.training import checkpoint
from trip.training.checkpoint import load_checkpoint, save_checkpoint


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


def test_a_resumed_run_is_bit_identical(tmp_path):
    whole = toy()
    train(*whole, range(10))
    half = toy()
    train(*half, range(5))
    save_checkpoint(tmp_path / "checkpoint", {"model": half[0]}, [half[1]], {"step": 5, "seconds": 1.5})
    resumed = toy(seed=1)
    counters = load_checkpoint(tmp_path / "checkpoint", {"model": resumed[0]}, [resumed[1]])
    assert counters == {"step": 5, "seconds": 1.5}
    train(*resumed, range(5, 10))
    assert same(state(*resumed), state(*whole))
    assert [g["lr"] for g in resumed[1].param_groups] == [1e-2, 1e-3]


def test_a_checkpoint_before_the_first_step_resumes(tmp_path):
    model, optimizer = toy()
    save_checkpoint(tmp_path / "c", {"model": model}, [optimizer], {"step": 0})
    other = toy(seed=1)
    assert load_checkpoint(tmp_path / "c", {"model": other[0]}, [other[1]]) == {"step": 0}
    assert same(state(*other), state(model, optimizer))


def test_no_checkpoint_is_none_and_changes_nothing(tmp_path):
    model, optimizer = toy()
    before = [x.clone() for x in state(model, optimizer)]
    assert load_checkpoint(tmp_path / "c", {"model": model}, [optimizer]) is None
    assert same(state(model, optimizer), before)


def test_moments_that_an_optimizer_leaves_out_are_no_obstacle(tmp_path):
    """SGD without momentum stores None."""
    model, _ = toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer, range(2))
    save_checkpoint(tmp_path / "c", {"model": model}, [optimizer], {"step": 2})
    assert load_checkpoint(tmp_path / "c", {"model": model}, [optimizer]) == {"step": 2}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def kill_after(monkeypatch, calls):
    """Let the next `calls` file operations happen, half of the one after, and nothing more."""
    left = [calls]

    def guard(function, half):
        def guarded(*args, **kwargs):
            if left[0] == 0:
                half(*args)
                raise Killed
            left[0] -= 1
            return function(*args, **kwargs)

        return guarded

    def half_file(tensors, path):
        path.write_bytes(b"half")

    def half_tree(path, ignore_errors=False):
        for file in sorted(path.glob("*"))[:1]:
            file.unlink()

    monkeypatch.setattr(checkpoint, "save_file", guard(checkpoint.save_file, half_file))
    monkeypatch.setattr(os, "replace", guard(os.replace, lambda *_: None))
    monkeypatch.setattr(shutil, "rmtree", guard(shutil.rmtree, half_tree))


def save_killed(folder, run, step, calls):
    """Save and get killed after `calls` operations; True if the save came to its end instead."""
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, calls)
        try:
            save_checkpoint(folder, {"model": run[0]}, [run[1]], {"step": step})
        except Killed:
            return False
        return True


@pytest.mark.parametrize("first", range(9))
def test_two_kills_while_saving_leave_a_consistent_checkpoint(first, tmp_path):
    """Step 1 is saved; the saves of steps 2 and 3 are killed at every pair of moments."""
    for second in range(9):
        folder, run, states = tmp_path / str(second) / "checkpoint", toy(), {}
        for step in (1, 2, 3):
            train(*run, [step])
            states[step] = [x.clone() for x in state(*run)]
            save_killed(folder, run, step, {1: 99, 2: first, 3: second}[step])
        loaded = toy(seed=1)
        counters = load_checkpoint(folder, {"model": loaded[0]}, [loaded[1]])
        assert counters is not None
        assert same(state(*loaded), states[counters["step"]])
        assert save_killed(folder, run, 4, 99)
        counters = load_checkpoint(folder, {"model": loaded[0]}, [loaded[1]])
        assert counters == {"step": 4} and same(state(*loaded), states[3])
        assert [p.name for p in folder.parent.iterdir()] == ["checkpoint"]


def test_the_kills_above_cover_a_whole_save(tmp_path):
    run = toy()
    save_checkpoint(tmp_path / "c", {"model": run[0]}, [run[1]], {"step": 0})
    assert save_killed(tmp_path / "c", run, 1, 8) and not save_killed(tmp_path / "c", run, 1, 5)
