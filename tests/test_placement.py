"""Weights that rest elsewhere, or smaller: the same clips, or nearly."""

import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close

from tiny_models import SIZE, trip_pipeline
from trip.opening import compile_layers
from trip.placement import OFFLOADS, place, store_in_float8

CPU = torch.device("cpu")


def clip(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    image = Image.linear_gradient("L").convert("RGB").resize((SIZE, SIZE))
    generator = torch.Generator().manual_seed(0)
    return pipeline(image, "pan", num_inference_steps=3, generator=generator, output_type="pt").frames


@pytest.mark.parametrize("offload", OFFLOADS)
def test_offloaded_weights_give_the_same_clip_again_and_again(offload):
    expected, pipeline = clip(trip_pipeline()), place(trip_pipeline(), CPU, offload)
    for _ in range(2):
        assert torch.equal(clip(pipeline), expected)


def test_layers_fetch_all_their_weights(tmp_path):
    """On a CPU, offloaded weights are those that compute; written to disk, they are lost until they are fetched."""
    expected, pipeline = clip(trip_pipeline()), trip_pipeline()
    disk = str(tmp_path)
    pipeline.enable_group_offload(CPU, offload_type="leaf_level", offload_to_disk_path=disk, exclude_modules="fusion")
    assert any(
        not torch.equal(a, b)
        for a, b in zip(pipeline.unet.parameters(), trip_pipeline().unet.parameters(), strict=True)
    )
    for _ in range(2):
        assert torch.equal(clip(pipeline), expected)


def test_unknown_offload():
    with pytest.raises(ValueError, match=r"offload \(='disk'\).*sequential"):
        place(trip_pipeline(), CPU, "disk")


@pytest.mark.parametrize("offload", ["none", "model", "group"])
def test_float8_weights_take_a_byte_and_norms_stay(offload):
    expected, pipeline = clip(trip_pipeline()), trip_pipeline()
    store_in_float8(pipeline.unet)
    small = clip(place(pipeline, CPU, offload))
    assert_close(small, expected, atol=0.1, rtol=0)
    assert not torch.equal(small, expected)
    small_layers = {
        name: weight.dtype == torch.float8_e4m3fn
        for name, module in pipeline.unet.named_modules()
        for weight in module.parameters(recurse=False)
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear | nn.GroupNorm | nn.LayerNorm)
    }
    norms = (nn.GroupNorm, nn.LayerNorm)
    for name, is_small in small_layers.items():
        kept = isinstance(pipeline.unet.get_submodule(name), norms) or name.startswith("time_embedding")
        assert is_small == (not kept), name
    assert pipeline.unet.dtype == torch.float32


def test_networks_without_the_means_are_refused():
    with pytest.raises(ValueError, match=r"Linear.*float8"):
        store_in_float8(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"Linear.*--compile"):
        compile_layers(nn.Linear(2, 2))
