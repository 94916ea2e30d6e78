"""Human preference (the paper's Table 4): a blinded page of pairs, and what its votes amount to.

The page holds neither names nor folders: pairs have random labels, their sides are drawn, and the key that tells them
lies in a file of its own, which raters do not get. Both clips of a pair are brought to one size, one frame rate and
one length, and encoded alike, so that nothing but their pictures tells them apart. Every rater sees the pairs in an
order of their own.

Three questions a pair, each answered left, right or no difference. Percentages are of the votes that decided for one
side, with Wilson's intervals; ties are counted apart. Several votes on one pair are not independent, so that interval
is too narrow where raters agree: the second percentage, of pairs by the majority of their votes, does not have this
fault. Agreement is Krippendorff's alpha (nominal; 1: perfect, 0: chance).

Catch pairs show who looks: one clip of a "spoiled" pair is coarse, shuffled and jolting, and an "identical" pair shows
one clip twice. (A frozen copy would not do: of a clip that hardly moves, it may well be called the more coherent.)
"""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trip.data.text import printable, read_json
from trip.data.video import Video, read_video
from trip.evaluation.clips import clip_files, prompt_of
from trip.evaluation.embedding import Frames, picture_uri, resized, sheet
from trip.evaluation.motion import Rate
from trip.evaluation.page import environment, same_shape
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

LONGEST_LOOK = 1e7
"""Seconds; nobody takes four months for a pair."""

LARGEST_HEIGHT = 384
"""Pixels; larger clips are brought down to it."""

QUALITY = 92
"""Of the frames' WebP."""


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings:
    """How a page is made.

    Attributes:
        seed: of sides, order, labels and catch pairs. catches: number of catch pairs, spoiled and identical in turn.
    """

    seed: int = 0
    catches: int = 0


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One side of a pair: its frames, and how often they change."""

    frames: Frames
    fps: float


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What one pair shows, and what the key says of it."""

    left: Clip
    right: Clip
    prompt: str
    secret: dict[str, str]


def write_preference(a: Path, b: Path, path: Path, settings: PreferenceSettings | None = None) -> Path:
    """Write the page of two folders' clips and, beside it, its key; returns the key's path.

    Args:
        a, b: folders of clips of the same names. path: of the page; the key's is `key_path` of it. settings: see there.

    Raises:
        ValueError: folders without clips, names that only one has, clips of different shapes.
    """
    settings = settings or PreferenceSettings()
    if settings.catches < 0:
        raise ValueError(f"catches (={settings.catches}) must be at least 0")
    rng = np.random.default_rng(settings.seed)
    names = matched(a, b)
    pairs = [*compared(names, rng), *caught(names, settings.catches, rng)]
    pairs = [pairs[index] for index in rng.permutation(len(pairs))]
    labels = [f"{label:08x}" for label in rng.choice(2**32, len(pairs), replace=False)]
    shown = [payload(label, pair) for label, pair in zip(labels, pairs, strict=True)]
    identity = hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]
    secrets = {label: pair.secret for label, pair in zip(labels, pairs, strict=True)}
    key = {"format": KEY_FORMAT, "page": identity, "a": str(a), "b": str(b), "seed": settings.seed, "pairs": secrets}
    study = {"format": VOTES_FORMAT, "page": identity, "questions": list(QUESTIONS), "pairs": shown}
    page = environment().get_template("preference.html").render(study=study, questions=QUESTIONS, answers=ANSWERS)
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
        a, b, prompt = read_pair(name, *files)
        left, right = (a, b) if a_left else (b, a)
        secret = {"clip": name, "left": "a" if a_left else "b"}
        pairs.append(Pair(left=left, right=right, prompt=prompt, secret=secret))
    return pairs


def caught(names: Mapping[str, tuple[Path, Path]], count: int, rng: np.random.Generator) -> list[Pair]:
    """Pairs whose answers are known, of clips drawn from both folders."""
    pairs = []
    for index in range(count):
        name = list(names)[rng.integers(len(names))]
        *clips, prompt = read_pair(name, *names[name])
        clip = clips[rng.integers(2)]
        kind, left = (SPOILED, IDENTICAL)[index % 2], bool(rng.integers(2))
        other = Clip(frames=spoiled(clip.frames, rng), fps=clip.fps) if kind == SPOILED else clip
        expected = TIE if kind == IDENTICAL else LEFT if left else RIGHT
        sides = (clip, other) if left else (other, clip)
        secret = {"clip": name, "catch": kind, "expected": expected}
        pairs.append(Pair(left=sides[0], right=sides[1], prompt=prompt, secret=secret))
    return pairs


