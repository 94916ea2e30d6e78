"""What is minimised: the error of the reconstruction, also of windows whose latents were resampled."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resample_affine(
    x: Float[Tensor, "b c h w"], zoom: float, shift: tuple[float, float], size: int
) -> Float[Tensor, "b c y x"]:
    """The `size` x `size` window of `x` magnified by `zoom`; `shift` in [-1, 1] moves it across `x`."""
    share = size / (x.shape[-1] * zoom)
    room = max(0.0, 1 - share)
    matrix = torch.tensor([[share, 0, shift[0] * room], [0, share, shift[1] * room]])
    grid = F.affine_grid(matrix.expand(x.shape[0], 2, 3), [x.shape[0], x.shape[1], size, size], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def reconstruction_loss(output: Tensor, target: Tensor, gradient_weight: float) -> Float[Tensor, ""]:
    """Half Charbonnier, half scaled squared error, plus the L1 distance of the image gradients."""
    error = output.float() - target
    loss = (error.square() + 1e-4).sqrt().mean() + 4 * error.square().mean()
    slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return loss + gradient_weight * slopes
