"""What is fuzzed: for each kind of file a few good ones, how they are spoilt, and the functions behind the commands.

A kind spoils its good files into a folder of its own and returns what the commands would do with it. `seeds` makes the
good ones once; they are read by every process.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mutations import (
    HOSTILE_TEXTS,
    Rng,
    encoded,
    huge,
    pick,
    spoil,
    spoil_json,
    spoil_safetensors,
    spoil_table,
    spoil_tar,
)  # fmt: skip
from PIL import Image, PngImagePlugin

Thunk = Callable[[], object]
Spoil = Callable[[Path, Path, Rng, int], Iterator[Thunk]]
"""``spoil(seeds, folder, rng, port)``: fills the folder, yields what to call; port is that of a listener."""


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        spoil: see there. share: of all inputs, relative to the others'.
    """

    spoil: Spoil
    share: float


KINDS: dict[str, Kind] = {}


def kind(share: float) -> Callable[[Spoil], Spoil]:
    """Register a function under its name."""

    def register(function: Spoil) -> Spoil:
        KINDS[function.__name__] = Kind(function, share)
        return function

    return register


def spoilt(source: Path, target: Path, rng: Rng, others: list[Path] | None = None) -> Path:
    """A copy of a file, spoilt as bytes or by its header."""
    data = source.read_bytes()
    target.write_bytes(
        huge(data, rng) if rng.random() < 0.25 else spoil(data, rng, [o.read_bytes() for o in others or []])
    )
    return target


def refused(thunk: Thunk) -> None:
    """What must not succeed, whatever it says."""
    try:
        thunk()
    except ValueError:
        raise
    raise AssertionError("it was taken for good")


# --------------------------------------------------------------------------------------------------- good files


def make_seeds(folder: Path) -> None:
    """All good files, in folders named as their kinds."""
    from trip.data.video.writing import write_video

    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (6, 32, 48, 3), dtype=np.uint8)
    clips = folder / "clip"
    clips.mkdir(parents=True)
    record = {"image": "photo.jpg", "prompt": "it moves", "output": "out.mp4", "seed": 3, "fps": 8, "steps": 20}
    for suffix in (".mp4", ".webm", ".gif", ".webp"):
        write_video(clips / f"a{suffix}", clip, 8, record)
    from made_clips import encode

    for suffix in (".mkv", ".avi", ".mpg"):
        encode(clips / f"a{suffix}", list(clip))
    pictures = [Image.fromarray(frame) for frame in clip]
    pictures[0].save(clips / "a.apng", "PNG", save_all=True, append_images=pictures[1:], duration=100)
    (folder / "record").mkdir()
    for suffix in (".mp4", ".gif", ".webp"):
        write_video(folder / "record" / f"a{suffix}", clip[:2], 8, record)
    _stills(folder / "still", pictures[0])
    _models(folder)
    _votes(folder)
    _caches(folder)
    _runs(folder)


def _stills(folder: Path, picture: Image.Image) -> None:
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    mask = Image.linear_gradient("L").resize(picture.size)
    with_alpha = picture.copy()
    with_alpha.putalpha(mask)
    palette = picture.quantize(16)
    deep = Image.fromarray(np.asarray(mask, np.uint16) << 8)
    for suffix in (".png", ".jpg", ".webp", ".gif", ".tif", ".bmp", ".ppm", ".tga", ".ico", ".jp2", ".avif"):
        try:
            picture.save(
                folder / f"a{suffix}", **({"exif": exif} if suffix in (".png", ".jpg", ".webp", ".tif") else {})
            )
        except (OSError, KeyError, ValueError):
            continue
    with_alpha.save(folder / "alpha.png")
    with_alpha.save(folder / "alpha.webp")
    with_alpha.convert("LA").save(folder / "la.png")
    palette.save(folder / "palette.png", transparency=3)
    palette.save(folder / "palette.gif", transparency=3)
    deep.save(folder / "deep.png")
    deep.save(folder / "deep.tif")
    picture.convert("CMYK").save(folder / "cmyk.jpg")