def spoiled(frames: Frames, rng: np.random.Generator) -> Frames:
    """A copy that is worse in all that is asked: coarse pictures, out of order, each moved to another place."""
    height, width = frames.shape[1:3]
    coarse = resized(frames[rng.permutation(len(frames))], max(height // 10, 2), max(width // 10, 2))
    blocks = [np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.NEAREST)) for f in coarse]
    moves = rng.integers(-(height // 6), height // 6 + 1, (len(frames), 2))
    return np.stack([np.roll(frame, tuple(move), (0, 1)) for frame, move in zip(blocks, moves, strict=True)])


def read_pair(name: str, a: Path, b: Path) -> tuple[Clip, Clip, str]:
    """Both clips in one size, frame rate and length, and their prompt, if they agree on it.

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
    first, second = (Clip(frames=resized(resampled(v, fps, count), *size), fps=fps) for v in videos)
    prompts = {prompt_of(file, video.metadata) for file, video in zip((a, b), videos, strict=True)}
    return first, second, prompts.pop() if len(prompts) == 1 else ""


def resampled(video: Video, fps: float, count: int) -> Frames:
    """`count` frames at another rate: of every moment the frame that was to be seen then."""
    places = np.floor(np.arange(count) * video.fps / fps + 1e-6).astype(int)
    return video.frames[places.clip(max=len(video.frames) - 1)]


def payload(label: str, pair: Pair) -> dict[str, Any]:
    """What the page gets to know of a pair: each clip as one picture of all its frames."""
    (left, columns), (right, _) = sheet(pair.left.frames), sheet(pair.right.frames)
    count, height, width = pair.left.frames.shape[:3]
    form = {"frames": count, "columns": columns, "width": width, "height": height, "fps": round(pair.left.fps, 3)}
    sheets = {"left": picture_uri(left, QUALITY), "right": picture_uri(right, QUALITY)}
    return {"pair": label, "prompt": printable(pair.prompt), **form, **sheets}


# ------------------------------------------------------------------------------------------------------ votes


def read_key(file: Path) -> dict[str, Any]:
    """The key of a page.

    Raises:
        ValueError: no file, or another one.
    """
    what = "the key of a preference page (PAGE.key.json)"
    key = read_record(file, KEY_FORMAT, {"page": str, "a": str, "b": str, "pairs": dict}, what)
    for label, secret in key["pairs"].items():
        if not is_secret(secret):
            raise ValueError(f"{file} has a pair {shown(label)} without its secret; it is not as it was written")
    return key


def is_secret(value: Any) -> bool:
    """Whether a key's entry says whose clip is on the left of a pair, or what is expected of a catch pair."""
    if not isinstance(value, dict):
        return False
    return value.get("expected") in ANSWERS if "catch" in value else value.get("left") in ("a", "b")


def read_votes(file: Path, key: Mapping[str, Any]) -> dict[str, Any]:
    """One rater's votes on the key's page: every pair at most once.

    Raises:
        ValueError: no file, another one, votes on another page, what the page cannot have saved: unknown pairs or
            answers, two votes on one pair, impossible times.
    """
    what = "votes that a preference page has saved"
    ballot = read_record(file, VOTES_FORMAT, {"page": str, "rater": str, "votes": list}, what)
    if ballot["page"] != key["page"]:
        pages = f"{printable(ballot['page'], 40)}, not {printable(key['page'], 40)}"
        raise ValueError(f"{file} holds votes on another page ({pages}); give its own key")
    if not ballot["rater"].strip():
        raise ValueError(f'{file} names no rater; write a name or a code as its "rater"')
    seen: set[str] = set()
    for vote in ballot["votes"]:
        if fault := fault_of(vote, key, seen):
            raise ValueError(f"{file} has {fault}; it was changed after the page saved it")
        seen.add(vote["pair"])
    return ballot


def fault_of(vote: Any, key: Mapping[str, Any], seen: Set[str]) -> str:
    """What of a vote no page can have saved; empty: nothing."""
    if not isinstance(vote, dict) or not isinstance(vote.get("answers"), dict):
        return f"a vote that is none: {shown(vote)}"
    pair, answers, seconds = vote.get("pair"), vote["answers"], vote.get("seconds")
    if not isinstance(pair, str) or pair not in key["pairs"]:
        return f"an unknown pair {shown(pair)}"
    if pair in seen:
        return f"two votes on pair {shown(pair)}"
    for question, answer in answers.items():
        if question not in QUESTIONS or answer not in ANSWERS:
            return f"an unknown answer {shown(f'{question}: {answer}')}"
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < LONGEST_LOOK:
        return f"seconds (={shown(seconds)}) that no pair takes"
    return ""


def shown(value: Any) -> str:
    """What a file holds, in quotes, for one line of a terminal."""
    return printable(repr(value), 60)


def read_record(file: Path, expected: str, fields: Mapping[str, type], what: str) -> dict[str, Any]:
    """A JSON file of a known format, with fields of the types that are needed."""
    if not file.is_file():
        raise ValueError(f"{file} is no file; name {what}")
    try:
        record = read_json(file)
    except ValueError:
        record = None
    if (
        not isinstance(record, dict)
        or record.get("format") != expected
        or not all(isinstance(record.get(name), kind) for name, kind in fields.items())
    ):
        raise ValueError(f"{file} is not {what}; name another file")
    return record


def tally(files: Sequence[Path], key_file: Path) -> dict[str, Any]:
    """Unblind and count: of every rater and pair one vote.

    Args:
        files: one a rater. key_file: of the page.

    Returns:
        ``{"a", "b": folders, "questions": {name: see `count_question`}, "raters": [see `count_rater`]}``.

    Raises:
        ValueError: files that are none, of another page, or twice of one rater.
    """
    key = read_key(key_file)
    ballots = [read_votes(file, key) for file in files]
    names = Counter(same_name(ballot["rater"]) for ballot in ballots)
    for ballot in ballots:
        if (count := names[same_name(ballot["rater"])]) > 1:
            raise ValueError(f"rater {shown(ballot['rater'])} has voted in {count} files; give one file a rater")
    return {
        "a": key["a"],
        "b": key["b"],
        "page": key["page"],
        "questions": {question: count_question(question, ballots, key) for question in QUESTIONS},
        "raters": [count_rater(ballot, key) for ballot in ballots],
    }


def same_name(rater: str) -> str:
    """A rater's name without what does not tell people apart: case, spaces, invisible marks, ways of writing it."""
    visible = "".join(c for c in unicodedata.normalize("NFKC", rater) if c.isprintable() or c.isspace())
    return " ".join(visible.casefold().split())


def count_question(question: str, ballots: Sequence[Mapping[str, Any]], key: Mapping[str, Any]) -> dict[str, Any]:
    """How one question was answered.

    Returns:
        ``"votes"``: decided votes for A as in `Rate.as_dict`, with ``"ties"``; ``"pairs"``: the same of pairs by the
        majority of their votes; ``"alpha"``: agreement, None where it is undefined.
    """
    winners = {pair: [] for pair, secret in key["pairs"].items() if "catch" not in secret}
    for ballot in ballots:
        for vote in ballot["votes"]:
            if vote["pair"] in winners and question in vote["answers"]:
                winners[vote["pair"]].append(winner(vote["answers"][question], key["pairs"][vote["pair"]]["left"]))
    return {
        "votes": shares([vote for votes in winners.values() for vote in votes]),
        "pairs": shares([majority(votes) for votes in winners.values() if votes]),
        "alpha": krippendorff_alpha(list(winners.values())),
    }


def winner(answer: str, left: str) -> str:
    """ "a", "b" or "tie", given which of the two was on the left."""
    if answer == TIE:
        return TIE
    return left if answer == LEFT else "ab".replace(left, "")


def majority(votes: Sequence[str]) -> str:
    """What more votes are for; a tie if as many are for either side."""
    a, b = votes.count("a"), votes.count("b")
    return "a" if a > b else "b" if b > a else TIE


def shares(outcomes: Sequence[str]) -> dict[str, Any]:
    """A's share of what was decided, with Wilson's interval; None where nothing was."""
    decided = [outcome == "a" for outcome in outcomes if outcome != TIE]
    return share(decided) | {"ties": len(outcomes) - len(decided)}


def share(outcomes: Iterable[bool]) -> dict[str, Any]:
    """As `Rate.as_dict`, with None in place of the rate of nothing, which JSON cannot hold."""
    record = Rate.of(outcomes).as_dict()
    return record if record["n"] else record | {"rate": None}


def count_rater(ballot: Mapping[str, Any], key: Mapping[str, Any]) -> dict[str, Any]:
    """How far one rater got, whether they prefer a side, and what they made of the catch pairs.

    Returns:
        ``{"rater", "pairs": answered, "of": all, "left": decided votes for the left side, "catches": answers to catch
        pairs that were as expected, both as in `share`, "seconds": median a pair}``.
    """
    secrets, answered = key["pairs"], [vote for vote in ballot["votes"] if vote["answers"]]
    votes = [(secrets[vote["pair"]], answer) for vote in answered for answer in vote["answers"].values()]
    sides = [answer == LEFT for secret, answer in votes if "catch" not in secret and answer != TIE]
    seconds = [vote["seconds"] for vote in answered]
    return {
        "rater": ballot["rater"],
        "pairs": len(answered),
        "of": len(secrets),
        "left": share(sides),
        "catches": share(answer == secret["expected"] for secret, answer in votes if "catch" in secret),
        "seconds": float(np.median(seconds)) if seconds else 0.0,
    }


def krippendorff_alpha(units: Sequence[Sequence[Hashable]]) -> float | None:
    r"""Agreement on nominal values (Krippendorff 2011), whoever gave them, some perhaps missing.

    .. math:: \alpha = 1 - (n - 1) \frac{\sum_{c \ne k} o_{ck}}{\sum_{c \ne k} n_c n_k}

    Args:
        units: for every thing that was judged, the values it got; those with fewer than two are left out.

    Returns:
        1 for perfect agreement, 0 for chance's; None where it is undefined: no two values of one unit, or all equal.
    """
    counts = [Counter(unit) for unit in units if len(unit) > 1]
    totals = sum(counts, Counter())
    n = totals.total()
    expected = n * n - sum(count**2 for count in totals.values())
    if not expected:
        return None
    observed = sum((m * m - sum(k * k for k in c.values())) / (m - 1) for c in counts if (m := c.total()))
    return 1 - (n - 1) * observed / expected
