"""A study on disk: a grid of variants and seeds, each trained, scored, and its run thrown away.

    STUDY/study.json              the settings and the variants' fusions; a folder of another study is refused
    STUDY/tuning.json             how the ends of `trip-w-tuned` were chosen
    STUDY/runs/VARIANT-SEED/      runs under way, see `trip.training`; of finished ones the log and the pipeline
    STUDY/scores/VARIANT-SEED.npz what each network is worth

Every run and score is under a lock, so that several processes, started with the same command, share the work; a killed
one loses nothing but the steps since a checkpoint.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from trip.ablation.scores import (
    HeldOut,
    clip_scores,
    held_out_clips,
    make_clips,
    sample_errors,
    snr_at,
    static_errors,
    still_clips,
)
from trip.ablation.variants import (
    LADDER,
    LINEAR_ENDS,
    SMALL_UNET,
    VARIANTS,
    base_config,
    check_names,
    trained,
    variant_config,
)
from trip.data.text import printable, read_json
from trip.evaluation.features.base import FeatureNetwork
from trip.evaluation.generation import flat
from trip.fields import Checked
from trip.files import atomic, write_json
from trip.noise_fusion import TrainingFreeNoiseFusion
from trip.noise_prior import sample_from_prediction
from trip.pipeline import TripPipeline
from trip.training.batches import Positions, clips_sigma, open_source
from trip.training.calibration import measure, spread_timesteps
from trip.training.config import TrainingConfig
from trip.training.run import train
from trip.training.trainer import make_pipeline

DEFAULT_VARIANTS = tuple(VARIANTS)
TUNING_SEED = 1000


@dataclass(frozen=True, kw_only=True)
class Study(Checked):
    """What is compared, on what, at which budget.

    Attributes:
        base: the settings of every run but for the fusion and the seed. held_out: cache of clips that none trains on.
        variants: of `trip.ablation.variants.VARIANTS`. seeds: runs of each.
        error_clips, made_clips: how many held-out clips errors are measured on, and animated.
        sampling_steps, guidance_scale: of animated ones.
        tuning_steps: of the runs that `trip-w-tuned` chooses its ends by.
        start: another study's folder; every variant goes on from its own weights there, with its fusion's tables.
    """

    base: TrainingConfig = field(default_factory=base_config)
    held_out: str = "runs/ablation-held-out"
    variants: tuple[str, ...] = DEFAULT_VARIANTS
    seeds: int = 3
    error_clips: int = 128
    made_clips: int = 48
    sampling_steps: int = 20
    guidance_scale: float = 3.0
    tuning_steps: int = 40
    start: str | None = None

    def __post_init__(self) -> None:
        check_names(self.variants)
        if self.seeds < 1 or self.error_clips < max(self.made_clips, 2):
            raise ValueError(
                f"seeds (={self.seeds}) must be at least 1 and error_clips (={self.error_clips}) at least made_clips "
                f"(={self.made_clips}); raise them"
            )


Say = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How the work is done, which changes no number: without accelerators, without progress bars, told to whom."""

    cpu: bool = False
    quiet: bool = False
    say: Say = print


def run_study(study: Study, folder: Path, features: FeatureNetwork | None, manner: Manner | None = None) -> bool:
    """Do what is left of a study; returns whether all of it is done (another process may be at the rest).

    Args:
        features: the network of F-Consistency, or None.

    Raises:
        ValueError: a folder of another study, settings that no run can have, or clips of two sizes.
    """
    manner = manner or Manner()
    clips = held_out_clips(Path(study.held_out), study.error_clips)
    check_sizes(study, clips)  # what is wrong is told before the folder is this study's
    if study.start is not None:
        for name in trained(study.variants):
            for seed in range(study.seeds):
                initial_folder(Path(study.start), name, seed)
    open_study(study, folder)
    for seed in range(study.seeds):
        for name in order(study.variants):
            target = scores_path(folder, name, seed)
            with taken(folder, f"{name}-{seed}") as free:
                if target.is_file() or not free:
                    continue
                manner.say(f"{VARIANTS[name].title}, seed {seed}")
                write_scores(target, scored(study, folder, name, seed, clips, features, manner))
    return not missing(study, folder)


