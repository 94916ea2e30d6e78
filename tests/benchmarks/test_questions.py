"""The measurements behind docs/questions.md: against closed forms and a second way, and the page against its JSON."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.pages import with_tables
from benchmarks.questions_data import (
    Latents,
    best_constant,
    measure_clips,
    measure_lambda,
    measure_prediction,
    one_of_each_source,
)
from benchmarks.questions_model import attention_mass, measure_chain, measure_network, rescaled

from benchmarks import questions, questions_model, questions_page
from tiny_models import scheduler, tiny_text, tiny_vae, unet_config
from trip.ablation import scores
from trip.ablation.scores import HeldOut, sample_errors
from trip.data.cache.latents import open_cache, write_shard
from trip.data.sets.examples import Example
from trip.data.synthetic.bank import make_photo
from trip.noise_fusion import Attention, OptimalNoiseFusion, TemporalNoiseFusion
from trip.pipeline import TripPipeline
from trip.residual_unet import ResidualUNet3D

ROOT = Path(__file__).resolve().parents[2]
SIGMA = [0.0, 0.3, 0.5, 0.6]


@pytest.fixture(scope="module")
def pipeline() -> TripPipeline:
    """Four frames of 16x16, random weights, a fusion that has left its start."""
    torch.manual_seed(0)
    tokenizer, text_encoder = tiny_text()
    fusion = TemporalNoiseFusion(dim=16, depth=2, num_heads=2, sigma=SIGMA)
    for layer in (fusion.to_correction, fusion.to_gate):
        torch.nn.init.normal_(layer.weight, std=0.1)
    pipeline = TripPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=ResidualUNet3D(**unet_config()),
        fusion=fusion,
        scheduler=scheduler(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(autouse=True)
def short_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny text encoder reads letters, 32 at most."""
    monkeypatch.setattr(questions_model, "draw_caption", lambda *args: "a")
    monkeypatch.setattr(scores, "draw_caption", lambda *args: "a")


def drifting(clips: int, size: int = 8) -> torch.Tensor:
    """Latents n c f h w whose displacement from frame 1 has the RMS of SIGMA."""
    generator = torch.Generator().manual_seed(0)
    still, moved = torch.randn(2, clips, 4, 1, size, size, generator=generator)
    return still + moved * torch.tensor(SIGMA)[:, None, None]


def held_out(clips: int = 3) -> HeldOut:
    return HeldOut(latents=drifting(clips), captions=["a"] * clips, kinds=["pan_left"] * clips)


def test_measurements_agree_with_theory_where_the_table_is_the_clips_own() -> None:
    clips = Latents(name="made", z_0=drifting(64))
    measured = measure_clips(clips, scheduler(), clips.sigma, (0.9, 0.5))
    np.testing.assert_allclose(measured["optimal_variance"][:, 1:], 1, atol=0.05)
    np.testing.assert_allclose(measured["alignment"], measured["alignment_theory"], atol=0.02)
    np.testing.assert_allclose(measured["linear_variance"], measured["linear_variance_theory"], rtol=0.1)
    assert measured["alignment"][:, 0] == pytest.approx(1)
    low, high = np.array(SIGMA[1:3]), np.array(SIGMA[2:4])  # all frames move along one direction, sums are pooled
    pooled = (low * high).sum() / np.sqrt((low**2).sum() * (high**2).sum())
    assert measured["displacement_correlation"][0] == pytest.approx(pooled)
    assert abs(measured["noise_correlation"]).max() < 0.02
    assert (measured["flicker"][:, 0] < measured["flicker"][:, 1]).all()  # the prior's estimate flickers less


def test_the_best_constant_lambda_is_a_minimum() -> None:
    snr, sigma = np.array([10.0, 1.0, 0.1]), np.array([0.4])
    lam = best_constant(snr, snr, sigma)

    def error(value: np.ndarray) -> float:
        return float(((1 - value) ** 2 + value**2 * snr * sigma**2).mean())

    assert all(error(lam) < error(lam + step) for step in (-0.01, 0.01))
    values = measure_lambda(scheduler(), np.array(SIGMA), (0.9, 0.5))
    assert all(cost >= 1 for costs in values["cost"].values() for cost in costs.values())
    assert sum(values["star_variance_share"].values()) == pytest.approx(1)
    assert (np.diff(values["star_mean"]) < 0).all()


