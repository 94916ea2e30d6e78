"""What the full-size run would take: memory per GPU, FLOPs, hours, storage and clips per second. Nothing runs on a GPU.

    files="--json docs/results/scaling.json --page docs/results/scaling.md"
    python -m benchmarks.scaling $files             measure, write both
    python -m benchmarks.scaling $files --reuse     only derive again

The preset `paper` is built on the meta device and differentiated there (`benchmarks.meta_step`). What is counted goes
into the JSON as `measured`, what nobody can count here as `assumed`, and `plan` is arithmetic on both. The tables of
the page stand between `<!-- table: NAME -->` and `<!-- end -->`, and are made from the JSON alone.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.command import command
from benchmarks.meta_step import measure_inference, measure_step
from benchmarks.pages import fill_pages, markdown, write_json
from trip.condition import still
from trip.data.sets.decoding import Decoding, decode_clip
from trip.data.video.writing import write_video
from trip.denoiser import TripDenoiser
from trip.residual_unet import ResidualUNet3D
from trip.training.config import TrainingConfig
from trip.training.memory import state_bytes
from trip.training.objective import Noising, Objective, trip_loss
from trip.training.parts import choose_trainable, new_fusion
from trip.training.presets import paper

ROOT = Path(__file__).resolve().parents[1]
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
}
TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
"""Stable Diffusion 2.1's autoencoder and text encoder."""

TOKENS = 77
BATCHES = (1, 2, 4, 8)
ASSUMED: dict[str, Any] = {
    "gpus": {
        "A800": {"memory_gb": 80, "bf16_tflops": 312, "tf32_tflops": 156},
        "H200": {"memory_gb": 141, "bf16_tflops": 989, "tf32_tflops": 494},
    },
    "utilisation": [0.3, 0.4],
    "memory_margin": 0.1,
    "memory_reserved_gb": 2,
    "webvid_clips": 10_700_000,
    "webvid_hours": 52_000,
    "mp4_mb": 1.8,
    "mp4": {"width": 596, "height": 336, "fps": 30, "seconds": 17.5},
}
"""Not measured here; docs/scaling.md says where each comes from."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Command line."""

    json: Path
    """File for the results."""
    page: Path | None = None
    """Markdown file whose tables are replaced."""
    reuse: bool = False
    """Keep what the file has measured; derive the plan and the tables again."""
    debug: bool = False
    """Traceback on errors."""


# -------------------------------------------------------------------------------------------------- the networks


def meta_denoiser(config: TrainingConfig) -> TripDenoiser:
    """UNet and fusion of a run, without content; checkpointing and what is trained as the config says."""
    with torch.device("meta"):
        unet, fusion = ResidualUNet3D(**config.unet), new_fusion(config, config.unet.get("out_channels", 4))
        choose_trainable(unet, fusion, config)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return TripDenoiser(unet, fusion).train()


def step_loss(
    denoiser: TripDenoiser, config: TrainingConfig, batch: int, latent: int, tokens: int
) -> Callable[[], Tensor]:
    """The trainer's loss of one batch of clips, latents `latent` wide, `tokens` long captions."""
    unet: Any = denoiser.backbone
    channels, width = unet.config["out_channels"], unet.config["cross_attention_dim"]
    device = next(denoiser.parameters()).device
    z_0 = torch.empty(batch, channels, config.num_frames, latent, latent, device=device)
    text, t = torch.empty(batch, tokens, width, device=device), torch.ones(batch, device=device) / 2
    sigma = torch.ones(config.num_frames, device=device)
    condition = still(z_0[:, :, :1], keep=t, text=text)
    noising = Noising(timestep=t, eps=z_0, signal=t, noise=t)
    return lambda: trip_loss(denoiser, z_0, condition, noising, Objective(sigma=sigma, kind=config.objective)).mean()


