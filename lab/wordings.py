"""Write what trip-mini understands into its folder: `python -m lab.wordings FOLDER`.

`FAR` was chosen on training wordings about training objects and photographs, of which 1.3 % lie below it, and on 30
prompts of other things (people, weather, styles, other languages), of which 21 do; no held-out wording was looked at.
"""

import sys
from pathlib import Path

import numpy as np

from trip.data.synthetic.captions import KINDS, OBJECT_KINDS, draw_caption
from trip.wordings import save_wordings

FAR = 0.45
NAMES = ("thing", "animal", "thing", "object", "thing", "vehicle")
"""Neutral names in the place of moving objects: a name of its own would draw prompts about anything near."""

MOTIONS = {
    "camera pans": ["the camera pans left", "the view moves to the right slowly"],
    "camera tilts": ["the camera tilts up", "tilt down quickly"],
    "camera zooms": ["the camera zooms in", "pull back", "the view widens"],
    "picture turns": ["the picture rotates clockwise", "turn the image counterclockwise"],
    "something moves": [
        "the parrot moves left",
        "the boat goes to the right",
        "the balloon rises",
        "a ball falls down",
    ],
    "something spins": ["the wheel spins clockwise"],
    "something bounces or sways": ["the ball bounces up and down", "the tree sways from side to side"],
    "weather": ["it rains", "snow is falling"],
    "light and water": ["the light flickers", "the picture ripples like water"],
    "stillness": ["nothing moves", "a static shot"],
    "speeds": ["slowly", "gently", "quickly", "fast"],
}


def training_wordings(count: int = 48) -> list[str]:
    """Distinct captions of every kind of clip, in lower case."""
    rng, texts = np.random.default_rng(0), []
    for kind in KINDS:
        for k in range(count):
            speed = ("normal", "normal", "slow", "fast")[k % 4] if kind not in ("rain", "snow") else "normal"
            name = NAMES[k % len(NAMES)] if kind in OBJECT_KINDS else None
            try:
                text = draw_caption(kind, rng, "train", name, speed)
            except ValueError:  # no wording at that speed
                text = draw_caption(kind, rng, "train", name)
            texts.append(text.rstrip(".").lower())
    return list(dict.fromkeys(texts))


if __name__ == "__main__":
    card = {"language": "English", "licence": "Apache-2.0", "motions": MOTIONS}
    save_wordings(Path(sys.argv[1]), card, training_wordings(), FAR)
