"""How fast is one denoising step, against diffusers' own network with the same weights and against the machine?

    python -m benchmarks.speed --json speed.json                                        the small network
    python -m benchmarks.speed --json speed.json --size full --dtype bfloat16           1.41 B parameters
    python -m benchmarks.speed --json speed.json --check docs/results/speed-mini.json   fails where it became slower

=============  ====================================================================================================
`--size`       network, latents
=============  ====================================================================================================
`mini`         widths of the bundled model, without what diffusers' network lacks; 24 x 16 x 8 x 8
`slice`        two of the four resolutions of the full network, one layer each; 4 x 17 x 32 x 32
`full`         `UNet3DConditionModel`'s defaults, those of ModelScopeT2V; 4 x 17 x 32 x 32
=============  ====================================================================================================

Weights are random, with no layer at zero; both networks hold the same tensors. `forward` is one call with one clip;
`loop` is `--steps` steps under guidance: diffusers' in its TextToVideoSDPipeline, ours in `trip.sampler` with fusion.
`stages` are those of the bundled model's own pipeline.
"""

import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
from PIL import Image
from torch import Tensor, nn
from tyro.conf import arg

from benchmarks.command import command
from benchmarks.measuring import (
    alternate,
    ceiling,
    count_flops,
    fallen,
    peak_memory,
    profile,
    ratio,
    seconds,
    stopwatch,
)
from benchmarks.motion import circumstances
from benchmarks.pages import write_json
from trip.condition import Condition, first_frame
from trip.data.video.writing import write_video
from trip.denoiser import TripDenoiser
from trip.guidance import Guidance
from trip.models import bundled_model_path
from trip.noise_fusion import DEFAULT_SIGMA, OptimalNoiseFusion
from trip.opening import compile_layers
from trip.pipeline import TripPipeline
from trip.residual_unet import ResidualUNet3D
from trip.sampler import sample

Call = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Size:
    """A network and what it is given.

    Attributes:
        config: of `UNet3DConditionModel`. clip: channels, frames, height and width of the latents. tokens: of the text.
        matrix, channels: of the products that measure the machine's ceiling.
    """

    config: dict[str, Any]
    clip: tuple[int, int, int, int]
    tokens: int
    matrix: int
    channels: int


SIZES = {
    "mini": Size(
        config={
            "in_channels": 24,
            "out_channels": 24,
            "block_out_channels": (96, 128),
            "down_block_types": ("DownBlock3D", "CrossAttnDownBlock3D"),
            "up_block_types": ("CrossAttnUpBlock3D", "UpBlock3D"),
            "layers_per_block": 1,
            "norm_num_groups": 16,
            "cross_attention_dim": 384,
            "attention_head_dim": 32,
        },
        clip=(24, 16, 8, 8),
        tokens=16,
        matrix=1024,
        channels=128,
    ),
    "slice": Size(
        config={
            "block_out_channels": (320, 640),
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
            "layers_per_block": 1,
        },
        clip=(4, 17, 32, 32),
        tokens=77,
        matrix=2048,
        channels=320,
    ),
    "full": Size(config={}, clip=(4, 17, 32, 32), tokens=77, matrix=2048, channels=320),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How fast is one denoising step?

    Attributes:
        json: where the results go.
        size: network and latents: mini, slice or full.
        device: for example cpu or cuda.
        dtype: of weights and activations.
        repeats: alternating runs that the medians are of.
        steps: denoising steps of the loop.
        against: also measure diffusers' network and loop, or nothing else.
        compile: our network's layers, as `trip animate --compile` does; diffusers' stays as it is used.
        loop: measure the loop too, not only one forward.
        stages: measure the stages of the bundled model.
        profile: say where a forward's time goes, on CPUs; not inside compiled layers.
        check: earlier results; fail where a tracked ratio is more than 20 % below theirs.
        debug: show where an error was raised.
    """

    json: Annotated[Path, arg(metavar="FILE")]
    size: Literal["mini", "slice", "full"] = "mini"
    device: Annotated[str, arg(metavar="NAME")] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    repeats: Annotated[int, arg(metavar="N")] = 5
    steps: Annotated[int, arg(metavar="N")] = 2
    against: Literal["diffusers", "nothing"] = "diffusers"
    compile: bool = False
    loop: bool = True
    stages: bool = True
    profile: bool = True
    check: Annotated[Path | None, arg(metavar="FILE")] = None
    debug: bool = False

    def validate(self) -> None:
        """Raise ValueError for settings nothing can be measured with."""
        for name in ("repeats", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} (={getattr(self, name)}) must be at least 1; pass a positive number")
        if self.check is not None and not self.check.is_file():
            raise ValueError(f"there is no {self.check} to check against; make it with --json first")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """One clip: noisy latents b c f h w, a timestep, and the text's features b n d with and without a prompt."""

    latents: Tensor
    timestep: Tensor
    text: Tensor
    null: Tensor


# ----------------------------------------------------------------------------------------------- what is compared


def stock_network(size: Size, dtype: torch.dtype, device: torch.device) -> UNet3DConditionModel:
    """diffusers' network with random weights, those that start at zero included."""
    torch.manual_seed(0)
    network = UNet3DConditionModel(**size.config)
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.01)
    return nn.Module.to(network, device, dtype).eval()