def check_sizes(study: Study, clips: HeldOut) -> None:
    """Held-out latents must be of the size that is trained on, which the networks must be able to halve.

    Raises:
        ValueError: they are not, or there is nothing to train on.
    """
    cached = getattr(open_source(study.base), "clips", None)
    trained_on, held = tuple(getattr(cached, "latent_shape", ())), tuple(clips.latents.shape[1:])
    if trained_on and trained_on != held:
        raise ValueError(
            f"held-out latents c f h w of {held} ({study.held_out}) are not those trained on, {trained_on} "
            f"({study.base.data}); cache both alike"
        )
    halvings = 2 ** (len(study.base.unet.get("block_out_channels", SMALL_UNET["block_out_channels"])) - 1)
    if study.start is None and any(side % halvings for side in held[2:]):
        raise ValueError(
            f"latents of {held[3]} x {held[2]} are not divisible by {halvings}, the network's reduction; cache clips "
            "of another size"
        )


def open_study(study: Study, folder: Path) -> None:
    """Create the folder, or check that it holds the same study; more seeds or variants are the same one.

    Raises:
        ValueError: names the settings in which it differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, wanted = folder / "study.json", plain(study)
    found = read_record(path) if path.is_file() else wanted
    base, fusions = found.get("base"), found.get("fusions", {})  # fusions: of all variants so far; older ones lack it
    if not isinstance(base, dict) or not isinstance(fusions, dict):
        raise ValueError(f"{path} holds no study; choose another folder")
    found["base"] = json.loads(json.dumps(asdict(TrainingConfig()))) | base  # settings that came later
    found["fusions"] = {name: fusions.get(name, fusion) for name, fusion in wanted["fusions"].items()}
    fixed = wanted.keys() - {"variants", "seeds"}  # which may grow
    there, here = (flat({k: v for k, v in record.items() if k in fixed}) for record in (found, wanted))
    if different := [name for name in here | there if there.get(name) != here.get(name)]:
        changes = "; ".join(
            f"{n}: {printable(repr(there.get(n)), 80)} there, {here.get(n)!r} wanted" for n in different
        )
        raise ValueError(f"{folder} holds another study ({changes}); choose another folder")
    wanted["fusions"] = fusions | wanted["fusions"]
    write_json(path, wanted)


def read_study(folder: Path) -> Study:
    """The study that a folder holds.

    Raises:
        ValueError: there is none.
    """
    path = folder / "study.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no study; start one with --data and --held-out")
    values = read_record(path)
    values.pop("fusions", None)  # what variants meant, which open_study compares
    try:
        base = TrainingConfig(**{**values.pop("base"), "trackers": ()})
        return Study(base=base, **{**values, "variants": tuple(values["variants"])})
    except (KeyError, TypeError, ValueError) as error:
        reason = printable(error, 300)
        raise ValueError(f"{path} holds no study of this version ({reason}); name another folder") from None


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object that a study keeps.

    Raises:
        ValueError: something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no object, which a study would have written; choose another folder")
    return found


def plain(study: Study) -> dict[str, Any]:
    """The settings as JSON has them, and what every trained variant means in this version."""
    names = trained(study.variants) if study.start is None else []
    fusions = {name: VARIANTS[name].fusion for name in names}
    if "trip-w-tuned" in fusions:
        fusions["trip-w-tuned"] = {**fusions["trip-w-tuned"], "ends": LINEAR_ENDS}
    return json.loads(json.dumps({**asdict(study), "fusions": fusions}))


def order(names: tuple[str, ...]) -> list[str]:
    """Trained variants first, since baselines may use their networks."""
    return [n for n in names if n not in LADDER] + [n for n in names if n in LADDER]


def missing(study: Study, folder: Path) -> list[str]:
    """Scores that are not there yet."""
    pairs = [(name, seed) for seed in range(study.seeds) for name in study.variants]
    return [f"{name}-{seed}" for name, seed in pairs if not scores_path(folder, name, seed).is_file()]


@contextmanager
def taken(folder: Path, name: str, wait: bool = False) -> Iterator[bool]:
    """Hold a piece of work against other processes; yields False where another one has it."""
    (folder / "locks").mkdir(exist_ok=True)
    lock = FileLock(folder / "locks" / name, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


# ---------------------------------------------------------------------------------------------------- scoring


def scores_path(folder: Path, name: str, seed: int) -> Path:
    """Where the scores of a variant and seed are."""
    return folder / "scores" / f"{name}-{seed}.npz"


def write_scores(path: Path, scores: dict[str, np.ndarray]) -> None:
    """Write arrays whose first axis is the clip, in one step."""
    with atomic(path, "wb") as file:
        np.savez(file, **scores)  # pyright: ignore[reportArgumentType]


def scored(
    study: Study,
    folder: Path,
    name: str,
    seed: int,
    clips: HeldOut,
    features: FeatureNetwork | None,
    manner: Manner,
) -> dict[str, np.ndarray]:
    """Train what the variant needs, and measure it on the held-out clips."""
    pipeline = network_of(study, folder, name, seed, manner)
    some = clips.first(study.made_clips)
    if name == "static":
        errors, made = static_errors(clips), still_clips(pipeline, some)
    else:
        errors = sample_errors(pipeline, clips)
        made = make_clips(pipeline, some, study.sampling_steps, study.guidance_scale)
    return {"errors": errors, "snr": snr_at(pipeline.scheduler), **clip_scores(made, some.kinds, features)}


def network_of(study: Study, folder: Path, name: str, seed: int, manner: Manner) -> TripPipeline:
    """The pipeline of a variant, trained where it has to be."""
    if VARIANTS[name].trained_as is None:
        return untrained(variant_config(study.base, "prior", seed))
    origin = trained((name,))[0]
    final = folder / "runs" / f"{origin}-{seed}" / "final"
    with taken(folder, f"run-{origin}-{seed}", wait=True):
        if not final.is_dir():
            train_variant(run_config(study, folder, origin, seed, manner), final.parent, manner)
    pipeline = loaded(final)
    return training_free(pipeline, study.base) if name == "training-free" else pipeline


def run_config(study: Study, folder: Path, name: str, seed: int, manner: Manner) -> TrainingConfig:
    """The settings of a variant's run: from fresh weights, or from those of the study that this one goes on from."""
    if study.start is None:
        ends = tuned_ends(study, folder, manner) if name == "trip-w-tuned" else None
        return variant_config(study.base, name, seed, ends)
    initial = str(initial_folder(Path(study.start), name, seed))
    return replace(study.base, initial=initial, unet={}, fusion={}, warm_start_text=False, seed=seed)


