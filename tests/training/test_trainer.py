"""The training loop: it learns, resumes exactly, accumulates, survives NaN, and trains what it is told to."""

import dataclasses
import math
from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import accelerate
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch.testing import assert_close

from trip.data.cache.latents import open_cache, shard_paths, write_shard
from trip.training import presets, trainer
from trip.training.batches import Batch, encode, open_source
from trip.training.checkpoint import checkpoints
from trip.training.config import TrainingConfig
from trip.training.export import averaged_pipeline
from trip.training.monitor import to_frames
from trip.training.trainer import Run, blur_text, draw_step, learning_rate, resume, save, start_run, training_loop


def started(config: TrainingConfig, accelerator: Accelerator | None = None) -> tuple[Run, Accelerator]:
    accelerator = accelerator or Accelerator(cpu=True)
    return start_run(config, open_source(config), accelerator), accelerator


def train(
    config: TrainingConfig, folder: Path | None = None, stop: int | None = None, accelerator: Accelerator | None = None
) -> tuple[Run, list[dict]]:
    """The run and its records, with checkpoints in `folder`, abandoned after step `stop`."""
    run, accelerator = started(config, accelerator)
    if folder is not None and (found := checkpoints(folder)):
        resume(run, found[max(found)])
    records = []
    for record in training_loop(run, open_source(config)):
        records.append(record)
        if folder is not None:
            save(run, folder)
        if record["step"] == stop:
            break
    return run, records


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in run.weights.items()} | {
        f"ema.{name}": value.clone() for name, value in run.ema.items()
    }


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_one(config: TrainingConfig, tmp_path: Path, optimizer: str) -> None:
    config = dataclasses.replace(config, optimizer=optimizer)
    whole, records = train(config)
    train(config, tmp_path / "parts", stop=2)
    parts, rest = train(config, tmp_path / "parts")
    assert [r["step"] for r in rest] == [3, 4]
    assert [r["loss"] for r in rest] == [r["loss"] for r in records[2:]]
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(parts)[name]), name


def test_training_lowers_the_loss_and_moves_the_average(config: TrainingConfig) -> None:
    run, records = train(dataclasses.replace(config, steps=80, unet_lr=5e-3))
    losses = [record["loss"] for record in records]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    assert all(len(record["loss_frames"]) == 3 for record in records)
    own, name = dict(run.weights), next(iter(run.weights))
    before = own[name].detach().clone()
    made = averaged_pipeline(run)
    assert made is not None
    assert torch.equal(made.denoiser.state_dict()[name], run.ema[name]) and not torch.equal(run.ema[name], before)
    assert torch.equal(own[name], before)


def test_accumulated_passes_equal_one(config: TrainingConfig) -> None:
    config = dataclasses.replace(config, optimizer="adamw")
    whole, records = train(config)
    parts, others = train(dataclasses.replace(config, accumulation=4))
    for a, b in zip(records, others, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weight, weights(parts)[name], atol=1e-4, rtol=1e-3)


def drawn(run: Run, batch: Batch) -> dict[str, torch.Tensor]:
    """What a step draws, by name."""
    spoiled, noising = draw_step(run, batch)
    return {"text": spoiled.text, "seen": spoiled.seen, **vars(noising)}  # pyright: ignore[reportReturnType]


def half(index: int) -> Mock:
    """One process of two."""
    return Mock(spec=accelerate.Accelerator, num_processes=2, process_index=index, device=torch.device("cpu"))


def test_processes_share_the_draws_of_one_global_batch(config: TrainingConfig) -> None:
    run, _ = started(config)
    batch = trainer.Batch(torch.zeros(4, 4, 4, 4, 4), torch.zeros(4, 2, 384))
    run = dataclasses.replace(run, config=dataclasses.replace(config, text_noise=0.5))
    whole = drawn(run, batch)
    part = trainer.Batch(batch.latents[:2], batch.text[:2])
    halves = [drawn(dataclasses.replace(run, accelerator=half(index)), part) for index in (0, 1)]
    for name, value in whole.items():
        assert torch.equal(torch.stack([h[name] for h in halves], dim=1).flatten(0, 1), value), name


def test_learning_rate_rises_stays_and_falls(config: TrainingConfig) -> None:
    config = dataclasses.replace(config, steps=100, warmup_steps=10, decay=0.3, final_lr=0.1)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9:70] == pytest.approx([1.0] * 61)
    assert all(a > b for a, b in pairwise(rates[70:])) and rates[100] == pytest.approx(0.1)


