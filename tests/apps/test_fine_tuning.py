"""Fine-tuning: the tutorial stays true, the benchmark measures, and an adapter is the whole change."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from torch.testing import assert_close

from benchmarks import fine_tuning
from trip.apps.cache import cache
from trip.apps.cache_options import DataCache
from trip.apps.cli import main, parse
from trip.data.cache.latents import LatentClips
from trip.data.video.writing import write_video
from trip.noise_fusion import TemporalNoiseFusion
from trip.pipeline import TripPipeline
from trip.residual_unet import ResidualUNet3D
from trip.training.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "fine-tuning.md"
RESULTS = ROOT / "docs" / "results" / "fine-tuning.json"
BENCHMARK = "python -m benchmarks.fine_tuning "


def page_commands() -> list[str]:
    """The lines of the page's bash blocks, continued ones joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def without_comment(command: str) -> list[str]:
    """The words after the program's name."""
    return shlex.split(command, comments=True)


@pytest.fixture
def clips(tmp_path: Path, rng: torch.Generator) -> Path:
    """Three noisy clips of 6 frames, 24 x 16, two of them with one caption."""
    folder, rows = tmp_path / "clips", []
    folder.mkdir()
    for number, caption in enumerate(("a pan", "a pan", "rain")):
        frames = torch.randint(0, 255, (6, 16, 24, 3), generator=rng, dtype=torch.uint8).numpy()
        write_video(folder / f"{number}.mp4", frames, 8)
        rows.append({"file_name": f"{number}.mp4", "text": caption})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def latents(clips: Path, model: Path, tmp_path: Path) -> Path:
    """The clips, encoded."""
    options = DataCache(source=str(clips), model=str(model), output=tmp_path / "latents", num_frames=4, workers=0)
    assert cache(dataclasses.replace(options, quiet=True, device="cpu")) == 0
    return options.output


# ---------------------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize("command", [c for c in page_commands() if c.startswith("trip ")])
def test_the_pages_commands_are_understood(command: str) -> None:
    options = parse(without_comment(command)[1:])
    assert not isinstance(options, int)


def test_the_pages_measurement_is_understood() -> None:
    (command,) = (c for c in page_commands() if c.startswith(BENCHMARK))
    settings = tyro.cli(fine_tuning.Settings, args=without_comment(command)[3:])
    assert set(settings.models()) == set(json.loads(RESULTS.read_text())["models"])


def test_the_page_shows_the_measured_figures() -> None:
    """Every mean of the table's rows is the result file's, rounded as there."""
    text, results = RESULTS.with_suffix(".md").read_text(encoding="utf-8"), json.loads(RESULTS.read_text())["results"]
    for name in ("before", "full", "lora"):
        loss = results[name]["loss"]
        for key in ("all", "t0", "t1", "t2", "t3"):
            assert f"{loss[key]['value']:.3f}" in text, f"loss {key} of {name}"
        assert f"{results[name]['motion']['value']:.2f}" in text, f"motion of {name}"
        assert f"{results[name]['camera']['successes']} of {results[name]['camera']['n']}" in text
    for name in ("full", "lora"):
        low, high = results[name]["minus_before"]["loss"]["all"]["interval"]
        assert f"{low:+.3f} to {high:+.3f}".replace("-", "−") in text, f"interval of {name}"


def test_fine_tuning_presets_start_from_the_bundled_model() -> None:
    assert {PRESETS[name]().initial for name in ("fine-tune", "lora")} == {"trip-mini"}
    assert PRESETS["lora"]().trainable == "lora" and PRESETS["lora"]().fusion_lr == 0


# ----------------------------------------------------------------------------------------------------- the flow


def test_clips_are_cached_at_the_models_size(latents: Path) -> None:
    assert LatentClips(latents).latent_shape == (4, 4, 8, 8)  # 16 x 16 pixels, halved by the autoencoder


