"""Preference pages: blinded, balanced, played through in a real browser, and counted."""

import base64
import io
import itertools
import json
import re
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from browser import complaints, emulate, open_browser, requests
from trip.apps.preference import described
from trip.data.video.reading import Video
from trip.data.video.writing import write_video
from trip.evaluation.preference import QUESTIONS, resampled, write_preference
from trip.evaluation.votes import count_rater, krippendorff_alpha, same_name, tally

NAMES = ("castle", "harbour", "meadow", "orchard")
LEVELS = {"ours": 60, "theirs": 200}
"""Brightness that tells the folders' clips apart."""


@pytest.fixture
def folders(tmp_path):
    """Two folders of clips of the same names: dark ones and bright ones."""
    for folder, level in LEVELS.items():
        (tmp_path / folder).mkdir()
        for index, name in enumerate(NAMES):
            frames = np.full((6, 24, 32, 3), level, np.uint8)
            frames[:, :, 4 * index : 4 * index + 4] += 20
            frames += np.arange(6, dtype=np.uint8)[:, None, None, None]
            write_video(f"{tmp_path / folder / name}/", frames, 8)
            (tmp_path / folder / f"{name}.txt").write_text(f"the {name} <b>moves</b>")
    return tmp_path / "ours", tmp_path / "theirs"


def study_of(page):
    """What the page knows."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])


def brightness(uri):
    """Mean of the first frame's corner in a sheet."""
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    return np.asarray(picture.convert("L"))[20:24, 28:32].mean()


def test_the_page_is_blind_and_the_key_is_right(folders, tmp_path):
    key_file = write_preference(*folders, tmp_path / "pairs.html", seed=3, catches=2)
    key, page = json.loads(key_file.read_text()), (tmp_path / "pairs.html").read_text()
    assert not re.search(rf"ours|theirs|{tmp_path.name}|spoiled|identical|\"seed\"", page)
    study = study_of(tmp_path / "pairs.html")
    assert {pair["pair"] for pair in study["pairs"]} == set(key["pairs"]) and len(study["pairs"]) == 6
    assert all(set(pair) == set(study["pairs"][0]) for pair in study["pairs"])
    compared = {pair["pair"]: pair for pair in study["pairs"] if "left" in key["pairs"][pair["pair"]]}
    assert Counter(key["pairs"][label]["left"] for label in compared) == {"a": 2, "b": 2}
    for label, pair in compared.items():
        level = LEVELS["ours" if key["pairs"][label]["left"] == "a" else "theirs"]
        assert abs(brightness(pair["left"]) - level) < 4 < abs(brightness(pair["right"]) - level)
        assert pair["prompt"] == f"the {key['pairs'][label]['clip']} <b>moves</b>"
    for label, secret in key["pairs"].items():
        pair = next(pair for pair in study["pairs"] if pair["pair"] == label)
        assert (
            (pair["left"] == pair["right"]) == (secret.get("catch") == "identical") == (secret.get("expected") == "tie")
        )


