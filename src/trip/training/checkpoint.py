"""Checkpoints of a training run: tensors in safetensors, counters in JSON, a folder renamed into place."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer


def save_checkpoint(
    folder: Path, modules: Mapping[str, nn.Module], optimizers: list[Optimizer], counters: dict
) -> None:
    """Write modules, optimizer moments and counters so that a kill at any moment leaves a usable checkpoint."""
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, module in modules.items():
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, temporary / f"{name}.safetensors")
    for index, optimizer in enumerate(optimizers):
        save_file(_moments(optimizer), temporary / f"optimizer-{index}.safetensors")
    (temporary / "counters.json").write_text(json.dumps(counters))
    previous = folder.with_name(f".{folder.name}.previous")
    if folder.exists():  # else `previous` may be all there is, after a kill between the two renames
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(folder, previous)
    os.replace(temporary, folder)
    shutil.rmtree(previous, ignore_errors=True)


def load_checkpoint(folder: Path, modules: Mapping[str, nn.Module], optimizers: list[Optimizer]) -> dict | None:
    """Restore what `save_checkpoint` wrote; None where there is no checkpoint yet."""
    previous = folder.with_name(f".{folder.name}.previous")
    folder = folder if folder.exists() else previous
    if not folder.exists():
        return None
    for name, module in modules.items():
        module.load_state_dict(load_file(folder / f"{name}.safetensors"))
    for index, optimizer in enumerate(optimizers):
        _restore_moments(optimizer, load_file(folder / f"optimizer-{index}.safetensors"))
    return json.loads((folder / "counters.json").read_text())


def _moments(optimizer: Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{i}/{name}": torch.as_tensor(v).contiguous()
        for i, s in state.items()
        for name, v in s.items()
        if v is not None
    }


def _restore_moments(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