def our_network(stock: UNet3DConditionModel, size: Size) -> ResidualUNet3D:
    """Our network with the same tensors, not copies."""
    with torch.device("meta"):
        network = ResidualUNet3D(**size.config)
    network.load_state_dict(stock.state_dict(), strict=True, assign=True)
    return network.eval()


def draw_inputs(size: Size, dtype: torch.dtype, device: torch.device) -> Inputs:
    """The same for every run."""
    generator = torch.Generator("cpu").manual_seed(0)
    dim = size.config.get("cross_attention_dim", 1024)
    shapes = (1, *size.clip), (1, size.tokens, dim), (1, size.tokens, dim)
    latents, text, null = (torch.randn(shape, generator=generator, device="cpu").to(device, dtype) for shape in shapes)
    return Inputs(latents=latents, timestep=torch.tensor([500], device=device), text=text, null=null)


def forward_flops(size: Size) -> int:
    """Floating-point operations of one forward; nothing is computed."""
    with torch.device("meta"):
        network = ResidualUNet3D(**size.config)
        inputs = draw_inputs(size, torch.float32, torch.device("meta"))
    return count_flops(lambda: forward(network, inputs))


def forward(network: nn.Module, inputs: Inputs) -> Tensor:
    """One call of a network."""
    return network(inputs.latents, inputs.timestep, inputs.text).sample


def stock_loop(network: UNet3DConditionModel, inputs: Inputs, steps: int) -> Call:
    """diffusers' pipeline around its network, from noise to latents; its autoencoder is never called."""
    sizes: Any = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [8] * 4,
        "norm_num_groups": 8,
    }
    vae = AutoencoderKL(**sizes)
    parts: Any = {"vae": vae, "text_encoder": None, "tokenizer": None, "unet": network, "scheduler": scheduler()}
    pipeline = TextToVideoSDPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    frames, height, width = inputs.latents.shape[2:]
    return lambda: pipeline(
        prompt_embeds=inputs.text,
        negative_prompt_embeds=inputs.null,
        latents=inputs.latents,
        num_frames=frames,
        height=8 * height,
        width=8 * width,
        num_inference_steps=steps,
        guidance_scale=9.0,
        output_type="latent",
    )


