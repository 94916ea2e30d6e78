"""A whole run on disk: start or resume, train, keep checkpoints, show what happens, export the pipeline."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.utils import DistributedType, GradientAccumulationPlugin, KwargsHandler

from trip.data.sets.text_limit import TextLimit
from trip.data.sources import CachedClips, Source
from trip.pipeline import TripPipeline
from trip.training.batches import open_source
from trip.training.checkpoint import checkpoints, read_counters
from trip.training.config import TrainingConfig, check_processes
from trip.training.encoders import CaptionEncoder, module_sha256
from trip.training.environment import check_environment, overruled, precision_of
from trip.training.export import export
from trip.training.folder import CHECKPOINTS, CONFIG, LOG, TRACKERS, check_folder, claimed, mark
from trip.training.loaders import lost_workers
from trip.training.monitor import Monitor, check_log
from trip.training.sharding import set_up_fsdp2
from trip.training.trainer import resume, save, start_run, training_loop
from trip.training.zero import set_up_zero


def train(
    config: TrainingConfig, folder: Path, *, resume_from: str | None = None, quiet: bool = False, cpu: bool = False
) -> bool:
    """Train in `folder` up to `config.steps`; False where SIGTERM ended the run early, with a checkpoint.

    Args:
        resume_from: "latest", "step-N", or None for a new run.

    Raises:
        ValueError: a folder that holds a run already, or none to resume; a process that loads clips was lost.
        OSError: a full disk and the like; checkpoints made before are kept.
    """
    check_folder(folder)
    choose_checkpoint(folder, resume_from)  # what is wrong is said before anything is loaded
    accelerator = make_accelerator(config, folder, cpu)
    source = open_source(config)
    with claimed(folder, accelerator.is_main_process):
        return train_in(folder, choose_checkpoint(folder, resume_from), config, source, accelerator, quiet)


def train_in(
    folder: Path, started: Path | None, config: TrainingConfig, source: Source, accelerator: Accelerator, quiet: bool
) -> bool:
    """`train`, in a folder that is this run's alone, from the checkpoint `started`."""
    check_log(folder / LOG)
    if started is not None:
        read_counters(started)  # before the networks are built
    run = start_run(config, source, accelerator)
    if started is not None:
        resume(run, started)
    lines = [*overruled(config), about_captions(source, run.pipeline), about_cache(source, run.pipeline)]
    lines.append(about_unet(config, run.pipeline))
    if accelerator.is_main_process:
        mark(folder)
        config.save(folder / CONFIG)
    accelerator.wait_for_everyone()
    with Monitor(run, source, folder, quiet) as monitor, termination() as asked, lost_workers():
        if run.step >= config.steps:
            monitor.say(f"the run is at step {run.step} of {config.steps} already; raise --steps to train on")
        for line in filter(None, lines):
            monitor.say(line)
        for record in training_loop(run, source):
            monitor.show(record)
            stop = anywhere(bool(asked), accelerator)
            if stop or run.step % config.checkpoint_every == 0 or run.step == config.steps:
                save(run, folder / CHECKPOINTS)
                accelerator.wait_for_everyone()
            if stop and run.step < config.steps:
                monitor.say(f"stopped at step {run.step}, as asked; go on with --resume latest")
                return False
    export(run, folder)
    accelerator.end_training()
    return True


def about_captions(source: Source, pipeline: TripPipeline) -> str:
    """One line on captions that are cut or empty; "" where there is nothing to say."""
    captions = source.captions
    return str(TextLimit.of(pipeline.tokenizer, pipeline.max_text_tokens).count(captions)) if captions else ""


def about_unet(config: TrainingConfig, pipeline: TripPipeline) -> str:
    """One line on arguments of the network that the start, which has one, does not follow; "" where there are none."""
    derived = ("in_channels", "out_channels")  # of the autoencoder and the fusion
    given = {name: value for name, value in config.unet.items() if name not in derived}
    same = {name: json.dumps(pipeline.unet.config.get(name)) == json.dumps(value) for name, value in given.items()}
    others = [name for name in given if not same[name]]
    return f"unet ({', '.join(others)}) has no effect: {config.initial} has a network of its own" if others else ""