def test_an_adapter_is_all_that_a_run_with_a_frozen_fusion_learnt(latents: Path, model: Path, tmp_path: Path) -> None:
    start = TripPipeline.from_pretrained(model)
    settings = {"concat": "time", "latent_channels": 4, "dim": 16, "depth": 1, "num_heads": 2}
    start.register_modules(fusion=TemporalNoiseFusion(sigma=[0.0, 0.3, 0.5, 0.6], **settings))
    start.save_pretrained(tmp_path / "start")
    run = tmp_path / "run"
    flags = ["--preset", "lora", "--initial", str(tmp_path / "start"), "--data", str(latents), "--lora-rank", "2"]
    flags += ["--steps", "2", "--batch-size", "2", "--export-dtype", "float32", "--mixed-precision", "no"]
    assert main(["train", *flags, "--output-dir", str(run), "--cpu", "--quiet"]) == 0
    made = TripPipeline.from_pretrained(run / "final")
    unet = ResidualUNet3D.from_pretrained(tmp_path / "start" / "unet")
    untouched = unet.state_dict()["conv_in.weight"].clone()
    unet.load_lora_adapter(run / "lora", prefix=None, use_safetensors=True)
    unet.fuse_lora()
    unet.unload_lora()
    for name, value in made.unet.state_dict().items():
        assert_close(unet.state_dict()[name], value, msg=lambda text, name=name: f"{name}: {text}")
    assert torch.equal(made.unet.state_dict()["conv_in.weight"], untouched)
    assert any(not torch.equal(p, q) for p, q in zip(start.unet.parameters(), made.unet.parameters(), strict=True))
    fusions = start.fusion.state_dict(), made.fusion.state_dict()
    assert all(torch.equal(fusions[0][name], value) for name, value in fusions[1].items())


# ------------------------------------------------------------------------------------------------ the benchmark


def settings(clips: Path, model: Path, folder: Path, **changes) -> fine_tuning.Settings:
    small = {"num_frames": 4, "steps": 2, "draws": 2, "fps": 0.0, "batch_size": 2}
    return fine_tuning.Settings(
        clips=str(clips), json=folder / "found.json", before=str(model), **{"after": (str(model),), **small, **changes}
    )


def test_a_model_does_not_differ_from_itself(clips: Path, model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "made" / "strips.png"
    found = fine_tuning.run(settings(clips, model, tmp_path, filmstrips=picture))
    change = found["results"]["after"]["minus_before"]
    assert all(row["value"] == 0 for row in change.pop("loss").values())
    assert change.keys() == {"motion", "sharpness", "to_real", "first_frame", "reconstruction"}
    assert all(row["value"] == 0 and row["n"] == 3 for row in change.values())
    assert found["results"]["real"]["motion"]["value"] > 0 and len(found["clips"]) == 3
    assert picture.stat().st_size > 0 and "change" in fine_tuning.table(found)
    json.dumps(found)


def test_losses_are_those_of_the_timesteps_quarters(clips: Path, model: Path, tmp_path: Path) -> None:
    """Every quarter is what `clip_losses` says at its own timesteps, with the same noise."""
    pipeline = TripPipeline.from_pretrained(model)
    held_out = fine_tuning.read_clips(settings(clips, model, tmp_path), (16, 16))
    sigma = fine_tuning.loss_table(pipeline, 4)
    losses = fine_tuning.denoising_losses(pipeline, held_out, sigma, draws=2)
    t = torch.tensor([62, 187, 312, 437, 562, 687, 812, 937])
    with torch.no_grad():
        one = fine_tuning.clip_losses(pipeline, held_out[1], t, sigma, seed=1).numpy()
    np.testing.assert_allclose(losses[1], one.reshape(4, 2).mean(1), rtol=1e-5)


def test_models_of_one_name_are_refused(clips: Path, model: Path, tmp_path: Path) -> None:
    twice = settings(clips, model, tmp_path, after=("full=a", "full=b"))
    with pytest.raises(ValueError, match=r"names two models alike, or 'before'; use NAME=FOLDER"):
        twice.models()
    named = settings(clips, model, tmp_path, after=("a", "lora=b")).models()
    assert named == {"before": str(model), "after-1": "a", "lora": "b"}