def initial_folder(start: Path, name: str, seed: int) -> Path:
    """The network of another study.

    Raises:
        ValueError: it is not there.
    """
    folder = start / "runs" / f"{name}-{seed}" / "final"
    if not folder.is_dir():
        raise ValueError(f"{folder} is not there to go on from; finish that study, or leave out {name}")
    return folder


def train_variant(config: TrainingConfig, folder: Path, manner: Manner) -> None:
    """Train, or go on; of a finished run the checkpoints are deleted."""
    if not train(config, folder, resume_from="latest", quiet=manner.quiet, cpu=manner.cpu):
        raise KeyboardInterrupt
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def loaded(folder: Path) -> TripPipeline:
    """A trained pipeline, silent, in float32."""
    pipeline = TripPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# -------------------------------------------------------------------------------------------------- baselines


def untrained(config: TrainingConfig) -> TripPipeline:
    """Variance-optimal fusion with a network that outputs 0: the prior alone."""
    source = open_source(config)
    pipeline, _ = make_pipeline(config, source, torch.device("cpu"))
    torch.nn.init.zeros_(pipeline.unet.conv_out.weight)
    torch.nn.init.zeros_(pipeline.unet.conv_out.bias)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def training_free(blind: TripPipeline, config: TrainingConfig, clips: int = 32) -> TripPipeline:
    """A text-to-video pipeline fused with the prior; sigma and tau measured on training clips."""
    order_, scheduler = Positions(open_source(config), config), blind.scheduler
    generator, grid = torch.Generator().manual_seed(0), spread_timesteps(11)

    def examples():
        for position in range(clips):
            sample = order_[position]
            text = blind.encode_prompt([sample.caption], do_classifier_free_guidance=False)[0]

            def estimate(z_t, t, signal, noise, text=text):
                residual = blind.unet(z_t, t.expand(1), text).sample
                return sample_from_prediction(residual, z_t, signal, noise, "epsilon")

            yield sample.clip[None].float(), estimate

    with torch.no_grad():
        found = measure(examples(), scheduler.alphas_cumprod, grid, generator)  # pyright: ignore
    fusion = TrainingFreeNoiseFusion(
        sigma=found.sigma.tolist(), tau=found.tau.tolist(), tau_timesteps=[float(t) for t in grid]
    )
    blind.register_modules(fusion=fusion)
    return blind


