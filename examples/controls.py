"""A filmstrip of every control: one row each, on one photograph.

python examples/controls.py PHOTO OTHER_PHOTO STRIPS.png
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from trip.request import ClipRequest, ModelRequest
from trip.studio import MadeClip, Studio

SHOWN = (0, 3, 6, 9, 12, 15)
SIDE = 128


def strip(made: MadeClip) -> np.ndarray:
    """Some of the frames, side by side."""
    last = len(made.frames) - 1
    frames = [Image.fromarray(made.frames[round(k / SHOWN[-1] * last)]).resize((SIDE, SIDE)) for k in SHOWN]
    return np.concatenate([np.array(frame) for frame in frames], axis=1)


def main(photo: Path, other: Path, output: Path) -> None:
    """Make the clips and the picture."""
    mask = output.with_suffix(".mask.png")
    Image.fromarray(np.repeat(np.repeat([[0, 255]], 64, 0), 32, 1).astype(np.uint8)).resize(
        Image.open(photo).size
    ).save(mask)
    plain = ClipRequest(image=photo, prompt="nothing moves", preset="fast", seed=0, upscale="none")
    requests = [
        replace(plain, camera="zoom 1.5, pan 0.15 0, ease in-out"),
        replace(plain, drag=("0.3,0.45:0.45,0.45",)),
        replace(plain, last_image=other),
        replace(plain, prompt="the picture sways", loop=True),
        replace(plain, prompt="the camera pans left", mask=mask),
    ]
    studio = Studio.open(ModelRequest())
    strips = [strip(studio.make(request)) for request in requests]
    Image.fromarray(np.concatenate(strips)).save(output)
    mask.unlink()
    print(output)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
