"""The tables and figures of docs/results/questions.md, made from docs/results/questions.json alone.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. Figures are SVG files that need no style sheet of
a page and follow the reader's choice of light or dark.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from benchmarks.pages import markdown
from benchmarks.questions_data import DISTANCES
from trip.ablation.scores import TIMESTEPS
from trip.evaluation.charts import COLOURS, WIDTH, Chart, Series, colour, dashes

LIGHT = ("#0a6ab8", "#c2410c", "#0f7b5f", "#8a4fa3", "#946200", "#5b6470")
DARK = ("#6cb4ee", "#ff9a66", "#5fd3ac", "#cf9be6", "#e8b84a", "#a9b2bf")
"""Of series 1 to 6."""

QUARTER_NAMES = ("t < 250", "250 to 499", "500 to 749", "t >= 750")
FUSION_NAMES = {
    "prior": "prior alone",
    "optimal": "+ network, TNF off",
    "rescaled": "+ network, TNF off, rescaled",
    "tnf": "+ network, TNF on",
}
CHANGES = {
    "rescaled-prior": "rescaled network changes the prior's by, %",
    "tnf-rescaled": "TNF changes that by, %",
    "tnf-optimal": "TNF changes TNF off by, %",
}
Results = dict[str, Any]


# ------------------------------------------------------------------------------------------------------- the tables


def tables(results: Results) -> dict[str, str]:
    """The page's tables by name."""
    data, network, chain = results["data"], results["network"], results["chain"]
    synthetic, *others = data["clips"]
    real = others[0] if others else None
    return {
        "circumstances": circumstances_table(results),
        "shares": shares_table(synthetic),
        "alignment": alignment_table(synthetic, real),
        "frames": frames_table(synthetic, real),
        "flicker": flicker_table(data["clips"]),
        "fusion-quarters": fusion_table(network["errors"]["by_quarter"], QUARTER_NAMES),
        "fusion-frames": fusion_table(network["errors"]["by_frame"], [f"frame {i}" for i in chosen_frames(synthetic)]),
        "explained": explained_table(network["errors"]["noise"]),
        "attention": attention_table(network["attention"]),
        "lambda": lambda_table(data["lambda"], chosen_frames(synthetic)),
        "lambda-star": star_table(data["lambda"]["star_variance_share"]),
        "cost": cost_table(data["lambda"]["cost"]),
        "slope": slope_table(data["lambda"]),
        "variance": variance_table(synthetic),
        "variance-eq9": eq9_table(synthetic),
        "variance-real": variance_table(real) if real else "",
        "prediction": prediction_table(data["clips"]),
        "chain": chain_table(chain),
        "chain-facts": chain_facts_table(chain),
    }


def chosen_frames(clips: Results) -> list[int]:
    """Frames that small tables show, counted from 1."""
    return [i for i in (2, 4, 8, 12, 16) if i <= len(clips["sigma"])]


def circumstances_table(results: Results) -> str:
    data, network, chain = results["data"], results["network"], results["chain"]
    counts = ", ".join(f"{clips['n']} {clips['name']}" for clips in data["clips"])
    rows = [
        ["clips for the closed forms", counts, data["date"]],
        ["held-out camera moves for the network's errors", network["n"], network["date"]],
        [
            "photographs, segments, DDIM steps of chains",
            f"{chain['n']}, {chain['segments']}, {chain['steps']}",
            chain["date"],
        ],
    ]
    return markdown(["measured on", "how many", "date"], rows)


def grid(rows: Sequence[Sequence[float]], frames: Sequence[int], form: str) -> list[list[Any]]:
    """A row a timestep, a column a frame."""
    return [[t, *(format(row[i - 1], form) for i in frames)] for t, row in zip(TIMESTEPS, rows, strict=True)]


def shares_table(clips: Results) -> str:
    frames = chosen_frames(clips)
    shares = [[value**2 for value in row] for row in clips["alignment"]]
    return markdown(["t", *(f"frame {i}" for i in frames)], grid(shares, frames, ".2f"))


