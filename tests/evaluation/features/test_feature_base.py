"""Padding, resizing, chunks and strict loading."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from trip.evaluation.features.base import (
    FeatureNetwork,
    FrameFeatures,
    VideoFeatures,
    conv_same,
    fold_norms,
    load_strictly,
    pad_same,
    squash,
)


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 3))
def test_same_padding_gives_tensorflows_output_size_with_the_smaller_half_first(n, kernel, stride):
    x = torch.ones(1, 1, n)
    padded = pad_same(x, (kernel,), (stride,))
    total = max((math.ceil(n / stride) - 1) * stride + kernel - n, 0)  # TensorFlow's documentation, the other form
    expected = F.pad(x, (total // 2, total - total // 2))
    assert torch.equal(padded, expected)


def test_same_padding_keeps_axes_apart():
    padded = pad_same(torch.ones(1, 1, 4, 5, 6), (7, 3, 1), (2, 1, 1))
    assert padded.shape[2:] == (4 + 5, 5 + 2, 6)
    assert padded[0, 0, :2].sum() == 0 and padded[0, 0, -3:].sum() == 0 and padded.sum() == 4 * 5 * 6


@pytest.mark.parametrize("side, kernel, stride", [(9, 3, 1), (9, 3, 2), (8, 3, 2), (8, 5, 2), (7, 1, 2), (8, 2, 1)])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Conv3d])
def test_a_convolution_that_pads_by_itself_is_that_of_the_padded_input(kind, side, kernel, stride):
    torch.manual_seed(0)
    conv = kind(4, 6, kernel, stride, groups=2)
    x = torch.randn(2, 4, *(side,) * len(conv.kernel_size))
    expected = conv(pad_same(x, conv.kernel_size, conv.stride))
    torch.testing.assert_close(conv_same(conv, x), expected, rtol=0, atol=1e-6)
    assert expected.shape[2:] == (math.ceil(side / stride),) * len(conv.kernel_size)


class Unit(nn.Module):
    """A convolution, a normalisation, and another of both that no one names."""

    folds = (("conv", "norm"), ("absent", "norm"))

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-3)
        self.free = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.free(self.norm(self.conv(x)))


def test_folded_norms_change_nothing_but_their_number():
    torch.manual_seed(0)
    unit = Unit().eval()
    for value in (unit.norm.running_mean, unit.norm.bias, unit.norm.weight):
        nn.init.normal_(value)
    nn.init.uniform_(unit.norm.running_var, 0.1, 2)
    x = torch.randn(2, 3, 8, 8)
    expected = unit(x)
    folded = fold_norms(nn.Sequential(unit))
    torch.testing.assert_close(folded(x), expected, rtol=1e-5, atol=1e-5)
    assert [isinstance(m, nn.BatchNorm2d) for m in (unit.norm, unit.free)] == [False, True]


def test_squash_is_bilinear_between_pixel_centres_without_antialias():
    frames = torch.randint(0, 256, (1, 5, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = squash(frames, 4)

    def weights(n: int) -> np.ndarray:
        matrix = np.zeros((4, n))
        for i in range(4):
            place = min(max((i + 0.5) * n / 4 - 0.5, 0), n - 1)
            low = int(place)
            matrix[i, low] += 1 - (place - low)
            matrix[i, min(low + 1, n - 1)] += place - low
        return matrix

    expected = np.einsum("ih,jw,nhwc->ncij", weights(5), weights(8), frames.numpy()) / 127.5 - 1
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_squash_leaves_the_right_size_alone():
    frames = torch.arange(48, dtype=torch.uint8).reshape(1, 4, 4, 3)
    assert torch.equal(squash(frames, 4), frames.permute(0, 3, 1, 2) / 127.5 - 1)


def means(x: torch.Tensor) -> torch.Tensor:
    """Mean colours of frames or clips."""
    return x.flatten(2).mean(-1)


@pytest.mark.parametrize("kind, shape", [(FrameFeatures, (2, 16, 3)), (VideoFeatures, (2, 3))])
def test_chunks_do_not_change_features(clips, kind, shape):
    options = {"name": "means", "size": 8, "network": means, "prepare": lambda frames: squash(frames, 8)}
    whole, parts = kind(chunk=100, **options), kind(chunk=1, **options)
    assert isinstance(whole, FeatureNetwork)
    assert whole(clips).shape == shape and whole(clips).dtype == torch.float32
    torch.testing.assert_close(whole(clips), parts(clips), rtol=0, atol=1e-6)


def test_a_video_network_sees_frames_in_order_and_only_those_it_picks(clips):
    seen = []
    network = VideoFeatures(
        name="spy",
        size=24,
        network=lambda x: seen.append(x) or means(x),
        prepare=lambda frames: squash(frames, 24),
        pick=lambda count: (0, count - 1),
    )
    network(clips)
    torch.testing.assert_close(seen[1][0, :, 1], squash(clips[1, -1:], 24)[0])
    assert seen[0].shape == (1, 3, 2, 24, 24)


def test_loading_is_strict_and_says_what_differs(tmp_path):
    file, network = tmp_path / "w.safetensors", nn.Linear(2, 3)
    save_file({"weight": torch.ones(3, 2).half(), "bias": torch.zeros(3).half()}, file)
    loaded = load_strictly(network, file, "a line")
    assert loaded.weight.dtype == torch.float32 and loaded.weight.sum() == 6 and not loaded.weight.requires_grad
    for tensors in ({"weight": torch.ones(3, 2)}, {"weight": torch.ones(2, 2), "bias": torch.zeros(3)}):
        save_file(tensors, file)
        with pytest.raises(ValueError, match=r"does not hold a line: 1 tensors differ"):
            load_strictly(nn.Linear(2, 3), file, "a line")
    file.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="no readable safetensors"):
        load_strictly(network, file, "a line")
