"""`trip preference`: a blinded page of pairs, and its votes counted."""

from typing import Any

from trip.apps.evaluate import aligned, check_writable
from trip.apps.evaluate_options import PreferencePage, PreferenceVotes
from trip.data.text import printable
from trip.evaluation.preference import QUESTIONS, write_preference
from trip.evaluation.votes import tally
from trip.files import write_json

AGREED = 0.667
"""Krippendorff's own lower limit of an alpha from which tentative conclusions may be drawn."""

LONGEST_NAME = 60
"""Characters of a rater's name; the page takes as many."""


def page(options: PreferencePage) -> int:
    """Write the page and its key, and say where they are; returns the exit code.

    Raises:
        ValueError: folders that do not pair, or a page that cannot be written.
    """
    if options.output.suffix != ".html":
        raise ValueError(f"--output (={options.output}) is no page; give it a name such as pairs.html")
    check_writable(options.output, "--output")
    key = write_preference(options.a, options.b, options.output, seed=options.seed, catches=options.catches)
    print(f"{options.output}: for the raters\n{key}: for you; it says which clip is whose")
    return 0


def votes(options: PreferenceVotes) -> int:
    """Print the percentages and the raters, and write them where --json says; returns the exit code.

    Raises:
        ValueError: files that are no votes, or no key.
    """
    if not options.votes:
        raise ValueError("there are no votes; name the files that raters have saved")
    if options.json is not None:
        check_writable(options.json)
    found = tally(options.votes, options.key)
    if options.json is not None:
        write_json(options.json, found, named=True)
    print(described(found))
    return 0


def described(found: dict[str, Any]) -> str:
    """A tally as text: what A and B are, a table of the questions, a table of the raters."""
    header = ("A over B", "votes", "95 % interval", "n", "ties", "pairs", "95 % interval", "n", "ties", "alpha")
    rows = [(QUESTIONS[name][0], *question_cells(cells)) for name, cells in found["questions"].items()]
    raters = [rater_cells(rater) for rater in found["raters"]]
    return "\n".join(
        [
            f"A: {printable(found['a'])}\nB: {printable(found['b'])}\n",
            aligned([header, *rows]),
            "\nvotes: of those that decide for a clip; pairs: by the majority of their votes; alpha: Krippendorff's,"
            f"\nof A, B and tie (1: agreement, 0: chance's; below {AGREED} raters do not see the same)\n",
            aligned([("rater", "pairs", "chose left", "catch pairs", "seconds a pair"), *raters]),
        ]
    )


def question_cells(question: dict[str, Any]) -> tuple[str, ...]:
    """Cells of one question."""
    alpha = question["alpha"]
    return (*share_cells(question["votes"]), *share_cells(question["pairs"]), "" if alpha is None else f"{alpha:.2f}")


def share_cells(share: dict[str, Any]) -> tuple[str, ...]:
    """Percentage, interval, count and ties."""
    if share["rate"] is None:
        return "", "", "0", str(share["ties"])
    low, high = share["wilson_95"]
    return f"{share['rate']:.1%}", f"{low:.1%} to {high:.1%}", str(share["n"]), str(share["ties"])


def rater_cells(rater: dict[str, Any]) -> tuple[str, ...]:
    """Cells of one rater."""
    left, catches = rater["left"], rater["catches"]
    return (
        printable(rater["rater"], LONGEST_NAME),
        f"{rater['pairs']} of {rater['of']}",
        f"{left['rate']:.0%}" if left["n"] else "",
        f"{catches['successes']} of {catches['n']}" if catches["n"] else "",
        f"{rater['seconds']:.0f}",
    )
