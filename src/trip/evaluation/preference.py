"""Human preference (the paper's Table 4): a blinded page of pairs, and what its votes amount to.

The page holds neither names nor folders: pairs have random labels, their sides are drawn, and the key that tells them
lies in a file of its own, which raters do not get. Both clips of a pair are brought to one size, one frame rate and
one length, and encoded alike, so that nothing but their pictures tells them apart. Every rater sees the pairs in an
order of their own.

Three questions a pair, each answered left, right or no difference; `trip.evaluation.votes` counts the answers.

Catch pairs show who looks: one clip of a "spoiled" pair is coarse, shuffled and jolting, and an "identical" pair shows
one clip twice. (A frozen copy would not do: of a clip that hardly moves, it may well be called the more coherent.)
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trip.data.text import printable
from trip.data.video.reading import Video, read_video
from trip.evaluation.clips import clip_files, prompt_of
from trip.evaluation.embedding import Frames, picture_uri, resized, sheet
from trip.evaluation.page import same_shape
from trip.evaluation.rendering import rendered
from trip.files import write_json, write_text

QUESTIONS = {
    "coherence": (
        "Temporal coherence",
        "Which clip holds together better from frame to frame, without flicker or drift?",
    ),
    "motion": ("Motion fidelity", "Which clip’s motion suits the text and the picture better?"),
    "quality": ("Visual quality", "Which clip has the better pictures: sharp, and free of faults?"),
}
"""Name in the votes -> what the rater reads."""

LEFT, TIE, RIGHT = ANSWERS = ("left", "tie", "right")
SPOILED, IDENTICAL = "spoiled", "identical"
KEY_FORMAT, VOTES_FORMAT = "trip-preference-key-1", "trip-preference-votes-1"

LARGEST_HEIGHT = 384
"""Pixels; larger clips are brought down to it."""

QUALITY = 92
"""Of the frames' WebP."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What one pair shows, both clips at the same rate, and what the key says of it."""

    left: Frames
    right: Frames
    fps: float
    prompt: str
    secret: dict[str, str]


def write_preference(a: Path, b: Path, path: Path, *, seed: int = 0, catches: int = 0) -> Path:
    """Write the page of two folders' clips and, beside it, its key; returns the key's path.

    Args:
        a, b: folders of clips of the same names. path: of the page; the key's is `key_path` of it.
        seed: of sides, order, labels and catch pairs. catches: number of catch pairs, spoiled and identical in turn.

    Raises:
        ValueError: a key that is there already, without which the votes on its page are lost; folders without clips,
            names that only one has, clips of different shapes.
    """
    if os.path.lexists(key_path(path)):
        raise ValueError(f"{key_path(path)} is there already, and the votes on its page need it; name another page")
    if catches < 0:
        raise ValueError(f"catches (={catches}) must be at least 0")
    rng = np.random.default_rng(seed)
    names = matched(a, b)
    pairs = [*compared(names, rng), *caught(names, catches, rng)]
    pairs = [pairs[index] for index in rng.permutation(len(pairs))]
    labels = [f"{label:08x}" for label in rng.choice(2**32, len(pairs), replace=False)]
    shown = [payload(label, pair) for label, pair in zip(labels, pairs, strict=True)]
    identity = hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]
    secrets = {label: pair.secret for label, pair in zip(labels, pairs, strict=True)}
    key = {"format": KEY_FORMAT, "page": identity, "a": str(a), "b": str(b), "seed": seed, "pairs": secrets}
    study = {"format": VOTES_FORMAT, "page": identity, "questions": list(QUESTIONS), "pairs": shown}
    page = rendered("preference.html", study=study, questions=QUESTIONS, answers=ANSWERS)
    write_json(key_path(path), key)
    write_text(path, page)
    return key_path(path)


def key_path(path: Path) -> Path:
    """Where a page's key is written."""
    return path.with_name(f"{path.stem}.key.json")


# ------------------------------------------------------------------------------------------------------ pairs


def matched(a: Path, b: Path) -> dict[str, tuple[Path, Path]]:
    """Clips of both folders by name, without suffix.

    Raises:
        ValueError: a name that only one of them has, or that one has twice.
    """
    first, second = named(a), named(b)
    alone = sorted(first.keys() ^ second.keys())
    if alone:
        where = a if alone[0] in first else b
        more = f" (and {len(alone) - 1} more)" if len(alone) > 1 else ""
        raise ValueError(f"clip {alone[0]} is only in {where}{more}; give both folders clips of the same names")
    return {name: (first[name], second[name]) for name in first}