def our_loop(network: ResidualUNet3D, inputs: Inputs, steps: int) -> Call:
    """Our sampler around our network and the closed-form fusion, with the same guidance."""
    frames = inputs.latents.shape[2]
    sigma = (DEFAULT_SIGMA + DEFAULT_SIGMA[-1:] * frames)[:frames]
    denoiser = TripDenoiser(network, OptimalNoiseFusion(sigma=sigma, concat="none"))
    reference = inputs.latents[:, :, :1].float()
    condition = Condition(
        reference=reference, pinned=first_frame(frames), image=reference, text=inputs.text, null_text=inputs.null
    )

    def loop() -> list[Any]:
        return list(
            sample(
                denoiser,
                scheduler(),
                inputs.latents.float(),
                condition,
                steps=steps,
                guidance=Guidance(scale=9.0),
            )
        )

    return loop


def scheduler() -> DDIMScheduler:
    """Of both loops."""
    return DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)


# -------------------------------------------------------------------------------------------------- measurements


@torch.no_grad()
def measure(settings: Settings) -> dict[str, Any]:
    """Everything the settings ask for; see the module."""
    settings.validate()
    size, device, dtype = SIZES[settings.size], torch.device(settings.device), getattr(torch, settings.dtype)
    stock = stock_network(size, dtype, device)
    networks: dict[str, Any] = {"trip": our_network(stock, size), "diffusers": stock}
    if settings.compile:
        compile_layers(networks["trip"])
    if settings.against == "nothing":
        del networks["diffusers"], stock
    inputs = draw_inputs(size, dtype, device)
    highest = ceiling(size.matrix, size.channels, dtype, device)
    one = measure_forward(networks, inputs, settings, forward_flops(size), highest["highest"])
    results: dict[str, Any] = {"ceiling": highest, "forward": one}
    if settings.loop:
        results["loop"] = measure_loop(networks, inputs, settings, device)
    results["peak_memory"] = peak_memory(device)
    if settings.stages:
        results["stages"] = measure_stages(settings.steps, device, dtype)
    return {**circumstances(), "settings": plain(settings), "results": results, "tracked": tracked(results)}


def tracked(results: dict[str, Any]) -> dict[str, float]:
    """The ratios that `--check` holds on to: of alternating runs, hence the same on a busy machine."""
    rows = {name: results.get(name, {}) for name in ("forward", "loop")}
    return {name: row["ratio"]["median"] for name, row in rows.items() if "ratio" in row}


def plain(settings: Settings) -> dict[str, Any]:
    """The settings that decide the result."""
    return {name: value for name, value in asdict(settings).items() if name not in ("json", "check", "debug")}


def measure_forward(
    networks: dict[str, Any], inputs: Inputs, settings: Settings, flops: int, highest: float
) -> dict[str, Any]:
    """Seconds, FLOP/s and profile of one call; with both networks, their ratio and how their results differ."""
    device = inputs.latents.device
    calls = {name: lambda network=network: forward(network, inputs) for name, network in networks.items()}
    times, samples = alternate(calls, settings.repeats, device)
    rates = {name: flops / statistics.median(values) for name, values in times.items()}
    row = {
        "flops": flops,
        "seconds": medians(times),
        "of_ceiling": {name: rate / highest for name, rate in rates.items()},
        **compared(times),
    }
    if "diffusers" in networks:
        ours, theirs = samples["trip"].float(), samples["diffusers"].float()
        row["largest_difference"] = (ours - theirs).abs().max().item()
        row["relative_difference"] = ((ours - theirs).norm() / theirs.norm()).item()
    if device.type == "cpu" and settings.profile:
        seen = {name: call for name, call in calls.items() if name != "trip" or not settings.compile}
        row["profile"] = {name: profile(call) for name, call in seen.items()}
    return row


def measure_loop(networks: dict[str, Any], inputs: Inputs, settings: Settings, device: torch.device) -> dict[str, Any]:
    """Seconds a step under guidance."""
    loops = {"trip": our_loop(networks["trip"], inputs, settings.steps)}
    if "diffusers" in networks:
        loops["diffusers"] = stock_loop(networks["diffusers"], inputs, settings.steps)
    times, _ = alternate(loops, settings.repeats, device)
    a_step = {name: [value / settings.steps for value in values] for name, values in times.items()}
    return {"seconds_a_step": medians(a_step), **compared(times)}


