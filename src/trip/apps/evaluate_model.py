"""`trip evaluate-model` and `trip vbench`: from a model to clips to a report, or to VBench's files.

Any number of processes: each loads the model and generates its share; the first one holds the folder, waits for the
others and scores.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image

from trip.apps.errors import say
from trip.apps.evaluate import names_in, prepare, publish, settings_of
from trip.apps.evaluate_options import EvaluateModel, Generating, VBench
from trip.apps.progress import progress
from trip.data.images import fit_image, load_image
from trip.data.video.frames import Frames
from trip.evaluation.clips import clip_files
from trip.evaluation.generation import (
    GENERATED,
    REFERENCE,
    Frame,
    ReferenceStills,
    generate_missing,
    held,
    score,
    shard,
)
from trip.evaluation.protocols import PROTOCOLS, Job, Protocol, list_jobs
from trip.evaluation.report import Report, rehearse
from trip.evaluation.vbench import CRF, vbench_jobs
from trip.evaluation.weights import sha256_of
from trip.files import write_json
from trip.opening import choose_device, choose_dtype, find_model, load_pipeline
from trip.pipeline import TripPipeline

FALLBACK_SIDE = 256
"""Height and width where neither the user nor the model says: the paper's."""

VBENCH = Protocol(name="vbench", metrics=(), fps=8.0)
LONGEST_WAIT = timedelta(days=30)
"""For the slowest process."""


def evaluate_model(options: EvaluateModel) -> int:
    """Generate a protocol's clips and score them; the report is printed and written to the run's folder.

    Raises:
        ValueError, OSError: a model, data, a folder or clips that cannot be used.
    """
    prepare(options)
    folder = options.output_dir
    with loaded(options) as run:
        protocol = protocol_of(options, run.pipeline)
        jobs = run.fitting(list_jobs(protocol, options.data, options.seed))
        run.pipeline.check_size(*protocol.size, protocol.num_frames)
        settings = replace(settings_of(options, metrics=protocol.metrics), device=str(run.pipeline.device))
        if run.first:  # not after the hours that generating takes
            rehearse(settings, len(jobs), len({job.number for job in jobs}), protocol.num_frames)
        model = run.settings()
        with run.holding({"protocol": protocol.record()} | model, jobs):
            stills = ReferenceStills(folder=folder, protocol=protocol, seed=options.seed)
            run.generate(jobs, protocol, lambda job: f"{folder / GENERATED / job.name}/", stills)
            if run.first:
                sides = [side for side in (folder / GENERATED, folder / REFERENCE) if side.is_dir()]
                with progress(options, "measuring", sum(len(clip_files(side)) for side in sides)) as bar:
                    report = score(folder, protocol, settings, progress=lambda file: bar.update())
                finish(replace(report, run=report.run | {"model": model}), options)
    return 0


def finish(report: Report, options: EvaluateModel) -> None:
    """Write the report to the run's folder, and where else it is asked for."""
    write_json(options.output_dir / "report.json", report.as_dict())
    publish(report, options, options.output_dir / GENERATED, options.output_dir / REFERENCE)


def vbench(options: VBench) -> int:
    """Write five clips of every prompt as VBench-I2V names them, into the folder `videos` of the run's.

    Raises:
        ValueError, OSError: a model, data or a folder that cannot be used.
    """
    target = options.output_dir / "videos"
    with loaded(options) as run:
        jobs = run.fitting(vbench_jobs(options.data, options.crop_ratio, options.seed, options.count))
        protocol = replace(VBENCH, size=clip_size(options, run.pipeline), **given(options, "num_frames", "fps"))
        height, width = protocol.size
        run.pipeline.check_size(height, width, protocol.num_frames)

        def still(job: Job) -> Frame:
            assert isinstance(job.source, Path)
            return np.asarray(fit_image(load_image(job.source), width, height))

        made_with = {"crop_ratio": options.crop_ratio, "protocol": protocol.record()}
        with run.holding(made_with | run.settings(), jobs):
            # VBench takes the suffix of all files from the first one it lists: no side-cars
            run.generate(jobs, protocol, lambda job: str(target / f"{job.name}.mp4"), still, record=False)
        if run.first:
            print(target)
    return 0


# ------------------------------------------------------------------------------------------------ the processes


