"""What a clip costs by its length and size, and what an accelerator must hold for it. Nothing runs on an accelerator.

    pages="docs/memory.md docs/results/memory.md"
    python -m benchmarks.memory --json docs/results/memory.json --page $pages          half a minute
    python -m benchmarks.memory --json docs/results/memory.json --page $pages --cpu    and a real CPU, minutes

The full-size network is built and called on the meta device (`benchmarks.meta_step`), in float16, with both branches of
guidance in one batch, as `TripPipeline` calls it. On the CPU the bundled model's network, without its limits and with
random weights, is timed; each cell in a process of its own, so that its peak is its own.
"""

import json
import multiprocessing
import resource
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.command import command
from benchmarks.measuring import seconds
from benchmarks.meta_step import measure_inference
from benchmarks.motion import circumstances
from benchmarks.pages import fill_pages, markdown, write_json
from benchmarks.scaling import TEXT, TOKENS, VAE
from trip.condition import still
from trip.denoiser import TripDenoiser
from trip.models import bundled_model_path
from trip.noise_fusion import TemporalNoiseFusion
from trip.placement import OFFLOADS
from trip.residual_unet import ResidualUNet3D
from trip.training.parts import new_fusion
from trip.training.presets import paper

LENGTHS = (8, 16, 32, 64)
SIZES = (64, 128, 256, 512)
CHUNKS = (16, 4, 1)
CARDS = (8, 12, 24)
GIB = 2**30
RESERVED = GIB // 2
"""Of a card, for its driver and the allocator's fragments; an assumption."""

HALF = torch.float16
MINI_FRAMES, MINI_SIZE, MINI_FACTOR = 16, 64, 8


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Command line."""

    json: Path
    """File for the results."""
    page: tuple[Path, ...] = ()
    """Markdown files whose tables are replaced."""
    cpu: bool = False
    """Also time the bundled model's network on the CPU; otherwise what the file holds stays."""
    debug: bool = False
    """Traceback on errors."""


# ------------------------------------------------------------------------------------------------ the full-size parts


@dataclass(frozen=True)
class Parts:
    """The full-size pipeline's networks on the meta device: the preset `paper` and SD 2.1's encoders, in float16."""

    text_encoder: nn.Module
    unet: ResidualUNet3D
    vae: nn.Module

    @classmethod
    def build(cls) -> "Parts":
        """Shapes without content."""
        with torch.device("meta"):
            text, vae = CLIPTextModel(CLIPTextConfig(**TEXT)), AutoencoderKL(**VAE)
            unet = ResidualUNet3D(**paper().unet)
        return cls(*(network.to(HALF).eval() for network in (text, unet, vae)))  # pyright: ignore[reportArgumentType]

    def denoiser(self, num_frames: int) -> TripDenoiser:
        """With a fusion for clips of that length."""
        with torch.device("meta"):
            fusion = new_fusion(paper(), 4)
        fusion.register_to_config(sigma=[1.0] * num_frames)
        return TripDenoiser(self.unet, fusion.to(HALF)).eval()

    def denoise(self, denoiser: TripDenoiser, num_frames: int, size: int) -> Callable[[], Any]:
        """One guided step of one clip."""
        config: Any = self.unet.config
        channels, width, side = config["out_channels"], config["cross_attention_dim"], size // 8
        with torch.device("meta"):
            z = torch.empty(2, channels, num_frames, side, side)
            image, t = torch.empty(2, channels, 1, side, side), torch.ones(2)
            condition = still(image, text=torch.empty(2, TOKENS, width, dtype=HALF))
        return lambda: denoiser(z, t, condition, t / 2, t / 2)

    def decode(self, frames: int, size: int) -> Callable[[], Any]:
        """`frames` frames at once."""
        vae: Any = self.vae
        latents = torch.empty(frames, 4, size // 8, size // 8, device="meta", dtype=HALF)
        return lambda: vae.decode(latents)

    def encode_text(self) -> Callable[[], Any]:
        """A prompt and a negative prompt."""
        tokens = torch.zeros(2, TOKENS, dtype=torch.long, device="meta")
        return lambda: self.text_encoder(tokens)


def weight_bytes(module: nn.Module) -> int:
    """Of all weights, as they are."""
    return sum(p.nbytes for p in module.parameters())


def largest_layer(module: nn.Module) -> int:
    """Bytes of the layer with the most weights of its own."""
    return max(sum(p.nbytes for p in layer.parameters(recurse=False)) for layer in module.modules())


def float8_bytes(network: Any) -> int:
    """Weights at rest where `trip.placement.store_in_float8` keeps those of layers, but not of norms, in one byte."""
    skipped, total = network._skip_layerwise_casting_patterns, 0
    for name, layer in network.named_modules():
        small = isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Linear) and not any(word in name for word in skipped)
        total += sum(p.numel() if small else p.nbytes for p in layer.parameters(recurse=False))
    return total