def _models(folder: Path) -> None:
    import torch

    from tiny_models import saved, text_to_video_pipeline, tiny_vae, trip_pipeline
    from trip.noise_fusion import OptimalNoiseFusion

    saved(trip_pipeline(), folder / "model" / "trip")
    saved(text_to_video_pipeline(), folder / "model" / "text-to-video")
    OptimalNoiseFusion(sigma=[0.0, 0.3, 0.5, 0.6]).save_pretrained(folder / "part" / "fusion")
    torch.manual_seed(0)
    tiny_vae().save_pretrained(folder / "part" / "vae")


def _votes(folder: Path) -> None:
    from trip.evaluation.preference import KEY_FORMAT, QUESTIONS, VOTES_FORMAT

    labels = ("00000001", "00000002", "00000003")
    secrets = [
        {"clip": "x", "left": "a"},
        {"clip": "y", "left": "b"},
        {"clip": "x", "catch": "spoiled", "expected": "left"},
    ]
    key = {
        "format": KEY_FORMAT,
        "page": "0" * 16,
        "a": "ours",
        "b": "theirs",
        "seed": 0,
        "pairs": dict(zip(labels, secrets, strict=True)),
    }
    votes = [
        {"pair": label, "position": 0, "seconds": 3.5, "answers": dict.fromkeys(QUESTIONS, "left")} for label in labels
    ]
    ballot = {
        "format": VOTES_FORMAT,
        "page": "0" * 16,
        "rater": "Ann",
        "started": "2026",
        "finished": None,
        "votes": votes,
    }
    (folder / "votes").mkdir()
    (folder / "votes" / "key.json").write_text(json.dumps(key))
    (folder / "votes" / "votes.json").write_text(json.dumps(ballot))


def _caches(folder: Path) -> None:
    import torch

    from trip.data.cache.latents import open_cache, write_empty_text, write_shard

    cache = folder / "cache" / "good"
    open_cache(cache, {"size": 32})
    for index in range(2):
        about = [{"caption": f"clip {index} {row}", "key": f"{index}-{row}"} for row in range(3)]
        write_shard(cache, index, torch.randn(3, 4, 4, 4, 4), about, text=torch.randn(3, 5, 8))
    write_empty_text(cache, torch.randn(5, 8))


def _runs(folder: Path) -> None:
    import torch

    from tiny_run import tiny_run
    from trip.ablation.study import Study, plain, scores_path, write_scores
    from trip.training.checkpoint import save_checkpoint

    run = folder / "run" / "good"
    run.mkdir(parents=True)
    config = tiny_run(folder / "run")
    config.save(run / "config.json")
    lines = [{"step": step, "loss_t0": 1.5, "loss_t3": 0.5, "loss_frames": [1.0, 2.0]} for step in range(4)]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model, optimizer = toy()
    save_checkpoint(run / "checkpoints", {"model": model.state_dict()}, [optimizer], {"step": 2, "clips": 8})
    study = folder / "study" / "good"
    settings = Study(variants=("tnf", "optimal"), seeds=1, error_clips=6, made_clips=4, base=config)
    study.mkdir(parents=True)
    (study / "study.json").write_text(json.dumps(plain(settings)))
    rng = np.random.default_rng(0)
    for name in settings.variants:
        scores = {"errors": rng.random((6, 8, 4), np.float32), "snr": np.linspace(9, 0.1, 8), "flow": rng.random(4)}
        scores_path(study, name, 0).parent.mkdir(exist_ok=True)
        write_scores(scores_path(study, name, 0), scores)
    torch.manual_seed(0)


def toy() -> tuple[Any, Any]:
    """A network and its optimizer after a step."""
    import torch

    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


# ------------------------------------------------------------------------------------------- pictures and clips


