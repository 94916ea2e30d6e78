"""`trip evaluate --model`: from a model to clips to a report, or to VBench's files, on any number of processes.

Every process loads the model and generates its share; the first one holds the folder, waits for the others and scores.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from tqdm import tqdm

from trip.apps.errors import say
from trip.apps.evaluate import measuring, names_in, publish, settings_of
from trip.apps.evaluate_options import Evaluate
from trip.data.images import fit_image, load_image
from trip.evaluation.clips import clip_files
from trip.evaluation.generation import (
    GENERATED,
    REFERENCE,
    Frame,
    Frames,
    Generate,
    ReferenceStills,
    Still,
    generate_missing,
    held,
    score,
    shard,
)
from trip.evaluation.protocols import PROTOCOLS, Job, Protocol, list_jobs
from trip.evaluation.protocols import settings_of as protocol_settings
from trip.evaluation.report import EvaluationSettings, rehearse
from trip.evaluation.vbench import CRF, vbench_jobs
from trip.evaluation.weights import sha256_of
from trip.files import write_json
from trip.opening import choose_device, choose_dtype, find_model, load_pipeline
from trip.pipeline import TripPipeline
from trip.text import count_tokens

FALLBACK_SIDE = 256
"""Height and width where neither the user nor the model says: the paper's."""

VBENCH_FPS = 8.0
LONGEST_WAIT = timedelta(days=30)
"""For the slowest process."""


def evaluate_model(options: Evaluate) -> int:
    """Generate what is missing; measure it, or leave it to VBench; returns the exit code.

    Raises:
        ValueError, OSError: a model, data, a folder or clips that cannot be used.
    """
    assert options.model is not None and options.data is not None and options.output_dir is not None  # check_mode
    state = PartialState(cpu=options.device == "cpu", timeout=LONGEST_WAIT)
    try:
        device: Any = state.device if state.num_processes > 1 else choose_device(options.device)
        pipeline = load_pipeline(
            options.model,
            device=device,
            dtype=choose_dtype(options.dtype, device),
            fusion=options.fusion,
            scheduler=options.scheduler,
        )
        run = export_vbench if options.export == "vbench" else evaluate_protocol
        return run(options, pipeline, state)
    finally:
        if state.num_processes > 1:
            state.destroy_process_group()


def evaluate_protocol(options: Evaluate, pipeline: TripPipeline, state: PartialState) -> int:
    """Generate a protocol's clips and score them; the report is printed and written to the run's folder."""
    protocol, folder = protocol_of(options, pipeline), options.output_dir
    assert folder is not None and options.data is not None
    jobs = with_fitting_prompts(list_jobs(protocol, options.data, options.seed), pipeline, state)
    stills = ReferenceStills(folder=folder, protocol=protocol, seed=options.seed)
    model = model_settings(options, pipeline)
    pipeline.check_size(*protocol.size, protocol.num_frames)
    if state.is_main_process:  # not after the hours that generating takes
        clips, real = len(jobs), len({job.number for job in jobs})
        rehearse(scoring(options, protocol, str(pipeline.device)), clips, real, protocol.num_frames)
    with holding(state, folder, {"protocol": protocol_settings(protocol)} | model, jobs):
        generate_share(
            jobs, lambda job: f"{folder / GENERATED / job.name}/", stills, protocol, pipeline, options, state
        )
        if state.is_main_process:
            report = scored(folder, protocol, options, str(pipeline.device)) | {"model": model}
            write_json(folder / "report.json", report)
            publish(report, options, folder / GENERATED, folder / REFERENCE)
    return 0


def export_vbench(options: Evaluate, pipeline: TripPipeline, state: PartialState) -> int:
    """Write five clips of every prompt as VBench-I2V names them, into the folder `videos` of the run's."""
    folder = options.output_dir
    assert folder is not None and options.data is not None
    jobs = vbench_jobs(options.data, options.crop_ratio, options.seed, options.count)
    jobs = with_fitting_prompts(jobs, pipeline, state)
    size = clip_size(options, pipeline)
    pipeline.check_size(*size, options.num_frames or 16)
    protocol = Protocol(
        name="vbench", metrics=(), num_frames=options.num_frames or 16, fps=options.fps or VBENCH_FPS, size=size
    )
    made_with = {"crop_ratio": options.crop_ratio, "protocol": protocol_settings(protocol)}

    def still(job: Job) -> Frame:
        assert isinstance(job.source, Path)
        return np.asarray(fit_image(load_image(job.source), size[1], size[0]))

    with holding(state, folder, made_with | model_settings(options, pipeline), jobs):
        target = folder / "videos"
        generate_share(jobs, lambda job: str(target / f"{job.name}.mp4"), still, protocol, pipeline, options, state)
    if state.is_main_process:
        print(target)
    return 0


def holding(
    state: PartialState, folder: Path, settings: dict[str, Any], jobs: Sequence[Job]
) -> AbstractContextManager[None]:
    """The folder of the run, held by the first process for all of them."""
    return held(folder, settings, jobs) if state.is_main_process else nullcontext()