# ------------------------------------------------------------------------------------------------- what is measured


def measure() -> dict[str, Any]:
    """Weights, and what every stage needs beside them, by length and size."""
    parts = Parts.build()
    networks = {"text_encoder": parts.text_encoder, "unet": parts.unet, "vae": parts.vae}
    return {
        "weights": {
            **{name: weight_bytes(network) for name, network in networks.items()},
            "fusion": weight_bytes(parts.denoiser(LENGTHS[0]).fusion),
            "unet_float8": float8_bytes(parts.unet),
        },
        "largest_layers": {name: largest_layer(network) for name, network in networks.items()},
        "text": cost(parts.text_encoder, parts.encode_text()),
        "denoise": list(denoise_costs(parts)),
        "decode": [
            {"frames": frames, "size": size, **cost(parts.vae, parts.decode(frames, size))}
            for size in SIZES
            for frames in CHUNKS
        ],
    }


def cost(module: nn.Module, call: Callable[[], Any]) -> dict[str, int]:
    """FLOPs of a call, and the most bytes it holds beside the weights."""
    flops, peak = measure_inference(module, call)
    return {"flops": flops, "peak": peak}


def denoise_costs(parts: Parts) -> Iterator[dict[str, int]]:
    """A guided step at every length and size."""
    for num_frames in LENGTHS:
        denoiser = parts.denoiser(num_frames)
        for size in SIZES:
            yield {"frames": num_frames, "size": size, **cost(denoiser, parts.denoise(denoiser, num_frames, size))}


# --------------------------------------------------------------------------------------------------- on a real CPU


def measure_cpu() -> dict[str, Any]:
    """The bundled model's network by length at its own size, and by size at its own length."""
    cells = [(frames, MINI_SIZE) for frames in LENGTHS] + [(MINI_FRAMES, size) for size in SIZES if size != MINI_SIZE]
    spawn = multiprocessing.get_context("spawn")
    rows = []
    for cell in cells:
        with spawn.Pool(1) as pool:
            rows.append(dict(zip(("frames", "size"), cell, strict=True)) | pool.apply(time_cell, cell))
            print(rows[-1], file=sys.stderr)
    return {**circumstances(), "rows": rows}