def alignment_table(synthetic: Results, real: Results | None) -> str:
    frames = [chosen_frames(synthetic)[0], chosen_frames(synthetic)[-1]]
    header, columns = ["t"], []
    for clips in [synthetic, *([real] if real else [])]:
        for i in frames:
            header += [f"{clips['name']}, frame {i}", "theory"]
            columns += [[row[i - 1] for row in clips[name]] for name in ("alignment", "alignment_theory")]
    rows = [[t, *(f"{value:.3f}" for value in row)] for t, *row in zip(TIMESTEPS, *columns, strict=True)]
    return markdown(header, rows)


def frames_table(synthetic: Results, real: Results | None) -> str:
    rows = []
    for clips in [synthetic, *([real] if real else [])]:
        rows.append([f"{clips['name']}: displacements", *decimals(clips["displacement_correlation"], 2)])
        for place, t in ((0, TIMESTEPS[0]), (4, TIMESTEPS[4]), (7, TIMESTEPS[7])):
            rows.append([f"{clips['name']}: priors, t = {t}", *decimals(clips["prior_correlation"][place], 2)])
    rows.append(["true noise, any t", *decimals(synthetic["noise_correlation"][0], 2)])
    return markdown(["correlation of frames apart by", *map(str, DISTANCES)], rows)


def decimals(values: Sequence[float], digits: int) -> list[str]:
    """Fixed decimals, without a minus before zero."""
    return [f"{value + 0.0:.{digits}f}".replace("-0.00", "0.00") for value in values]


def flicker_table(sets: Sequence[Results]) -> str:
    header = ["t", *(f"{clips['name']}, {who}" for clips in sets for who in ("blind", "prior"))]
    rows = [
        [t, *(f"{value:.2f}" for clips in sets for value in reversed(clips["flicker"][k]))]
        for k, t in enumerate(TIMESTEPS)
    ]
    return markdown(header, rows)


def fusion_table(compared: Results, names: Sequence[str]) -> str:
    """Errors of the four fusions where `names` are, and changes with their intervals."""
    count = len(compared["means"]["prior"])
    places = range(count) if count == len(names) else [int(name.rpartition(" ")[2]) - 2 for name in names]
    rows = []
    for name, k in zip(names, places, strict=True):
        means = [f"{compared['means'][fusion][k]:.4f}" for fusion in FUSION_NAMES]
        changes = [compared["changes"][key][k] for key in CHANGES]
        rows.append([name, *means, *map(change, changes)])
    header = ["", *FUSION_NAMES.values(), *CHANGES.values()]
    return markdown(header, rows)


def change(entry: Results) -> str:
    """A change in percent, its interval in brackets."""
    if entry["interval"] is None:
        return f"{entry['value']:+.1f}"
    low, high = entry["interval"]
    return f"{entry['value']:+.1f} ({low:+.1f} to {high:+.1f})"


def explained_table(noise: Results) -> str:
    """Percent of the noise's variance: what the prior, the network and TNF explain in turn, and what is left."""
    rows = []
    for k, t in enumerate(TIMESTEPS):
        prior, network, tnf = (noise[name][k] for name in ("prior", "rescaled", "tnf"))
        rows.append([t, *(f"{100 * v:.1f}" for v in (1 - prior, prior - network, network - tnf, tnf))])
    return markdown(["t", "prior, %", "network, %", "TNF, %", "left, %"], rows)


def attention_table(looks: Results) -> str:
    heads = range(1, len(looks["prior"][0]) + 1)
    header = ["t", *(f"head {k}: prior" for k in heads), *(f"head {k}: own frame" for k in heads)]
    rows = []
    for k, t in enumerate(TIMESTEPS):
        masses = [f"{100 * value:.0f}" for name in ("prior", "own_frame") for value in looks[name][k]]
        rows.append([t, *masses, f"{looks['correction'][k]:.2f}", f"{looks['gate'][k]:+.2f}"])
    return markdown([*header, "correction, RMS", "log-gain of sigma^2"], rows)