def poisoned(config: TrainingConfig, folder: Path, clips: range) -> TrainingConfig:
    """The same run on clips some of which are NaN."""
    latents = torch.randn(12, 4, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    latents[list(clips)] = float("nan")
    about = {"kind": "pan_left", "reverse_kind": None, "subject": None, "speed": "normal"}
    open_cache(folder, {})
    write_shard(folder, 0, torch.zeros_like(latents), [about] * 12)
    save_file({"latents": latents.half()}, shard_paths(folder, 0)[0])  # no cache of ours holds such clips
    return dataclasses.replace(config, data=str(folder), fusion={**config.fusion, "sigma": [0.0, 0.3, 0.5, 0.6]})


def test_a_loss_that_is_not_finite_is_skipped_and_counted(config: TrainingConfig, tmp_path: Path) -> None:
    run, records = train(poisoned(dataclasses.replace(config, steps=6), tmp_path / "some", range(1)))
    bad = [record for record in records if not math.isfinite(record["loss"])]
    assert 0 < len(bad) < 6 and run.skipped == records[-1]["skipped"] == len(bad)
    assert all(value.isfinite().all() for value in weights(run).values())


def test_losses_that_stay_bad_end_the_run(config: TrainingConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, steps=9, largest_bad_run=3)
    with pytest.raises(ValueError, match="3 updates in a row, up to step 3"):
        train(poisoned(config, tmp_path / "all", range(12)))


class ScalingAccelerator(Accelerator):
    """The scaled loss of fp16 without its arithmetic, which accelerate keeps from CPUs; starts far too high."""

    mixed_precision = "fp16"

    def __init__(self) -> None:
        super().__init__(cpu=True)
        self.native_amp = True
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=3)

    def backward(self, loss: torch.Tensor, **options) -> None:
        super().backward(loss * 2.0**8, **options)  # large enough to overflow float32


def test_the_scale_of_fp16_survives_a_resume(config: TrainingConfig, tmp_path: Path) -> None:
    """While it comes down, updates are left out and counted, and are no bad run; then it rises again."""
    config = dataclasses.replace(config, optimizer="adamw", steps=14, largest_bad_run=1)
    whole, records = train(config, accelerator=ScalingAccelerator())
    train(config, tmp_path / "parts", stop=7, accelerator=ScalingAccelerator())
    parts, rest = train(config, tmp_path / "parts", accelerator=ScalingAccelerator())
    skipped = [record["skipped"] for record in records]
    assert 1 <= skipped[0] < skipped[-1] == whole.skipped < 14 and [r["skipped"] for r in rest] == skipped[7:]
    assert parts.scaler.state_dict() == whole.scaler.state_dict() and whole.scaler.get_scale() < 2.0**126
    assert all(torch.equal(weight, weights(parts)[name]) for name, weight in weights(whole).items())


def test_fp16_still_ends_a_run_whose_losses_are_bad(config: TrainingConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, optimizer="adamw", steps=9, largest_bad_run=3)
    with pytest.raises(ValueError, match="3 updates in a row, up to step 3"):
        train(poisoned(config, tmp_path / "all", range(12)), accelerator=ScalingAccelerator())


@pytest.mark.parametrize("trainable", ["temporal", "fusion", "lora"])
def test_only_what_is_asked_for_is_trained(config: TrainingConfig, trainable: str) -> None:
    config = dataclasses.replace(config, trainable=trainable, optimizer="adamw", lora_rank=2)
    run, _ = started(config)
    before = {name: value.clone() for name, value in run.denoiser.state_dict().items()}
    for _ in training_loop(run, open_source(config)):
        pass
    changed = {name for name, value in run.denoiser.state_dict().items() if not torch.equal(value, before[name])}
    network = {name for name in changed if name.startswith("backbone.")}
    assert changed - network
    parts = {"temporal": ("temp_", "transformer_in", "frame_embed"), "lora": ("lora_",), "fusion": ()}[trainable]
    assert all(any(part in name for part in parts) for name in network) and bool(network) == bool(parts)


