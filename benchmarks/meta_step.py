"""A training step on the meta device: what it computes and what memory it takes, without either.

Meta tensors have shapes and no content, so a network of any size is built and differentiated in seconds. Three things
that CUDA does and the meta device does not are added by `CudaArithmetic`: bfloat16 autocast, fused attention, fused
dropout. `Memory` follows every storage from its creation to its end; `torch.utils.flop_counter` counts the products.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

LOWERED = {F.linear, F.conv2d}
"""Functions of our networks that CUDA's autocast computes in bfloat16 (attention is treated apart)."""

RAISED = {F.group_norm, F.layer_norm}
"""And those that it computes in float32; all others take what they get."""


class CudaArithmetic(TorchFunctionMode):
    """Autocast to bfloat16, attention that keeps no matrix of scores, and dropout that keeps a mask of bytes.

    Casts of float32 weights that need gradients are kept until `forget_casts`, as autocast keeps them until the
    forward pass ends. Attention masks are left out: they change neither shapes nor products.

    Args:
        autocast: False leaves dtypes as they are.
    """

    def __init__(self, autocast: bool = True):
        super().__init__()
        self.autocast, self.casts, self.keep = autocast, {}, True

    def forget_casts(self) -> None:
        """The forward pass is over; recomputed layers keep no casts beyond their own use."""
        self.casts, self.keep = {}, False

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called in place of every torch function."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            given = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))
            return fused_attention(*map(self.lower, given[:3]))
        if func is F.dropout and kwargs.get("training", True):
            return torch.native_dropout(args[0], kwargs.get("p", 0.5), True)[0] if kwargs.get("p", 0.5) else args[0]
        if func in LOWERED:
            args, kwargs = [self.lower(x) for x in args], {name: self.lower(x) for name, x in kwargs.items()}
        if func in RAISED:
            args, kwargs = [self.lift(x) for x in args], {name: self.lift(x) for name, x in kwargs.items()}
        return func(*args, **kwargs)

    def lower(self, x: Any) -> Any:
        """float32 tensors to bfloat16, weights from the kept casts."""
        if not (self.autocast and isinstance(x, Tensor) and x.dtype == torch.float32):
            return x
        if not (self.keep and x.requires_grad and x.is_leaf):
            return x.to(torch.bfloat16)
        if id(x) not in self.casts:
            self.casts[id(x)] = x.to(torch.bfloat16)
        return self.casts[id(x)]

    def lift(self, x: Any) -> Any:
        """bfloat16 tensors to float32."""
        lowered = self.autocast and isinstance(x, Tensor) and x.dtype == torch.bfloat16
        return x.float() if lowered else x


def fused_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """b heads n d; the kernels that CUDA has for half precision and for float32, neither with a matrix of scores."""
    if query.dtype == torch.float32:
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)[0]
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]


class Memory(TorchDispatchMode):
    """Bytes of all storages that are alive, and their maximum.

    Workspaces inside kernels, and what an allocator rounds up, are not seen.

    Attributes:
        live: bytes now, of storages made under the mode.
        casts: of them, of lower-precision copies of weights.
        gradients: of them, in weights' `.grad`.
        peak: largest `live`.
        peak_apart: largest `live` without casts and gradients.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.live = self.casts = self.gradients = self.peak = self.peak_apart = 0
        self.weights = {storage(p)._cdata for p in module.parameters()}
        self.sizes = dict.fromkeys(self.weights, 0)
        self.kinds: dict[int, str] = {}
        self.hooks = [
            p.register_post_accumulate_grad_hook(self.accumulated) for p in module.parameters() if p.requires_grad
        ]

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for hook in self.hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called around every operation, those of the backward pass included."""
        made = func(*args, **(kwargs or {}))
        kind = "casts" if func is torch.ops.aten._to_copy.default and self.is_weight(args[0]) else "others"
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.add(tensor, kind)
        return made

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether the tensor is a weight or a view of one."""
        return storage(tensor)._cdata in self.weights

    def add(self, tensor: Tensor, kind: str) -> None:
        """Count the tensor's storage, unless it is known."""
        kept = storage(tensor)
        key, size = kept._cdata, kept.nbytes()
        if key in self.sizes:
            return
        self.sizes[key], self.kinds[key] = size, kind
        weakref.finalize(kept, self.remove, key).atexit = False
        self.live += size
        self.casts += size * (kind == "casts")
        self.peak = max(self.peak, self.live)
        self.peak_apart = max(self.peak_apart, self.live - self.casts - self.gradients)

    def remove(self, key: int) -> None:
        """The storage has ended."""
        size, kind = self.sizes.pop(key), self.kinds.pop(key)
        self.live -= size
        self.casts -= size * (kind == "casts")
        self.gradients -= size * (kind == "gradients")

    def accumulated(self, weight: Tensor) -> None:
        """A weight has its gradient."""
        assert weight.grad is not None
        key = storage(weight.grad)._cdata
        if self.kinds.get(key) == "others":
            self.kinds[key] = "gradients"
            self.gradients += self.sizes[key]