# ----------------------------------------------------------------------------------------------------- tuning


def tuned_ends(study: Study, folder: Path, manner: Manner) -> tuple[float, float]:
    """The ends of Eq. 9's lambda with the least loss on training clips, after short runs of a seed of their own."""
    path = folder / "tuning.json"
    with taken(folder, "tuning", wait=True):
        if not path.is_file():
            losses = {json.dumps(ends): tuning_loss(study, folder, ends, manner) for ends in LINEAR_ENDS}
            write_json(path, losses)
        return least(path)


def least(path: Path) -> tuple[float, float]:
    """The ends with the least loss of a file that `tuned_ends` wrote.

    Raises:
        ValueError: it holds something else.
    """
    losses, known = read_record(path), {json.dumps(ends): ends for ends in LINEAR_ENDS}
    if losses.keys() != known.keys() or not all(isinstance(loss, float) and loss == loss for loss in losses.values()):
        raise ValueError(f"{path} does not hold the losses of {len(known)} pairs of ends; delete it to tune again")
    return known[min(losses, key=losses.__getitem__)]


def tuning_loss(study: Study, folder: Path, ends: tuple[float, float], manner: Manner) -> float:
    """The training loss's weighting of the error on training clips, after a short run."""
    manner.say(f"tuning Eq. 9: lambda from {ends[0]} to {ends[1]}")
    config = variant_config(replace(study.base, steps=study.tuning_steps), "trip-w-tuned", TUNING_SEED, ends)
    run = folder / "runs" / f"tuning-{ends[0]}-{ends[1]}"
    if not (run / "final").is_dir():
        train_variant(config, run, manner)
    source = open_source(config)
    pipeline, positions = loaded(run / "final"), Positions(source, config)
    samples = [positions[len(source) // 2 + i] for i in range(64)]
    clips = HeldOut(
        latents=torch.stack([s.clip for s in samples]).float(),
        captions=[s.caption for s in samples],
        kinds=[None] * len(samples),
    )
    sigma = clips_sigma(source, config, pipeline.vae, pipeline.vae.device).numpy()
    moving = sigma > 0
    weight = snr_at(pipeline.scheduler)[:, None] + 1 / sigma[moving] ** 2  # the "residual" objective
    return float((weight * sample_errors(pipeline, clips)[:, :, moving]).mean())
