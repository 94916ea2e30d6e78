"""Variables of the environment change no run: they have no say, or are refused."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from trip.training.config import TrainingConfig
from trip.training.environment import check_environment, overruled
from trip.training.run import train
from trip.training.zero import set_up_zero

MEDDLING = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_GRADIENT_CLIPPING": "0.001",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "FSDP_VERSION": "1",
}


def test_variables_of_the_environment_change_no_bit(
    config: TrainingConfig, tmp_path: Path, monkeypatch, capsys
) -> None:
    config = dataclasses.replace(config, steps=2, accumulation=2, keep_checkpoints=1)
    train(config, tmp_path / "plain", quiet=True, cpu=True)
    assert "not obeyed" not in capsys.readouterr().err
    for name, value in MEDDLING.items():
        monkeypatch.setenv(name, value)
    train(config, tmp_path / "meddled", quiet=True, cpu=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines if "not obeyed" in line] == list(MEDDLING)[:4]
    logs = [
        [json.loads(x) for x in (tmp_path / n / "log.jsonl").read_text().splitlines()] for n in ("plain", "meddled")
    ]
    for one, other in zip(*logs, strict=True):
        assert (one["loss"], one["grad_norm"]) == (other["loss"], other["grad_norm"])
    one, other = (
        load_file(tmp_path / n / "checkpoints" / "step-2" / "model.safetensors") for n in ("plain", "meddled")
    )
    assert all(value.equal(other[name]) for name, value in one.items())


def test_what_launchers_set_as_the_run_has_it_is_not_mentioned() -> None:
    config = TrainingConfig(mixed_precision="bf16")
    assert overruled(config, {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_DYNAMO_BACKEND": "NO"}) == []
    assert overruled(config, {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}) == []


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "ACCELERATE_USE_PARALLELISM_CONFIG .*; unset it"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "ACCELERATE_USE_MEGATRON_LM .*; unset it"),
        ({"ACCELERATE_USE_FSDP": "true"}, "version 1, and runs are sharded by 2; set FSDP_VERSION=2"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "1"},
            "give --gradient-checkpointing",
        ),
        ({"ACCELERATE_USE_FSDP": "1", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "FSDP_OFFLOAD_PARAMS"),
        ({"ACCELERATE_USE_FSDP": "1", "FSDP_VERSION": "2", "FSDP_IGNORED_MODULES": "unet"}, "FSDP_IGNORED_MODULES"),
        (
            {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
            "asked for several processes and has started one, .*; start them with torchrun --nproc-per-node N",
        ),
    ],
)
def test_what_would_change_a_run_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_environment(environment)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"FSDP_OFFLOAD_PARAMS": "true"},
        {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "ACCELERATE_MIXED_PRECISION": "no"},
        {"MASTER_ADDR": "127.0.0.1"},
        {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "false", "LOCAL_RANK": "0"},
    ],
)
def test_what_launchers_set_is_taken(environment: dict[str, str]) -> None:
    check_environment(environment)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": {"type": "Adam"}},
        {"scheduler": {}},
        {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
    ],
)
def test_settings_of_deepspeed_that_the_run_has_are_refused(settings: dict) -> None:
    plugin = SimpleNamespace(zero_stage=2, deepspeed_config=settings)
    with pytest.raises(ValueError, match=r"DeepSpeed's config has .*; remove it there"):
        set_up_zero(plugin, TrainingConfig(mixed_precision="bf16"), processes=2)
