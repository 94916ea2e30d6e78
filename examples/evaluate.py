"""Measure a folder of clips: `python examples/evaluate.py MADE [REAL] [METRIC,...]`.

`motion` needs no weights: how much clips move, and whether pixels stay what they are along the motion. After
`trip weights get all` also f-consistency, and with real clips fvd and fid. A metric of your own is an object
registered by `trip.evaluation.metric.register_metric`, as a fusion is (own_fusion.py).
"""

import sys
from pathlib import Path

from trip.evaluation.report import EvaluationSettings, Report, evaluate_folders


def main(made: str, real: str | None = None, metrics: str = "motion") -> Report:
    """Measure, and print every number with its interval and what makes it doubtful."""
    settings = EvaluationSettings(metrics=metrics.split(","))
    report = evaluate_folders(Path(made), Path(real) if real else None, settings=settings)
    for name, result in report.metrics.items():
        interval = "" if result.interval is None else "({:.3g} to {:.3g})".format(*result.interval)
        print(f"{name:40s} {result.value:8.3g} {interval} of {result.n}")
    for warning in report.warnings:
        print("warning:", warning)
    return report


if __name__ == "__main__":
    main(*sys.argv[1:])
