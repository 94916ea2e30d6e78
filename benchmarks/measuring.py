"""What the speed benchmarks share: clocks, alternating repeats, the machine's ceiling, and where a run's time goes.

CPUs are timed by the process's own CPU seconds, divided by its threads, because a shared machine's wall clock measures
its other users; accelerators by the wall clock, after they are done. Every ratio compares runs that alternate.
"""

import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

KINDS = {
    "products": ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"),
    "attention": ("_scaled_dot_product",),
    "norms": ("native_group_norm", "native_layer_norm"),
    "copies": ("_to_copy", "copy_", "clone", "cat"),
}
"""Kinds of operations and how their names start; products must match whole. All others are "pointwise and rest"."""


def now(device: torch.device) -> float:
    """Seconds on the clock of the device, see the module."""
    if device.type == "cpu":
        return time.process_time() / torch.get_num_threads()
    torch.accelerator.synchronize(device)
    return time.perf_counter()


def seconds(function: Callable[[], Any], device: torch.device) -> float:
    """How long one call takes."""
    start = now(device)
    function()
    return now(device) - start


def alternate(
    functions: dict[str, Callable[[], Any]], repeats: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Call every function in turn, `repeats` times after one call each that is not timed.

    Returns:
        Seconds of the timed calls, and what the first ones returned.
    """
    results = {name: function() for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(seconds(function, device))
    return times, results


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Median of the pairwise ratios of alternating runs, with the smallest and the largest."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


@torch.no_grad()
def ceiling(size: int, channels: int, dtype: torch.dtype, device: torch.device, repeats: int = 5) -> dict[str, float]:
    """FLOP/s of a large matrix product and of a large 3x3 convolution, best of `repeats`; and the larger of the two.

    Args:
        size: rows, columns and depth of the product. channels: of the convolution, over 16 pictures of 32 x 32.
    """
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    x = torch.randn(16, channels, 32, 32, device=device).to(dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
    work = {
        "matrix": (lambda: a @ b, 2 * size**3),
        "convolution": (lambda: F.conv2d(x, weight, padding=1), 2 * 9 * channels**2 * x[:, 0].numel()),
    }
    rates = {}
    for name, (function, flops) in work.items():
        function()
        rates[name] = flops / min(seconds(function, device) for _ in range(repeats))
    return rates | {"highest": max(rates.values())}


def count_flops(function: Callable[[], Any]) -> int:
    """Floating-point operations of products, convolutions and attention in one call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def peak_memory(device: torch.device) -> int:
    """Bytes: the process's largest resident size so far, or the accelerator's largest allocation."""
    if device.type != "cpu":
        return torch.accelerator.max_memory_allocated(device)
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


# ------------------------------------------------------------------------------------------------------ profile


@dataclass
class Spent:
    """Seconds and calls of one operation."""

    seconds: float = 0.0
    calls: int = 0


class OperationTimes(TorchDispatchMode):
    """Adds up the CPU time of every operation of this thread, forward and backward.

    Unlike a profile by the wall clock it is right on a machine with other work; with several threads it sees one.
    """

    def __init__(self):
        super().__init__()
        self.spent: dict[str, Spent] = defaultdict(Spent)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        start = time.thread_time()
        result = func(*args, **(kwargs or {}))
        spent = self.spent[func.overloadpacket.__name__]
        spent.seconds += time.thread_time() - start
        spent.calls += 1
        return result


def kind_of(operation: str) -> str:
    """The row of `KINDS` an operation belongs to."""
    for kind, names in KINDS.items():
        if operation in names or (kind != "products" and operation.startswith(names)):
            return kind
    return "pointwise and rest"


def profile(function: Callable[[], Any]) -> dict[str, float]:
    """Share of a call's time on the CPU by kind of operation, largest first; they sum to 1."""
    with OperationTimes() as times:
        function()
    total = sum(spent.seconds for spent in times.spent.values())
    kinds: dict[str, float] = defaultdict(float)
    for operation, spent in times.spent.items():
        kinds[kind_of(operation)] += spent.seconds / total
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


@contextmanager
def stopwatch(modules: dict[str, nn.Module], device: torch.device) -> Iterator[dict[str, list[float]]]:
    """Seconds of every call of each module while the context lasts."""
    times: dict[str, list[float]] = {name: [] for name in modules}
    starts: dict[str, float] = {}
    hooks = []
    for name, module in modules.items():
        hooks.append(module.register_forward_pre_hook(lambda *_, n=name: starts.update({n: now(device)})))
        hooks.append(module.register_forward_hook(lambda *_, n=name: times[n].append(now(device) - starts[n])))
    try:
        yield times
    finally:
        for hook in hooks:
            hook.remove()


# -------------------------------------------------------------------------------------------------------- check


def fallen(ratios: dict[str, float], baseline: dict[str, float], allowed: float = 0.2) -> list[str]:
    """One line for every tracked ratio that is more than `allowed` below its baseline, or missing."""
    lines = []
    for name, before in baseline.items():
        value = ratios.get(name)
        if value is None:
            lines.append(f"{name}: not measured, {before:.2f} in the baseline")
        elif value < (1 - allowed) * before:
            lines.append(f"{name}: {value:.2f}, more than {allowed:.0%} below {before:.2f}")
    return lines