def named(folder: Path) -> dict[str, Path]:
    """A folder's clips by name, without suffix."""
    files = clip_files(folder)
    names = Counter(file.stem for file in files)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(f"{folder} has {names[twice[0]]} clips named {twice[0]}; keep one of them")
    return {file.stem: file for file in files}


def compared(names: Mapping[str, tuple[Path, Path]], rng: np.random.Generator) -> list[Pair]:
    """All clips of A against those of B; A is on the left in half of the pairs, drawn at random."""
    sides = rng.permutation([index % 2 == 0 for index in range(len(names))])
    pairs = []
    for (name, files), a_left in zip(names.items(), sides, strict=True):
        a, b, fps, prompt = read_pair(name, *files)
        left, right = (a, b) if a_left else (b, a)
        secret = {"clip": name, "left": "a" if a_left else "b"}
        pairs.append(Pair(left=left, right=right, fps=fps, prompt=prompt, secret=secret))
    return pairs


def caught(names: Mapping[str, tuple[Path, Path]], count: int, rng: np.random.Generator) -> list[Pair]:
    """Pairs whose answers are known, of clips drawn from both folders."""
    pairs = []
    for index in range(count):
        name = list(names)[rng.integers(len(names))]
        *clips, fps, prompt = read_pair(name, *names[name])
        clip = clips[rng.integers(2)]
        kind, on_left = (SPOILED, IDENTICAL)[index % 2], bool(rng.integers(2))
        other = spoiled(clip, rng) if kind == SPOILED else clip
        left, right = (clip, other) if on_left else (other, clip)
        secret = {"clip": name, "catch": kind, "expected": TIE if kind == IDENTICAL else LEFT if on_left else RIGHT}
        pairs.append(Pair(left=left, right=right, fps=fps, prompt=prompt, secret=secret))
    return pairs


def spoiled(frames: Frames, rng: np.random.Generator) -> Frames:
    """A copy that is worse in all that is asked: coarse pictures, out of order, each moved to another place."""
    height, width = frames.shape[1:3]
    coarse = resized(frames[rng.permutation(len(frames))], max(height // 10, 2), max(width // 10, 2))
    blocks = [np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.NEAREST)) for f in coarse]
    moves = rng.integers(-(height // 6), height // 6 + 1, (len(frames), 2))
    return np.stack([np.roll(frame, tuple(move), (0, 1)) for frame, move in zip(blocks, moves, strict=True)])


def read_pair(name: str, a: Path, b: Path) -> tuple[Frames, Frames, float, str]:
    """Both clips in one size and length, the frame rate of both, and their prompt, if they agree on it.

    Raises:
        ValueError: clips of different proportions.
    """
    videos = read_video(a), read_video(b)
    if not same_shape(*videos):
        sizes = " and ".join(f"{v.frames.shape[2]}x{v.frames.shape[1]}" for v in videos)
        raise ValueError(f"clips {name} have shapes {sizes}; crop them to one shape")
    fps = max(video.fps for video in videos)
    count = max(int(min(len(video.frames) / video.fps for video in videos) * fps + 1e-6), 1)
    height, width = max(video.frames.shape[1:3] for video in videos)
    size = min(height, LARGEST_HEIGHT), round(width * min(1.0, LARGEST_HEIGHT / height))
    first, second = (resized(resampled(v, fps, count), *size) for v in videos)
    prompts = {prompt_of(file, video.metadata) for file, video in zip((a, b), videos, strict=True)}
    return first, second, fps, prompts.pop() if len(prompts) == 1 else ""


def resampled(video: Video, fps: float, count: int) -> Frames:
    """`count` frames at another rate: of every moment the frame that was to be seen then."""
    places = np.floor(np.arange(count) * video.fps / fps + 1e-6).astype(int)
    return video.frames[places.clip(max=len(video.frames) - 1)]


def payload(label: str, pair: Pair) -> dict[str, Any]:
    """What the page gets to know of a pair: each clip as one picture of all its frames."""
    (left, columns), (right, _) = sheet(pair.left), sheet(pair.right)
    count, height, width = pair.left.shape[:3]
    form = {"frames": count, "columns": columns, "width": width, "height": height, "fps": round(pair.fps, 3)}
    sheets = {"left": picture_uri(left, QUALITY), "right": picture_uri(right, QUALITY)}
    return {"pair": label, "prompt": printable(pair.prompt), **form, **sheets}