def test_a_seed_decides_everything(folders, tmp_path):
    pages = []
    for seed in (1, 1, 2):
        write_preference(*folders, tmp_path / "pairs.html", seed=seed, catches=1)
        pages.append((tmp_path / "pairs.html").read_bytes() + (tmp_path / "pairs.key.json").read_bytes())
        (tmp_path / "pairs.key.json").unlink()
    assert pages[0] == pages[1] != pages[2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours", "pairs.html", "theirs"]


def test_a_key_is_not_replaced(tmp_path):
    (tmp_path / "pairs.key.json").write_text("mine")
    with pytest.raises(ValueError, match=r"pairs\.key\.json is there already, .*; name another page"):
        write_preference(tmp_path / "a", tmp_path / "b", tmp_path / "pairs.html")
    assert (tmp_path / "pairs.key.json").read_text() == "mine" and not (tmp_path / "pairs.html").exists()


@pytest.mark.parametrize("unseen", ["\ufe0f", "\u3164", "\u034f", "\u200b", "\u2800", "\U000e0100"])
def test_a_name_is_what_is_seen_of_it(unseen):
    assert same_name(f"An{unseen}n {unseen}") == "ann" and same_name(unseen) == ""


def test_folders_that_do_not_pair_are_refused(folders, tmp_path):
    ours, theirs = folders
    clip = np.zeros((2, 16, 16, 3), np.uint8)
    write_video(f"{ours}/zoo.mp4", clip)
    write_video(f"{ours}/zebra.mp4", clip)
    with pytest.raises(ValueError, match=r"^clip zebra is only in .*ours \(and 1 more\); give both folders clips of"):
        write_preference(ours, theirs, tmp_path / "pairs.html")
    write_video(f"{ours}/zoo.webp", clip)
    with pytest.raises(ValueError, match=r"ours has 2 clips named zoo; keep one of them"):
        write_preference(ours, theirs, tmp_path / "pairs.html")
    for folder, width in ((tmp_path / "square", 16), (tmp_path / "wide", 32)):
        folder.mkdir()
        write_video(folder / "one.mp4", np.zeros((2, 16, width, 3), np.uint8))
    with pytest.raises(ValueError, match=r"^clips one have shapes 16x16 and 32x16; crop them to one shape$"):
        write_preference(tmp_path / "square", tmp_path / "wide", tmp_path / "pairs.html")
    assert not (tmp_path / "pairs.html").exists()


def test_clips_of_two_rates_and_sizes_become_alike(tmp_path):
    for folder, count, size, fps in (("a", 8, 16, 4), ("b", 30, 32, 12)):
        (tmp_path / folder).mkdir()
        write_video(f"{tmp_path / folder}/one/", np.zeros((count, size, size, 3), np.uint8), fps)
    write_preference(tmp_path / "a", tmp_path / "b", tmp_path / "pairs.html")
    (pair,) = study_of(tmp_path / "pairs.html")["pairs"]
    assert (pair["frames"], pair["fps"], pair["width"], pair["height"]) == (24, 12, 32, 32)  # 2 s, the shorter one
    frames = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1).repeat(3, axis=3)
    seen = resampled(Video(frames, 4.0, None), 8.0, 8)[:, 0, 0, 0]
    assert seen.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), examples A to C; "." is missing.
TEXTBOOK = (
    (("0100000010", "1110010000"), 0.095),
    (("aabbdcccedda", "babbbccceddd"), 0.692),
    (("123321412...", "1233224125.3", ".3332342251.", "12332441251."), 0.743),
)


