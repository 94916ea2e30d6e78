"""The plan of the full-size run: its counters against independent ones, its page against its JSON."""

import json
from pathlib import Path

import pytest
import torch
from benchmarks.meta_step import CudaArithmetic, Memory, measure_step, saved_bytes
from benchmarks.pages import with_tables
from benchmarks.scaling import at_batch, fits, gpu_bytes, plan, step_loss, tables
from torch import nn
from torch.profiler import ProfilerActivity, profile

from trip.denoiser import TripDenoiser
from trip.noise_fusion import TemporalNoiseFusion
from trip.residual_unet import ResidualUNet3D
from trip.training.config import TrainingConfig
from trip.training.memory import state_bytes
from trip.training.presets import MINI_FUSION, MINI_UNET

ROOT = Path(__file__).resolve().parents[2]
CONFIG = TrainingConfig(num_frames=8, objective="epsilon")


@pytest.fixture
def results() -> dict:
    return json.loads((ROOT / "docs/results/scaling.json").read_text())


def mini(device: str) -> TripDenoiser:
    with torch.device(device):
        return TripDenoiser(ResidualUNet3D(**MINI_UNET), TemporalNoiseFusion(**MINI_FUSION)).train()


def test_kept_bytes_are_what_autograd_saves_and_what_the_allocator_hands_out_at_trip_minis_size() -> None:
    meta = mini("meta")
    counted = measure_step(meta, step_loss(meta, CONFIG, 1, 8, 32), autocast=False).kept
    real = mini("cpu")
    loss = step_loss(real, CONFIG, 1, 8, 32)
    with saved_bytes(real) as sizes:
        loss()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        value = loss()
    allocated = sum(event.self_cpu_memory_usage for event in profiled.key_averages())
    assert value.requires_grad
    assert counted == pytest.approx(sum(sizes.values()), rel=0.03)
    assert counted == pytest.approx(allocated, rel=0.03)


def test_memory_follows_a_chain_of_linear_layers() -> None:
    with torch.device("meta"):
        layers = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False))
        x = torch.empty(10, 100)
    step = measure_step(layers, lambda: layers(x).sum(), autocast=False)
    assert (step.forward_flops, step.flops) == (2 * 2 * 10 * 100**2, 5 * 2 * 10 * 100**2)
    assert step.kept == 4000 + 4  # the hidden layer (x was there before) and the sum
    autocast = measure_step(layers, lambda: layers(x).sum())
    assert autocast.kept_casts == 2 * 100**2  # of the second: no gradient of x needs the first
    assert autocast.kept == 2 * 100**2 + 2000 + 2000 + 2  # casts of the weight and x, the hidden layer, the sum
    assert all(p.grad is None for p in layers.parameters())


def test_dropped_tensors_leave_the_count() -> None:
    memory = Memory(nn.Linear(1, 1))
    with memory:
        a = torch.empty(1000, device="meta")
        b = a[10:]
        assert memory.live == 4000
        del a
        assert memory.live == 4000
        del b
    assert (memory.live, memory.peak) == (0, 4000)


def test_cuda_arithmetic_casts_products_down_and_norms_up() -> None:
    x = torch.ones(1, 4, 8, 8)
    conv, norm = nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4)
    with CudaArithmetic():
        y = conv(x)
        assert (y.dtype, norm(y).dtype) == (torch.bfloat16, torch.float32)
    assert conv(x).dtype == torch.float32


def test_state_is_20_bytes_a_parameter_and_shared_ones_under_fsdp() -> None:
    assert state_bytes(80, 80).total == 20 * 80
    assert state_bytes(80, 80, shards=8).total == 20 * 10
    assert state_bytes(81, 80, shards=8).weights == 4 * 11
    assert state_bytes(80, 8).total == 4 * 80 + 16 * 8
    assert state_bytes(80, 80, "muon").total == 16 * 80
    with pytest.raises(ValueError, match=r"^optimizer='sgd' is unknown; choose 'adamw' or 'muon'$"):
        state_bytes(1, 1, "sgd")


def test_the_page_shows_the_json(results: dict) -> None:
    page = (ROOT / "docs/results/scaling.md").read_text()
    assert page.count("<!-- table: ") == len(tables(results))
    assert with_tables(page, tables(results)) == page
    assert json.loads(json.dumps(plan(results["measured"], results["assumed"]))) == results["plan"]


def test_saving_takes_one_gathered_tensor_and_is_below_the_step(results: dict) -> None:
    measured = results["measured"]
    sizes, step = measured["parameters"], at_batch(measured, True, 1)
    assert 3 * 3 * 1280 * 2560 == sizes["largest_tensor"] < sizes["largest_layer"]
    huge = {**measured, "parameters": {**sizes, "largest_tensor": 10**10}}
    for sharded, most in ((True, "saving"), (False, "optimizer")):
        used = gpu_bytes(step, sizes["unet"] + sizes["fusion"], huge, sharded, 1)
        assert used["most"] == most and (used["total"] - used["between"] == 4 * 10**10) == sharded


def test_fits_leaves_the_margin_free(results: dict) -> None:
    gpu, assumed = {"memory_gb": 80}, results["assumed"]
    assert fits(70.9e9, gpu, assumed) and not fits(71e9, gpu, assumed)


def test_measured_batches_are_met_by_the_chord(results: dict) -> None:
    ends = [at_batch(results["measured"], True, batch)["peak"] for batch in (1, 4, 8)]
    rows = [s["peak"] for s in results["measured"]["steps"] if s["trainable"] == "all" and s["checkpointed"]]
    assert [ends[0], ends[2]] == rows and ends[0] < ends[1] < ends[2]
