"""Likeness of two pictures: "H W 3", RGB in [0, 1]. Sums are in float64."""

import cv2
import numpy as np
from jaxtyping import Float

Picture = Float[np.ndarray, "H W 3"]

PSNR_CAP = 100.0
"""dB of pictures that are equal, or nearly."""

WINDOW, DEVIATION = 11, 1.5
"""Side and standard deviation of SSIM's Gaussian window, pixels."""


def psnr(picture: Picture, other: Picture) -> float:
    """Peak signal-to-noise ratio in dB, ``-10 log10 mean (a - b)^2``, at most `PSNR_CAP`."""
    error = float(((picture.astype(np.float64) - other.astype(np.float64)) ** 2).mean())
    return -10 * float(np.log10(max(error, 10 ** (-PSNR_CAP / 10))))


def ssim(picture: Picture, other: Picture) -> float:
    """Structural similarity (Wang et al. 2004), mean over channels and the places where its window fits.

    Gaussian window of 11 x 11 pixels, deviation 1.5; K1 = 0.01, K2 = 0.03.

    Raises:
        ValueError: a side below 11 pixels.
    """
    if min(picture.shape[:2]) < WINDOW:
        raise ValueError(f"pictures of {picture.shape[:2]} pixels are smaller than SSIM's 11 x 11 window")
    x, y = picture.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (var_x + var_y + 0.03**2)
    return float((light * structure).mean())


def smooth(picture: Picture) -> Float[np.ndarray, "h w 3"]:
    """Means under the window, where it fits."""
    edge = WINDOW // 2
    return cv2.GaussianBlur(picture, (WINDOW, WINDOW), DEVIATION)[edge:-edge, edge:-edge]
