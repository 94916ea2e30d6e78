"""Pictures to clips: `python examples/animate.py PICTURE "PROMPT" OUT [STEPS]`; OUT ends in .mp4, .webm, .gif or .webp.

`Studio` loads a model once and makes a clip of every request. A request holds every setting of a clip; the file it
is saved to carries it, so `trip info OUT` prints the command that makes the clip again.
"""

import sys
from pathlib import Path

from trip.request import ClipRequest, ModelRequest
from trip.studio import Studio


def main(picture: str, prompt: str, output: str, steps: int = 12) -> Path:
    """One clip by the bundled model."""
    studio = Studio.open(ModelRequest())  # ModelRequest(model="my-run/final", dtype="bfloat16") for another
    request = ClipRequest(image=Path(picture), prompt=prompt, steps=steps, scheduler="dpm++", seed=0)
    made = studio.make(request, on_event=show)
    made.save(output)
    return Path(output)


def show(event: object) -> None:
    """Warnings, and how far it is."""
    if hasattr(event, "text"):
        print("warning:", event.text)
    elif event.done == event.total:
        print(event.stage, "done")


if __name__ == "__main__":
    picture, prompt, output, *steps = sys.argv[1:]
    print(main(picture, prompt, output, *map(int, steps)))
