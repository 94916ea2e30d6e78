"""The votes on a preference page: checked, unblinded and counted.

Percentages are of the votes that decided for one side, with Wilson's intervals; ties are counted apart. Several votes
on one pair are not independent, so that interval is too narrow where raters agree: the second percentage, of pairs by
the majority of their votes, does not have this fault. Agreement is Krippendorff's alpha (nominal; 1: perfect, 0:
chance).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from trip.data.text import printable, read_json
from trip.evaluation.intervals import Rate
from trip.evaluation.preference import ANSWERS, KEY_FORMAT, LEFT, QUESTIONS, TIE, VOTES_FORMAT

LONGEST_LOOK = 1e7
"""Seconds; nobody takes four months for a pair."""

IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Characters that are not seen: Unicode's Default_Ignorable_Code_Point, and the blank Braille pattern."""


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
    if not same_name(ballot["rater"]):
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
    name = IGNORABLE.sub("", unicodedata.normalize("NFKC", rater))
    visible = "".join(c for c in name if c.isprintable() or c.isspace())
    return unicodedata.normalize("NFKC", " ".join(visible.casefold().split()))


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