@contextmanager
def loaded(options: Generating) -> Iterator["Run"]:
    """The model, on the device of this process."""
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
        yield Run(options, pipeline, state)
    finally:
        if state.num_processes > 1:
            state.destroy_process_group()


@dataclass(frozen=True)
class Run:
    """One process's part in a run: its flags, its model, and its place among the processes."""

    options: Generating
    pipeline: TripPipeline
    state: PartialState

    @property
    def first(self) -> bool:
        """Whether this process holds the folder and speaks for all."""
        return self.state.is_main_process

    def holding(self, settings: dict[str, Any], jobs: Sequence[Job]) -> AbstractContextManager[None]:
        """The folder of the run, held by the first process for all of them."""
        return held(self.options.output_dir, settings, jobs) if self.first else nullcontext()

    def generate(
        self,
        jobs: Sequence[Job],
        protocol: Protocol,
        target: Callable[[Job], str],
        still: Callable[[Job], Frame | None],
        *,
        record: bool = True,
    ) -> None:
        """Generate this process's part, after the first one has taken hold of the folder; return when all are done.

        Args:
            jobs: of all processes. protocol: length, rate and size. target, still, record: see `generate_missing`.
        """
        self.state.wait_for_everyone()
        mine = shard(jobs, self.state.process_index, self.state.num_processes)
        seen = self.options if self.first else replace(self.options, quiet=True)
        with progress(seen, "generating", len(mine)) as bar:
            generate_missing(
                mine,
                target,
                still,
                lambda picture, prompt, seed: self.clip(picture, prompt, seed, protocol),
                fps=protocol.fps,
                record=record,
                crf=CRF,
                progress=lambda job: bar.update(),
            )
        self.state.wait_for_everyone()

    def clip(self, picture: Frame, prompt: str, seed: int, protocol: Protocol) -> Frames:
        """One clip. The noise is drawn on the CPU: the same on every device."""
        output: Any = self.pipeline(
            Image.fromarray(picture),
            prompt,
            num_frames=protocol.num_frames,
            height=protocol.size[0],
            width=protocol.size[1],
            num_inference_steps=self.options.steps,
            guidance_scale=self.options.guidance_scale,
            motion_strength=self.options.motion_strength,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        )
        return np.rint(output.frames[0] * 255).astype(np.uint8)

    def fitting(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs with prompts that the text encoder reads whole: longer ones lose their last words, as CLIP's do."""
        fitting = {prompt: self.pipeline.fitting(prompt) for prompt in {job.prompt for job in jobs}}
        cut = sum(fitting[prompt] != prompt for prompt in fitting)
        if cut and self.first:
            limit = self.pipeline.max_text_tokens
            say(f"warning: {cut} prompts are longer than the model's {limit} tokens and were cut")
        return [replace(job, prompt=fitting[job.prompt]) for job in jobs]

    def settings(self) -> dict[str, Any]:
        """What else a clip depends on; a run that differs in any of it is another run."""
        options, pipeline = self.options, self.pipeline
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


# -------------------------------------------------------------------------------------------------- settings


def protocol_of(options: EvaluateModel, pipeline: TripPipeline) -> Protocol:
    """The named protocol with what the flags change.

    Raises:
        ValueError: a value out of range.
    """
    changes = given(options, "count", "num_frames", "fps", "captions", "samples", "start", "prompt")
    if options.classes is not None:
        changes["classes"] = () if options.classes == "all" else names_in(options.classes)
    if options.split is not None:
        changes["split"] = None if options.split == "all" else options.split
    return replace(PROTOCOLS[options.protocol], size=clip_size(options, pipeline), **changes)


def given(options: Generating, *names: str) -> dict[str, Any]:
    """The flags among `names` that were given, or have a default."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def clip_size(options: Generating, pipeline: TripPipeline) -> tuple[int, int]:
    """(height, width) of all clips: as asked, else the model's, else the paper's."""
    height, width = pipeline.default_size or (FALLBACK_SIDE, FALLBACK_SIDE)
    return options.height or height, options.width or width


def fingerprint(source: str) -> str | None:
    """SHA-256 over names and bytes of a folder's weights and configs; None of a hub id."""
    folder = Path(source)
    if not folder.is_dir():
        return None
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".json", ".safetensors"))
    lines = [f"{file.relative_to(folder).as_posix()} {sha256_of(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
