"""Runs that start from foreign pipelines: ModelScopeT2V's layout key for key, Stable Diffusion 2.1 inflated."""

import dataclasses
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderTiny, UNet2DConditionModel, UNet3DConditionModel
from safetensors.torch import load_file
from torch.testing import assert_close

import tiny_models
from trip.apps.cli import main
from trip.condition import still
from trip.data.cache.latents import open_cache, write_shard
from trip.pipeline import TripPipeline
from trip.training.batches import open_source
from trip.training.config import TrainingConfig
from trip.training.parts import ATTENTION, TEMPORAL
from trip.training.trainer import Run, start_run

FUSION = {"kind": "tnf", "base": "none", "latent_channels": 4, "dim": 16, "depth": 1, "num_heads": 2}
WEIGHTS = "diffusion_pytorch_model.safetensors"
STARTS = {
    "modelscope": (tiny_models.text_to_video_pipeline, "epsilon"),
    "sd21": (tiny_models.stable_diffusion_pipeline, "v_prediction"),
}


@pytest.fixture(params=STARTS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> TrainingConfig:
    """Three steps from a foreign folder, on cached clips."""
    make, prediction = STARTS[request.param]
    about = {"kind": "pan_left", "reverse_kind": "pan_right", "subject": None, "speed": "normal"}
    open_cache(tmp_path / "latents", {})
    write_shard(tmp_path / "latents", 0, torch.randn(6, tiny_models.FRAMES, 4, 8, 8), [about] * 6)
    return TrainingConfig(
        initial=str(tiny_models.saved(make(), tmp_path / request.param)),
        fusion={**FUSION, "concat": "time", "prediction_type": prediction},
        data=str(tmp_path / "latents"),
        steps=3,
        batch_size=2,
        warmup_steps=1,
        weight_decay=0.0,  # only gradients move a weight
        sigma_clips=4,
        lora_rank=2,
        mixed_precision="no",
        export_dtype="float32",
        trackers=(),
    )


def started(config: TrainingConfig) -> Run:
    return start_run(config, open_source(config), Accelerator(cpu=True))


@torch.no_grad()
def foreign(config: TrainingConfig, latents: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """What the foreign network says of b c f h w, an image network frame by frame."""
    folder = f"{config.initial}/unet"
    if config.initial.endswith("modelscope"):
        return UNet3DConditionModel.from_pretrained(folder).eval()(latents, t, text).sample
    network = UNet2DConditionModel.from_pretrained(folder).eval()
    return torch.stack([network(frame, t, text).sample for frame in latents.unbind(2)], dim=2)


@torch.no_grad()
@pytest.mark.parametrize(("concat", "trainable"), [("time", "lora"), ("channel", "all"), ("none", "temporal")])
def test_the_first_prediction_is_the_foreign_networks(start: TrainingConfig, concat: str, trainable: str) -> None:
    """The image is one more frame, is not seen yet through its new channels, or is not given at all."""
    config = dataclasses.replace(start, fusion={**start.fusion, "concat": concat}, trainable=trainable)
    if concat == "channel" and config.initial.endswith("sd21"):
        config = dataclasses.replace(config, unet={"in_channels": 8})
    denoiser = started(config).denoiser.eval()
    z_t, image, text = torch.randn(2, 4, 4, 8, 8), torch.randn(2, 4, 1, 8, 8), torch.randn(2, 5, tiny_models.TEXT)
    t, levels = torch.tensor([10, 900]), (torch.tensor([0.9, 0.3]), torch.tensor([0.4, 0.95]))
    residual = denoiser(z_t, t, still(image, text=text), *levels).residual
    seen = torch.cat([image, z_t], dim=2) if concat == "time" else z_t
    assert_close(residual, foreign(config, seen, t, text)[:, :, -4:], atol=1e-4, rtol=0)


def trained(config: TrainingConfig, folder: Path) -> TripPipeline:
    """What `trip train` makes of the settings."""
    config.save(folder / "settings.json")
    flags = ["--config", str(folder / "settings.json"), "--output-dir", str(folder / "run"), "--cpu", "--quiet"]
    assert main(["train", *flags]) == 0
    return TripPipeline.from_pretrained(folder / "run" / "final")


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    """Names of tensors that are not bit for bit the same; all those of `other` must be there."""
    assert other.keys() <= one.keys()
    return {name for name, value in other.items() if not torch.equal(one[name].flatten(), value.flatten())}


def may_move(name: str, trainable: str, inflated: bool) -> bool:
    """Whether `trainable` lets a weight of the UNet change; behind the frozen zeros of an inflated one, none does."""
    if trainable == "lora":
        adapted = name.endswith(tuple(f"{layer}.weight" for layer in ATTENTION))
        return adapted and not (inflated and any(part in name for part in TEMPORAL))
    return trainable == "all" or (trainable == "temporal" and any(part in name for part in TEMPORAL))


@pytest.mark.parametrize("trainable", ["all", "temporal", "fusion", "lora"])
def test_trip_train_moves_what_it_is_told_to(start: TrainingConfig, trainable: str, tmp_path: Path) -> None:
    """Every weight that may move does, no other one; encoders stay; final/ loads, and makes a clip."""
    config = dataclasses.replace(start, trainable=trainable)
    began = started(dataclasses.replace(config, trainable="all")).pipeline
    source = {name: load_file(f"{config.initial}/{name}/{WEIGHTS}") for name in ("unet", "vae")}
    assert not differing(began.unet.state_dict(), source["unet"])
    pipeline = trained(config, tmp_path)
    moved = differing(pipeline.unet.state_dict(), began.unet.state_dict())
    inflated = config.initial.endswith("sd21")
    assert moved == {name for name in pipeline.unet.state_dict() if may_move(name, trainable, inflated)}
    assert not differing(pipeline.vae.state_dict(), source["vae"])
    assert differing(pipeline.fusion.state_dict(), began.fusion.state_dict())
    assert pipeline.tokenizer is not None and pipeline.fusion.table("sigma")[0] == 0
    assert (tmp_path / "run" / "lora").is_dir() == (trainable == "lora")
    frames = pipeline(torch.rand(3, 16, 16), "pan", num_frames=4, num_inference_steps=2, output_type="np").frames
    assert frames.shape == (1, 4, 16, 16, 3)


# ---------------------------------------------------------------------------------------- another autoencoder


@pytest.fixture
def tiny_autoencoder(tmp_path: Path) -> Path:
    """An AutoencoderTiny: halves once, four channels."""
    torch.manual_seed(0)
    widths = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    vae = AutoencoderTiny(**widths, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))
    vae.save_pretrained(tmp_path / "tiny-vae")
    return tmp_path / "tiny-vae"


@pytest.mark.parametrize("cached", [False, True], ids=["drawn", "cached"])
def test_training_takes_any_image_autoencoder_and_its_channels(
    tiny_autoencoder: Path, tmp_path: Path, cached: bool, capsys: pytest.CaptureFixture
) -> None:
    """The presets' networks have the 24 channels of trip-mini's autoencoder; those of a fresh one follow from --vae."""
    flags = ["train", "--preset", "smoke", "--steps", "2", "--batch-size", "2", "--sigma-clips", "4", "--trackers"]
    flags += ["--size", "16", "--validation-every", "0", "--cpu", "--quiet", "--output-dir", str(tmp_path / "run")]
    if cached:
        about = {"kind": "pan_left", "reverse_kind": "pan_right", "subject": None, "speed": "normal"}
        open_cache(tmp_path / "cache", {})
        write_shard(tmp_path / "cache", 0, torch.randn(4, 8, 4, 8, 8), [about] * 4)
        flags += ["--data", str(tmp_path / "cache")]
        assert main(flags) == 2
        assert "holds latents of 4 channels and the autoencoder has 24" in capsys.readouterr().err
    assert main([*flags, "--vae", str(tiny_autoencoder)]) == 0
    made = TripPipeline.from_pretrained(tmp_path / "run" / "final")
    assert isinstance(made.vae, AutoencoderTiny)
    assert (made.unet.config["in_channels"], made.unet.config["out_channels"]) == (8, 4)
    assert made.fusion.config["latent_channels"] == 4
    call = {"num_frames": 4, "num_inference_steps": 2, "height": 16, "width": 16, "output_type": "np"}
    assert made(torch.rand(3, 16, 16), "pan", **call).frames.shape == (1, 4, 16, 16, 3)


def test_an_autoencoder_that_the_network_was_not_trained_with_is_refused(tiny_autoencoder: Path) -> None:
    config = TrainingConfig(initial="trip-mini", vae=str(tiny_autoencoder), data="procedural", trackers=())
    with pytest.raises(ValueError, match="makes 24 channels and the autoencoder has 4; use the autoencoder"):
        start_run(config, open_source(config), Accelerator(cpu=True))