@kind(2)
def still(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """Photographs for `trip animate`."""
    from trip.data.images import fit_image, load_image

    others = sorted((seeds / "still").iterdir())
    source = pick(rng, others)
    suffix = pick(rng, others).suffix if rng.random() < 0.1 else source.suffix
    file = spoilt(source, folder / f"photo{suffix}", rng, others)
    yield lambda: fit_image(load_image(file), 16, 16)


@kind(2)
def clip(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """Clips for `trip evaluate`, `trip calibrate` and `trip data check`."""
    from trip.data.sets.decoding import Decoding, inspect_clip
    from trip.data.video.reading import read_video

    others = sorted((seeds / "clip").iterdir())
    source = pick(rng, others)
    suffix = pick(rng, (".mp4", ".gif", ".webp", ".mkv", ".png")) if rng.random() < 0.1 else source.suffix
    file = spoilt(source, folder / f"clip{suffix}", rng, others)
    yield lambda: read_video(file, max_frames=pick(rng, (None, 1, 3)))
    yield lambda: inspect_clip(file, Decoding(num_frames=2, size=(16, 16), fps=pick(rng, (None, 8.0)), timeout=5))


@kind(0.3)
def playlist(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """Files that FFmpeg takes for lists of other files, and names that it takes for protocols."""
    from trip.data.sets.decoding import Decoding, inspect_clip
    from trip.data.video.metadata import read_metadata
    from trip.data.video.reading import read_video

    secret = shutil.copy(seeds / "clip" / "a.mp4", folder / "secret.mp4")
    target = pick(
        rng,
        (f"http://127.0.0.1:{port}/x.mp4", f"file://{secret}", str(secret), "secret.mp4", f"tcp://127.0.0.1:{port}"),
    )
    lists = (
        f"#EXTM3U\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{target}'\n",
        f"<?xml version='1.0'?><MPD><Period><AdaptationSet><BaseURL>{target}</BaseURL></AdaptationSet></Period></MPD>",
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        f"[playlist]\nFile1={target}\nNumberOfEntries=1\n",
    )
    names = (
        "list.mp4",
        "list.m3u8",
        "list.ffconcat",
        "list.mkv",
        "list.sdp",
        "list.mpd",
        "concat:secret.mp4",
        "cache:secret.mp4",
    )
    file = folder / pick(rng, (*names, "subfile,,start,0,end,0,,:secret.mp4", "crypto:secret.mp4"))
    text = pick(rng, lists)
    if rng.random() < 0.3:
        file = folder / "http:" / f"127.0.0.1:{port}" / "x.mp4"
        file.parent.mkdir(parents=True)
    file.write_bytes(encoded(text, rng))
    yield lambda: refused(lambda: read_video(file))
    yield lambda: refused(lambda: inspect_clip(file, Decoding(num_frames=2, size=(16, 16), fps=None, timeout=5)))
    yield lambda: refused(lambda: read_metadata(file))


# ------------------------------------------------------------------------------------------------------- records


@kind(2)
def record(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """What `trip info` reads, beside a clip and inside of it."""
    from trip.apps.info import info
    from trip.apps.options import Info

    good = {
        "schema": "trip-clip",
        "version": 1,
        "image": "photo.jpg",
        "prompt": "it moves",
        "output": "out.mp4",
        "seed": 3,
    }
    good |= {"fps": 8, "steps": 20, "model": "trip-mini", "guidance_scale": 3.0, "note": "x", "fusion": "f"}
    text = spoil_json(good, rng)
    form = pick(rng, ("side-car", "png", "gif", "webp", "mp4", "frames"))
    if form == "side-car":
        shutil.copy(seeds / "clip" / "a.mkv", folder / "out.mkv")
        (folder / "out.mkv.json").write_bytes(encoded(text, rng))
        files = [folder / "out.mkv", folder / "out.mkv.json"]
    elif form == "mp4":
        files = (
            [tagged_mp4(folder / "out.mp4", text)]
            if rng.random() < 0.3
            else [spoilt(seeds / "record" / "a.mp4", folder / "out.mp4", rng)]
        )
    elif form in ("gif", "webp"):
        files = [tagged_picture(folder / f"out.{form}", text, form)]
    else:
        place = folder / "frames" / "0000.png" if form == "frames" else folder / "out.png"
        place.parent.mkdir(exist_ok=True)
        files = [tagged_picture(place, text, "png") if form == "png" else tagged_picture(place, text, "png").parent]
    for file in files:
        yield partial(info, Info(file=file, json=bool(rng.random() < 0.3)))


def tagged_mp4(path: Path, text: str) -> Path:
    """A clip with the record in its container."""
    import av

    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata["trip"] = text.encode("utf-8", "replace").decode().replace("\0", "")[:100_000]
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"  # pyright: ignore
        container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))  # pyright: ignore
        container.mux(stream.encode(None))  # pyright: ignore
    return path


def tagged_picture(path: Path, text: str, form: str) -> Path:
    """A picture with the record in it."""
    picture, data = Image.new("RGB", (8, 8)), text.encode("utf-8", "surrogatepass")
    if form == "gif":
        picture.save(path, comment=data[:60_000])
    elif form == "webp":
        exif = Image.Exif()
        exif[0x010E] = data[:60_000].decode("latin-1")
        picture.save(path, exif=exif)
    else:
        chunk = PngImagePlugin.PngInfo()
        chunk.add(b"tEXt", b"trip\0" + data[:900_000])
        picture.save(path, pnginfo=chunk)
    return path


@kind(2)
def votes(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """Votes and keys for `trip preference votes`."""
    from trip.apps import preference
    from trip.apps.evaluate_options import PreferenceVotes

    for name in ("votes.json", "key.json"):
        shutil.copy(seeds / "votes" / name, folder / name)
    wrong = folder / pick(rng, ("votes.json", "votes.json", "key.json"))
    wrong.write_bytes(encoded(spoil_json(json.loads(wrong.read_text()), rng), rng))
    options = PreferenceVotes(votes=(folder / "votes.json",), key=folder / "key.json", json=folder / "counts.json")
    yield lambda: preference.votes(options)


@kind(1)
def curves(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """Error curves for a report, and what VBench and a run of `trip evaluate-model` leave."""
    from trip.evaluation.error_curves import read_errors
    from trip.evaluation.generation import held, left_out
    from trip.evaluation.page import plots_of
    from trip.evaluation.vbench import INFO, vbench_jobs

    series = {"name": "a", "x": [1, 2, 3], "y": [0.1, 0.2, 0.3], "low": [0, 0, 0], "high": [1, 1, 1]}
    (folder / "curves.json").write_bytes(
        encoded(spoil_json({"timesteps": [series], "frames": [series, series]}, rng), rng)
    )
    yield lambda: plots_of(read_errors(folder / "curves.json"))
    lines = [json.loads(line) for line in (seeds / "run" / "good" / "log.jsonl").read_text().splitlines()]
    (folder / "log.jsonl").write_bytes(encoded(spoil_table(lines, rng, csv=False), rng))
    yield lambda: plots_of(read_errors(folder / "log.jsonl"))
    rows = [
        {"prompt_en": f"a {n}", "dimension": ["i2v"], "image_type": "x", "image_name": f"{n}.jpg"} for n in range(2)
    ]
    (folder / "data" / "crop" / "1-1").mkdir(parents=True)
    for n in range(2):
        (folder / "data" / "crop" / "1-1" / f"{n}.jpg").touch()
    (folder / INFO).write_bytes(encoded(spoil_json(rows, rng), rng))
    yield lambda: vbench_jobs(folder)
    run = folder / "run"
    (run / "left-out").mkdir(parents=True)
    (run / "left-out" / "00000.json").write_bytes(
        encoded(spoil_json({"key": "a", "reason": "b", "message": "c"}, rng), rng)
    )
    yield lambda: left_out(run)
    (run / "settings.json").write_bytes(encoded(spoil_json({"protocol": {"fps": 8}, "jobs_sha256": "x"}, rng), rng))
    yield lambda: held(run, {"protocol": {"fps": 8.0}}, []).__enter__()


# ----------------------------------------------------------------------------------------------- lists and sets


@kind(2)
def animate_list(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """Lists for `trip animate`: what they name is read, and written below the output only."""
    from trip.apps.jobs import collect_jobs
    from trip.apps.options import Animate

    rows = [{"image": f"{n}.png", "prompt": f"it moves {n}", "seed": n, "output": f"{n}.mp4"} for n in range(3)]
    csv = bool(rng.random() < 0.5)
    file, out = folder / f"list.{'csv' if csv else 'jsonl'}", folder / "out"
    file.write_bytes(encoded(spoil_table(rows, rng, csv), rng))

    def collect() -> None:
        jobs, faults = collect_jobs(Animate(image=file, output=str(out), prompt=pick(rng, (None, "it moves"))))
        for job in jobs:
            inside = Path(job.output).resolve().is_relative_to(out.resolve())
            assert inside, f"{job.output!r} would be written outside of the output"
        assert not any("\n" in str(fault) for fault in faults), faults

    yield collect


def lists(rng: Rng) -> Iterator[tuple[str, str]]:
    """(name, text) of the files of one layout, spoilt."""
    names = ("a.mp4", "b.mp4")
    rows: list[dict[str, Any]] = [{"file_name": name, "text": f"it moves {n}"} for n, name in enumerate(names)]
    layout = pick(rng, ("csv", "jsonl", "jsonl", "offsets", "prompts", "webvid", "msrvtt", "pairs", "classes"))
    if layout in ("csv", "jsonl"):
        yield f"metadata.{layout}", spoil_table(rows, rng, csv=layout == "csv")
    elif layout == "offsets":
        rows = [{"file_name": "good.tar", "offset": 1536, "size": 2000, "name": "a.mp4", "text": "x", "key": "a"}]
        yield "metadata.jsonl", spoil_table(rows, rng, csv=False)
    elif layout == "prompts":
        texts = [*names, pick(rng, HOSTILE_TEXTS)]
        rng.shuffle(texts)
        yield "videos.txt", pick(rng, ("\n", "\r\n", "\u2028", "\r")).join(texts)
        yield "prompts.txt", "\n".join(["it moves", "it stays", pick(rng, HOSTILE_TEXTS)])
    elif layout == "webvid":
        rows = [{"videoid": name[0], "page_dir": "", "name": f"it moves {n}"} for n, name in enumerate(names)]
        yield "results.csv", spoil_table(rows, rng, csv=True)
    elif layout == "msrvtt":
        value = {"videos": [{"video_id": n[0], "split": "test"} for n in names]}
        value |= {"sentences": [{"video_id": n[0], "caption": f"it moves {n}"} for n in names]}
        yield "msrvtt.json", spoil_json(value, rng)
    elif layout == "pairs":
        for name in names:
            yield pick(rng, (f"{name[0]}.txt", f"._{name[0]}.txt", f"{name[0]}.TXT")), pick(rng, HOSTILE_TEXTS)
    else:
        yield "readme.md", "x"


def check_and_pack(source: Path, folder: Path, names: str = "auto") -> Iterator[Thunk]:
    """`trip data check` and `trip data shard` of a source."""
    from trip.apps.data import check, shard
    from trip.apps.data_options import DataCheck, DataShard

    small: Any = {"num_frames": 2, "fps": 0, "width": 16, "height": 16, "timeout": 5, "workers": 0, "quiet": True}
    yield lambda: check(DataCheck(source=str(source), **small, output=folder / "out" / "good.jsonl"))
    yield lambda: shard(DataShard(source=str(source), output=folder / "out", quiet=True))


@kind(2)
def table(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """Data sets whose lists are spoilt, in all layouts."""
    data = folder / "data"
    data.mkdir()
    clip = seeds / "clip" / "a.mp4"
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(clip, data / name)
    source = data
    for name, text in lists(rng):
        (data / name).write_bytes(encoded(text, rng))
        source = (
            data / name
            if name.startswith(("results", "msrvtt")) or (rng.random() < 0.2 and "metadata" in name)
            else source
        )
        if name == "readme.md":
            inner = data / pick(
                rng,
                [
                    t
                    for t in HOSTILE_TEXTS
                    if t and "/" not in t and "\0" not in t and len(t) < 200 and t not in (".", "..") and t.isascii()
                ],
            )
            inner.mkdir()
            shutil.copy(clip, inner / "c.mp4")
    yield from check_and_pack(source, folder)


@kind(2)
def shards(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """WebDataset tars."""
    data = (seeds / "clip" / "a.mp4").read_bytes()
    members = []
    for n in range(3):
        about = {"key": f"{n}", "caption": f"it moves {n}", "file": f"{n}.mp4"}
        members.append((f"{n}.mp4", data))
        members.append(
            (
                f"{n}.json",
                spoil_json(about, rng).encode("utf-8", "surrogatepass")
                if rng.random() < 0.3
                else json.dumps(about).encode(),
            )
        )
        members.append((f"{n}.txt", encoded(pick(rng, HOSTILE_TEXTS), rng) if rng.random() < 0.3 else b"it moves"))
    place = folder / "data"
    place.mkdir()
    (place / "shard-000000.tar").write_bytes(spoil_tar(members, rng))
    yield from check_and_pack(place if rng.random() < 0.5 else place / "shard-000000.tar", folder)


# ------------------------------------------------------------------------------------------------------- folders


def spoilt_folder(source: Path, target: Path, rng: Rng) -> Path:
    """A copy of a folder, in which one file is spoilt, missing, a folder, or a link."""
    shutil.copytree(source, target)
    file = pick(rng, sorted(path for path in target.rglob("*") if path.is_file()))
    data, fate = file.read_bytes(), rng.random()
    if fate < 0.06:
        file.unlink()
        if rng.random() < 0.5:
            file.mkdir()
    elif fate < 0.1:
        file.unlink()
        file.symlink_to(pick(rng, ("/dev/zero", "/etc/passwd", "/nowhere", file.name)))
    elif file.suffix == ".safetensors":
        file.write_bytes(spoil_safetensors(data, rng))
    elif file.suffix == ".json":
        file.write_bytes(encoded(spoil_json(json.loads(data), rng), rng))
    elif file.suffix == ".jsonl":
        rows = [json.loads(line) for line in data.splitlines()]
        file.write_bytes(encoded(spoil_table(rows, rng, csv=False), rng))
    else:
        file.write_bytes(spoil(data, rng))
    return target


@kind(1)
def model(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """Model folders for every command that loads one."""
    import torch

    from trip.opening import load_pipeline

    place = spoilt_folder(seeds / "model" / pick(rng, ("trip", "trip", "text-to-video")), folder / "model", rng)
    yield lambda: load_pipeline(str(place), device=torch.device("cpu"), dtype=torch.float32)


@kind(1)
def part(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """Fusions and autoencoders, for --fusion and --vae."""
    from trip.loading import load_autoencoder
    from trip.noise_fusion import load_fusion

    name = pick(rng, ("fusion", "vae"))
    place = spoilt_folder(seeds / "part" / name, folder / name, rng)
    yield lambda: (load_fusion if name == "fusion" else load_autoencoder)(place)


@kind(1.5)
def cache(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """Latent caches for `trip train` and `trip ablate`."""
    from trip.ablation.scores import held_out_clips
    from trip.data.cache.latents import LatentClips, open_cache

    place = spoilt_folder(seeds / "cache" / "good", folder / "cache", rng)

    def read() -> None:
        clips = LatentClips(place)
        for index in range(min(len(clips), 6)):
            clips[index], clips.text(index)

    yield read
    yield lambda: held_out_clips(place, 3)
    yield lambda: open_cache(place, {"size": 32})


@kind(1.5)
def run(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """Runs of `trip train` that somebody else made, to go on from."""
    from trip.training.checkpoint import checkpoints, load_checkpoint
    from trip.training.config import TrainingConfig

    place = spoilt_folder(seeds / "run" / "good", folder / "run", rng)
    yield lambda: TrainingConfig.load(place / "config.json")
    found = checkpoints(place / "checkpoints")
    if found:
        model, optimizer = toy()
        yield lambda: load_checkpoint(found[max(found)], {"model": model.state_dict()}, [optimizer])


@kind(0.7)
def study(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """Studies of `trip ablate` that somebody else made."""
    from trip.ablation import table
    from trip.apps.ablate import ablate
    from trip.apps.ablate_options import Ablate

    table.RESAMPLES = 5  # its time is not what is looked at
    place = spoilt_folder(seeds / "study" / "good", folder / "study", rng)
    yield lambda: ablate(Ablate(output_dir=place, table=True))


@kind(0.5)
def features(seeds: Path, folder: Path, rng: Rng, port: int) -> Iterator[Thunk]:
    """Weights of feature networks."""
    import torch
    from safetensors.torch import save

    from trip.evaluation.features.base import load_strictly

    network = torch.nn.Linear(3, 2)
    file = folder / "weights.safetensors"
    file.write_bytes(spoil_safetensors(save(network.state_dict()), rng))
    yield lambda: load_strictly(network, file, "a network")
