"""Optical flow between two pictures: OpenCV's DIS, no weights. The only call of it in the package.

Arrays here are numpy's, h w first, flows (u, v) in pixels: what OpenCV takes and gives.
"""

import math

import cv2
import numpy as np
from jaxtyping import Float, UInt8

FLOW_SIDE = 128
"""Shorter side, pixels, that frames are enlarged to before the flow: DIS's 8-pixel patches are coarse at 64 pixels."""

Grey = UInt8[np.ndarray, "h w"]


def dis_flow(source: Grey, target: Grey) -> Float[np.ndarray, "h w 2"]:
    """Where the pixels of `source` are in `target`: ``target(p + flow(p)) = source(p)``."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return dis.calc(source, target, None)  # pyright: ignore


def enlargement(height: int, width: int, side: int = FLOW_SIDE) -> int:
    """Whole factor by which a picture is enlarged so that its shorter side is at least `side`."""
    return math.ceil(side / min(height, width))


def enlarged_grey(frame: Float[np.ndarray, "H W 3"], scale: int) -> Grey:
    """8 bit luma of RGB in [0, 1], `scale` times as large."""
    grey = cv2.cvtColor(frame.astype(np.float32), cv2.COLOR_RGB2GRAY) * 255
    if scale > 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
