"""Gradient checkpointing at the size of the bundled model: a third less memory, the same loss."""

import json
import os
import subprocess
import sys

import pytest

STEP = """
import json, resource, sys
import torch
from trip.denoiser import TripDenoiser
from trip.noise_fusion import TemporalNoiseFusion
from trip.residual_unet import ResidualUNet3D
from trip.condition import still
from trip.training.objective import Noising, Objective, trip_loss
from trip.training.presets import MINI_FUSION, MINI_UNET

torch.manual_seed(0)
unet = ResidualUNet3D(**MINI_UNET)
denoiser = TripDenoiser(unet, TemporalNoiseFusion(**MINI_FUSION)).train()
if sys.argv[1] == "checkpointed":
    unet.enable_gradient_checkpointing()
z, eps = torch.randn(2, 16, 24, 16, 8, 8)
text, half = torch.randn(16, 32, 384), torch.full((16,), 0.5)
sigma = denoiser.fusion.table("sigma")
noising = Noising(timestep=torch.arange(16) * 60, eps=eps, signal=half**0.5, noise=half**0.5)
losses = trip_loss(denoiser, z, still(z[:, :, :1], text=text), noising, Objective(sigma=sigma))
losses.mean().backward()
gradient = sum(p.grad.square().sum() for p in denoiser.parameters() if p.grad is not None).sqrt()
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, losses.mean().item(), gradient.item()]))
"""


@pytest.mark.slow
def test_gradient_checkpointing_saves_a_third_of_the_memory() -> None:
    def step(mode: str) -> list[float]:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return json.loads(subprocess.check_output([sys.executable, "-c", STEP, mode], text=True, env=environment))

    plain, checkpointed = step("plain"), step("checkpointed")
    print(f"peak {plain[0]:.0f} MiB, with checkpointing {checkpointed[0]:.0f} MiB")
    assert checkpointed[0] < 0.7 * plain[0]
    assert checkpointed[1:] == pytest.approx(plain[1:], rel=1e-4)