@pytest.mark.parametrize("raters, alpha", TEXTBOOK)
def test_alpha_of_the_textbook(raters, alpha):
    units = [[value for value in unit if value != "."] for unit in zip(*raters, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(alpha, abs=6e-4)


@given(st.lists(st.lists(st.sampled_from("abt"), max_size=4), max_size=6))
def test_alpha_is_one_minus_observed_over_expected_disagreement(units):
    """By listing pairs of values: those of one unit, weighted by 1 / (m - 1), against all."""
    units = [unit for unit in units if len(unit) > 1]
    values = list(itertools.chain(*units))
    expected = [a != b for a, b in itertools.permutations(values, 2)]
    if not any(expected):
        assert krippendorff_alpha(units) is None
        return
    observed = [sum(a != b for a, b in itertools.permutations(u, 2)) / (len(u) - 1) for u in units]
    alpha = 1 - (sum(observed) / len(values)) / (sum(expected) / len(expected))
    assert krippendorff_alpha(units) == pytest.approx(alpha)


def ballot(key, rater, choose):
    """Votes of a rater who answers `choose(secret, question)`."""
    votes = [
        {"pair": label, "position": i, "seconds": 4.0, "answers": {q: choose(secret, q) for q in QUESTIONS}}
        for i, (label, secret) in enumerate(key["pairs"].items())
    ]
    return {"format": "trip-preference-votes-1", "page": key["page"], "rater": rater, "votes": votes}


def side_of(secret, folder):
    """Where a folder's clip is."""
    return secret.get("expected") or ("left" if secret["left"] == folder else "right")


@pytest.fixture
def key(folders, tmp_path):
    """Key of a page with catch pairs."""
    file = write_preference(*folders, tmp_path / "pairs.html", catches=2)
    return json.loads(file.read_text())


def test_votes_are_unblinded_and_counted(key, tmp_path):
    choices = {
        "Ann": lambda secret, q: side_of(secret, "a"),
        "Bob": lambda secret, q: side_of(secret, "b" if q == "quality" or secret["clip"] == "meadow" else "a"),
        "Cy": lambda secret, q: "tie" if q == "motion" else "left",
    }
    for rater, choose in choices.items():
        (tmp_path / f"{rater}.json").write_text(json.dumps(ballot(key, rater, choose)))
    found = tally([tmp_path / f"{rater}.json" for rater in choices], tmp_path / "pairs.key.json")
    motion = found["questions"]["motion"]
    assert motion["votes"]["successes"] == 7 and motion["votes"]["n"] == 8 and motion["votes"]["ties"] == 4
    assert motion["votes"]["wilson_95"] == pytest.approx((0.5291, 0.9776), abs=1e-4)  # published tables of 7 of 8
    assert (motion["pairs"]["successes"], motion["pairs"]["n"], motion["pairs"]["ties"]) == (3, 3, 1)
    quality = found["questions"]["quality"]
    assert quality["votes"]["successes"] == 6 and quality["pairs"]["successes"] == 2  # Cy's side, half of them A's
    raters = {rater["rater"]: rater for rater in found["raters"]}
    assert [raters[r]["catches"]["successes"] for r in ("Ann", "Bob")] == [6, 6] and raters["Cy"]["catches"]["n"] == 6
    assert raters["Cy"]["left"]["rate"] == 1 and raters["Ann"]["left"]["rate"] == 0.5
    assert raters["Ann"]["pairs"] == raters["Ann"]["of"] == 6


def test_nothing_decided_is_no_percentage(key, tmp_path):
    (tmp_path / "votes.json").write_text(json.dumps(ballot(key, "Ann", lambda secret, q: "tie")))
    counts = tally([tmp_path / "votes.json"], tmp_path / "pairs.key.json")
    assert json.loads(json.dumps(counts, allow_nan=False)) == json.loads(json.dumps(counts))
    found = counts["questions"]["motion"]
    assert found["votes"]["rate"] is None and found["votes"]["ties"] == 4 and found["alpha"] is None
    assert count_rater({"rater": "Bob", "votes": []}, key)["pairs"] == 0


def test_files_that_are_no_votes_are_refused(key, tmp_path):
    good = ballot(key, "Ann", lambda secret, q: "left")
    key_file, file = tmp_path / "pairs.key.json", tmp_path / "votes.json"
    for change, message in (
        ({"page": "f" * 16}, r"votes\.json holds votes on another page \(f{16}, not [0-9a-f]{16}\); give its own key"),
        ({"format": "else"}, r"votes\.json is not votes that a preference page has saved; name another file"),
        ({"votes": [{"pair": "0", "answers": {}}]}, r"unknown pair '0'; it was changed after the page saved it"),
        (
            {"votes": [{"pair": next(iter(key["pairs"])), "answers": {"motion": "up"}}]},
            r"unknown answer 'motion: up'; it was changed",
        ),
    ):
        file.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=message):
            tally([file], key_file)
    for text in ("{", "[]", json.dumps({"format": good["format"], "page": key["page"]})):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"is not votes that"):
            tally([file], key_file)
    with pytest.raises(ValueError, match=r"none\.json is no file; name votes that"):
        tally([tmp_path / "none.json"], key_file)
    file.write_text(json.dumps(good))
    with pytest.raises(ValueError, match=r"^rater 'Ann' has voted in 2 files; give one file a rater$"):
        tally([file, file], key_file)


def test_a_pair_is_counted_once_a_rater_or_the_file_is_refused(key, tmp_path):
    file, key_file = tmp_path / "votes.json", tmp_path / "pairs.key.json"
    good = ballot(key, "Ann", lambda secret, q: side_of(secret, "a"))
    once = good["votes"][0]
    for repeats in ([once, once], [once, once | {"answers": {}}], good["votes"] + good["votes"][-1:], [once] * 1000):
        file.write_text(json.dumps(good | {"votes": repeats}))
        with pytest.raises(ValueError, match=r"^\S+votes\.json has two votes on pair '[0-9a-f]{8}'; it was changed"):
            tally([file], key_file)
    for name in ("Ann", "ann ", " ANN", "A\u200bnn", "\uff21nn"):  # one person, however the name is written
        file.write_text(json.dumps(good))
        (tmp_path / "more.json").write_text(json.dumps(good | {"rater": name}))
        with pytest.raises(ValueError, match=r"^rater '.*' has voted in 2 files; give one file a rater$"):
            tally([file, tmp_path / "more.json"], key_file)