def count(*modules: nn.Module, trained: bool = False) -> int:
    """Parameters, or those that are trained."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad or not trained)


def wrapped_classes() -> list[str]:
    """Classes that configs/accelerate/fsdp2.yaml shards one by one."""
    settings = yaml.safe_load((ROOT / "configs/accelerate/fsdp2.yaml").read_text())
    return settings["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"].split(",")


# ------------------------------------------------------------------------------------------------- what is measured


def measure() -> dict[str, Any]:
    """All counts; a minute of one core."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "parameters": measure_parameters(),
        "encoders": measure_encoders(),
        "decoding": measure_decoding(),
        "steps": list(measure_steps()),
    }


def measure_steps() -> Iterator[dict[str, Any]]:
    """Steps of 1 and 8 clips with everything trained, of 8 clips with less."""
    variants = [("all", True, 1), ("all", True, 8), ("all", False, 1), ("all", False, 8)]
    variants += [("temporal", True, 8), ("fusion", True, 8), ("lora", True, 8)]
    for trainable, checkpointed, batch in variants:
        config = replace(paper(), trainable=trainable, gradient_checkpointing=checkpointed)
        denoiser = meta_denoiser(config)
        step = measure_step(denoiser, step_loss(denoiser, config, batch, config.size // 8, TOKENS))
        print(f"{trainable}, {batch} clips, checkpointing {'on' if checkpointed else 'off'}: {step}", file=sys.stderr)
        row = {"trainable": trainable, "checkpointed": checkpointed, "batch": batch}
        yield {**row, "trained": count(denoiser, trained=True), **asdict(step)}


def measure_parameters() -> dict[str, int]:
    """Sizes of the parts, and what FSDP2 gathers at a time: its largest layer and what belongs to no layer in a step,
    the largest tensor in saving."""
    denoiser = meta_denoiser(paper())
    layers = [count(m) for m in denoiser.modules() if type(m).__name__ in wrapped_classes()]
    with torch.device("meta"):
        vae, text = AutoencoderKL(**VAE), CLIPTextModel(CLIPTextConfig(**TEXT))
    return {
        "unet": count(denoiser.backbone),
        "fusion": count(denoiser.fusion),
        "vae": count(vae),
        "text_encoder": count(text),
        "largest_layer": max(layers),
        "outside_layers": count(denoiser) - sum(layers),
        "largest_tensor": max(p.numel() for p in denoiser.parameters()),
    }


def measure_encoders() -> dict[str, int]:
    """FLOPs and peak bytes of the frozen encoders for one clip, float32, and of the text encoder for one caption."""
    config = paper()
    with torch.device("meta"):
        vae, text = AutoencoderKL(**VAE).eval(), CLIPTextModel(CLIPTextConfig(**TEXT)).eval()
        frames = torch.empty(config.num_frames, 3, config.size, config.size)
        tokens = torch.zeros(1, TOKENS, dtype=torch.long)
    vae_flops, vae_peak = measure_inference(vae, lambda: vae.encode(frames))
    text_flops, _ = measure_inference(text, lambda: text(tokens))
    return {"vae_flops": vae_flops, "vae_peak": vae_peak, "text_flops": text_flops}


def measure_decoding(clips: int = 8) -> dict[str, float]:
    """CPU seconds for 16 frames at 4 fps and 256 px out of a made clip of WebVid's kind."""
    config, kind = paper(), ASSUMED["mp4"]
    decoding = Decoding(num_frames=config.num_frames, fps=config.fps, size=(config.size, config.size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, panned_photograph(**kind), kind["fps"], crf=23)
        decode_clip(path, decoding, np.random.default_rng(0))
        began = time.process_time()
        for seed in range(clips):
            decode_clip(path, decoding, np.random.default_rng(seed))
        seconds = (time.process_time() - began) / clips
        return {"mp4_bytes": path.stat().st_size, "cpu_seconds": round(seconds, 3)}


def panned_photograph(width: int, height: int, fps: int, seconds: float) -> np.ndarray:
    """A camera that moves over a photograph of the examples: f H W 3."""
    photo = Image.open(ROOT / "examples/photos/castle.jpg").convert("RGB").resize((2 * width, 2 * width))
    pixels, frames = np.asarray(photo), int(fps * seconds)
    turns = np.linspace(0, 2 * np.pi, frames)
    lefts, tops = width * (1 + np.sin(turns)) / 2, (2 * width - height) * (1 + np.cos(3 * turns)) / 2
    return np.stack([pixels[int(y) :, int(x) :][:height, :width] for x, y in zip(lefts, tops, strict=True)])


# -------------------------------------------------------------------------------------------------------- the plan


def plan(measured: dict[str, Any], assumed: dict[str, Any]) -> dict[str, Any]:
    """Arithmetic on what was measured and assumed."""
    return {
        "memory": memory_rows(measured, assumed),
        "trainable": trainable_rows(measured, assumed),
        "flops": flops(measured),
        "hours": hour_rows(measured, assumed),
        "data": data_facts(measured, assumed),
    }


def at_batch(measured: dict[str, Any], checkpointed: bool, batch: int) -> dict[str, float]:
    """A step's bytes with `batch` clips a GPU: between measured batches the chord, which peaks never exceed.

    A peak is the largest of many sums that are linear in the batch, hence convex.
    """
    rows = [s for s in measured["steps"] if s["trainable"] == "all" and s["checkpointed"] == checkpointed]
    x = [row["batch"] for row in rows]
    names = ("kept", "kept_casts", "peak", "peak_apart")
    return {name: float(np.interp(batch, x, [row[name] for row in rows])) for name in names}


def gpu_bytes(
    step: dict[str, Any], trained: int, measured: dict[str, Any], sharded: bool, batch: int
) -> dict[str, Any]:
    """Bytes on one of the 8 GPUs: between steps, at most in a step, and which part of the step asks for most.

    A step passes three heights: encoding pixels, forward and backward pass, and the optimiser, which takes one more
    copy of what is trained. Saving is a fourth: what is sharded is gathered tensor by tensor, in float32.
    """
    sizes = measured["parameters"]
    world = 8 if sharded else 1
    state = state_bytes(sizes["unet"] + sizes["fusion"], trained, shards=world)
    frozen = 4 * (sizes["vae"] + sizes["text_encoder"])
    if sharded:  # in bfloat16: two layers and what is outside of layers, weights and gradients
        kept, made = 0, state.gradients
        gathered = 2 * 2 * (2 * sizes["largest_layer"] + sizes["outside_layers"])
        network = state.gradients + gathered + step["peak_apart"]
    else:  # casts; a layer's casts made again, and its gradients in bfloat16 and float32 before their buckets take them
        kept, made = state.gradients, 0
        casts = step["kept_casts"] + (2 + 2 + 4) * sizes["largest_layer"]
        network = min(step["peak"], casts + step["peak_apart"])
    between = state.total - state.gradients + kept + frozen
    heights = {
        "encoding": batch * measured["encoders"]["vae_peak"],
        "network": network,
        "optimizer": made + 4 * -(-trained // world),
        "saving": 4 * sizes["largest_tensor"] if sharded else 0,
    }
    most = max(heights, key=lambda name: heights[name])
    return {"between": between, "total": between + heights[most], "most": most}


def fits(total: float, gpu: dict[str, Any], assumed: dict[str, Any]) -> bool:
    """Whether the bytes, the margin and what the driver takes fit a card."""
    return total * (1 + assumed["memory_margin"]) + assumed["memory_reserved_gb"] * 1e9 <= gpu["memory_gb"] * 1e9


def memory_rows(measured: dict[str, Any], assumed: dict[str, Any]) -> list[dict[str, Any]]:
    """All weights trained: every way to shard, checkpointing and batch."""
    rows = []
    trained = measured["parameters"]["unet"] + measured["parameters"]["fusion"]
    for sharded in (False, True):
        for checkpointed in (False, True):
            for batch in BATCHES:
                used = gpu_bytes(at_batch(measured, checkpointed, batch), trained, measured, sharded, batch)
                row = {"sharding": "FSDP2" if sharded else "DDP", "checkpointed": checkpointed, "batch": batch}
                verdicts = {name: fits(used["total"], gpu, assumed) for name, gpu in assumed["gpus"].items()}
                rows.append({**row, **used, "fits": verdicts})
    return rows


def trainable_rows(measured: dict[str, Any], assumed: dict[str, Any]) -> list[dict[str, Any]]:
    """Parts trained: 8 clips a GPU, DDP, with checkpointing."""
    rows = []
    for step in measured["steps"]:
        if step["checkpointed"] and step["batch"] == 8:
            used = gpu_bytes(step, step["trained"], measured, sharded=False, batch=8)
            row = {"trainable": step["trainable"], "trained": step["trained"], "flops": step["flops"] / 8}
            verdicts = {name: fits(used["total"], gpu, assumed) for name, gpu in assumed["gpus"].items()}
            rows.append({**row, **used, "fits": verdicts})
    return rows


def flops(measured: dict[str, Any]) -> dict[str, float]:
    """FLOPs of one clip."""
    plain, checkpointed = (
        next(s for s in measured["steps"] if (s["trainable"], s["checkpointed"], s["batch"]) == ("all", flag, 8))
        for flag in (False, True)
    )
    return {
        "forward": plain["forward_flops"] / 8,
        "step": plain["flops"] / 8,
        "step_checkpointed": checkpointed["flops"] / 8,
        "vae": measured["encoders"]["vae_flops"],
        "text": measured["encoders"]["text_flops"],
    }


def hour_rows(measured: dict[str, Any], assumed: dict[str, Any]) -> list[dict[str, Any]]:
    """8 GPUs, the preset's batch and steps: seconds a step and hours, at the least and the largest utilisation."""
    config, per_clip, rows = paper(), flops(measured), []
    for name, gpu in assumed["gpus"].items():
        for checkpointed in (True, False):
            for cached in (False, True):
                network = per_clip["step_checkpointed" if checkpointed else "step"] / (gpu["bf16_tflops"] * 1e12)
                encoders = 0 if cached else (per_clip["vae"] + per_clip["text"]) / (gpu["tf32_tflops"] * 1e12)
                seconds = [config.batch_size / 8 * (network + encoders) / u for u in assumed["utilisation"]]
                rows.append(
                    {
                        "gpu": name,
                        "checkpointed": checkpointed,
                        "cached": cached,
                        "step_seconds": seconds,
                        "hours": [config.steps * s / 3600 for s in seconds],
                        "clips_per_second": [config.batch_size / s for s in seconds],
                    }
                )
    return rows


def data_facts(measured: dict[str, Any], assumed: dict[str, Any]) -> dict[str, float]:
    """Bytes of a clip as latents, text and mp4, of the whole set, and the cores that decode on the fly."""
    config = paper()
    latents = 2 * 4 * config.num_frames * (config.size // 8) ** 2
    text = 2 * TOKENS * TEXT["hidden_size"]
    clips, state = assumed["webvid_clips"], measured["parameters"]
    denoiser = state["unet"] + state["fusion"]
    return {
        "latent_bytes": latents,
        "text_bytes": text,
        "cache_tb": clips * (latents + text) / 1e12,
        "mp4_tb": clips * assumed["mp4_mb"] * 1e6 / 1e12,
        "decoded_per_core": 1 / measured["decoding"]["cpu_seconds"],
        "checkpoint_gb": 16 * denoiser / 1e9,
        "largest_file_gb": 8 * denoiser / 1e9,
        "run_epochs": config.steps * config.batch_size / clips,
        "cache_gpu_tflop": clips * (measured["encoders"]["vae_flops"] + measured["encoders"]["text_flops"]) / 1e12,
    }


# -------------------------------------------------------------------------------------------------------- the page


def tables(results: dict[str, Any]) -> dict[str, str]:
    """The page's tables by name."""
    planned, measured, assumed = results["plan"], results["measured"], results["assumed"]
    return {
        "parameters": parameter_table(measured),
        "flops": flops_table(planned["flops"]),
        "state": state_table(measured),
        "activations": activation_table(measured),
        "memory": memory_table(planned["memory"], assumed),
        "trainable": trainable_table(planned["trainable"], assumed),
        "hours": hours_table(planned["hours"]),
        "data": data_table(planned["data"], measured, assumed),
        "loader": loader_table(planned["hours"], planned["data"]),
    }


def gb(value: float) -> str:
    """Bytes in GB of 10^9."""
    return f"{value / 1e9:.1f}"


def span(values: list[float], form: str) -> str:
    """From the smallest to the largest."""
    return f"{min(values):{form}} to {max(values):{form}}"


def verdict(ok: bool) -> str:
    """In a table."""
    return "yes" if ok else "no"


def parameter_table(measured: dict[str, Any]) -> str:
    names = {
        "unet": "3D-UNet",
        "fusion": "TNF",
        "vae": "autoencoder, frozen",
        "text_encoder": "text encoder, frozen",
        "largest_layer": "largest layer that FSDP2 gathers",
        "outside_layers": "outside of such layers, stays gathered",
        "largest_tensor": "largest tensor, gathered alone in saving",
    }
    return markdown(
        ["part", "parameters (M)"], [[names[k], f"{n / 1e6:.2f}"] for k, n in measured["parameters"].items()]
    )


def flops_table(per_clip: dict[str, float]) -> str:
    names = {
        "forward": "UNet and TNF, forward",
        "step": "forward and backward",
        "step_checkpointed": "the same with gradient checkpointing",
        "vae": "autoencoder, 16 frames of 256 x 256",
        "text": "text encoder, 77 tokens",
    }
    return markdown(["for one clip", "TFLOP"], [[names[k], f"{n / 1e12:.2f}"] for k, n in per_clip.items()])


def state_table(measured: dict[str, Any]) -> str:
    sizes = measured["parameters"]
    denoiser = sizes["unet"] + sizes["fusion"]
    ddp, fsdp = state_bytes(denoiser, denoiser), state_bytes(denoiser, denoiser, shards=8)
    frozen = 4 * (sizes["vae"] + sizes["text_encoder"])
    rows = [[name, gb(value), gb(asdict(fsdp)[name])] for name, value in asdict(ddp).items()]
    rows += [["frozen encoders", gb(frozen), gb(frozen)], ["sum", gb(ddp.total + frozen), gb(fsdp.total + frozen)]]
    return markdown(["GB per GPU", "DDP", "FSDP2 over 8"], rows)


def activation_table(measured: dict[str, Any]) -> str:
    rows = []
    for step in measured["steps"]:
        if step["trainable"] == "all":
            sums = [step["kept"] - step["kept_casts"], step["kept_casts"], step["peak_apart"], step["peak"]]
            rows.append(["on" if step["checkpointed"] else "off", step["batch"], *map(gb, sums)])
    header = [
        "checkpointing",
        "clips",
        "kept for backward",
        "weights in bfloat16",
        "peak without weights and gradients",
    ]
    return markdown([*header, "peak with both"], rows)


def memory_table(rows: list[dict[str, Any]], assumed: dict[str, Any]) -> str:
    header = ["sharding", "checkpointing", "clips per GPU", "GB between steps", "GB at most", "where"]
    header += [f"fits {name} ({gpu['memory_gb']} GB)" for name, gpu in assumed["gpus"].items()]
    return markdown(
        header,
        [
            [
                r["sharding"],
                "on" if r["checkpointed"] else "off",
                r["batch"],
                gb(r["between"]),
                gb(r["total"]),
                r["most"],
            ]
            + [verdict(ok) for ok in r["fits"].values()]
            for r in rows
        ],
    )


def trainable_table(rows: list[dict[str, Any]], assumed: dict[str, Any]) -> str:
    header = ["trainable", "trained (M)", "TFLOP per clip", "GB between steps", "GB at most", "where"]
    header += [f"fits {name}" for name in assumed["gpus"]]
    return markdown(
        header,
        [
            [
                r["trainable"],
                f"{r['trained'] / 1e6:.1f}",
                f"{r['flops'] / 1e12:.1f}",
                gb(r["between"]),
                gb(r["total"]),
                r["most"],
            ]
            + [verdict(ok) for ok in r["fits"].values()]
            for r in rows
        ],
    )


def hours_table(rows: list[dict[str, Any]]) -> str:
    header = ["8 GPUs", "checkpointing", "latents", "seconds per step", "hours per 100k steps"]
    return markdown(
        header,
        [
            [
                r["gpu"],
                "on" if r["checkpointed"] else "off",
                "cached" if r["cached"] else "encoded on the fly",
                span(r["step_seconds"], ".2f"),
                span(r["hours"], ".0f"),
            ]
            for r in rows
        ],
    )


def data_table(facts: dict[str, Any], measured: dict[str, Any], assumed: dict[str, Any]) -> str:
    mp4 = measured["decoding"]["mp4_bytes"] / 1e6
    rows = [
        ["latents of a clip, float16", f"{facts['latent_bytes']:,} B"],
        ["text features of a clip, float16", f"{facts['text_bytes']:,} B"],
        [f"cache of {assumed['webvid_clips'] / 1e6:.1f} M clips", f"{facts['cache_tb']:.2f} TB"],
        [f"the mp4 files, at an assumed {assumed['mp4_mb']} MB each", f"{facts['mp4_tb']:.1f} TB"],
        ["a training checkpoint (weights, averages, two moments)", f"{facts['checkpoint_gb']:.1f} GB"],
        ["its largest file, whole on the writer's CPU", f"{facts['largest_file_gb']:.1f} GB"],
        ["epochs in 100k steps of 64 clips", f"{facts['run_epochs']:.2f}"],
        ["to fill the cache: encoders' products", f"{facts['cache_gpu_tflop'] / 1e6:.1f} M TFLOP"],
        [f"decoding, measured on a made clip of {mp4:.1f} MB", f"{facts['decoded_per_core']:.1f} clips/s per core"],
    ]
    return markdown(["", ""], rows)


def loader_table(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    header = ["8 GPUs", "checkpointing", "latents", "clips/s", "MB/s from the store", "cores that decode"]
    cached = (facts["latent_bytes"] + facts["text_bytes"]) / 1e6
    mp4 = 1e6 * facts["mp4_tb"] / ASSUMED["webvid_clips"]
    return markdown(
        header,
        [
            [
                r["gpu"],
                "on" if r["checkpointed"] else "off",
                "cached" if r["cached"] else "encoded on the fly",
                span(r["clips_per_second"], ".0f"),
                span([c * (cached if r["cached"] else mp4) for c in r["clips_per_second"]], ".0f"),
                "none" if r["cached"] else span([c / facts["decoded_per_core"] for c in r["clips_per_second"]], ".0f"),
            ]
            for r in rows
        ],
    )


def run(settings: Settings) -> dict[str, Any]:
    """Measure, or read what was measured, and derive the plan.

    Raises:
        ValueError: nothing to reuse.
    """
    if settings.reuse and not settings.json.is_file():
        raise ValueError(f"--reuse needs {settings.json}, which is missing; leave --reuse out")
    measured = json.loads(settings.json.read_text())["measured"] if settings.reuse else measure()
    return {"measured": measured, "assumed": ASSUMED, "plan": plan(measured, ASSUMED)}


def main(settings: Settings) -> None:
    """Measure or read, write, and show."""
    results = run(settings)
    write_json(settings.json, results)
    made = tables(results)
    if settings.page is not None:
        fill_pages([settings.page], made)
    print(*made.values(), sep="\n\n")


if __name__ == "__main__":
    command("benchmarks.scaling", Settings, __doc__, main)
