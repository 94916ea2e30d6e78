"""A study is done once, resumed after a kill, shared between processes, and refused where it is another one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trip.ablation import study as module
from trip.ablation.scores import held_out_clips, sample_errors, static_errors
from trip.ablation.study import (
    Manner,
    Study,
    missing,
    open_study,
    read_study,
    run_study,
    scores_path,
    taken,
    tuned_ends,
    untrained,
)
from trip.ablation.table import tabulate
from trip.ablation.variants import VARIANTS, variant_config
from trip.apps.cli import main
from trip.data.cache.latents import open_cache, write_shard
from trip.noise_prior import optimal_lambda
from trip.schedule import noise_levels
from trip.training.config import TrainingConfig
from trip.training.parts import build_pipeline, load_start

RUN = """
import json, sys
from pathlib import Path
from trip.ablation.study import Manner, Study, run_study
from trip.training.config import TrainingConfig
values = json.loads(Path(sys.argv[1]).read_text())
base = TrainingConfig(**{**values.pop("base"), "trackers": ()})
study = Study(base=base, **{**values, "variants": tuple(values["variants"])})
run_study(study, Path(sys.argv[2]), None, Manner(cpu=True))
"""


def arrays(folder: Path, name: str, seed: int = 0) -> dict[str, np.ndarray]:
    with np.load(scores_path(folder, name, seed)) as file:
        return dict(file)


SILENT = Manner(cpu=True, quiet=True, say=lambda message: None)


@pytest.mark.slow
def test_all_variants_are_trained_and_scored(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also the baselines; text-to-video is trained once for two rows, no checkpoint stays, and quiet is quiet."""
    study, folder = replace(study, variants=tuple(VARIANTS)), tmp_path / "study"
    assert run_study(study, folder, None, SILENT)
    assert "step/s" not in capsys.readouterr().err
    runs = {path.name for path in (folder / "runs").iterdir()}
    grid = {f"tuning-{first}-{last}" for first, last in module.LINEAR_ENDS}
    assert runs == grid | {f"{name}-0" for name in VARIANTS} - {"static-0", "prior-0", "training-free-0"}
    assert not list(folder.rglob("checkpoints"))
    table = tabulate(study, folder)
    assert table["rows"].keys() == set(VARIANTS)
    assert all(np.isfinite(entry["value"]) for row in table["rows"].values() for entry in row.values())
    assert table["rows"]["static"]["flow"]["value"] == 0
    before = {path: path.stat().st_mtime_ns for path in (folder / "scores").iterdir()}
    assert run_study(study, folder, None, Manner(cpu=True, say=pytest.fail))
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "scores").iterdir()}


def fresh(config: TrainingConfig) -> dict[str, torch.Tensor]:
    return build_pipeline(config, load_start(config), torch.ones(4)).unet.state_dict()


