"""Whether clips begin with the picture that was animated: PSNR and SSIM of first frames."""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from trip.data.video.reading import read_video
from trip.evaluation.clips import Batch, ClipFolder
from trip.evaluation.metric import GENERATED, ClipMetric, register_metric
from trip.evaluation.pictures import Picture, psnr, ssim


@register_metric("first-frame")
class FirstFrame(ClipMetric):
    """Against the first frames of the real clips of the same names, brought to their size."""

    against = True
    sides = (GENERATED,)

    def prepare(self, generated: ClipFolder, reference: ClipFolder | None) -> None:
        """Every generated clip needs its picture."""
        assert reference is not None  # it is against real clips
        self.originals = reference.by_name
        for file in generated.files:
            if file.stem not in self.originals:
                what = f"{reference.path} holds no clip named {file.stem}"
                raise ValueError(f"{what}, whose first frame {file.name} should show")

    def update(self, batch: Batch) -> None:
        """Likeness of every first frame to its picture."""
        for file, clip in zip(batch.files, batch.clips.numpy(), strict=True):
            picture = read_video(self.originals[file.stem], max_frames=1).frames[0]
            first, picture = (image.astype(np.float32) / np.float32(255) for image in (clip[0], picture))
            picture = resized(picture, *first.shape[:2])
            self.extend("First frame PSNR, dB", [psnr(first, picture)])
            self.extend("First frame SSIM", [ssim(first, picture)])


def resized(picture: Picture, height: int, width: int) -> Picture:
    """A picture of another size, bilinear with antialias; the same one where it has that size."""
    if picture.shape[:2] == (height, width):
        return picture
    pixels = rearrange(torch.from_numpy(picture), "H W c -> 1 c H W")
    pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return rearrange(pixels, "1 c H W -> H W c").numpy()