def lambda_table(values: Results, frames: Sequence[int]) -> str:
    rows = [
        [f"best constant, error of {name}", *(f"{lam[i - 2]:.3f}" for i in frames)]
        for name, lam in values["best_constant"].items()
    ]
    rows.append(["mean of lambda* over t", *(f"{values['star_mean'][i - 2]:.3f}" for i in frames)])
    return markdown(["", *(f"frame {i}" for i in frames)], rows)


def star_table(shares: Results) -> str:
    names = {"t": "t alone", "i": "i alone", "both": "their interaction"}
    return markdown(
        ["variance of lambda*(t, i), frames 2 and later", "%"],
        [[names[k], f"{100 * v:.1f}"] for k, v in shares.items()],
    )


def cost_table(cost: Results) -> str:
    names = {
        "best_constant": "best constant for every frame",
        "one_for_all_frames": "best constant, one for all frames",
        "eq9": "Eq. 9, 0.9 to 0.5",
    }
    rows = [[title, *(f"{row[name]:.2f}" for row in cost.values())] for name, title in names.items()]
    return markdown(["error, in units of lambda*'s", *(f"of {name}" for name in cost)], rows)


def slope_table(values: Results) -> str:
    """Best ends by quarter, and what a few pairs of ends cost there."""
    ends, table = values["ends"], values["slope"]
    pairs = [(a, b) for a in range(len(ends)) for b in range(len(ends))]
    shown = [(0.9, 0.5), (0.5, 0.9), (0.7, 0.7), (0.5, 0.1), (0.1, 0.1), (0.0, 0.0)]
    rows = [
        [f"{first:g} to {last:g}", *(f"{v:.3g}" for v in table[ends.index(first)][ends.index(last)])]
        for first, last in shown
    ]
    best = [min(pairs, key=lambda pair: table[pair[0]][pair[1]][q]) for q in range(len(QUARTER_NAMES))]
    rows.append(["best of the sweep", *(f"{table[a][b][q]:.3g}" for q, (a, b) in enumerate(best))])
    rows.append(["its ends", *(f"{ends[a]:g} to {ends[b]:g}" for a, b in best)])
    return markdown(["lambda, frame 1 to last", *QUARTER_NAMES], rows)


def variance_table(clips: Results) -> str:
    frames = range(2, len(clips["sigma"]) + 1)
    return markdown(["t", *map(str, frames)], grid(clips["optimal_variance"], frames, ".2f"))


def eq9_table(clips: Results) -> str:
    frames = chosen_frames(clips)
    rows = [
        [t, *(f"{row[i - 1]:.3g} ({theory[i - 1]:.3g})" for i in frames)]
        for t, row, theory in zip(TIMESTEPS, clips["linear_variance"], clips["linear_variance_theory"], strict=True)
    ]
    return markdown(["t", *(f"frame {i}" for i in frames)], rows)


