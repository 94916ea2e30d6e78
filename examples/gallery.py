"""An animated picture of several clips side by side: README's first one.

python examples/gallery.py docs/images/trip-mini.webp
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from trip.request import ClipRequest, ModelRequest
from trip.studio import Studio

PHOTOS = Path(__file__).parent / "photos"
CLIPS = {
    "castle": "the camera pans left",
    "red-panda": "the camera tilts up",
    "parrot": "the camera zooms in",
    "great-wall": "the camera zooms out",
}
SIDE = 256


def main(output: Path, preset: str = "balanced") -> None:
    """Make the clips, at 512 pixels, and the picture of them at half the size."""
    studio = Studio.open(ModelRequest())
    columns = []
    for name, prompt in CLIPS.items():
        request = ClipRequest(image=PHOTOS / f"{name}.jpg", prompt=prompt, preset=preset, seed=0)
        frames = studio.make(request).frames
        columns.append(
            [np.array(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for frame in frames]
        )
    rows = [Image.fromarray(np.concatenate(frames, axis=1)) for frames in zip(*columns, strict=True)]
    rows[0].save(output, save_all=True, append_images=rows[1:], duration=125, loop=0, quality=70, method=6)
    print(output)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
