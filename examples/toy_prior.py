"""The image noise prior in two dimensions, where the theory can be watched: `python examples/toy_prior.py toy.png`.

A clip is eight points that walk along a spiral; its picture is the first. The network is exact, the posterior mean of a
mixture of clips: it knows how clips move and nothing of the picture, as a text-to-video model. Left: by itself, a clip
starts anywhere. Right: Eq. 8's prior joins it by Eq. 9, weighted by both errors.
"""

import itertools
import sys

import torch
from PIL import Image, ImageDraw

from trip.noise_prior import fuse_linear, image_noise_prior, training_free_lambda, vp_coefficients


def draw_clips(count: int, seed: int) -> torch.Tensor:
    """Walks along a spiral, b 2 f 1 1, in [-1, 1]."""
    start = 3 + 8 * torch.rand(count, 1, generator=torch.Generator().manual_seed(seed))
    angle = start + 0.08 * torch.arange(8)
    return torch.stack([angle * angle.cos(), angle * angle.sin()], 1)[..., None, None] / 13


def network(z_t: torch.Tensor, known: torch.Tensor, alpha_bar: torch.Tensor, width: float = 0.02) -> torch.Tensor:
    """The exact noise of a mixture of Gaussians of that width around the clips `known`."""
    a, s = vp_coefficients(alpha_bar)
    variance = s**2 + (a * width) ** 2
    likely = torch.softmax(-(torch.cdist(z_t.flatten(1), a * known.flatten(1)) ** 2) / (2 * variance), 1)
    return s * (z_t - a * torch.einsum("bk,kcfhw->bcfhw", likely, known)) / variance


def sample(known: torch.Tensor, picture: torch.Tensor, with_prior: bool, steps: int) -> torch.Tensor:
    """DDIM. The errors of the picture as a frame (sigma) and of the network (tau) are measured on known clips."""
    noise = torch.randn(200 + len(picture), *known.shape[1:], generator=torch.Generator().manual_seed(1))
    noise, z_t, sigma = noise[:200], noise[200:], (known - known[:, :, :1]).square().mean((0, 1, 3, 4)).sqrt()
    for alpha_bar, following in itertools.pairwise(torch.cos(torch.linspace(1.56, 0.01, steps + 1)) ** 2):
        (a, s), (later, less) = vp_coefficients(alpha_bar), vp_coefficients(following)
        eps = network(z_t, known, alpha_bar)
        if with_prior:
            off = network(a * known[:200] + s * noise, known[200:], alpha_bar) - noise
            lam = training_free_lambda((s / a) * off.square().mean().sqrt(), sigma)
            eps = fuse_linear(image_noise_prior(z_t, picture, alpha_bar), eps, lam)
        z_t = later * (z_t - s * eps) / a + less * eps
    return z_t


def main(path: str = "toy.png", steps: int = 50) -> dict[str, float]:
    """Sample both ways, draw them, and return how far clips are from how their pictures really go on."""
    known, truth, errors = draw_clips(2000, seed=0), draw_clips(12, seed=3), {}
    draw = ImageDraw.Draw(image := Image.new("RGB", (1024, 480), "white"))
    for left, name in ((256, "no prior"), (768, "image noise prior")):
        made = sample(known, truth[:, :, :1], name != "no prior", steps)
        errors[name] = (made - truth).square().mean().sqrt().item()
        for clips, colour in ((known, "#d5d9df"), (made, "#c2410c")):
            for clip in (240 * clips[..., 0, 0]).mT.tolist():
                draw.line([(left + x, 235 + y) for x, y in clip], colour, 3)
        for x, y in (240 * truth[:, :, 0, 0, 0]).tolist():
            draw.circle((left + x, 235 + y), 5, "#0a6ab8")
        draw.text((left - 240, 10), f"{name}: RMS error {errors[name]:.2f}", "black")
    image.save(path)
    return errors


if __name__ == "__main__":
    print(main(*sys.argv[1:2]))
