"""Fine-tune the bundled model on a folder of clips: `python examples/fine_tune.py CLIPS RUN [STEPS]`.

CLIPS holds clips and a `metadata.jsonl` with lines like {"file_name": "a.mp4", "text": "a woman turns her head"}.
RUN/final is a model that `trip animate --model` and `TripPipeline.from_pretrained` take. docs/fine-tuning.md says
what to expect, and how `trip data cache` makes long runs cheaper.
"""

import sys
from dataclasses import replace
from pathlib import Path

from trip import TripPipeline
from trip.training.presets import fine_tune
from trip.training.run import train


def main(clips: str, run: str, steps: int = 40, batch_size: int = 8) -> TripPipeline:
    """Train all weights; interrupted, the same command with resume_from="latest" goes on."""
    config = replace(fine_tune(), data=clips, steps=steps, batch_size=batch_size)
    config = replace(config, fps=8.0, trackers=(), log_every=1)  # clips are resampled; losses to RUN/log.jsonl alone
    train(config, Path(run))
    return TripPipeline.from_pretrained(Path(run) / "final")


if __name__ == "__main__":
    clips, run, *steps = sys.argv[1:]
    main(clips, run, *map(int, steps))
    print(f"{run}/final")
