"""Report pages: nothing from outside, everything escaped, readable in a real browser; and what they are made of."""

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from browser import complaints, emulate, open_browser, requests
from trip.data.video.reading import read_video
from trip.data.video.writing import write_video
from trip.evaluation import page as page_module
from trip.evaluation.charts import Chart, Series, ticks
from trip.evaluation.embedding import animation_uri, at_height, sheet, strip
from trip.evaluation.error_curves import ErrorCurves, curves_of_log, read_errors
from trip.evaluation.metric import Result
from trip.evaluation.page import evenly, pair_clips, side_by_side, write_page
from trip.evaluation.published import compare
from trip.evaluation.report import EvaluationSettings, Report, Side

EVIL = "<script>alert(\"1\")</script> & 'co'"
CURVE = {"name": EVIL, "x": [0, 500, 999], "y": [0.2, 0.4, 0.9], "low": [0.1, 0.3, 0.8], "high": [0.3, 0.5, 1.0]}


def noise(seed, frames=5, height=24, width=32):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def result(name, value, features="", n=8, **more):
    return Result(name=name, value=value, n=n, features=features, **({"interval": (value - 1, value + 1)} | more))


def report_of(*results, reference=(), floor=(), frames=16, sizes=("256x256",), data="WebVid-10M"):
    """A report of these numbers."""
    side = Side(folder=EVIL, clips=2, fps=[8.0], sizes=[*sizes])
    numbers = {"metrics": results, "reference": reference, "floor": floor}
    return Report(
        **{role: {result.name: result for result in of} for role, of in numbers.items()},
        warnings=[f"look at {EVIL}"],
        settings=EvaluationSettings(),
        num_frames=frames,
        hashes={},
        sides={"generated": side, "reference": side},
        data=data,
    )


@pytest.fixture
def report():
    return report_of(
        result("FVD", 812.25, "I3D-K400"),
        result("F-Consistency_4 (Toy)", 97.5, "Toy", note=EVIL),
        result("First frame PSNR, dB", 31.2, interval=None),
        reference=[result("F-Consistency_4 (Toy)", 95.5, "Toy")],
        floor=[result("FVD", 120.5, "I3D-K400")],
        frames=5,
        sizes=["32x24"],
        data="",
    )


@pytest.fixture
def folders(tmp_path):
    """Two folders of clips of the same names."""
    for seed, folder in enumerate(("made", "real")):
        (tmp_path / folder).mkdir()
        for index, name in enumerate(("first", "second")):
            write_video(f"{tmp_path / folder / name}/", noise(10 * seed + index))
            (tmp_path / folder / f"{name}.txt").write_text(EVIL)
    return tmp_path / "made", tmp_path / "real"


