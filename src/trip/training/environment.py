"""What environment variables may decide about a run: how many processes there are, and on which devices.

accelerate reads many more, which a launcher, another project or a shell's profile may have left there. Those that
would change what is computed have no say, which is told, or are refused.
"""

import os
from collections.abc import Mapping

import torch

from trip.training.config import TrainingConfig

RANKS = ("RANK", "LOCAL_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""Any of them is set in each of several processes."""

REFUSED = {
    "ACCELERATE_USE_PARALLELISM_CONFIG": "runs are not split by tensors or sequences; unset it",
    "ACCELERATE_USE_MEGATRON_LM": "runs are not Megatron's; unset it",
}
"""Switches that must not be on."""

REFUSED_OF_FSDP = {
    "FSDP_ACTIVATION_CHECKPOINTING": "it renames weights; unset it, and give --gradient-checkpointing",
    "FSDP_OFFLOAD_PARAMS": "weights stay on their devices; unset it",
}
"""The same, where FSDP is on."""


def check_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse what would change a run, or what did not start as it was asked to.

    Raises:
        ValueError: names the variable and the remedy.
    """
    refused = REFUSED | (REFUSED_OF_FSDP if on("ACCELERATE_USE_FSDP", environment) else {})
    for name, remedy in refused.items():
        if on(name, environment):
            raise ValueError(f"the environment has {name} (={environment[name]!r}), and {remedy}")
    if on("ACCELERATE_USE_FSDP", environment):
        if environment.get("FSDP_VERSION", "1") != "2":
            raise ValueError(
                "the environment asks for FSDP of version 1, and runs are sharded by 2; set FSDP_VERSION=2"
            )
        if environment.get("FSDP_IGNORED_MODULES"):
            raise ValueError(
                "the environment has FSDP_IGNORED_MODULES, whose weights would differ from process to process; unset it"
            )
    launched = "ACCELERATE_MIXED_PRECISION" in environment  # by `accelerate launch`
    if launched and "MASTER_ADDR" in environment and not any(name in environment for name in RANKS):
        raise ValueError(
            "accelerate launch was asked for several processes and has started one, as it does without accelerators; "
            "start them with torchrun --nproc-per-node N -m trip.apps.cli train ..., or ask for one"
        )


def overruled(config: TrainingConfig, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Lines for the variables that say otherwise than the run does, and are not obeyed."""
    compiled = environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    asked = {
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", f"--accumulation (={config.accumulation}) is"),
        "ACCELERATE_GRADIENT_CLIPPING": (f"{config.grad_clip}", f"--grad-clip (={config.grad_clip}) is"),
        "ACCELERATE_MIXED_PRECISION": (config.mixed_precision, f"--mixed-precision (={config.mixed_precision}) is"),
    }
    lines = [
        f"{name} (={environment[name]}) in the environment is not obeyed, {rule}"
        for name, (same, rule) in asked.items()
        if environment.get(name, same) not in (same, "", "auto", "no", "None")
    ]
    if compiled not in ("", "no"):
        lines.append(f"ACCELERATE_DYNAMO_BACKEND (={compiled}) in the environment is not obeyed, runs are not compiled")
    return lines


def precision_of(config: TrainingConfig, device: torch.device) -> str:
    """The precision that a run computes in: what it says, and for "auto" bf16 where the hardware has it.

    Raises:
        ValueError: fp16 on a CPU.
    """
    if config.mixed_precision == "fp16" and device.type == "cpu":
        raise ValueError(
            "mixed_precision (='fp16') needs an accelerator, and this run has a CPU; choose 'bf16' or 'no'"
        )
    if config.mixed_precision == "auto":
        return "bf16" if computes_bfloat16(device) else "no"
    return config.mixed_precision


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the hardware does; a CPU that must emulate it takes ten to a hundred times as long as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()


def on(name: str, environment: Mapping[str, str]) -> bool:
    """Whether a switch is on, as accelerate reads them."""
    return environment.get(name, "").lower() in ("1", "true", "yes", "on", "y", "t")
