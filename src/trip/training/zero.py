"""DeepSpeed's ZeRO-2: processes share out gradients and moments, and each keeps all weights.

Weights stay float32 under autocast, as in every other run; so a checkpoint is that of one process, whoever made it.
DeepSpeed clips and steps inside accelerate's `backward`, and leaves out updates whose gradients are not finite.
"""

# pyright: reportMissingImports=false
# DeepSpeed is optional.

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trip.training.config import TrainingConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


def set_up_zero(plugin: Any, config: TrainingConfig, processes: int) -> None:
    """Complete the settings of accelerate's DeepSpeed plugin, before anything is prepared.

    Raises:
        ValueError: another stage than 2, Muon, or fp16.
    """
    for name, value, able in (
        ("zero_stage", plugin.zero_stage, (2,)),
        ("optimizer", config.optimizer, ("adamw",)),
        ("mixed_precision", config.mixed_precision, ("bf16", "no")),
    ):
        if value not in able:
            rule = " or ".join(map(repr, able))
            raise ValueError(f"{name} (={value!r}) is not what DeepSpeed does here; choose {rule}")
    for name in ("optimizer", "scheduler"):
        if name in plugin.deepspeed_config:
            raise ValueError(f"DeepSpeed's config has a {name} of its own, and the run has its; remove it there")
    for part, settings in (plugin.deepspeed_config.get("zero_optimization") or {}).items():
        if part.startswith("offload") and (settings or {}).get("device", "none") != "none":
            raise ValueError(f"DeepSpeed's config has {part}, and a run keeps all on its devices; remove it there")
    autocast = {"enabled": config.mixed_precision == "bf16", "dtype": "bfloat16", "lower_precision_safe_modules": []}
    plugin.deepspeed_config.update(
        train_micro_batch_size_per_gpu=max(1, config.batch_size // (processes * config.accumulation)),
        gradient_accumulation_steps=1,  # passes are split, and weighted, in `trip.training.trainer`
        gradient_clipping=config.grad_clip,
        bf16={"enabled": False},  # would round the weights
        torch_autocast=autocast,  # without modules whose gradients are reduced in bfloat16
    )


class WholeMoments:
    """A ZeRO optimizer as torch's are read and written: moments whole and by parameter, in all processes."""

    def __init__(self, zero: Any):
        self.zero = zero

    @property
    def param_groups(self) -> list[dict[str, list[nn.Parameter]]]:
        """The parameters, which the optimizer itself holds as one vector a group."""
        return [{"params": list(group)} for group in self.zero.bit16_groups]

    def parameters(self) -> list[nn.Parameter]:
        """Of all groups."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """The groups alone; see `named_moments`."""
        return {"state": {}, "param_groups": self.param_groups}

    def named_moments(self) -> Iterator[tuple[str, Tensor]]:
        """Each is gathered as it is asked for, by all processes; none before the first update."""
        from deepspeed.utils import safe_get_full_optimizer_state as read

        inner = self.zero.optimizer.state
        if not inner:
            return
        self.link()
        step = next(iter(inner.values()))["step"]
        for index, parameter in enumerate(self.parameters()):
            yield f"{index}/step", step.clone()
            for name in MOMENTS:
                yield f"{index}/{name}", read(parameter, name)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Also takes the weights as they are now for those that are updated."""
        from deepspeed.utils import safe_set_full_optimizer_state as write

        self.zero.refresh_fp32_params()
        if not saved["state"]:
            return
        for part in self.zero.single_partition_of_fp32_groups:
            zeros: dict[str, Tensor] = {name: torch.zeros_like(part) for name in MOMENTS}
            self.zero.optimizer.state[part] = {"step": saved["state"][0]["step"].clone(), **zeros}
        self.link()
        for index, parameter in enumerate(self.parameters()):
            for name in MOMENTS:
                write(parameter, saved["state"][index][name].to(parameter.device), name)

    def link(self) -> None:
        """Let every parameter know its part of the moments; DeepSpeed does so for the first group alone."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state as link

        for group, part in zip(self.zero.bit16_groups, self.zero.single_partition_of_fp32_groups, strict=True):
            link(group, part, self.zero.optimizer.state)
