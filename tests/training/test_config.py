"""Settings of a run are refused before anything is done: from JSON, from Python, from the command line."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from trip.apps.cache_options import DataCache
from trip.apps.cli import main
from trip.apps.options import Train
from trip.apps.settings import chosen_settings
from trip.fields import annotations
from trip.models import bundled_model_path
from trip.pipeline import TripPipeline
from trip.training.config import TrainingConfig, check_processes
from trip.training.parts import check_parts
from trip.training.presets import MINI_UNET
from trip.training.run import about_unet

LITERALS = [name for name, kind in annotations(TrainingConfig).items() if get_origin(kind) is Literal]


@pytest.mark.parametrize("name", LITERALS)
def test_every_choice_of_a_run_is_checked(name: str, tmp_path: Path) -> None:
    right = get_args(annotations(TrainingConfig)[name])[-1]
    for wrong in (right[:-1] + "x", right.upper(), "", None, 1, [right]):
        with pytest.raises(
            ValueError, match=rf"^{name} \(=.*must be one of '{get_args(annotations(TrainingConfig)[name])[0]}'"
        ):
            TrainingConfig(**{name: wrong})
        path = tmp_path / "config.json"
        path.write_text(json.dumps({name: wrong}))
        with pytest.raises(ValueError, match=rf"config\.json: {name} \(="):
            TrainingConfig.load(path)


def test_choices_of_commands_are_checked_in_python_too() -> None:
    with pytest.raises(ValueError, match=r"^dtype \(='fp16'\) must be one of"):
        DataCache(source="x", model="m", output=Path("y"), dtype="fp16")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^preset \(='smok'\) must be one of"):
        Train(preset="smok")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_frames": 1}, "must be above 1: motion needs a second frame"),
        ({"seed": -1}, "must not be negative"),
        ({"seed": 2**32}, "must be below 4294967296"),
        ({"min_snr_gamma": 0.0}, "must be above 0"),
        ({"validation_steps": 0}, "must be above 0"),
        ({"guidance_scale": float("inf")}, "must be a finite number"),
        ({"steps": 10.0}, "must be a whole number"),
        ({"shares": {"pan_lft": 0.5}}, "perhaps pan_left is meant"),
        ({"shares": {"pan_left": 1.5}}, "must lie in 0 to 1"),
        ({"log_every": 0}, "must be above 0"),
    ],
)
def test_settings_that_no_run_can_have(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fusion": {"kind": "tfn"}}, r"fusion.kind \(='tfn'\) must be one of '"),
        ({"fusion": {"dmi": 8}}, "perhaps dim is meant"),
        ({"unet": {"layers_per_block": "1"}}, r"unet\.layers_per_block \(='1'\) must be a whole number"),
        ({"unet": {"block_out_channels": 8}}, r"unet\.block_out_channels \(=8\) must be a list"),
    ],
)
def test_arguments_that_no_network_takes(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_parts(TrainingConfig(**values))


def test_a_batch_is_shared_evenly_by_processes_and_passes() -> None:
    config = TrainingConfig(batch_size=8, accumulation=2)
    check_processes(config, 1)
    check_processes(config, 4)
    with pytest.raises(ValueError, match=r"batch_size \(=8\) must be a multiple of .* \(=3 x 2\)"):
        check_processes(config, 3)
    with pytest.raises(ValueError, match=r"batch_size \(=8\) must be a multiple of .* \(=8 x 2\)"):
        check_processes(config, 8)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fps", "0"], "fps (=0.0) must be above 0; raise it"),
        (["--steps", "x"], "--steps (='x') must be a whole number"),
        (["--fps", "x"], "--fps (='x') must be a number"),
        (["--seed", "-1"], "seed (=-1) must not be negative"),
        (["--caption-dropout", "nan"], "--caption-dropout (=nan) must be a finite number"),
        (["--batch-size", "3", "--accumulation", "2"], "--batch-size (=3) must be a multiple of accumulation (=2)"),
    ],
)
def test_a_wrong_flag_is_answered_in_the_users_words(flags: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert main(["train", "--preset", "lora", "--output-dir", str(tmp_path / "run"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and "tyro" not in line and "invalid literal" not in line, line
    assert not (tmp_path / "run").exists()


HIDDEN = ("{ftp://127.0.0.1:1/a,x}.tar", "ht{tp,tp}://h/x.tar", "{simplecache::http://h/x}", "{pipe:rm x #,x}.tar")


@pytest.mark.parametrize("name", ["initial", "vae"])
def test_a_file_of_settings_causes_no_download(name: str, tmp_path: Path) -> None:
    TrainingConfig(**{name: "user/name"}).save(tmp_path / "config.json")
    with pytest.raises(ValueError, match=rf"{name} \(=.*might be a hub id.*give it with --{name} if it is meant"):
        chosen_settings(["--config", str(tmp_path / "config.json")])
    for local in (str(tmp_path), "trip-mini") if name == "initial" else (str(tmp_path),):
        TrainingConfig(**{name: local}).save(tmp_path / "config.json")
        assert getattr(chosen_settings(["--config", str(tmp_path / "config.json")]), name) == local


@pytest.mark.parametrize("name", ["data", "initial", "vae"])
@pytest.mark.parametrize(
    "address", ["webhdfs://h/x", "https://h/x.tar", "simplecache::s3://b/x", "zip://a::b", "pipe:rm x", *HIDDEN]
)
def test_a_file_of_settings_names_local_places_alone(name: str, address: str, tmp_path: Path) -> None:
    TrainingConfig(**{name: address}).save(tmp_path / "config.json")
    for flags in (["--config", str(tmp_path / "config.json")], ["--resume", "latest", "--output-dir", str(tmp_path)]):
        with pytest.raises(ValueError, match=rf"config\.json: {name} \(=.*give it with --{name} if it is meant"):
            chosen_settings(flags)
        assert chosen_settings([*flags, f"--{name}", address]) == TrainingConfig(**{name: address})


def test_settings_go_through_json(tmp_path: Path) -> None:
    config = TrainingConfig(
        data="größe/日本", trackers=("wandb",), unet={"block_out_channels": [8, 16]}, min_snr_gamma=5
    )
    config.save(tmp_path / "config.json")
    assert TrainingConfig.load(tmp_path / "config.json") == config
    assert {field.name for field in dataclasses.fields(config)} == json.loads(
        (tmp_path / "config.json").read_text()
    ).keys()


def test_arguments_that_a_start_does_not_follow_are_told() -> None:
    pipeline = TripPipeline.from_pretrained(bundled_model_path())
    own = {**MINI_UNET, "in_channels": 1}
    assert about_unet(TrainingConfig(unet=own, initial="trip-mini"), pipeline) == ""
    line = about_unet(TrainingConfig(unet={**own, "layers_per_block": 2}, initial="trip-mini"), pipeline)
    assert line == "unet (layers_per_block) has no effect: trip-mini has a network of its own"