class Flops(FlopCounterMode):
    """The counter without its sums per module, whose hooks would keep recomputed layers alive."""

    class Everything:
        """Stands for a tracker of modules: all is in one."""

        parents = {"Global"}

        def __enter__(self) -> None: ...

        def __exit__(self, *exception: Any) -> None: ...

    def __init__(self):
        super().__init__(display=False)
        self.mod_tracker: Any = self.Everything()


def storage(tensor: Tensor) -> torch.UntypedStorage:
    """What the tensor is a view of."""
    return tensor.untyped_storage()


@dataclass(frozen=True, kw_only=True)
class Step:
    """One forward and backward pass.

    Attributes:
        forward_flops, flops: of the forward pass, and of both with what is recomputed; a multiply-add is two.
        kept: bytes alive between the passes: activations kept for the backward pass, and casts of weights.
        kept_casts: of them, casts.
        peak: most bytes alive at once, gradients and casts included; the float32 weights are not.
        peak_apart: the same without gradients and casts.
    """

    forward_flops: int
    flops: int
    kept: int
    kept_casts: int
    peak: int
    peak_apart: int


def measure_step(module: nn.Module, loss: Callable[[], Tensor], autocast: bool = True) -> Step:
    """Run a loss and its gradients; gradients are dropped again.

    Args:
        module: whose weights count as weights. loss: forward pass to one number.
        autocast: bfloat16 arithmetic, as accelerate's `mixed_precision: bf16`.
    """
    memory, flops, cuda = Memory(module), Flops(), CudaArithmetic(autocast)
    with flops, memory, cuda:
        value = loss()
        cuda.forget_casts()
        forward, kept, kept_casts = flops.get_total_flops(), memory.live, memory.casts
        # `backward` itself would be a torch function, inside which modes rest; layers are recomputed there
        _engine_run_backward((value,), (torch.ones_like(value),), False, False, (), True, True)
    module.zero_grad(set_to_none=True)
    return Step(
        forward_flops=forward,
        flops=flops.get_total_flops(),
        kept=kept,
        kept_casts=kept_casts,
        peak=memory.peak,
        peak_apart=memory.peak_apart,
    )


@torch.no_grad()
def measure_inference(module: nn.Module, call: Callable[[], Any]) -> tuple[int, int]:
    """(FLOPs, peak bytes) of a call in the module's own precision, without gradients."""
    memory, flops = Memory(module), Flops()
    with flops, memory, CudaArithmetic(autocast=False):
        call()
    return flops.get_total_flops(), memory.peak


@contextmanager
def saved_bytes(module: nn.Module) -> Iterator[dict[int, int]]:
    """Sizes of the distinct storages that autograd saves, weights left out: an independent count of `Step.kept`."""
    weights = {storage(p)._cdata for p in module.parameters()}
    sizes: dict[int, int] = {}
    alive: list[torch.UntypedStorage] = []

    def pack(tensor: Tensor) -> Tensor:
        kept = storage(tensor)
        if kept._cdata not in weights:
            sizes[kept._cdata] = kept.nbytes()
            alive.append(kept)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes
