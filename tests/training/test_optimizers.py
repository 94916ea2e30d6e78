"""Optimisers: every weight moves, whatever happened to its storage."""

import pytest
import torch
from torch import nn

from trip.training import optimizers
from trip.training.optimizers import MatrixMuon, make_optimizers


def network() -> nn.Module:
    """A convolution, a temporal convolution, a linear layer and a norm: ranks 4, 5, 2 and 1."""
    torch.manual_seed(0)
    return nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv3d(8, 8, (3, 1, 1)), nn.Linear(8, 4), nn.LayerNorm(4)])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("moved", [False, True])
def test_every_weight_moves_also_when_a_wrapper_has_moved_its_storage(kind: str, moved: bool) -> None:
    module = network()
    optimizers = make_optimizers([(module, 1e-2)], kind, 0.0)
    if moved:
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()
    before = [p.detach().clone() for p in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    for optimizer, _ in optimizers:
        optimizer.step()
    for old, new in zip(before, module.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_muon_updates_are_orthogonal_and_have_adams_size() -> None:
    module = nn.ModuleList([nn.Linear(64, 32, bias=False)])
    weight = module[0].weight
    before = weight.detach().clone()
    weight.grad = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    for optimizer, _ in make_optimizers([(module, 1e-2)], "muon", 0.0):
        optimizer.step()
    update = weight.detach() - before
    singular = torch.linalg.svdvals(update)
    assert singular.max() / singular.min() < 2.5  # Newton-Schulz leaves them within about 0.7 to 1.2
    assert 0.1e-2 < update.square().mean().sqrt() < 0.3e-2  # Adam's is about 0.2 times the learning rate


@pytest.mark.parametrize("hardware", [False, True])
def test_muon_computes_in_bfloat16_where_the_hardware_does(monkeypatch: pytest.MonkeyPatch, hardware: bool) -> None:
    weight = nn.Parameter(torch.zeros(8, 8))
    weight.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(optimizers, "computes_bfloat16", lambda device: hardware)
    MatrixMuon([weight], 1.0, 0.0, "original").step()
    update = weight.detach()
    assert torch.equal(update, update.bfloat16().float()) == hardware


def test_the_original_scaling_follows_the_shape() -> None:
    """The root of out / in, at least 1, for a convolution as a matrix: a norm that a step leaves behind."""
    for shape, root in (((32, 8), 2.0), ((8, 8, 1, 4), 1.0)):
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        MatrixMuon([weight], 0.1, 0.0, "original").step()
        singular = torch.linalg.svdvals(weight.detach().flatten(1)) / (0.1 * root)
        assert singular.min() > 0.5 and singular.max() < 1.4


def test_an_unknown_optimizer_is_named() -> None:
    with pytest.raises(ValueError, match="sgd"):
        make_optimizers([(network(), 1e-2)], "sgd", 0.0)