def test_gradient_checkpointing_changes_no_loss(config: TrainingConfig) -> None:
    _, records = train(config)
    _, others = train(dataclasses.replace(config, gradient_checkpointing=True))
    assert [r["loss"] for r in others] == pytest.approx([r["loss"] for r in records], rel=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow_prediction"])
@pytest.mark.parametrize("kind", ["tnf", "linear", "optimal"])
def test_every_fusion_and_prediction_type_trains(config: TrainingConfig, kind: str, prediction: str) -> None:
    fusion = {"kind": kind, "concat": "time", "prediction_type": prediction}
    fusion |= {"latent_channels": 4, "dim": 16, "depth": 1, "num_heads": 2} if kind == "tnf" else {}
    config = dataclasses.replace(
        config, fusion=fusion, unet={**config.unet, "in_channels": 4}, zero_terminal_snr=prediction != "epsilon"
    )
    _, records = train(config)
    assert all(math.isfinite(record["loss"]) and record["skipped"] == 0 for record in records)


def test_zero_terminal_snr_refuses_epsilon(config: TrainingConfig) -> None:
    with pytest.raises(ValueError, match="zero_terminal_snr does not go with prediction_type 'epsilon'"):
        started(dataclasses.replace(config, zero_terminal_snr=True))


@pytest.mark.slow
def test_one_clip_is_learned_by_heart(config: TrainingConfig, tmp_path: Path) -> None:
    """Made from its first frame and caption, it is within 30 dB of the decoding of its own latents."""
    smoke = presets.smoke()
    drawn = open_source(smoke).draw(0, np.random.default_rng(0))
    run, _ = started(smoke)
    latents = encode([drawn], run.pipeline, torch.device("cpu")).latents
    open_cache(tmp_path / "one", {})
    write_shard(tmp_path / "one", 0, latents.movedim(1, 2), [{"caption": drawn.caption}])
    settings = {"steps": 400, "batch_size": 8, "caption_dropout": 0.0, "ema_decay": 0.99, "unet_lr": 4e-3}
    run, _ = train(dataclasses.replace(smoke, data=str(tmp_path / "one"), **settings))
    pipeline = averaged_pipeline(run)
    with torch.no_grad():
        still = pipeline.decode_latents(latents[:, :, :1])[:, :, 0] / 2 + 0.5
        reference = to_frames(pipeline.decode_latents(latents))
    made = pipeline(
        still.clamp(0, 1),
        drawn.caption,
        reference_latents=latents[:, :, :1],
        num_frames=8,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames
    assert -10 * math.log10(((made - reference) ** 2).mean()) > 30


def test_blurred_text_moves_all_tokens_alike_and_no_padding() -> None:
    text = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    text[0, 3:] = 0
    shift = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(1))
    moved = blur_text(text, shift) - text
    assert not moved[0, 3:].any()
    lengths = text.norm(dim=-1)
    for clip, tokens in enumerate((3, 5, 5)):
        expected = lengths[clip].sum() / tokens * shift[clip]
        assert_close(moved[clip, :tokens], expected.expand(tokens, 8), atol=1e-5, rtol=1e-5)
    assert torch.equal(blur_text(text, torch.zeros(3, 1, 8)), text)


def test_text_noise_has_the_asked_length_and_leaves_other_draws_alone(config: TrainingConfig) -> None:
    run, _ = started(config)
    batch = Batch(torch.zeros(4, 4, 4, 4, 4), torch.ones(4, 5, 384))
    plain = drawn(run, batch)
    noisy = drawn(dataclasses.replace(run, config=dataclasses.replace(config, text_noise=0.5)), batch)
    assert all(torch.equal(plain[name], noisy[name]) for name in plain if name != "text")
    assert torch.equal(plain["text"], batch.text)
    shift = (noisy["text"] - batch.text).norm(dim=-1) / batch.text.norm(dim=-1)
    assert_close(shift.mean(), torch.tensor(0.5), atol=0.05, rtol=0)


def test_between_logged_steps_there_is_no_loss_and_the_same_training(config: TrainingConfig) -> None:
    every, records = train(config)
    sparse, rare = train(dataclasses.replace(config, log_every=3))
    assert [record["step"] for record in rare if "loss" in record] == [3, 4]  # the last is logged too
    assert [record["loss"] for record in rare[2:]] == [record["loss"] for record in records[2:]]
    assert all(torch.equal(weight, weights(sparse)[name]) for name, weight in weights(every).items())
