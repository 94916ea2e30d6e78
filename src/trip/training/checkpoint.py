"""Checkpoints of a training run: tensors in safetensors, counters in JSON, a folder renamed into place.

RUN/checkpoints/step-N holds a set of tensors a name (`model`, `ema`), the moments of every optimizer, and
counters.json. It is written under a hidden name, flushed to disk, and renamed in one step; older ones are deleted
only after that. A kill at any moment leaves the newest complete one.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from trip.training.sharding import fill, like, whole

Tensors = Mapping[str, Tensor]
NAME = re.compile(r"step-(\d+)")


def checkpoints(folder: Path) -> dict[int, Path]:
    """Complete checkpoints of a run by step, oldest first."""
    found = {int(match[1]): path for path in folder.glob("step-*") if (match := NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def save_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensors],
    optimizers: list[Optimizer],
    counters: dict,
    keep: int = 0,
    write: bool = True,
) -> Path:
    """Write folder/step-N, N = counters["step"], then delete all but the newest `keep` (0 keeps all).

    Args:
        write: False in all processes but one; they only take part in gathering what is sharded.

    Raises:
        OSError: a full disk and the like; nothing that was there before is lost, nothing half-written stays.
    """
    target = folder / f"step-{counters['step']}"
    files = {name: _contiguous(state) for name, state in tensors.items()}
    files |= {f"optimizer-{index}": _moments(optimizer) for index, optimizer in enumerate(optimizers)}
    if not write:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder / f".{target.name}"
    try:
        temporary.mkdir()
        for name, state in files.items():
            save_file(state, temporary / f"{name}.safetensors")
        (temporary / "counters.json").write_text(json.dumps(counters))
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        remove(target)
        os.replace(temporary, target)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(f"the checkpoint {target} cannot be written ({_reason(error)}); earlier ones are kept") from error
    _flush(folder)
    for step in list(checkpoints(folder))[:-keep] if keep else []:
        remove(folder / f"step-{step}")
    return target


def remove(path: Path) -> None:
    """Delete a checkpoint; its name goes first, so that a kill leaves no part of it under it."""
    if path.exists():
        hidden = path.with_name(f".{path.name}.old")
        os.replace(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def load_checkpoint(path: Path, tensors: Mapping[str, Tensors], optimizers: list[Optimizer]) -> dict:
    """Restore what `save_checkpoint` wrote into the same tensors and optimizers; returns the counters.

    Raises:
        ValueError: a checkpoint of other weights.
    """
    for name, state in tensors.items():
        saved = load_file(path / f"{name}.safetensors")
        different = sorted(k for k in state.keys() | saved.keys() if _shape(state, k) != _shape(saved, k))
        if different:
            raise ValueError(
                f"{path} holds other weights than this run trains ({len(different)} differ, e.g. {different[0]}); "
                "resume with the settings it was made with"
            )
        for key, value in saved.items():
            fill(state[key], value)
    for index, optimizer in enumerate(optimizers):
        _restore_moments(optimizer, load_file(path / f"optimizer-{index}.safetensors"))
    return json.loads((path / "counters.json").read_text())


def _contiguous(state: Tensors) -> dict[str, Tensor]:
    return {name: whole(value.detach()).contiguous() for name, value in state.items()}


def _shape(state: Tensors, key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None


def _flush(path: Path) -> None:
    """Have the disk write a file or folder now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return "the disk is full: free some space" if "No space left" in f"{reason} {error}" else " ".join(reason.split())


def _moments(optimizer: Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{i}/{name}": whole(torch.as_tensor(v)).contiguous()
        for i, s in state.items()
        for name, v in s.items()
        if v is not None
    }


def _restore_moments(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, value in tensors.items():
        index, name = key.split("/")
        parameter = parameters[int(index)]
        sharded = like(parameter, value) if value.shape == parameter.shape else value
        state.setdefault(int(index), {})[name] = sharded
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
