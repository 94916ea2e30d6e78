"""`trip data`: check a data set, pack it into shards, or make one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from trip.apps.data_options import DataCheck, DataShard, DataSynth, Reading
from trip.apps.errors import say
from trip.data.places import Root
from trip.data.sets.check import check_examples
from trip.data.sets.datasets import choose_layout, read_examples, shard_urls, write_manifest
from trip.data.sets.decoding import Decoding
from trip.data.sets.examples import Example, Unusable
from trip.data.sets.shards import index_shards, named_schemes, only_streams, unpacked, write_shards
from trip.data.sets.text_limit import TextLimit
from trip.data.synthetic.procedural import procedural_bank
from trip.data.synthetic.scenes import SyntheticMotion
from trip.data.text import printable
from trip.data.video.writing import write_video
from trip.files import atomic_path, contents
from trip.models import BUNDLED_MODEL, bundled_model_path

EXIT_FAULTY = 1


def data(options: DataCheck | DataShard | DataSynth) -> int:
    """Run one of the commands; returns the exit code."""
    match options:
        case DataCheck():
            return check(options)
        case DataShard():
            return shard(options)
        case DataSynth():
            return synth(options)


def check(options: DataCheck) -> int:
    """Print what the clips are like and which are faulty.

    Returns:
        0, or 1 where clips are faulty and `strict` is set.

    Raises:
        ValueError: no readable data set, settings out of range, or no good clip at all.
    """
    decoding = Decoding(
        num_frames=options.num_frames,
        fps=options.fps or None,
        size=(options.height, options.width),
        timeout=options.timeout,
        max_pixels=options.max_pixels,
    )
    check_output(options)
    bundled = options.model == BUNDLED_MODEL and not Path(options.model).is_dir()
    limit = TextLimit.read(bundled_model_path() if bundled else Path(options.model))
    examples = read(options)
    counts = limit.count([example.caption for example in examples if not isinstance(example.video, Unusable)])
    with tqdm(total=len(examples), desc="checking", unit="clip", disable=options.quiet or None, leave=False) as bar:
        report = check_examples(examples, decoding, workers=options.workers, on_result=bar.update)
    print(json.dumps(report.to_dict() | {"captions": counts.to_dict()}, indent=2) if options.json else report)
    if str(counts):
        say(str(counts))
    if not report.good:
        raise ValueError(f"{options.source} has no clip that can be used; the faults are listed above")
    if options.output is not None:
        report.write_manifest(options.output)
        say(f"wrote {len(report.good)} good clips to {options.output}")
    return EXIT_FAULTY if options.strict and report.faults else 0


def check_output(options: DataCheck) -> None:
    """The list of the good clips must not replace the list that is read, and may name what lies below it only."""
    output, source = options.output, Path(options.source)
    if output is None:
        return
    if output.suffix.lower() != ".jsonl":
        raise ValueError(f"--output (={output}) must end in .jsonl")
    if output.exists() and output.resolve() in (source.resolve(), (source / "metadata.jsonl").resolve()):
        raise ValueError(f"--output (={output}) is the list being checked; choose another name")
    data = options.root or (source if source.is_dir() else source.parent)
    if not named_schemes(options.source) and not Root(output.parent).holds(data):
        raise ValueError(
            f"--output (={output}) must lie in or above {data}, since a list names what lies below it; move it"
        )


def shard(options: DataShard) -> int:
    """Write the shards, print their paths, and name the clips that are left out.

    Raises:
        ValueError: no readable data set, a folder of other shards, or no clip that can be packed.
    """
    left_out: list[str] = []
    with readable(options) as examples:
        paths = write_shards(
            examples,
            options.output,
            clips_per_shard=options.clips_per_shard,
            on_fault=lambda example, problem: left_out.append(f"{printable(example.key)}: {printable(problem)}"),
        )
        total = -(-len(examples) // max(options.clips_per_shard, 1))
        for path in tqdm(paths, total=total, desc="packing", unit="shard", disable=options.quiet or None, leave=False):
            print(path)
    for line in left_out:
        say(f"left out {line}")
    if left_out:
        say(f"{len(examples) - len(left_out)} of {len(examples)} clips are packed")
    return 0


@contextmanager
def readable(options: DataShard) -> Iterator[list[Example]]:
    """The examples; what can only be streamed is unpacked for as long as they are read."""
    layout = choose_layout(options.source) if options.layout == "auto" else options.layout
    urls = shard_urls(options.source, options.root) if layout == "shards" else []
    if not any(map(only_streams, urls)):
        yield read(options)
        return
    with unpacked(urls, options.output) as plain:
        yield index_shards(plain)


def read(options: Reading) -> list[Example]:
    """The examples that the options name; the user typed the source, which may be a URL therefore."""
    return read_examples(
        options.source,
        root=options.root,
        schemes=(*options.schemes, *named_schemes(options.source)),
        layout=options.layout,
        video_column=options.video_column,
        caption_column=options.caption_column,
        captions=options.captions,
        split=options.split,
    )


def synth(options: DataSynth) -> int:
    """Write a folder of synthetic clips and their list, which is there whole or not at all.

    Raises:
        ValueError: a folder that holds anything, or settings out of range.
    """
    check_synth(options)
    pictures = options.photos or procedural_bank(options.seed, options.size)
    source = SyntheticMotion(pictures, options.size, options.num_frames, options.seed)
    rows, indices = [], range(options.count)
    with atomic_path(options.output) as folder:
        folder.mkdir()
        for index in tqdm(indices, desc="making", unit="clip", disable=options.quiet or None, leave=False):
            clip, path = source[index], folder / f"clip-{index:06d}.mp4"
            write_video(path, clip.frames, options.fps)
            about = {"kind": clip.kind, "frames": len(clip.frames), "fps": options.fps, **clip.params}
            rows.append((Example(key=path.name, video=path, caption=clip.caption), about))
        write_manifest(folder / "metadata.jsonl", rows)
    print(options.output)
    return 0


def check_synth(options: DataSynth) -> None:
    """Sizes that a clip can have, and a folder of nobody's."""
    if options.count < 1:
        raise ValueError(f"--count (={options.count}) must be at least 1")
    if options.seed < 0:
        raise ValueError(f"--seed (={options.seed}) must not be negative")
    if options.num_frames < 2:
        raise ValueError(f"--num-frames (={options.num_frames}) must be at least 2; motion needs two frames")
    if options.size < 16 or options.size % 2:
        raise ValueError(f"--size (={options.size}) must be even and at least 16")
    if options.output.exists() and (not options.output.is_dir() or contents(options.output)):
        raise ValueError(f"--output (={options.output}) is there and not empty; choose a new folder")