WRONG_VOTES = [  # whatever JSON can hold where the page writes something else
    ("votes", {}),
    ("votes", [None]),
    ("votes", [[]]),
    ("votes", [{"pair": [], "answers": {}, "seconds": 1}]),
    ("votes", [{"pair": 7, "answers": {}, "seconds": 1}]),
    ("page", None),
    ("page", {}),
    ("rater", 3),
    ("rater", None),
    ("rater", ["Ann"]),
    ("rater", "  "),
    *(("answers", answers) for answers in (None, [], "left", {"motion": None}, {"motion": ["left"]}, {"none": "left"})),
    *(("seconds", seconds) for seconds in (None, "4", True, -1, float("nan"), float("inf"), 10**40, [], {})),
]


@pytest.mark.parametrize("name, value", WRONG_VOTES)
def test_votes_of_wrong_types_are_one_line_that_names_the_file(key, tmp_path, name, value):
    record, file = ballot(key, "Ann", lambda secret, q: "left"), tmp_path / "votes.json"
    (record if name in record else record["votes"][0])[name] = value
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"^\S+votes\.json [^\n]+$"):
        tally([file], tmp_path / "pairs.key.json")


@pytest.mark.parametrize("secret", [None, [], {}, {"left": "c"}, {"left": ["a"]}, {"catch": "spoiled", "left": "a"}])
def test_a_key_without_its_secrets_is_one_line_that_names_the_file(key, tmp_path, secret):
    file, key_file = tmp_path / "votes.json", tmp_path / "pairs.key.json"
    file.write_text(json.dumps(ballot(key, "Ann", lambda secret, q: "left")))
    key["pairs"][next(iter(key["pairs"]))] = secret
    key_file.write_text(json.dumps(key))
    with pytest.raises(ValueError, match=r"^\S+pairs\.key\.json has a pair '[0-9a-f]{8}' without its secret"):
        tally([file], key_file)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' * 5000, "1" * 5000, "\ud800", '{"format": NaN}', "null"])
