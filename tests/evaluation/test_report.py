"""Folders in, report out: on toy networks, and, slowly, on the real ones and real clips."""

import json
import shutil

import numpy as np
import pytest
import torch
from scipy import ndimage

from trip.data.video.reading import read_video
from trip.data.video.writing import write_video
from trip.evaluation import networks
from trip.evaluation.features.base import FrameFeatures, VideoFeatures, squash
from trip.evaluation.metric import METRICS, ClipMetric, register_metric
from trip.evaluation.motion import FLOW
from trip.evaluation.report import EvaluationSettings, evaluate_folders

FRAMES, SIZE = 6, 32


def moving(seed: int, step: int = 2) -> np.ndarray:
    """A smooth random picture that slides by `step` pixels a frame."""
    rng = np.random.default_rng(seed)
    wide = ndimage.gaussian_filter(rng.random((SIZE, SIZE + 2 * FRAMES, 3)), (2, 2, 0))
    wide = (255 * (wide - wide.min()) / np.ptp(wide)).astype(np.uint8)
    return np.stack([wide[:, step * i : step * i + SIZE] for i in range(FRAMES)])


def write_folder(folder, seeds, step=2, **options):
    folder.mkdir()
    for seed in seeds:
        write_video(f"{folder}/clip{seed:02d}/", moving(seed, step), **options)
    return folder


def toy(name: str, kind: type):
    """A network whose features are mean colours and contrasts."""

    def features(x):
        flat = x.flatten(2)
        return torch.cat([flat.mean(-1), flat.std(-1)], dim=1)

    return lambda file, device: kind(name=name, size=8, network=features, prepare=lambda frames: squash(frames, 8))


@pytest.fixture(autouse=True)
def toys(request, monkeypatch):
    """Toy networks in place of the real ones, except in slow tests."""
    if request.node.get_closest_marker("slow"):
        return
    loaders = {"i3d": toy("I3D-K400", VideoFeatures), "inception": toy("Inception-v3 (FID)", FrameFeatures)}
    loaders["efficientnet-lite0"] = toy("EfficientNet-Lite0", FrameFeatures)
    monkeypatch.setattr(networks, "LOADERS", loaders)
    monkeypatch.setattr(networks, "find_weights", lambda name, folder: name)
    monkeypatch.setattr(networks, "sha256_of", lambda file: f"hash of {file}")


@pytest.fixture
def folders(tmp_path):
    return write_folder(tmp_path / "fake", range(8), step=1), write_folder(tmp_path / "real", range(20, 30))


def test_the_report(folders, tmp_path):
    floor = write_folder(tmp_path / "floor", range(40, 48))
    seen = []
    found = evaluate_folders(*folders, floor, progress=lambda file: seen.append(file.name)).as_dict()
    assert json.loads(json.dumps(found, default=str)) and len(seen) == 26
    assert list(found) == ["metrics", "reference", "floor", "warnings", "settings", "n"] and found["n"] == 8
    assert list(found["metrics"]) == [
        "FVD",
        "FID",
        "F-Consistency_4 (EfficientNet-Lite0)",
        "F-Consistency_all (EfficientNet-Lite0)",
        "F-Consistency_4 to-first (EfficientNet-Lite0)",
        "F-Consistency_all to-first (EfficientNet-Lite0)",
        FLOW,
        "Dynamic degree (DIS), %",
        "Warping error (DIS)",
    ]
    assert found["metrics"]["FVD"]["features"] == "I3D-K400" and found["metrics"]["FVD"]["n"] == 8
    assert list(found["floor"]) == ["FVD", "FID"] and "FVD" not in found["reference"]
    assert found["reference"][FLOW]["n"] == 10
    assert len(found["warnings"]) == 1 and "F-Consistency rewards stillness" in found["warnings"][0]
    settings = found["settings"]
    assert settings["num_frames"] == FRAMES and settings["weights"]["I3D-K400"] == "hash of i3d"
    assert settings["reference"]["clips"] == 10 and settings["floor"]["sizes"] == ["32x32"]


def test_a_floor_of_the_reference_itself_is_refused(folders):
    with pytest.raises(ValueError, match=r"the floor \(=.*real\) is the reference, whose distance to itself is 0"):
        evaluate_folders(*folders, folders[1] / ".." / "real")


def test_batches_do_not_change_the_report(folders):
    one, all_ = (evaluate_folders(*folders, settings=EvaluationSettings(batch_size=size)).metrics for size in (1, 20))
    for name, metric in one.items():
        assert metric.value == pytest.approx(all_[name].value, rel=1e-5, abs=1e-7), name


def test_a_folder_against_itself_and_frozen_clips(folders, tmp_path):
    same = evaluate_folders(folders[1], folders[1])
    assert same.metrics["FVD"].value == pytest.approx(0, abs=1e-6) and same.warnings == []
    frozen = write_folder(tmp_path / "frozen", range(20, 30), step=0)
    found = evaluate_folders(frozen, folders[1])
    assert found.metrics["F-Consistency_all (EfficientNet-Lite0)"].value == pytest.approx(100)
    assert "0% as much" in found.warnings[0]
    alone = evaluate_folders(frozen, settings=EvaluationSettings(metrics=["f-consistency"]))
    assert "do not move at all" in alone.warnings[0] and alone.reference == {}