def test_the_last_observed_frame_is_nearest_where_the_clip_walks() -> None:
    steps = torch.randn(16, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = measure_prediction(Latents(name="walk", z_0=steps.cumsum(2)), scheduler())["sigma"]
    assert sigma["last"] == pytest.approx(np.sqrt([1, 2, 3, 4]), rel=0.05)
    assert sigma["first"] == pytest.approx(np.sqrt([4, 5, 6, 7]), rel=0.05)
    assert (sigma["line"] > sigma["last"]).all()


def test_full_errors_are_those_of_the_ablations_and_the_switched_off_tnf_is_the_optimal_fusion(
    pipeline: TripPipeline,
) -> None:
    clips = held_out()
    found = measure_network(pipeline, clips)["errors"]["by_frame"]["means"]
    full = sample_errors(pipeline, clips)[:, :, 1:].mean(axis=(0, 1))
    np.testing.assert_allclose(found["tnf"], full, rtol=1e-4)
    learned = pipeline.fusion
    pipeline.register_modules(fusion=OptimalNoiseFusion(sigma=SIGMA))
    try:
        np.testing.assert_allclose(
            found["optimal"], sample_errors(pipeline, clips)[:, :, 1:].mean(axis=(0, 1)), rtol=1e-4
        )
        with pytest.raises(ValueError, match=r"^the model's fusion \(=OptimalNoiseFusion\) is no TemporalNoiseFusion"):
            measure_network(pipeline, clips)
    finally:
        pipeline.register_modules(fusion=learned)


def test_a_residual_that_is_off_by_a_factor_is_worth_the_same_rescaled() -> None:
    step, error = np.random.default_rng(0).normal(size=(2, 6, 3, 2, 50))
    sums = [(error**2).mean(-1), (error * step).mean(-1), (step**2).mean(-1)]
    tripled = [sums[0], 3 * sums[1], 9 * sums[2]]
    np.testing.assert_allclose(rescaled(*sums), rescaled(*tripled))
    perfect = [sums[0], sums[0] / 2, sums[0] / 4]  # the step is half of the error
    np.testing.assert_allclose(rescaled(*perfect), 0, atol=1e-12)


def test_hooks_see_the_attention_and_are_taken_off(pipeline: TripPipeline) -> None:
    looks = measure_network(pipeline, held_out())["attention"]
    assert np.shape(looks["prior"]) == (8, 4)  # two blocks of two heads
    assert np.min(looks["prior"]) > 0 and np.max(looks["prior"]) < 1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pipeline.fusion.modules())


def test_attention_without_preference_spreads_evenly() -> None:
    attention = Attention(8, 2)
    torch.nn.init.zeros_(attention.to_q.weight)
    mass = attention_mass(attention, torch.randn(1, 12, 8), torch.randn(1, 24, 8), num_frames=3)
    torch.testing.assert_close(mass, torch.full((2, 3, 2, 3), 1 / 6))


def test_chains_share_their_seams(pipeline: TripPipeline) -> None:
    photo = make_photo("a", "a thing", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    measured, frames = measure_chain(pipeline, [photo], segments=2, steps=1, seed=0)
    assert frames.shape == (2, 7, 16, 16, 3)
    assert measured["drift"]["frame"] == [2, 3, 4, 5, 6, 7]
    assert measured["sharpness"]["mean"][0] == 1
    assert math.isfinite(measured["round_trip_psnr"]) and len(measured["follows"]) == 2


def test_the_command_writes_json_figures_and_page(
    pipeline: TripPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "load_pipeline", lambda *args, **options: pipeline)
    monkeypatch.setattr(questions, "model_identity", lambda name: {"name": name})
    about = {"kind": "pan_left", "reverse_kind": "pan_right", "subject": None, "speed": "normal"}
    open_cache(tmp_path / "held-out", {})
    write_shard(tmp_path / "held-out", 0, drifting(4).movedim(1, 2), [about] * 4)
    page = tmp_path / "page.md"
    page.write_text("<!-- table: shares -->\n<!-- end -->\n")
    counts = {"clips": 4, "error_clips": 2, "photos": 1, "steps": 1}
    paths = {"json": tmp_path / "q.json", "held_out": tmp_path / "held-out", "figures": tmp_path / "f", "page": page}
    settings = questions.Settings(**paths, **counts)
    questions.write(settings, questions.run(settings))
    results = json.loads(settings.json.read_text())
    assert questions_page.tables(results)["shares"] in page.read_text()
    again = questions.Settings(**paths, parts="none")
    assert questions.run(again) == results
    svg = (tmp_path / "f" / "shares.svg").read_text()
    assert svg.startswith("<svg xmlns=") and "prefers-color-scheme" in svg
    with pytest.raises(ValueError, match=r"^.*\.json has no data; add it to --parts$"):
        questions.run(questions.Settings(json=tmp_path / "none.json", parts="chain"))
    with pytest.raises(ValueError, match=r"^parts \(='all'\) has 'all'; name some of data,network,chain, or none$"):
        _ = questions.Settings(json=tmp_path / "none.json", parts="all").asked


def test_the_page_shows_the_json() -> None:
    results = json.loads((ROOT / "docs/results/questions.json").read_text())
    page = (ROOT / "docs/results/questions.md").read_text()
    made = questions_page.tables(results)
    assert page.count("<!-- table: ") == len([table for table in made.values() if table])
    assert with_tables(page, made) == page


def test_figures_are_there_and_those_of_the_json() -> None:
    results = json.loads((ROOT / "docs/results/questions.json").read_text())
    page, folder = (ROOT / "docs/results/questions.md").read_text(), ROOT / "docs/images/questions"
    for name, svg in questions_page.figures(results).items():
        assert (folder / f"{name}.svg").read_text() == svg
        assert f"images/questions/{name}.svg" in page
        assert len(svg) < 60_000


def test_neither_minus_zero_nor_an_interval_of_one_clip_reaches_a_table() -> None:
    assert questions_page.decimals([-0.001, 0.001], 2) == ["0.00", "0.00"]
    assert questions_page.change({"value": 1.0, "interval": None}) == "+1.0"


def test_one_piece_of_every_source() -> None:
    examples = [Example(key=key, video=Path(key), caption="") for key in ("dog_00", "dog_01", "big_cat_00", "still")]
    assert [e.key for e in one_of_each_source(examples)] == ["dog_00", "big_cat_00", "still"]