def test_the_same_start_and_noise(study: Study, tmp_path: Path) -> None:
    """All variants begin with the same UNet, and errors of two runs of one variant are equal."""
    weights = [fresh(variant_config(study.base, name, 3)) for name in ("tnf", "trip-minus", "trip-c")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    wider = weights[2]["conv_in.weight"]
    assert torch.equal(wider[:, :4], weights[0]["conv_in.weight"]) and not wider[:, 4:].any()
    for name in ("one", "two"):
        run_study(replace(study, variants=("tnf",)), tmp_path / name, None, SILENT)
    assert np.array_equal(arrays(tmp_path / "one", "tnf")["errors"], arrays(tmp_path / "two", "tnf")["errors"])


def test_the_prior_alone_has_the_error_of_its_formula(study: Study) -> None:
    clips = held_out_clips(Path(study.held_out), 8)
    pipeline = untrained(variant_config(study.base, "prior", 0))
    errors = sample_errors(pipeline, clips, (500,))
    sigma = pipeline.fusion.table("sigma")
    for k in range(8):
        z_0 = clips.latents[k : k + 1]
        eps = torch.randn(*z_0.shape[1:], generator=torch.Generator().manual_seed(1000 * k + 500))[None]
        _, signal, noise = noise_levels(pipeline.scheduler, torch.tensor([500]))
        lam = optimal_lambda(signal, noise, sigma, z_0)
        estimate = lam * z_0[:, :, :1] + (1 - lam) * (z_0 + noise / signal * eps)
        expected = (estimate - z_0).square().mean(dim=(0, 1, 3, 4)).numpy()
        np.testing.assert_allclose(errors[k, 0], expected, rtol=1e-4, atol=1e-7)
    still = static_errors(clips)
    assert still.shape == (8, 8, 4) and not still[:, :, 0].any()
    np.testing.assert_allclose(
        still[:, 3, 2], ((clips.latents[:, :, 2] - clips.latents[:, :, 0]) ** 2).mean((1, 2, 3)), rtol=1e-5
    )


def test_ends_are_chosen_by_the_least_loss_once(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = dict(zip(module.LINEAR_ENDS, (3.0, 1.0, 2.0, 4.0), strict=True))
    monkeypatch.setattr(module, "tuning_loss", lambda study, folder, ends, manner: losses[ends])
    (tmp_path / "study").mkdir()
    assert tuned_ends(study, tmp_path / "study", SILENT) == (0.5, 0.1)
    monkeypatch.setattr(module, "tuning_loss", lambda *arguments: pytest.fail("chosen twice"))
    assert tuned_ends(study, tmp_path / "study", SILENT) == (0.5, 0.1)


def test_a_killed_study_ends_with_the_same_scores(study: Study, tmp_path: Path) -> None:
    study = replace(study, variants=("optimal", "trip-minus"))
    run_study(study, tmp_path / "whole", None, SILENT)
    settings = tmp_path / "study.json"
    settings.write_text(json.dumps(asdict(study)))
    command = [sys.executable, "-c", RUN, str(settings), str(tmp_path / "killed")]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    log = tmp_path / "killed" / "runs" / "optimal-0" / "log.jsonl"
    while process.poll() is None and not (log.is_file() and len(log.read_text().splitlines()) >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    assert len(missing(study, tmp_path / "killed")) == 2
    assert run_study(study, tmp_path / "killed", None, SILENT)
    for name in study.variants:
        one, other = arrays(tmp_path / "whole", name), arrays(tmp_path / "killed", name)
        assert all(np.allclose(one[key], other[key], rtol=1e-4, atol=1e-6) for key in one)


def test_a_study_goes_on_from_another(study: Study, tmp_path: Path) -> None:
    first = replace(study, variants=("tnf", "trip-w"))
    run_study(first, tmp_path / "first", None, SILENT)
    second = replace(
        first, start=str(tmp_path / "first"), base=replace(first.base, steps=1, unet_lr=0.0, fusion_lr=0.0)
    )
    run_study(second, tmp_path / "second", None, SILENT)
    for variant in first.variants:
        errors = [arrays(tmp_path / name, variant)["errors"] for name in ("first", "second")]
        np.testing.assert_allclose(errors[0], errors[1], rtol=1e-3)
    with pytest.raises(ValueError, match="optimal-0/final is not there to go on from; finish that study"):
        run_study(replace(second, variants=("tnf", "optimal")), tmp_path / "third", None, SILENT)
    assert not (tmp_path / "third").exists()


def test_what_another_process_does_is_left_to_it(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    with taken(folder, "tnf-0") as free:
        assert free
        assert not run_study(study, folder, None, SILENT)
    assert missing(study, folder) == ["tnf-0"]


def test_a_variant_that_means_something_else_now_is_refused(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a call that left it out; variants that are not in the study may change."""
    module.open_study(study, tmp_path / "study")
    module.open_study(replace(study, variants=("optimal",)), tmp_path / "study")
    monkeypatch.setitem(VARIANTS, "trip-c", replace(VARIANTS["trip-c"], fusion={"kind": "optimal"}))
    module.open_study(study, tmp_path / "study")
    monkeypatch.setitem(VARIANTS, "tnf", replace(VARIANTS["tnf"], fusion={**VARIANTS["tnf"].fusion, "dim": 64}))
    with pytest.raises(ValueError, match=r"another study \(fusions.tnf.dim: 16 there, 64 wanted\); choose"):
        module.open_study(study, tmp_path / "study")


def test_another_study_is_refused_and_more_seeds_are_not(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    module.open_study(study, tmp_path / "study")
    module.open_study(replace(study, seeds=5, variants=("optimal",)), tmp_path / "study")
    with pytest.raises(ValueError, match=r"another study \(base.steps: 6 there, 7 wanted\); choose another folder"):
        module.open_study(replace(study, base=replace(study.base, steps=7)), tmp_path / "study")
    with pytest.raises(ValueError, match="variant 'tpin' is unknown; choose from trip-minus"):
        replace(study, variants=("tpin",))
    with pytest.raises(ValueError, match=r"has 12 clips to score on, 40 are wanted"):
        held_out_clips(Path(study.held_out), 40)
    with pytest.raises(ValueError, match=r"has 12 clips to score on, 40 are wanted"):
        run_study(replace(study, error_clips=40), tmp_path / "wrong", None, SILENT)
    with pytest.raises(ValueError, match="nowhere"):
        run_study(replace(study, base=replace(study.base, data="nowhere")), tmp_path / "wrong", None, SILENT)
    assert not (tmp_path / "wrong").exists()
    assert main(["ablate", "--output-dir", str(tmp_path / "none"), "--table"]) == 2
    assert "holds no study; start one with --data and --held-out" in capsys.readouterr().err
    assert main(["ablate", "--output-dir", str(tmp_path / "none")]) == 2
    assert "give both" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(4, 4, 8, 4), (3, 4, 4, 4)])
def test_clips_of_two_sizes_are_refused_before_anything_is_trained(study: Study, tmp_path: Path, shape: tuple) -> None:
    shutil.rmtree(tmp_path / "held-out")
    open_cache(tmp_path / "held-out", {})
    frames, channels, height, width = shape
    write_shard(tmp_path / "held-out", 0, torch.randn(12, *shape), [{"caption": "it moves"}] * 12)
    sizes = rf"\({channels}, {frames}, {height}, {width}\) \(\S+held-out\) are not those trained on, \(4, 4, 4, 4\)"
    with pytest.raises(ValueError, match=sizes):
        run_study(study, tmp_path / "study", None)
    assert not (tmp_path / "study").exists()


HOSTILE_STUDIES = [
    "",
    "null",
    "[]",
    "{",
    "[" * 100_000,
    '{"base": null}',
    '{"base": {}, "variants": 3}',
    '{"seeds": NaN}',
]


@pytest.mark.parametrize("text", HOSTILE_STUDIES)
def test_files_that_are_no_study_are_one_line_that_names_them(study: Study, tmp_path: Path, text: str) -> None:
    for name in ("study.json", "tuning.json"):
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"^\S+study\.json [^\n]+$"):
        read_study(tmp_path)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        open_study(study, tmp_path)
    with pytest.raises(ValueError, match=r"^\S+tuning\.json [^\n]+$"):
        tuned_ends(study, tmp_path, Manner(quiet=True))
