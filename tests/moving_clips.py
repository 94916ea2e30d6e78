"""Clips whose motion is known."""

import math

import cv2
import numpy as np

SIZE, FRAMES = 64, 8


def texture(seed=0, size=160):
    """Smooth random colours with detail at several scales."""
    rng = np.random.default_rng(seed)
    scales = [cv2.resize(rng.random((n, n, 3)), (size, size), interpolation=cv2.INTER_CUBIC) for n in (5, 20, 50)]
    image = sum(scales)
    return ((image - image.min()) / np.ptp(image)).astype(np.float32)


def moved(shift=(0.0, 0.0), zoom=1.0, turn=0.0, seed=0, size=SIZE, frames=FRAMES):
    """A clip whose content moves by `shift` pixels, grows by `zoom` and turns clockwise by `turn` radians."""
    source, middle = texture(seed), (size - 1) / 2
    clip = []
    for t in np.linspace(0, 1, frames):
        angle, scale = -turn * t, zoom**-t
        back = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        offset = np.array([79.5, 79.5]) - back @ (np.array([middle, middle]) + t * np.array(shift))
        matrix = np.column_stack([back, offset])
        clip.append(cv2.warpAffine(source, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))
    return np.stack(clip)
