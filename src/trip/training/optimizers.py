"""Optimisers of the trainer: AdamW, or Muon for the matrices and AdamW for the rest."""

from contextlib import nullcontext

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.overrides import TorchFunctionMode

from trip.training.environment import computes_bfloat16

BETAS = (0.9, 0.99)


class MatrixMuon(torch.optim.Muon):
    """`torch.optim.Muon` over weights of any rank: a convolution out x in x k... is the matrix out x (in k...).

    Args:
        scaling: of updates. "match_rms_adamw": to the RMS of Adam's (Liu et al. 2025), so that a learning rate means
            the same for both; "original": by the root of out / in, at least 1 (Jordan 2024).
    """

    def __init__(self, params: list[nn.Parameter], lr: float, weight_decay: float, scaling: str = "match_rms_adamw"):
        self.weights = params
        self.matrices = [nn.Parameter(p.detach().flatten(1)) for p in params]
        super().__init__(self.matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn=scaling)

    def step(self, closure=None):
        """One update from the gradients of the original weights."""
        for weight, matrix in zip(self.weights, self.matrices, strict=True):
            matrix.data = weight.data.flatten(1)  # a view, made anew: wrappers may have moved the weight since
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        computed = nullcontext() if computes_bfloat16(self.matrices[0].device) else in_float32()
        with computed:
            loss = super().step(closure)
        for matrix in self.matrices:
            matrix.grad = None  # a view, which would hold the weight's gradient until the next step
        return loss


class in_float32(TorchFunctionMode):
    """Leave tensors as they are where they would become bfloat16: torch's iteration casts, whatever the hardware."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return args[0].clone() if func is torch.Tensor.bfloat16 else func(*args, **(kwargs or {}))


def make_optimizers(
    groups: list[tuple[nn.Module, float]], kind: str, weight_decay: float
) -> list[tuple[Optimizer, list[float]]]:
    """Optimisers of what requires gradients, with the peak learning rate of each of their parameter groups.

    Args:
        groups: (module, learning rate), e.g. the backbone and the fusion. kind: "adamw" or "muon".
    """
    if kind not in ("adamw", "muon"):
        raise ValueError(f"optimizer={kind!r} is unknown; choose 'adamw' or 'muon'")
    trained = [([p for p in module.parameters() if p.requires_grad], rate) for module, rate in groups]
    if kind == "adamw":
        named = [{"params": weights, "lr": rate} for weights, rate in trained if weights]
        return [(AdamW(named, betas=BETAS, weight_decay=weight_decay), [group["lr"] for group in named])]
    matrices = [([p for p in weights if p.ndim >= 2], rate) for weights, rate in trained]
    others = [
        {"params": vectors, "lr": rate, "weight_decay": 0.0}
        for weights, rate in trained
        if (vectors := [p for p in weights if p.ndim < 2])
    ]
    adamw = [(AdamW(others, betas=BETAS), [group["lr"] for group in others])] if others else []
    return [*adamw, *((MatrixMuon(weights, rate, weight_decay), [rate]) for weights, rate in matrices if weights)]
