"""`benchmarks.presets`: the interval of a paired difference, leaving the network out, and the table."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.pages import with_tables
from benchmarks.preset_variants import CachingPreset, SkippingPreset, keeping_deep_features
from benchmarks.presets import (
    Settings,
    agreement_row,
    count_evaluations,
    make_clips,
    paired_difference,
    run,
    table,
)
from lab.motion.fidelity import Pair

from benchmarks import presets
from tiny_models import SIZE, trip_pipeline
from trip.pipeline import TripPipeline
from trip.presets import PRESETS, SamplingPreset

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


@pytest.fixture(scope="module")
def pipe() -> TripPipeline:
    pipe = trip_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


PAIRS = [Pair(np.full((SIZE, SIZE, 3), 30 * k, np.uint8), "pan", "pan_left", seed=k) for k in range(2)]


def test_skipping_within_tolerance_0_changes_nothing(pipe):
    plain = make_clips(pipe, SamplingPreset(steps=4), PAIRS)
    assert np.array_equal(make_clips(pipe, SkippingPreset(steps=4, tolerance=0.0), PAIRS), plain)
    assert not np.array_equal(make_clips(pipe, SkippingPreset(steps=4, tolerance=0.2), PAIRS), plain)


@pytest.mark.parametrize(("tolerance", "evaluations"), [(0.0, 20), (0.03, 20), (0.2, 14), (2.0, 0)])
def test_the_network_is_left_out_where_the_prior_is_good_enough(pipe, tolerance, evaluations):
    """sqrt(1 - lambda*) of the last frame is 0.07, 0.12, 0.18 and 0.25 at the first four of ten steps."""
    assert count_evaluations(pipe, SkippingPreset(steps=10, tolerance=tolerance), PAIRS[0]) == evaluations


def test_deep_features_kept_for_one_step_change_nothing(pipe):
    plain = make_clips(pipe, SamplingPreset(steps=4), PAIRS)
    assert np.array_equal(make_clips(pipe, CachingPreset(steps=4, every=1), PAIRS), plain)
    assert not np.array_equal(make_clips(pipe, CachingPreset(steps=4, every=2), PAIRS), plain)
    assert np.array_equal(make_clips(pipe, SamplingPreset(steps=4), PAIRS), plain)


def test_only_what_is_below_the_first_resolution_is_kept(pipe):
    network, calls = keeping_deep_features(pipe.unet, every=3), []
    blocks = {"down": [*pipe.unet.down_blocks], "middle": [pipe.unet.mid_block], "up": [*pipe.unet.up_blocks]}
    hooks = [
        block.register_forward_hook(lambda *_, name=f"{kind}{i}": calls.append(name))
        for kind, several in blocks.items()
        for i, block in enumerate(several)
    ]
    for _ in range(4):
        network(torch.randn(1, 4, 2, 8, 8), 1, torch.randn(1, 3, 16))
    for hook in hooks:
        hook.remove()
    every_call, first_and_fourth = ("down0", "up1"), ("down1", "middle0", "up0")
    assert {name: calls.count(name) for name in calls} == dict.fromkeys(every_call, 4) | dict.fromkeys(
        first_and_fourth, 2
    )


def test_difference_counts_clips_gained_and_lost():
    row = agreement_row([True, False, True, True], [False, False, True, True])
    assert (row["gained"], row["lost"], row["points_to_quality"]) == (1, 0, 25.0)
    row = agreement_row([False, False], [True, True])
    assert (row["gained"], row["lost"], row["points_to_quality"]) == (0, 2, -100.0)


def test_interval_is_agresti_and_mins():
    """Adjusted Wald: (b - c) / (n + 2), with the variance ((b + c + 1) - (b - c)^2 / (n + 2)) / (n + 2)^2."""
    value, (low, high) = paired_difference(132, 107, 1144)
    assert value == pytest.approx(100 * 25 / 1144)
    centre, spread = 100 * 25 / 1146, 196 * ((240 - 25**2 / 1146) ** 0.5) / 1146
    assert low == pytest.approx(centre - spread, abs=0.01) and high == pytest.approx(centre + spread, abs=0.01)


def test_interval_of_no_difference_has_a_width():
    value, (low, high) = paired_difference(0, 0, 100)
    assert value == 0 and low == pytest.approx(-high) and 1 < high < 3


def test_table_has_a_row_for_every_preset():
    agreement = agreement_row([True, False], [True, True])
    rows = {name: {"evaluations": 100, "agreement": agreement} for name in ("quality", "fast")}
    rows["fast"]["psnr"] = {"value": 30.04, "interval": [29.0, 31.0]}
    lines = table(json.loads(json.dumps({"presets": rows}))).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "30.0 (29.0 to 31.0)" in lines[3] and "-50.0" in lines[3] and "-50.0" not in lines[2]


def test_a_small_run_measures_every_preset(pipe, tmp_path, monkeypatch, capsys):
    """Two clips; without EfficientNet's weights its column stays empty, and a line says why."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(presets, "camera_pairs", lambda *_, **__: PAIRS)  # whose texts fit the tiny text encoder
    pipe.save_pretrained(tmp_path / "model")
    settings = Settings(json=tmp_path / "out.json", model=str(tmp_path / "model"), count=2, rounds=1, device="cpu")
    results = json.loads(json.dumps(run(settings)))
    assert "efficientnet_lite0.safetensors is" in capsys.readouterr().err
    assert results["settings"]["split"] == "heldout" and not {"json", "photos"} & results["settings"].keys()
    rows = results["presets"]
    assert list(rows) == list(PRESETS) and rows["quality"]["evaluations"] == 100
    assert rows["quality"]["agreement"]["points_to_quality"] == 0 and rows["quality"]["seconds"]["times_faster"] == 1
    for name in list(PRESETS)[1:]:
        assert rows[name]["psnr"]["n"] == 2 and rows[name]["ssim"]["value"] <= 1 and "consistency" not in rows[name]
        assert rows[name]["evaluations"] == 2 * PRESETS[name].steps and rows[name]["seconds"]["times_faster"] > 0
    assert len(table(results).splitlines()) == 2 + len(PRESETS)


def test_the_pages_show_the_json():
    files = {"presets": "presets.json", "variants": "preset-variants.json"}
    made = {name: table(json.loads((ROOT / "docs/results" / file).read_text())) for name, file in files.items()}
    pages = "".join((ROOT / path).read_text() for path in ("docs/performance-presets.md", "docs/results/presets.md"))
    assert pages.count("<!-- table: ") == len(made)
    assert with_tables(pages, made) == pages