def generate_share(
    jobs: Sequence[Job],
    target: Callable[[Job], str],
    still: Still,
    protocol: Protocol,
    pipeline: TripPipeline,
    options: Evaluate,
    state: PartialState,
) -> None:
    """Generate this process's part, after the first one has taken hold of the folder; return when all are done."""
    state.wait_for_everyone()
    mine = shard(jobs, state.process_index, state.num_processes)
    quiet = True if options.quiet or not state.is_main_process else None
    vbench = options.export == "vbench"
    with tqdm(total=len(mine), desc="generating", unit="clip", leave=False, disable=quiet) as bar:
        generate_missing(
            mine,
            target,
            still,
            generator(pipeline, protocol, options),
            fps=protocol.fps,
            record=not vbench,  # VBench takes the suffix of all files from the first one it lists: no side-cars
            crf=CRF,
            progress=lambda job: bar.update(),
        )
    state.wait_for_everyone()


def generator(pipeline: TripPipeline, protocol: Protocol, options: Evaluate) -> Generate:
    """The pipeline as `trip.evaluation` takes it. The noise is drawn on the CPU: the same on every device."""

    def generate(picture: Frame, prompt: str, seed: int) -> Frames:
        output: Any = pipeline(
            Image.fromarray(picture),
            prompt,
            num_frames=protocol.num_frames,
            height=protocol.size[0],
            width=protocol.size[1],
            num_inference_steps=options.steps,
            guidance_scale=options.guidance_scale,
            motion_strength=options.motion_strength,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        )
        return np.rint(output.frames[0] * 255).astype(np.uint8)

    return generate


def scored(folder: Path, protocol: Protocol, options: Evaluate, device: str) -> dict[str, Any]:
    """The report of a run whose clips are all there."""
    total = sum(len(clip_files(side)) for side in (folder / GENERATED, folder / REFERENCE) if side.is_dir())
    with measuring(options, total) as progress:
        return score(folder, protocol, scoring(options, protocol, device), progress)


def scoring(options: Evaluate, protocol: Protocol, device: str) -> EvaluationSettings:
    """How a run is measured: by the protocol's metrics, unless others are asked for."""
    metrics = protocol.metrics if options.metrics is None else names_in(options.metrics)
    return replace(settings_of(options), metrics=metrics, num_frames=None, device=device)


# -------------------------------------------------------------------------------------------------- settings


def protocol_of(options: Evaluate, pipeline: TripPipeline) -> Protocol:
    """The named protocol with what the flags change.

    Raises:
        ValueError: a value out of range.
    """
    assert options.protocol is not None
    base = PROTOCOLS[options.protocol]
    chosen: dict[str, Any] = {
        "count": options.count,
        "num_frames": options.num_frames,
        "fps": options.fps,
        "captions": options.captions,
    }
    changes = {name: value for name, value in chosen.items() if value is not None}
    if options.classes is not None:
        changes["classes"] = () if options.classes == "all" else names_in(options.classes)
    if options.split is not None:
        changes["split"] = None if options.split == "all" else options.split
    return replace(
        base,
        samples=options.samples,
        start=options.start,
        prompt=options.prompt,
        size=clip_size(options, pipeline),
        **changes,
    )


def clip_size(options: Evaluate, pipeline: TripPipeline) -> tuple[int, int]:
    """(height, width) of all clips: as asked, else the model's, else the paper's."""
    height, width = pipeline.default_size or (FALLBACK_SIDE, FALLBACK_SIDE)
    return options.height or height, options.width or width


def model_settings(options: Evaluate, pipeline: TripPipeline) -> dict[str, Any]:
    """What else a clip depends on; a run that differs in any of it is another run."""
    assert options.model is not None
    scale = options.guidance_scale
    return {
        "model": options.model,
        "model_sha256": fingerprint(find_model(options.model)),
        "fusion_sha256": None if options.fusion is None else fingerprint(str(options.fusion)),
        "seed": options.seed,
        "steps": options.steps,
        "scheduler": type(pipeline.scheduler).__name__,
        "guidance_scale": pipeline.config["default_guidance_scale"] if scale is None else scale,
        "motion_strength": options.motion_strength,
        "dtype": str(pipeline.unet.dtype).removeprefix("torch."),
        "device": pipeline.device.type,
    }


def fingerprint(source: str) -> str | None:
    """SHA-256 over names and bytes of a folder's weights and configs; None of a hub id."""
    folder = Path(source)
    if not folder.is_dir():
        return None
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".json", ".safetensors"))
    lines = [f"{file.relative_to(folder).as_posix()} {sha256_of(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def with_fitting_prompts(jobs: Sequence[Job], pipeline: TripPipeline, state: PartialState) -> list[Job]:
    """The jobs with prompts that the text encoder reads whole: longer ones lose their last words, as CLIP's do."""
    fitting = {prompt: fitting_prompt(pipeline, prompt) for prompt in {job.prompt for job in jobs}}
    cut = sum(fitting[prompt] != prompt for prompt in fitting)
    if cut and state.is_main_process:
        say(f"warning: {cut} prompts are longer than the model's {pipeline.max_text_tokens} tokens and were cut")
    return [replace(job, prompt=fitting[job.prompt]) for job in jobs]


def fitting_prompt(pipeline: TripPipeline, prompt: str) -> str:
    """As many of its words as fit."""
    words, tokenizer = prompt.split(" "), pipeline.tokenizer
    assert tokenizer is not None
    while len(words) > 1 and count_tokens(tokenizer, " ".join(words)) > pipeline.max_text_tokens:
        words.pop()
    return " ".join(words)
