"""GroupNorm in half precision, and layers that start at zero."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from trip.layers.basic import GroupNorm, zero_init


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights", [torch.float32, None])
def test_group_norm_keeps_dtype_and_layout(dtype, weights):
    norm = GroupNorm(4, 16)
    torch.nn.init.normal_(norm.weight)
    norm = norm.to(weights or dtype)
    x = torch.randn(2, 16, 3, 5).to(dtype).contiguous(memory_format=torch.channels_last)
    y = norm(x)
    expected = F.group_norm(x.float(), 4, norm.weight.float(), norm.bias.float())
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert_close(y.float(), expected, atol=tolerance, rtol=tolerance)


def test_zero_init():
    layer = torch.nn.Linear(3, 2)
    zero_init(layer)
    assert not layer(torch.randn(4, 3)).any()


def test_group_norm_learns_behind_frozen_layers():
    """torch's own channels-last backward crashes the process here."""
    x = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    norm = GroupNorm(4, 8)
    norm(x).square().sum().backward()
    reference = torch.nn.GroupNorm(4, 8)
    reference(x.contiguous()).square().sum().backward()
    torch.testing.assert_close(norm.weight.grad, reference.weight.grad, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("side", [8, 32])
def test_half_precision_over_few_and_many_positions(side):
    """Few are computed in float32, many by torch's own kernel; the difference is the rounding of the result."""
    x = (torch.randn(2, 16, side, side) + 3).bfloat16().contiguous(memory_format=torch.channels_last)
    norm = GroupNorm(4, 16).bfloat16()
    with torch.no_grad():
        assert_close(norm(x).float(), F.group_norm(x.float(), 4), atol=2e-2, rtol=1e-2)
