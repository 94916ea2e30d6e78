"""How fast is one training step of the bundled model's network, and where does its time go?

    python -m benchmarks.training --json training.json                            16 clips a step, bfloat16 autocast
    python -m benchmarks.training --json training.json --log RUN/log.jsonl        with the data wait of a real run

The step is the trainer's own: loss, gradients, clipping, optimisers, moving averages. `of_ceiling` (MFU) is the
floating-point operations of forward and backward, over the whole step's time, against the machine's measured ceiling
in the same dtype. Clips are random latents of the bundled model's size; data wait is read from a run's log.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from accelerate import Accelerator
from tyro.conf import arg

from benchmarks.command import command
from benchmarks.measuring import ceiling, count_flops, peak_memory, profile, seconds
from benchmarks.motion import circumstances
from benchmarks.pages import write_json
from trip.models import bundled_model_path
from trip.training.batches import Batch
from trip.training.config import TrainingConfig
from trip.training.trainer import Run, accumulate, draw_step, start_run, train_step

TOKENS = 16
DTYPES = {"bf16": torch.bfloat16, "no": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How fast is one training step?

    Attributes:
        json: where the results go.
        clips: in a batch.
        precision: of autocast: bf16 or no.
        optimizer: adamw or muon.
        repeats: steps that the medians are of.
        cpu: ignore accelerators.
        log: a run's log.jsonl, to read its data wait from.
        debug: show where an error was raised.
    """

    json: Annotated[Path, arg(metavar="FILE")]
    clips: Annotated[int, arg(metavar="N")] = 16
    precision: Literal["bf16", "no"] = "bf16"
    optimizer: Literal["adamw", "muon"] = "muon"
    repeats: Annotated[int, arg(metavar="N")] = 5
    cpu: bool = False
    log: Annotated[Path | None, arg(metavar="FILE")] = None
    debug: bool = False

    def validate(self) -> None:
        """Raise ValueError for settings nothing can be measured with."""
        for name in ("clips", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} (={getattr(self, name)}) must be at least 1; pass a positive number")


def measure(settings: Settings) -> dict[str, Any]:
    """Everything the settings ask for; see the module."""
    settings.validate()
    config = TrainingConfig(
        initial=str(bundled_model_path()),
        batch_size=settings.clips,
        optimizer=settings.optimizer,
        mixed_precision=settings.precision,
        balance_clips=True,
        trackers=(),
    )
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=settings.cpu)
    nothing: Any = None  # the bundled fusion holds its sigma, so no clip is read
    run = start_run(config, nothing, accelerator)
    batch, device = random_batch(run, settings.clips, accelerator.device), accelerator.device

    def gradients() -> None:
        accumulate(run, *draw_step(run, batch))

    def step() -> None:
        train_step(run, batch)

    step()
    flops = count_flops(gradients)
    run.denoiser.zero_grad(set_to_none=True)
    times = [seconds(step, device) for _ in range(settings.repeats)]
    highest = ceiling(1024, 128, DTYPES[settings.precision], device)
    results = {
        "ceiling": highest,
        "flops": flops,
        "seconds": {"median": statistics.median(times), "low": min(times), "high": max(times)},
        "clips_a_second": settings.clips / statistics.median(times),
        "of_ceiling": flops / statistics.median(times) / highest["highest"],
        **profiled(gradients, step, device),
        "peak_memory": peak_memory(device),
    }
    if settings.log is not None:
        results["data_wait"] = data_wait(settings.log)
    return {**circumstances(), "settings": plain(settings), "results": results}


def plain(settings: Settings) -> dict[str, Any]:
    """The settings that decide the result."""
    return {name: value for name, value in asdict(settings).items() if name not in ("json", "log", "debug")}


def random_batch(run: Run, clips: int, device: torch.device) -> Batch:
    """Latents and text features of the sizes the run's network was made for."""
    generator, unet = torch.Generator().manual_seed(0), run.pipeline.unet.config
    side, frames = unet["sample_size"], run.pipeline.fusion.num_frames
    latents = torch.randn(clips, unet["out_channels"], frames, side, side, generator=generator)
    text = torch.randn(clips, TOKENS, unet["cross_attention_dim"], generator=generator)
    return Batch(latents=latents.to(device), text=text.to(device))


def profiled(gradients: Callable[[], None], step: Callable[[], None], device: torch.device) -> dict[str, Any]:
    """Where a step's time goes by kind of operation; only on CPUs, where operations do not overlap."""
    if device.type != "cpu":
        return {}
    return {"profile": {"gradients": profile(gradients), "step": profile(step)}}


def data_wait(log: Path) -> float:
    """Median share of a step that a run waited for its data.

    Raises:
        ValueError: a log without steps.
    """
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    waits = [line["data_wait"] for line in lines if "data_wait" in line]
    if not waits:
        raise ValueError(f"{log.name} has no steps; pass the log.jsonl of a run")
    return statistics.median(waits)


def table(results: dict[str, Any]) -> str:
    """The results in a few lines."""
    settings, measured = results["settings"], results["results"]
    lines = [
        f"{settings['clips']} clips, {settings['precision']}, {settings['optimizer']}: "
        f"{measured['seconds']['median']:.2f} s a step ({measured['seconds']['low']:.2f} to "
        f"{measured['seconds']['high']:.2f}), {measured['clips_a_second']:.1f} clips/s",
        f"{measured['flops'] / 1e9:.0f} GFLOP forward and backward, {measured['of_ceiling']:.0%} of the ceiling of "
        f"{measured['ceiling']['highest'] / 1e9:.0f} GFLOP/s; peak memory {measured['peak_memory'] / 2**30:.1f} GiB",
    ]
    for name, kinds in measured.get("profile", {}).items():
        lines.append(f"{name}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in kinds.items()))
    if "data_wait" in measured:
        lines.append(f"data wait {measured['data_wait']:.1%}")
    return "\n".join(lines)


def main(settings: Settings) -> None:
    """Measure, write, and show."""
    results = measure(settings)
    write_json(settings.json, results)
    print(table(results))


if __name__ == "__main__":
    command("benchmarks.training", Settings, __doc__, main)
