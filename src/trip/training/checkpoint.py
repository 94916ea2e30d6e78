"""Checkpoints of a training run: tensors in safetensors, counters in JSON, a folder renamed into place.

RUN/checkpoints/step-N holds a set of tensors a name (`model`, `ema`), the moments of every optimizer, and
counters.json. It is written inside a private folder, flushed to disk, and renamed in one step; older ones are deleted
only after that. A kill at any moment leaves the newest complete one. What is sharded is gathered tensor by tensor, and
kept by the writer alone, on its CPU, until the file is written.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from trip.data.text import printable, read_json
from trip.fields import check_value
from trip.files import discard
from trip.training.folder import files, replaced
from trip.training.sharding import fill, gathered, like

Tensors = Mapping[str, Tensor]
NAME = re.compile(r"step-(0|[1-9]\d{0,17})")
FILE = re.compile(r"model\.safetensors|ema\.safetensors|optimizer-\d+\.safetensors|counters\.json")
MOMENT = re.compile(r"(\d{1,9})/(\w+)", re.ASCII)
COUNTERS = "counters.json"
COUNTED = {"step": int, "skipped": int, "bad": int, "seconds": float, "scaler": dict | None}
"""What counters.json holds."""

ADAM = frozenset({"step", "exp_avg", "exp_avg_sq"})
MOMENTS = {"AdamW": ADAM, "WholeMoments": ADAM, "MatrixMuon": frozenset({"momentum_buffer"})}
"""What optimizers keep of every parameter."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ANOTHER = "resume from another checkpoint, or copy this one again"


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

    One with files of others in it is not deleted.

    Args:
        write: False in all processes but one; they only take part in gathering what is sharded.

    Raises:
        OSError: a full disk and the like; nothing that was there before is lost, nothing half-written stays.
    """
    target = folder / f"step-{counters['step']}"
    parts = {name: iter(state.items()) for name, state in tensors.items()}
    parts |= {f"optimizer-{index}": moments(optimizer) for index, optimizer in enumerate(optimizers)}
    if not write:
        for part in parts.values():
            gathered(part, keep=False)
        return target
    try:
        with replaced(target) as temporary:
            temporary.mkdir()
            for name, part in parts.items():
                save_file(gathered(part), temporary / f"{name}.safetensors")
            (temporary / COUNTERS).write_text(json.dumps(counters))
    except Exception as error:
        raise OSError(f"the checkpoint {target} cannot be written ({_reason(error)}); earlier ones are kept") from error
    for step in list(checkpoints(folder))[:-keep] if keep else []:
        remove(folder / f"step-{step}")
    return target


def remove(path: Path) -> None:
    """Delete a checkpoint, unless somebody put other files there."""
    if all(FILE.fullmatch(name) for name, _ in files(path)):
        discard(path)


def load_checkpoint(path: Path, tensors: Mapping[str, Tensors], optimizers: list[Optimizer]) -> dict:
    """Restore what `save_checkpoint` wrote into the same tensors and optimizers; returns the counters.

    Raises:
        ValueError: a checkpoint of other weights, or a file of it that is damaged, which is named.
    """
    counters = read_counters(path)
    for name, state in tensors.items():
        with opened(path / f"{name}.safetensors") as saved:
            _check_weights(path, state, saved)
            for key in keys(saved):
                fill(state[key], saved.get_tensor(key))
    for index, optimizer in enumerate(optimizers):
        restore_moments(optimizer, path / f"optimizer-{index}.safetensors")
    return counters


def read_counters(path: Path) -> dict[str, Any]:
    """counters.json of a checkpoint.

    Raises:
        ValueError: not what `save_checkpoint` writes; names the file.
    """
    file = path / COUNTERS
    counters = read_json(file)
    check_value(str(file), counters, dict)
    for name, kind in COUNTED.items():
        if name in counters or name == "step":
            check_value(f"{file}: {name}", counters.get(name), kind)
    wrong = [name for name in ("step", "skipped", "bad", "seconds") if counters.get(name, 0) < 0]
    if wrong or path.name != f"step-{counters['step']}":
        name = (wrong or ["step"])[0]
        raise ValueError(f"{file}: {name} (={counters[name]}) is not of {path.name}; {ANOTHER}")
    return counters


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A safetensors file whose tensors are read one by one.

    Raises:
        ValueError: it is missing or damaged.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing; {ANOTHER}")
    try:
        with safe_open(file, "pt") as saved:
            yield saved
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged ({_reason(error)}); {ANOTHER}") from error


def keys(saved: Any) -> list[str]:
    """Names of a file's tensors."""
    return list(saved.keys())


def _check_weights(path: Path, state: Tensors, saved: Any) -> None:
    there = {key: _kind(saved, key) for key in keys(saved)}
    wanted = {key: (tuple(value.shape), value.dtype) for key, value in state.items()}
    different = sorted(key for key in there.keys() | wanted.keys() if there.get(key) != wanted.get(key))
    if different:
        one = printable(different[0], 80)
        raise ValueError(
            f"{path} holds other weights than this run trains ({len(different)} differ, e.g. {one}); "
            "resume with the settings it was made with"
        )


def _kind(saved: Any, key: str) -> tuple[tuple[int, ...], torch.dtype | None]:
    part = saved.get_slice(key)
    return tuple(part.get_shape()), DTYPES.get(part.get_dtype())


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return "the disk is full: free some space" if "No space left" in f"{reason} {error}" else " ".join(reason.split())


def moments(optimizer: Any) -> Iterator[tuple[str, Tensor]]:
    """What an optimizer keeps of every parameter, as ("INDEX/NAME", tensor), in the same order in all processes."""
    if hasattr(optimizer, "named_moments"):  # ZeRO's, which gathers each as it is asked for
        yield from optimizer.named_moments()
        return
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                yield f"{index}/{name}", torch.as_tensor(value)


def restore_moments(optimizer: Any, file: Path) -> None:
    """Fill an optimizer from a file of its moments, tensor by tensor.

    Raises:
        ValueError: a file of other parameters, or a damaged one.
    """
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with opened(file) as saved:
        for key in keys(saved):
            index, name = _moment_of(key, _kind(saved, key)[0], parameters, file)
            value = saved.get_tensor(key)
            sharded = like(parameters[index], value) if value.shape == parameters[index].shape else value
            state.setdefault(index, {})[name] = sharded
    names = {frozenset(values) for values in state.values()}
    expected = MOMENTS.get(type(optimizer).__name__)
    if len(names) > 1 or (expected and names and names != {expected}):
        raise ValueError(f"{file} lacks moments, or has others than this optimizer's; {ANOTHER}")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _moment_of(key: str, shape: tuple[int, ...], parameters: list[Tensor], file: Path) -> tuple[int, str]:
    """Index of the parameter, and name of the moment."""
    match = MOMENT.fullmatch(key)
    if match and int(match[1]) < len(parameters):
        index, name = int(match[1]), match[2]
        if shape == (() if name == "step" else tuple(parameters[index].shape)):
            return index, name
    raise ValueError(f"{file} holds {key[:80]!r} of shape {shape}, which fits no parameter of this run; {ANOTHER}")