def measure_stages(steps: int, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Seconds of each stage of the bundled model's pipeline for one clip; `denoise` and `fusion` are of one step."""
    pipeline: Any = TripPipeline.from_pretrained(bundled_model_path(), dtype=dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    pixels, prompt = torch.zeros(1, 3, 64, 64, device=device), "the camera pans left"
    parts = {"denoise": pipeline.unet, "fusion": pipeline.fusion}
    with stopwatch(parts, device) as times:
        latents = pipeline(picture, prompt, num_inference_steps=max(steps, 2), output_type="latent").frames
    latents = torch.as_tensor(latents)
    with tempfile.TemporaryDirectory() as folder:
        frames = np.zeros((latents.shape[2], 64, 64, 3), np.uint8)
        others: dict[str, Call] = {
            "text": lambda: pipeline.encode_prompt(prompt, do_classifier_free_guidance=False),
            "encode": lambda: pipeline.encode_image(pixels),
            "decode": lambda: pipeline.decode_latents(latents),
            "write": lambda: write_video(os.path.join(folder, "clip.mp4"), frames),
        }
        for name, call in others.items():
            call()
            times[name] = [seconds(call, device) for _ in range(3)]
    return medians({name: times[name] for name in ("text", "encode", "denoise", "fusion", "decode", "write")})


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """One number a name."""
    return {name: statistics.median(values) for name, values in times.items()}


def compared(times: dict[str, list[float]]) -> dict[str, Any]:
    """How many times faster ours is, where both were measured."""
    return {"ratio": ratio(times["diffusers"], times["trip"])} if "diffusers" in times else {}


# ------------------------------------------------------------------------------------------------------- report


def table(results: dict[str, Any]) -> str:
    """The results in a few lines of Markdown."""
    settings, measured = results["settings"], results["results"]
    one, highest = measured["forward"], measured["ceiling"]["highest"]
    lines = [
        f"{settings['size']}, {settings['dtype']}, {settings['device']}: {one['flops'] / 1e9:.0f} GFLOP a forward; "
        f"ceiling {highest / 1e9:.0f} GFLOP/s; peak memory {measured['peak_memory'] / 2**30:.1f} GiB",
        "",
        "| | seconds | of the ceiling |",
        "|---|---|---|",
        *(f"| {n} | {s:.3f} | {one['of_ceiling'][n]:.0%} |" for n, s in one["seconds"].items()),
        "",
        *(f"{n}: {spread(measured[n]['ratio'])}" for n in ("forward", "loop") if "ratio" in measured.get(n, {})),
    ]
    if "largest_difference" in one:
        differences = f"{one['largest_difference']:.1e}, relative {one['relative_difference']:.1e}"
        lines.append(f"largest difference {differences}")
    for name, kinds in one.get("profile", {}).items():
        lines.append(f"{name}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in kinds.items()))
    if "stages" in measured:
        lines.append("stages: " + ", ".join(f"{n} {1000 * s:.1f} ms" for n, s in measured["stages"].items()))
    return "\n".join(lines)


def spread(ratio: dict[str, float]) -> str:
    """A ratio with its spread."""
    return f"{ratio['median']:.2f} times as fast ({ratio['low']:.2f} to {ratio['high']:.2f})"


def require(results: dict[str, Any], baseline: Path) -> None:
    """Raise ValueError where a tracked ratio fell by more than 20 %."""
    before = json.loads(baseline.read_text(encoding="utf-8"))["tracked"]
    if lines := fallen(results["tracked"], before):
        raise ValueError(f"slower than {baseline.name}: {'; '.join(lines)}; find the change, or measure it again")


def main(settings: Settings) -> None:
    """Measure, write, show, and compare."""
    results = measure(settings)
    write_json(settings.json, results)
    print(table(results))
    if settings.check is not None:
        require(results, settings.check)


if __name__ == "__main__":
    command("benchmarks.speed", Settings, __doc__, main)