@torch.no_grad()
def time_cell(num_frames: int, size: int, repeats: int = 5) -> dict[str, float]:
    """Median seconds of a forward of one clip, of decoding it, and bytes by which they raised the process's peak."""
    denoiser, vae = mini_denoiser(num_frames), AutoencoderKL.from_pretrained(bundled_model_path() / "vae").eval()
    run_forward(denoiser, num_frames, MINI_SIZE // 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu = torch.device("cpu")
    forward = [seconds(lambda: run_forward(denoiser, num_frames, size), cpu) for _ in range(repeats)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    latents = torch.randn(num_frames, vae.config["latent_channels"], size // MINI_FACTOR, size // MINI_FACTOR)
    decode = [seconds(lambda: vae.decode(latents), cpu) for _ in range(min(repeats, 3))]  # pyright: ignore[reportAttributeAccessIssue]
    return {
        "forward": statistics.median(forward),
        "decode": statistics.median(decode),
        "forward_bytes": (peak - before) * 1024,
    }


def mini_denoiser(num_frames: int) -> TripDenoiser:
    """The bundled model's configuration for clips of any length, random weights."""
    config = dict(ResidualUNet3D.load_config(bundled_model_path() / "unet")) | {"max_num_frames": None}
    fusion = dict(TemporalNoiseFusion.load_config(bundled_model_path() / "fusion")) | {"sigma": [1.0] * num_frames}
    return TripDenoiser(ResidualUNet3D.from_config(config), TemporalNoiseFusion.from_config(fusion)).eval()


def run_forward(denoiser: TripDenoiser, num_frames: int, size: int) -> Any:
    """One call with one clip."""
    unet: Any = denoiser.backbone
    channels, width, side = unet.config["out_channels"], unet.config["cross_attention_dim"], size // MINI_FACTOR
    z, image = torch.randn(1, channels, num_frames, side, side), torch.randn(1, channels, 1, side, side)
    half = torch.tensor([0.5])
    return denoiser(z, 1000 * half, still(image, text=torch.randn(1, 16, width)), half, half)


# ----------------------------------------------------------------------------------------------------- the tables


def stages(
    measured: dict[str, Any], offload: str, float8: bool, frames: int, size: int, chunk: int
) -> dict[str, float]:
    """Bytes on the accelerator at most, in each stage of a clip: weights that are there, and what the call needs."""
    weights, layers = dict(measured["weights"]), measured["largest_layers"]
    small = weights.pop("unet_float8")
    if float8:
        weights["unet"] = small
    resident = {
        "none": dict.fromkeys(layers, sum(weights.values())),
        "model": {name: weights[name] + weights["fusion"] for name in layers},
        "group": {name: 2 * layers[name] + weights["fusion"] for name in layers},
        "sequential": {name: layers[name] + weights["fusion"] for name in layers},
    }[offload]
    cast = layers["unet"] if float8 else 0
    needs = {
        "text_encoder": measured["text"]["peak"],
        "unet": find(measured["denoise"], frames, size)["peak"] + cast,
        "vae": find(measured["decode"], chunk, size)["peak"],
    }
    return {name: resident[name] + needs[name] for name in needs}


def find(rows: list[dict[str, Any]], frames: int, size: int) -> dict[str, Any]:
    """The row of that length and size."""
    return next(row for row in rows if (row["frames"], row["size"]) == (frames, size))


def tables(results: dict[str, Any]) -> dict[str, str]:
    """The page's tables by name."""
    made = {
        "weights": weights_table(results["full"]),
        "placement": placement_table(results["full"]),
        "activations": grid_table(results["full"]["denoise"], "peak", GIB, ".2f"),
        "arithmetic": grid_table(results["full"]["denoise"], "flops", 1e12, ".1f"),
        "decoding": grid_table(results["full"]["decode"], "peak", GIB, ".2f", "frames at once"),
    }
    return made | ({"cpu": cpu_table(results["cpu"]["rows"])} if "cpu" in results else {})


def weights_table(measured: dict[str, Any]) -> str:
    """Weights by part."""
    names = {
        "text_encoder": "text encoder",
        "unet": "3D-UNet, float16",
        "unet_float8": "3D-UNet, float8",
        "fusion": "TNF",
        "vae": "autoencoder",
    }
    layers = measured["largest_layers"]
    rows = [
        [label, f"{measured['weights'][name] / GIB:.2f}", f"{layers[name] / 2**20:.0f}" if name in layers else ""]
        for name, label in names.items()
    ]
    return markdown(["part", "GiB", "largest layer, MiB"], rows)


def placement_table(measured: dict[str, Any]) -> str:
    """Most GiB on the accelerator for a clip of 16 frames, by size, and on which cards all sizes fit."""
    rows = []
    for float8 in (False, True):
        for offload in OFFLOADS:
            if float8 and offload in ("group", "sequential"):
                continue  # only a layer's weights are there anyway
            held = [max(stages(measured, offload, float8, 16, size, chunk=4).values()) for size in (256, 512)]
            fitting = [f"{card} GB" for card in CARDS if max(held) + RESERVED <= card * 1e9]
            kind = "float8" if float8 else "float16"
            rows.append([offload, kind, *(f"{most / GIB:.1f}" for most in held), ", ".join(fitting)])
    return markdown(["--offload", "UNet's weights", "GiB at 256 x 256", "GiB at 512 x 512", "fits"], rows)


def grid_table(rows: list[dict[str, Any]], name: str, unit: float, form: str, what: str = "frames") -> str:
    """One quantity by length and size."""
    lengths = list(dict.fromkeys(row["frames"] for row in rows))
    cells = [[frames, *(format(find(rows, frames, size)[name] / unit, form) for size in SIZES)] for frames in lengths]
    return markdown([what, *(f"{size} x {size}" for size in SIZES)], cells)


def cpu_table(rows: list[dict[str, Any]]) -> str:
    """Seconds and bytes of the bundled model's network, also per frame of the shortest clip and per pixel."""
    unit = find(rows, MINI_FRAMES, MINI_SIZE)
    work = {id(row): row["frames"] * row["size"] ** 2 / (MINI_FRAMES * MINI_SIZE**2) for row in rows}
    return markdown(
        ["frames, size", "forward, s", "per frame and pixel, of 16 x 64 x 64's", "decoding, s", "peak, MiB"],
        [
            [
                f"{row['frames']}, {row['size']} x {row['size']}",
                f"{row['forward']:.3f}",
                f"{row['forward'] / unit['forward'] / work[id(row)]:.2f}",
                f"{row['decode']:.3f}",
                f"{row['forward_bytes'] / 2**20:.0f}",
            ]
            for row in rows
        ],
    )


# ----------------------------------------------------------------------------------------------------- the command


def run(settings: Settings) -> dict[str, Any]:
    """Count, and time or keep what was timed."""
    before = json.loads(settings.json.read_text(encoding="utf-8")) if settings.json.is_file() else {}
    cpu = {"cpu": measure_cpu()} if settings.cpu else {name: before[name] for name in ("cpu",) if name in before}
    return {"torch": torch.__version__, "full": measure(), **cpu}


def main(settings: Settings) -> None:
    """Measure, write, and show."""
    results = run(settings)
    write_json(settings.json, results)
    made = tables(results)
    fill_pages(settings.page, made)
    print(*(f"{name}\n{table}" for name, table in made.items()), sep="\n\n")


if __name__ == "__main__":
    command("benchmarks.memory", Settings, __doc__, main)