def prediction_table(sets: Sequence[Results]) -> str:
    names = {"first": "first frame", "last": "last observed frame", "line": "straight line through the last two"}
    seen = sets[0]["prediction"]["observed"]
    future = len(sets[0]["sigma"]) - seen
    places = sorted({0, 1, future // 2 - 1, future - 1} - {-1})
    header = ["reference", *(f"frame {seen + 1 + k}" for k in places), "share of the noise's variance explained"]
    rows = []
    for clips in sets:
        for name, title in names.items():
            sigma, share = clips["prediction"]["sigma"][name], clips["prediction"]["share"][name]
            mean = sum(share) / len(share)
            rows.append([f"{clips['name']}: {title}", *(f"{sigma[k]:.2f}" for k in places), f"{mean:.2f}"])
    return markdown(header, rows)


def chain_table(chain: Results) -> str:
    length = chain["segment_frames"]
    frames = sorted({2, length // 2, length, length + 1, length + length // 2, chain["sharpness"]["frame"][-1]})
    names = {
        "drift": "PSNR to frame 1 in dB, stillness asked",
        "sharpness_still": "sharpness against frame 1, stillness asked",
        "sharpness": "sharpness against frame 1, camera moves",
    }
    rows = []
    for name, title in names.items():
        curve = chain[name]
        places = [curve["frame"].index(i) for i in frames]
        rows.append(
            [title, *(f"{curve['mean'][k]:.2f} ({curve['low'][k]:.2f} to {curve['high'][k]:.2f})" for k in places)]
        )
    return markdown(["", *(f"frame {i}" for i in frames)], rows)


def chain_facts_table(chain: Results) -> str:
    rows = [
        [f"clips that show the camera move asked for, segment {k}", f"{count} of {chain['n']}"]
        for k, count in enumerate(chain["follows"], 1)
    ]
    rows.append(["PSNR of a seam that passes through pixels, dB", f"{chain['round_trip_psnr']:.1f}"])
    return markdown(["", ""], rows)


# ------------------------------------------------------------------------------------------------------ the figures


def figures(results: Results) -> dict[str, str]:
    """SVG files by name."""
    data, network, chain = results["data"], results["network"], results["chain"]
    return {
        "alignment-t": alignment_over_t(data["clips"][0]),
        "alignment-i": alignment_over_i(data["clips"]),
        "between-frames": between_frames(data["clips"]),
        "shares": shares_over_t(network["errors"]["noise"]),
        "lambda": lambda_over_i(data["lambda"]),
        "target-variance": variance_over_t(data["clips"][0]),
        "attention": attention_over_t(network["attention"]),
        "drift": drift_over_frames(chain),
        "sharpness": sharpness_over_frames(chain),
    }


def alignment_over_t(clips: Results) -> str:
    frames = [i for i in (2, 4, 16) if i <= len(clips["sigma"])]
    titles = {"alignment": "measured", "alignment_theory": "theory"}
    series = [
        Series(name=f"frame {i}, {title}", x=TIMESTEPS, y=[row[i - 1] for row in clips[name]])
        for i in frames
        for name, title in titles.items()
    ]
    return standalone(series, "Correlation of the image noise prior with the true noise", "timestep t", "correlation")


def alignment_over_i(sets: Sequence[Results]) -> str:
    series = []
    for clips in sets:
        for k in (1, 3, 5):
            y = clips["alignment"][k]
            series.append(Series(name=f"{clips['name']}, t = {TIMESTEPS[k]}", x=range(1, len(y) + 1), y=y))
    return standalone(series, "Correlation of the image noise prior with the true noise", "frame i", "correlation")


def between_frames(sets: Sequence[Results]) -> str:
    series = [
        Series(name=f"{clips['name']}: priors of neighbours", x=TIMESTEPS, y=[r[0] for r in clips["prior_correlation"]])
        for clips in sets
    ]
    noise = [row[0] for row in sets[0]["noise_correlation"]]
    series.append(Series(name="true noise of neighbours", x=TIMESTEPS, y=noise))
    return standalone(series, "Correlation between neighbouring frames", "timestep t", "correlation")


def shares_over_t(noise: Results) -> str:
    series = [
        Series(name=title, x=TIMESTEPS, y=[1 - value for value in noise[name]])
        for name, title in FUSION_NAMES.items()
        if name != "optimal"
    ]
    return standalone(series, "Share of the noise's variance that is explained", "timestep t", "share")


def lambda_over_i(values: Results) -> str:
    frames = range(2, len(values["star_mean"]) + 2)
    series = [
        Series(name=f"best constant, error of {name}", x=frames, y=lam) for name, lam in values["best_constant"].items()
    ]
    series.append(Series(name="mean of lambda* over t", x=frames, y=values["star_mean"]))
    line = [0.9 - 0.4 * (i - 1) / (frames[-1] - 1) for i in frames]
    series.append(Series(name="Eq. 9, 0.9 to 0.5", x=frames, y=line))
    return standalone(series, "Weight of the prior by frame", "frame i", "lambda")


def variance_over_t(clips: Results) -> str:
    last = len(clips["sigma"])
    lines = {
        "Eq. 9, frame 2": ("linear_variance", 2),
        "its theory": ("linear_variance_theory", 2),
        f"Eq. 9, frame {last}": ("linear_variance", last),
        "its theory ": ("linear_variance_theory", last),
        "variance-optimal, frame 2": ("optimal_variance", 2),
        f"variance-optimal, frame {last}": ("optimal_variance", last),
    }
    series = [
        Series(name=name, x=TIMESTEPS, y=[math.log10(row[i - 1]) for row in clips[key]])
        for name, (key, i) in lines.items()
    ]
    return standalone(series, "Variance of the residual target", "timestep t", "log10 of variance (0 is 1)")


def attention_over_t(looks: Results) -> str:
    heads = range(len(looks["prior"][0]))
    series = [Series(name=f"head {k + 1}", x=TIMESTEPS, y=[row[k] for row in looks["prior"]]) for k in heads]
    return standalone(series, "Mass of TNF's cross-attention on the prior's tokens", "timestep t", "share of mass")


def drift_over_frames(chain: Results) -> str:
    return standalone([curve(chain["drift"], "stillness asked")], "PSNR to frame 1", "frame", "dB")


def sharpness_over_frames(chain: Results) -> str:
    series = [curve(chain["sharpness_still"], "stillness asked"), curve(chain["sharpness"], "camera moves")]
    return standalone(series, "Gradient energy over that of frame 1", "frame", "ratio")


def curve(values: Results, name: str) -> Series:
    """A series with its interval."""
    return Series(name=name, x=values["frame"], y=values["mean"], low=values["low"], high=values["high"])


def standalone(series: Sequence[Series], title: str, x_label: str, y_label: str) -> str:
    """A chart as a file: with a background, colours for light and dark, and its legend above."""
    chart = Chart(series, title=title, x_label=x_label, y_label=y_label).__html__()
    lines = -(-len(series) // 2)
    top = 34 + 22 * lines
    height = int(chart.partition(f'viewBox="0 0 {WIDTH} ')[2].partition('"')[0])
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 {-top} {WIDTH} {height + top}"'
    body = chart.replace(f'<svg class="chart" viewBox="0 0 {WIDTH} {height}"', head, 1)
    extra = [
        f"<style>{style()}</style>",
        f'<rect class="paper" y="{-top}" width="{WIDTH}" height="{height + top}"/>',
        f'<text class="title" x="16" y="{24 - top}">{escape(title)}</text>',
        *(entry(s.name, k, 36 - top) for k, s in enumerate(series)),
    ]
    before, end, after = body.partition("</title>")
    return "\n".join([before + end, *extra]) + after + "\n"


def entry(name: str, index: int, top: int) -> str:
    """A line of the legend; two stand side by side."""
    x, y = 16 + (index % 2) * WIDTH // 2, top + 10 + 22 * (index // 2)
    dash = f' stroke-dasharray="{pattern}"' if (pattern := dashes(index)) else ""
    line = f'<path class="line {colour(index)}" d="M{x} {y}h28"{dash}/>'
    return f'{line}<text x="{x + 36}" y="{y + 5}">{escape(name)}</text>'


def style() -> str:
    """Colours and strokes of every class that a chart names."""
    shape = (
        ".chart{font:15px system-ui,sans-serif}.title{font-weight:600}.axis,.grid,.line{fill:none}"
        ".line{stroke-width:2;stroke-linejoin:round}.band{opacity:.18}.point{stroke-width:1}"
    )
    dark = scheme("#15181d", "#c3c9d2", "#343a44", DARK)
    return f"{shape}{scheme('#ffffff', '#444b55', '#dde1e6', LIGHT)}@media(prefers-color-scheme:dark){{{dark}}}"


def scheme(paper: str, ink: str, grid: str, colours: Sequence[str]) -> str:
    """One scheme's colours."""
    rules = (
        f".paper{{fill:{paper}}}text{{fill:{ink}}}.axis{{stroke:{ink}}}.grid{{stroke:{grid}}}.point{{stroke:{paper}}}"
    )
    for index, of in enumerate(colours[:COLOURS], 1):
        rules += f".line.series-{index}{{stroke:{of}}}.band.series-{index},.point.series-{index}{{fill:{of}}}"
    return rules