def test_first_frames_are_compared_with_the_clips_of_the_same_names(folders, tmp_path):
    settings = EvaluationSettings(metrics=["first-frame"])
    found = evaluate_folders(folders[0], folders[0], settings=settings).metrics
    assert found["First frame PSNR, dB"].value == 100 and found["First frame SSIM"].value == pytest.approx(1)
    with pytest.raises(ValueError, match="holds no clip named clip00"):
        evaluate_folders(*folders, settings=settings)


def test_other_rates_are_warned_about(folders, tmp_path):
    slow = write_folder(tmp_path / "slow", range(20, 30), fps=25)
    settings = EvaluationSettings(metrics=["motion"])
    warnings = evaluate_folders(folders[1], slow, settings=settings).warnings
    assert len(warnings) == 1 and "frame rates differ (8 in" in warnings[0]


def settings(*metrics, **options):
    return EvaluationSettings(metrics=metrics, **options)


def test_what_cannot_be_measured_is_one_line(folders, tmp_path):
    fake, real = folders
    short = tmp_path / "short"
    short.mkdir()
    write_video(f"{short}/a/", moving(0)[:4])
    three = write_folder(tmp_path / "three", range(3))
    (tmp_path / "empty").mkdir()
    cases = [
        ((fake, real, None, settings("fvd", "lpips")), "'lpips' is unknown; choose of fvd"),
        ((fake, real, None, settings()), "no metrics are asked for"),
        ((fake, None, None, settings("fid")), "fid needs real clips; name a folder with --reference"),
        ((fake, real, None, settings("text")), "needs CLIP"),
        ((fake, real, None, settings("motion", num_frames=1)), "must be at least 2"),
        ((fake, short, None, settings("fvd")), r"have 4 frames, the generated ones 6; take the first 4 of all"),
        ((three, real, None, settings("fvd")), "6 features need more than 6 samples"),
        ((tmp_path / "empty", real, None, settings("fvd")), "holds no clips"),
    ]
    for arguments, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            evaluate_folders(*arguments)
        assert "\n" not in str(caught.value)


def test_a_metric_of_ones_own_is_a_class_and_a_line(folders, monkeypatch):
    @register_metric("brightness")
    class Brightness(ClipMetric):
        def update(self, batch):
            self.extend("Brightness", batch.clips.float().mean(dim=(1, 2, 3, 4)).tolist())

    monkeypatch.setitem(METRICS, "brightness", METRICS.pop("brightness"))  # taken out again at the end
    found = evaluate_folders(*folders, settings=settings("brightness"))
    assert found.metrics["Brightness"].n == 8 and found.reference["Brightness"].interval is not None
    with pytest.raises(ValueError, match="the metric name 'fvd' is FVD's; choose another"):
        register_metric("fvd")(Brightness)


# --------------------------------------------------------------------------------- real networks, real clips


@pytest.fixture
def real_clips(shared, tmp_path):
    """Six real clips of 16 frames, of as many sources."""
    sources: dict[str, dict] = {}
    for line in (shared / "clips" / "test" / "metadata.jsonl").read_text().splitlines():
        record = json.loads(line)
        sources.setdefault(record["source"], record)
    (tmp_path / "real").mkdir()
    for record in list(sources.values())[:6]:
        clip = read_video(shared / "clips" / "test" / record["file_name"], max_frames=16).frames
        write_video(f"{tmp_path / 'real'}/{record['source']}/", clip)
    return tmp_path / "real"


@pytest.mark.slow
def test_worse_clips_are_further_away(real_clips, shared, tmp_path):
    blurs = {f"blurred {sigma}": lambda clip, s=sigma: ndimage.gaussian_filter(clip, (0, s, s, 0)) for sigma in (1, 3)}
    changes = {
        **blurs,
        "frozen": lambda clip: np.repeat(clip[:1], len(clip), axis=0),
        "shuffled": lambda clip: clip[np.random.default_rng(0).permutation(len(clip))],
    }
    found = {}
    for name, change in changes.items():
        folder = tmp_path / name
        folder.mkdir()
        for file in real_clips.iterdir():
            write_video(f"{folder / file.name}/", change(read_video(file).frames))
        options = EvaluationSettings(
            metrics=("fvd", "f-consistency", "motion"), allow_few=True, weights=shared / "weights"
        )
        found[name] = evaluate_folders(folder, real_clips, settings=options)
        shutil.rmtree(folder)
    fvd = {name: result.metrics["FVD"].value for name, result in found.items()}
    consistency = "F-Consistency_all (EfficientNet-Lite0)"
    real = found["frozen"].reference
    assert 0 < fvd["blurred 1"] < fvd["blurred 3"]
    assert min(fvd["frozen"], fvd["shuffled"]) > 0
    assert found["frozen"].metrics[consistency].value == pytest.approx(100, abs=1e-4)
    assert found["shuffled"].metrics[consistency].value < real[consistency].value
    assert found["shuffled"].metrics[FLOW].value > real[FLOW].value > 0
    assert found["shuffled"].metrics["Warping error (DIS)"].value > real["Warping error (DIS)"].value
    assert any("stillness" in line for line in found["frozen"].warnings)