class Elements(HTMLParser):
    """All start tags of a page with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_a_page_is_whole_escaped_and_accessible(report, folders, tmp_path):
    curves = ErrorCurves.of({"timesteps": [CURVE, CURVE | {"name": "other"}], "frames": [CURVE]})
    write_page(report, tmp_path / "page.html", *folders, errors=curves, record={"Command": f"trip {EVIL}"})
    text = (tmp_path / "page.html").read_text()
    found = Elements(text)
    assert len(found.all("script")) == 1 and "alert(" in "".join(found.text)  # shown, not run
    assert not {"link", "iframe", "object", "video", "base"} & {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
    assert "url(" not in text and "@import" not in text
    pictures = found.all("img")
    assert len(pictures) == 2 * 4 and all(picture["alt"] for picture in pictures)
    assert all(cell.get("scope") for cell in found.all("th"))
    charts = [svg for svg in found.all("svg") if svg.get("class") == "chart"]
    assert len(charts) == 2 and all(svg["role"] == "img" and EVIL in svg["aria-label"] for svg in charts)
    for shown in ("812.2", "811.2 to 813.2", "38.9", "433.9", "not comparable", "120.5", "279", "97.5", "Real clips"):
        assert shown in "".join(found.text), shown


def test_a_page_is_replaced_only_by_a_whole_one(report, folders, tmp_path):
    (tmp_path / "page.html").write_text("before")
    (folders[0] / "third.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"third\.mp4"):
        write_page(report, tmp_path / "page.html", folders[0])
    assert (tmp_path / "page.html").read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made", "page.html", "real"]


def test_a_long_list_is_thinned_evenly_and_said(report, folders, tmp_path, monkeypatch):
    pairs = [(folders[0] / str(n), None) for n in range(100)]
    names = [int(made.name) for made, _ in evenly(pairs)]
    assert len(names) == 12 and names[0] == 0 and names[-1] == 99 and set(np.diff(names)) == {9}
    monkeypatch.setattr(page_module, "SHOWN_CLIPS", 1)
    write_page(report, tmp_path / "page.html", *folders)
    assert "1 of 2 clips, at even distances" in (tmp_path / "page.html").read_text()


def test_clips_pair_by_name_else_by_order(folders):
    made, real = folders
    assert pair_clips(made, None) == (True, [(made / "first", None), (made / "second", None)])
    (made / "first").rename(made / "second-0")
    assert pair_clips(made, real) == (True, [(made / "second", real / "second"), (made / "second-0", real / "second")])
    (real / "second").rename(real / "alone")
    assert pair_clips(made, real)[0] is False


def test_both_sides_show_the_same_moment(tmp_path):
    slow, fast = np.zeros((4, 48, 48, 3), np.uint8), np.zeros((8, 48, 48, 3), np.uint8)
    slow += np.arange(0, 80, 20, dtype=np.uint8)[:, None, None, None]
    fast += np.arange(0, 80, 10, dtype=np.uint8)[:, None, None, None]
    write_video(f"{tmp_path}/slow/", slow, 4)
    write_video(f"{tmp_path}/fast/", fast, 8)
    pair = side_by_side(read_video(tmp_path / "slow"), read_video(tmp_path / "fast"))
    assert pair.shape == (4, 48, 97, 3)
    assert np.array_equal(pair[:, :, :48], pair[:, :, 49:])


def test_animations_stay_below_their_limit(tmp_path):
    import base64

    clip = noise(0, frames=4, height=128, width=64)
    assert len(animation_uri(clip, 8.0, 10**6)) > 30_000
    small = base64.b64decode(animation_uri(clip, 8.0, 20_000).partition(",")[2])
    (tmp_path / "small.webp").write_bytes(small)
    assert len(small) <= 20_000 and read_video(tmp_path / "small.webp").frames.shape == (4, 64, 32, 3)


def test_strips_and_sheets_keep_frames_in_order():
    clip = noise(1, frames=7, height=4, width=6)
    picture, columns = sheet(clip)
    assert columns == 3 and picture.shape == (12, 18, 3)
    for k, frame in enumerate(clip):
        row, column = divmod(k, columns)
        assert np.array_equal(picture[4 * row : 4 * row + 4, 6 * column : 6 * column + 6], frame)
    film = strip(clip, 3)
    assert np.array_equal(film, np.concatenate([clip[0], clip[3], clip[6]], axis=1))
    assert at_height(clip, 2).shape == (7, 2, 3, 3)
    with pytest.raises(ValueError, match="exceeds WebP's 16383 pixels a side"):
        sheet(np.zeros((2, 4, 9000, 3), np.uint8))


# ------------------------------------------------------------------------------------------------------- charts


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 0.93, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 999, [0, 200, 400, 600, 800, 1000]),
        (-3, 2, [-3, -2, -1, 0, 1, 2]),
        (5, 5, [2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_ticks_are_round_and_enclose(low, high, expected):
    assert ticks(low, high) == expected


def test_a_chart_is_xml_whose_points_lie_where_they_should():
    series = [Series.of(CURVE), Series(name="flat", x=[0, 999], y=[0.5, 0.5])]
    chart = Chart(series, title=EVIL, x_label="t", y_label="error")
    root = ET.fromstring(chart.__html__())
    points = [(float(p.get("cx")), float(p.get("cy"))) for p in root.iter("circle")]
    assert len(points) == 5 and [p[0] for p in points[:3]] == pytest.approx([76, 76 + 548 * 500 / 999, 624], abs=0.1)
    down = {value: 264 - 250 * value for value in (0.2, 0.4, 0.9, 0.5)}  # 0 at 264, 1 at 14
    assert [p[1] for p in points] == pytest.approx([down[v] for v in (0.2, 0.4, 0.9, 0.5, 0.5)], abs=0.1)
    bands = [p for p in root.iter("path") if "band" in p.get("class")]
    assert len(bands) == 1 and bands[0].get("d").count("L") == 5
    assert "0.2 at 0 (0.1 to 0.3)" in next(root.iter("circle")).find("title").text
    assert chart.legend().count("<li>") == 2 and Chart(series[:1], "", "", "").legend() == ""


@pytest.mark.parametrize(
    "change, message",
    [
        ({"y": [1.0]}, "lists of unequal lengths"),
        ({"low": []}, "lists of unequal lengths"),
        ({"y": [1, float("nan"), 2]}, "values that are not finite"),
        ({"x": [0, 0, 1]}, "x that does not rise"),
        ({"y": "abc"}, "values that are no numbers"),
        ({"z": 1}, r"^a series has 'z'; its keys are name, x, y, and low and high for intervals$"),
    ],
)
def test_broken_series_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Series.of(CURVE | {"name": "a"} | change)
    with pytest.raises(ValueError, match="a chart needs at least 1 series"):
        Chart([], title="", x_label="", y_label="")


HOSTILE_CURVES = [
    *("null", "3", "[]", '"x"', "[" * 100_000, '{"timesteps": ' * 3000, '{"timesteps": null}', '{"timesteps": [null]}'),
    *('{"timesteps": [[]]}', '{"timesteps": {"name": 1}}', '{"frames": [{"name": 1, "x": 3, "y": 3}]}'),
    *(
        f'{{"frames": [{{"name": "a", "x": [1, 2], "y": [{value}, 1]}}]}}'
        for value in ("NaN", "1e999", "null", "1e300")
    ),
    *(
        f'{{"frames": [{{"name": "a", "x": [1, 2], "y": [{value}, 1]}}]}}'
        for value in ("1" * 400, "{}", '"y"', "5e-324")
    ),
]


@pytest.mark.parametrize("text", HOSTILE_CURVES)
def test_curves_that_are_none_are_one_line_that_names_the_file(tmp_path, text):
    (tmp_path / "curves.json").write_text(text)
    (tmp_path / "log.jsonl").write_text(f'{{"loss_t0": {text}, "loss_frames": {text}}}\n')
    for name in ("curves.json", "log.jsonl"):
        with pytest.raises(ValueError, match=rf"^\S+{name} holds no error curves [^\n]+$"):
            read_errors(tmp_path / name)


@pytest.mark.parametrize("y", [[1e-90, 2e-90], [1e90, 0], [0, 0], [-1e16 - 2, -1e16], [1, 1 + 2e-16], [-3, -2]])
def test_any_magnitude_is_drawn(y):
    svg = Chart([Series(name="a", x=[1, 2], y=y)], title="t", x_label="x", y_label="y").__html__()
    ys = [float(value) for value in re.findall(r'cy="([^"]+)"', svg)]
    assert len(ys) == 2 and all(0 <= value <= 320 for value in ys)


def test_a_training_log_becomes_curves(tmp_path):
    run = tmp_path / "mini"
    run.mkdir()
    records = [{"step": 1, "loss_t0": 100.0, "loss_frames": [50, 60]}]
    records += [{"step": n, "loss_t3": float(n), "loss_frames": [n, 2 * n]} for n in (2, 3, 4)]
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    curves = curves_of_log(records, "mini", window=3)
    (time,), (frame,) = curves.timesteps, curves.frames
    assert (time.x, time.y) == ([875], [3]) and (frame.x, frame.y) == ([2, 3], [3, 6])
    half = 1.96 * 1 / np.sqrt(3)
    assert (time.low[0], time.high[0]) == pytest.approx((3 - half, 3 + half))
    assert read_errors(run / "log.jsonl").timesteps[0].name == "mini, last 4 steps"
    for name, text, message in (
        ("a.jsonl", '{"step": 1}\n', "the log has no loss by timestep or frame"),
        ("b.json", '{"times": []}', "error curves have 'times'; their keys are timesteps and frames"),
        ("c.json", "[1]", r"c\.json holds no error curves"),
        ("d.json", "{", r"d\.json holds no error curves"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            read_errors(tmp_path / name)


# ------------------------------------------------------------------------------------------ beside the paper


def compared(name, features="", n=2048, **settings):
    found = result(name, 50.0, features, n)
    return compare(found, report_of(found, **settings))


def test_the_papers_own_protocol_compares():
    found = compared("FVD", "I3D-K400")
    assert found.comparable and [figure.value for figure in found.figures] == [38.9] and found.cautions == ()
    found = compared("F-Consistency_4", "CLIP-ViT-B/32", n=8)
    assert found.comparable and found.cautions and [figure.value for figure in found.figures] == [95.36]


@pytest.mark.parametrize(
    "name, features, n, settings, reason",
    [
        ("F-Consistency_all to-first (Toy)", "Toy", 2048, {}, "substitute features: Toy, not CLIP"),
        ("FVD (VideoMAE (x))", "VideoMAE (x)", 2048, {}, "substitute features: VideoMAE (x), not I3D"),
        ("FVD", "I3D-K400", 12, {}, "other N: 12 clips, and a Fréchet distance is biased upwards below 1000"),
        ("FVD", "I3D-K400", 2048, {"frames": 24}, "other length: 24 frames, not 16"),
        ("FVD", "I3D-K400", 2048, {"sizes": ["64x64"]}, "other size: 64x64, not 256x256"),
        ("FID", "Inception-v3 (FID)", 2048, {}, "other data: WebVid-10M; the paper's: DTDB, MSR-VTT"),
        ("FID", "Inception-v3 (FID)", 2048, {"data": ""}, "the data are not named; the paper's: DTDB, MSR-VTT"),
    ],
)
def test_each_difference_is_named_and_alone(name, features, n, settings, reason):
    found = compared(name, features, n, **settings)
    assert not found.comparable and found.reasons == (reason,)


def test_metrics_of_ours_have_no_figure():
    found = compared("Flow magnitude (DIS), % of width")
    assert not found.comparable and found.figures == () and found.reasons == ()


# ------------------------------------------------------------------------------------------------ in a browser


def test_a_page_in_a_browser(report, folders, tmp_path):
    curves = ErrorCurves.of({"timesteps": [CURVE], "frames": [CURVE]})
    write_page(report, tmp_path / "page.html", *folders, errors=curves, record={"Command": "trip " + 60 * "long "})
    address = (tmp_path / "page.html").as_uri()
    with open_browser(tmp_path) as browser:
        run = browser.execute_script
        backgrounds = []
        for width in (1100, 360):
            for dark in (False, True):
                emulate(browser, width=width, dark=dark)
                browser.get(address)
                assert run("return document.documentElement.scrollWidth") <= width
                assert run("return [...document.images].every((i) => i.complete && i.naturalWidth > 0)")
                backgrounds.append(run("return getComputedStyle(document.body).backgroundColor"))
        assert backgrounds[:2] == backgrounds[2:] and backgrounds[0] != backgrounds[1]
        visible = "return [...document.querySelectorAll('.moving, .still')].map((i) => i.checkVisibility())"
        assert run(visible) == [True, False] * 2
        browser.find_element("id", "play").click()
        assert run(visible) == [False, True] * 2
        emulate(browser, still=True)
        browser.refresh()
        assert run(visible) == [False, True] * 2
        browser.find_element("css selector", ".copied button").click()
        assert run("return getSelection().toString()").startswith("trip long")
        assert complaints(browser) == [] and set(requests(browser)) == {address}