def test_text_that_is_no_votes_is_one_line_that_names_the_file(key, tmp_path, text):
    (tmp_path / "votes.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"^\S+votes\.json [^\n]+$"):
        tally([tmp_path / "votes.json"], tmp_path / "pairs.key.json")


HOSTILE = "Ann\x1b[2J\u202etxt\n\rtrip: done <script>alert(1)</script> \ud800"
"""Clears a terminal, turns what follows, forges a line, runs a script, is half a character."""


def test_names_of_raters_and_folders_cannot_forge_what_is_printed(key, tmp_path):
    record, file = ballot(key, HOSTILE, lambda secret, q: "left"), tmp_path / "votes.json"
    file.write_text(json.dumps(record))
    key_file = tmp_path / "pairs.key.json"
    key_file.write_text(json.dumps(key | {"a": HOSTILE}))
    lines = described(tally([file], key_file)).split("\n")
    assert all(line.isprintable() for line in lines) and sum("trip: done" in line for line in lines) == 2
    file.write_text(json.dumps(record | {"page": HOSTILE}))
    with pytest.raises(ValueError, match="another page") as caught:
        tally([file], key_file)
    assert str(caught.value).isprintable()


def test_a_prompt_cannot_turn_or_leave_the_page(folders, tmp_path):
    for folder in folders:
        (folder / "meadow.txt").write_text("moves \u202e left </script><script>alert(1)</script>")
    write_preference(*folders, tmp_path / "pairs.html")
    page = (tmp_path / "pairs.html").read_text()
    assert "\u202e" not in page and "alert(1)</script>" not in page
    assert any("\\u202e" in pair["prompt"] for pair in study_of(tmp_path / "pairs.html")["pairs"])


# ------------------------------------------------------------------------------------------------- in a browser


class Rater:
    """Drives a page as a person would: looks at the brightness of the canvases, and presses keys."""

    def __init__(self, browser, page):
        self.browser, self.page = browser, page
        browser.get(page.as_uri())

    def find(self, name):
        return self.browser.find_element("id", name)

    def press(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def start(self, name):
        self.find("rater").clear()
        self.find("rater").send_keys(name, "\n")
        self.wait(lambda: not self.find("intro").is_displayed())

    def wait(self, condition, seconds=30):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds} s in vain"
            time.sleep(0.02)

    def place(self):
        return self.find("place").text

    def looks(self):
        """Brightness left and right, once both are drawn."""
        script = (
            "return ['left', 'right'].map((side) => { const seen = document.getElementById(side);"
            "const copy = new OffscreenCanvas(seen.width, seen.height).getContext('2d'); copy.drawImage(seen, 0, 0);"
            "return [seen.dataset.frame, copy.getImageData(seen.width - 2, seen.height - 2, 1, 1).data[0]]; })"
        )
        self.wait(lambda: self.browser.execute_script("return player.sheets !== null"))
        (left_frame, left), (right_frame, right) = self.browser.execute_script(script)
        assert left_frame == right_frame  # always the same moment of both
        return left, right

    def darker(self):
        """The arrow key towards the darker clip."""
        from selenium.webdriver import Keys

        left, right = self.looks()
        return Keys.ARROW_DOWN if abs(left - right) < 12 else Keys.ARROW_LEFT if left < right else Keys.ARROW_RIGHT


def test_a_page_in_a_browser_from_the_first_key_to_the_tally(folders, tmp_path):
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    key_file = write_preference(*folders, tmp_path / "pairs.html")
    with open_browser(downloads) as browser:
        from selenium.webdriver import Keys

        ann = Rater(browser, tmp_path / "pairs.html")
        ann.start("Ann <b>")
        orders = [browser.execute_script("return order.map((pair) => pair.pair)")]
        assert ann.place() == "Pair 1 of 4" and "<b>moves</b>" in ann.find("prompt").text
        ann.press(Keys.ENTER)  # not before all three are answered
        assert ann.place() == "Pair 1 of 4" and not ann.find("next").is_enabled()
        ann.press("p")
        assert ann.find("pause").text == "Play"
        ann.press("p", ann.darker(), ann.darker(), ann.darker(), Keys.ENTER)
        assert ann.place() == "Pair 2 of 4"
        ann.press(Keys.ARROW_DOWN)
        browser.execute_script("localStorage.clear()")  # a reload before the browser's storage is on disk shows this
        browser.refresh()  # what was answered is still there
        assert "1 of 4 pairs are answered" in ann.find("known").text
        ann.start("Ann <b>")
        assert ann.place() == "Pair 2 of 4"
        assert browser.find_element("css selector", "input[name=coherence][value=tie]").is_selected()
        ann.press(Keys.BACKSPACE, ann.darker(), ann.darker())  # corrects the tie
        clicked = {Keys.ARROW_LEFT: "left", Keys.ARROW_RIGHT: "right"}[ann.darker()]
        browser.find_element("css selector", f"input[name=quality][value={clicked}] + span").click()
        ann.find("next").click()
        assert ann.place() == "Pair 3 of 4"
        ann.press(Keys.BACKSPACE)
        assert ann.place() == "Pair 2 of 4"
        ann.press(Keys.ENTER)
        ann.press(ann.darker(), Keys.ARROW_DOWN, ann.darker(), Keys.ENTER)
        assert ann.place() == "Pair 4 of 4" and ann.find("next").text == "Finish"
        ann.press(ann.darker(), ann.darker(), ann.darker(), Keys.ENTER)
        assert ann.find("done").is_displayed() and "all 4 pairs, Ann <b>" in ann.find("summary").text
        ann.find("save").click()
        ann.wait(lambda: (downloads / "votes-Ann-b-.json").is_file())
        bob = Rater(browser, tmp_path / "pairs.html")
        emulate(browser, width=360, dark=True, still=True)
        browser.refresh()
        bob.start("Bob")
        orders.append(browser.execute_script("return order.map((pair) => pair.pair)"))
        assert bob.find("pause").text == "Play"  # reduced motion
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        for _ in NAMES:
            bob.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ENTER)
        bob.find("save").click()
        bob.wait(lambda: (downloads / "votes-Bob.json").is_file())
        assert complaints(browser) == [] and set(requests(browser)) == {(tmp_path / "pairs.html").as_uri()}
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
    votes = json.loads((downloads / "votes-Ann-b-.json").read_text())
    assert votes["finished"] > votes["started"] and [vote["pair"] for vote in votes["votes"]] == orders[0]
    found = tally(sorted(downloads.iterdir()), key_file)
    assert found["questions"]["coherence"]["votes"]["successes"] == 4 + 2  # Ann sees the darker one, Bob the left one
    assert found["questions"]["motion"]["votes"]["ties"] == 1 and found["questions"]["quality"]["votes"]["n"] == 8
    assert [rater["left"]["rate"] for rater in found["raters"]] == pytest.approx([0.5, 1], abs=0.1)