def about_cache(source: Source, pipeline: TripPipeline) -> str:
    """One line on a cache of other encoders than the run's; "" where there is nothing to say."""
    if not isinstance(source, CachedClips):
        return ""
    folder, manifest = source.clips.folder, source.clips.manifest
    cached_text = source.clips.text(0) is not None
    wanted_hashes = {
        "autoencoder": ("vae_sha256", lambda: module_sha256(pipeline.vae)),
        "text encoder": ("text_sha256", lambda: CaptionEncoder.of(pipeline).describe()["text_sha256"]),
    }
    others = [
        name
        for name, (key, of_run) in wanted_hashes.items()
        if key in manifest and (key != "text_sha256" or cached_text) and manifest[key] != of_run()
    ]
    if not others:
        return ""
    return f"the cache {folder} was made with another {' and another '.join(others)} than this run has"


def choose_checkpoint(folder: Path, resume_from: str | None) -> Path | None:
    """The checkpoint to resume, or None for a new run.

    Raises:
        ValueError: see `train`.
    """
    found = checkpoints(folder / CHECKPOINTS)
    if resume_from is None:
        if found:
            raise ValueError(
                f"{folder} holds a run at step {max(found)}; go on with --resume latest, or choose another --output-dir"
            )
        return None
    if resume_from == "latest":
        return found[max(found)] if found else None
    wanted = {path.name: path for path in found.values()}
    if resume_from not in wanted:
        names = ", ".join(wanted) or "none"
        raise ValueError(f"--resume (={resume_from!r}) is no checkpoint of {folder}; there are: {names}")
    return wanted[resume_from]


def make_accelerator(config: TrainingConfig, folder: Path, cpu: bool) -> Accelerator:
    """Accelerate, on whatever processes and devices launched us.

    Raises:
        ValueError: fp16 on a CPU, a tracker that cannot be had, or what FSDP2 or DeepSpeed cannot do.
    """
    check_environment()
    precision = precision_of(config, torch.device(PartialState(cpu=cpu).device or "cpu"))
    config = replace(config, mixed_precision=precision)
    unused = not config.fusion.get("shortcut", True)  # TRIP- has a fusion that takes no part
    handlers: list[KwargsHandler] = [
        DistributedDataParallelKwargs(find_unused_parameters=unused, gradient_as_bucket_view=True)
    ]
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=cpu,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # passes are split in `trainer`
        dynamo_backend="no",
        log_with=[*installed_trackers(config)] or None,
        project_dir=folder / TRACKERS,
        kwargs_handlers=handlers,
    )
    check_processes(config, accelerator.num_processes)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        set_up_zero(accelerator.deepspeed_plugin, config, accelerator.num_processes)
    if accelerator.is_fsdp2:
        set_up_fsdp2(accelerator.state.fsdp_plugin, config)
    return accelerator


def installed_trackers(config: TrainingConfig) -> list[str]:
    """The trackers of the config that are installed; tensorboard is optional, others are asked for and must be.

    Raises:
        ValueError: an unknown tracker, or one that is not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = [str(tracker) for tracker in get_available_trackers()]
    for tracker in config.trackers:
        if tracker not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(f"tracker {tracker!r} is unknown; choose from {', '.join(LOGGER_TYPE_TO_CLASS)}")
        if tracker not in available and tracker != "tensorboard":
            raise ValueError(f"tracker {tracker!r} is not installed; pip install {tracker}, or leave it out")
    return [tracker for tracker in config.trackers if tracker in available]


@contextmanager
def termination() -> Iterator[list[int]]:
    """A list that SIGTERM makes true, so that the run ends after the step at hand; the handler is put back."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def anywhere(flag: bool, accelerator: Accelerator) -> bool:
    """Whether the flag is set in any process."""
    if accelerator.num_processes == 1:
        return flag
    total = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), reduction="sum")
    return bool(total > 0)  # pyright: ignore[reportOperatorIssue]


def interrupted(folder: Path) -> str:
    """What to say after Ctrl-C."""
    found = checkpoints(folder / CHECKPOINTS)
    return f"the last checkpoint is step {max(found)}; go on with --resume latest" if found else "nothing was saved yet"
