"""`trip preference`, and `trip evaluate --html`."""

import html
import json
import re
import shlex
from functools import partial

import numpy as np
import pytest

from trip.apps.cli import main, parse
from trip.apps.evaluate_page import arguments_of, provenance
from trip.data.video.writing import write_video


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders of two clips, named from the current one."""
    monkeypatch.chdir(tmp_path)
    for seed, folder in enumerate(("ours", "theirs")):
        (tmp_path / folder).mkdir()
        for name in ("one", "two"):
            clip = np.random.default_rng(seed).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
            write_video(f"{folder}/{name}/", clip)
    return tmp_path


@pytest.fixture
def run(capsys):
    """`trip` with arguments: exit code, lines of stdout, lines of stderr."""

    def call(*arguments):
        code = main([*map(str, arguments)])
        return code, *(text.splitlines() for text in capsys.readouterr())

    return call


PAGE = ("preference", "page", "ours", "theirs", "--output", "pairs.html")
FOLDER = ("evaluate", "--generated", "ours")


def vote(rater, key, answer):
    """A file of votes; `answer(secret)` is the answer to all three questions."""
    answers = {pair: answer(secret) for pair, secret in key["pairs"].items()}
    votes = [
        {"pair": pair, "answers": dict.fromkeys(("coherence", "motion", "quality"), given), "seconds": 5}
        for pair, given in answers.items()
    ]
    record = {"format": "trip-preference-votes-1", "page": key["page"], "rater": rater, "votes": votes}
    with open(f"votes-{rater}.json", "w") as file:
        json.dump(record, file)


def of_side(secret, side):
    """Where a side's clip is; the right answer to a catch pair."""
    return secret.get("expected") or ("left" if secret["left"] == side else "right")


def test_a_page_is_made_and_its_votes_are_counted(folders, run):
    code, out, err = run(*PAGE, "--catches", 1, "--seed", 4)
    assert (code, err) == (0, [])
    assert out == ["pairs.html: for the raters", "pairs.key.json: for you; it says which clip is whose"]
    key = json.loads((folders / "pairs.key.json").read_text())
    assert len(key["pairs"]) == 3 and key["seed"] == 4
    for rater in ("Ann", "Bob", "Cy"):
        vote(rater, key, partial(of_side, side="b" if rater == "Bob" else "a"))
    files = [f"votes-{rater}.json" for rater in ("Ann", "Bob", "Cy")]
    code, out, err = run("preference", "votes", *files, "--key", "pairs.key.json", "--json", "counts.json")
    assert (code, err) == (0, []) and out[:2] == ["A: ours", "B: theirs"]
    cells = [part.strip() for part in out[4].split("  ") if part.strip()]
    assert cells == [
        "Temporal coherence",
        "66.7%",
        "30.0% to 90.3%",
        "6",
        "0",
        "100.0%",
        "34.2% to 100.0%",
        *"20",
        "-0.25",
    ]
    assert out[-3].split() == ["Ann", "3", "of", "3", "50%", "3", "of", "3", "5"]
    counts = json.loads((folders / "counts.json").read_text())
    assert counts["questions"]["motion"]["votes"]["wilson_95"] == pytest.approx([0.29999, 0.90323], abs=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("preference", "page", "ours"), "Missing from trip preference page: B"),
        (PAGE[:4], "Missing from trip preference page: --output FILE"),
        ((*PAGE[:5], "pairs.txt"), "--output (=pairs.txt) is no page; give it a name such as pairs.html"),
        ((*PAGE[:5], "no/pairs.html"), "--output (=no/pairs.html) cannot be written; name a file in a folder "),
        ((*PAGE, "--catches", "-1"), "catches (=-1) must be at least 0"),
        (("preference", "votes", "v.json"), "Missing from trip preference votes: --key FILE"),
        (("preference", "votes", "--key", "k.json"), "there are no votes; name the files that raters have saved"),
        (("preference", "votes", "v.json", "--key", "k.json"), "k.json is no file; name the key of a preference page"),
        ((*FOLDER, "--html", "no/a.html"), "--html (=no/a.html) cannot be written; name a file in a "),
        ((*FOLDER, "--errors", "e.json"), "--errors belongs to --html, which is missing; give it, or leave --"),
        ((*FOLDER, "--html", "a.html", "--errors", "e.json"), "e.json is no file; name a .json of error curves or a "),
    ],
)
def test_mistakes_are_one_line(folders, run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out, len(err)) == (2, [], 1) and err[0].startswith(f"trip: error: {message}")
    assert sorted(path.name for path in folders.iterdir()) == ["ours", "theirs"]


def test_a_report_becomes_a_page_that_says_which_command_made_it(folders, monkeypatch, run):
    monkeypatch.setattr("sys.argv", ["other-program", "--secret"])  # the command's own arguments count
    arguments = (*FOLDER, "--reference", "theirs", "--metrics", "motion", "--html", "a b.html")
    code, out, err = run(*arguments, "--device", "cpu", "--quiet")
    assert (code, err) == (0, []) and out[0].startswith("metric")
    page = (folders / "a b.html").read_text()
    command = re.search("trip evaluate .*", html.unescape(page))
    assert command
    assert parse(shlex.split(command[0].partition("</pre>")[0])[1:]) == parse([*arguments, "--device", "cpu"])
    assert "other-program" not in page and "Flow magnitude (DIS), % of width" in page and "python 3" in page


@pytest.mark.parametrize(
    "line",
    [
        "evaluate --generated a --metrics fvd,fid --num-frames 16 --allow-few --seed 3",
        "evaluate-model --model m --protocol folder --data d --output-dir o --fps 0.5 --guidance-scale=-1.5",
    ],
)
def test_the_flags_of_options_give_the_same_options(line):
    options = parse(line.split())
    assert not isinstance(options, int) and parse([options.command, *arguments_of(options)]) == options


def test_provenance_outside_a_checkout_has_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    versions = provenance(parse([*FOLDER]))["Versions"]
    assert versions.splitlines()[0].split() in (["trip", "0.1.0"], ["trip", "unknown"])
