"""The image noise prior in two dimensions, where the theory can be watched: `python examples/toy_prior.py toy.png`.

A clip is eight points that walk along a spiral; its picture is the first of them. The network is exact, the posterior
mean of a mixture of clips: it knows how clips move and nothing of the picture, as a text-to-video model.
Left: by itself, a clip starts anywhere. Right: Eq. 8's prior joins it by Eq. 9, weighted by both errors.
"""

import itertools
import sys

import torch
from PIL import Image, ImageDraw

from trip.noise_prior import fuse_linear, image_noise_prior, training_free_lambda, vp_coefficients

WIDTH = 0.05  # of the mixture's components


def draw_clips(count: int, seed: int, frames: int = 8) -> torch.Tensor:
    """Walks along a spiral, b 2 f 1 1, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    angle = 3 + 8 * torch.rand(count, 1, generator=generator) + 0.15 * torch.arange(frames)
    clips = torch.stack([angle * angle.cos(), angle * angle.sin()], 1)[..., None, None] / 13
    return clips + 0.01 * torch.randn(clips.shape, generator=generator)


def network(z_t: torch.Tensor, known: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """The exact noise of a mixture of Gaussians around the clips `known`."""
    a, s = vp_coefficients(alpha_bar)
    variance = s**2 + (a * WIDTH) ** 2
    likely = torch.softmax(-(torch.cdist(z_t.flatten(1), a * known.flatten(1)) ** 2) / (2 * variance), 1)
    return s * (z_t - a * torch.einsum("bk,kcfhw->bcfhw", likely, known)) / variance


def sample(known: torch.Tensor, picture: torch.Tensor, with_prior: bool, steps: int) -> torch.Tensor:
    """DDIM. The errors of the picture as a frame (sigma) and of the network (tau) are measured on known clips."""
    generator, frames = torch.Generator().manual_seed(1), known.shape[1:]
    z_t, noise = torch.randn(len(picture), *frames, generator=generator), torch.randn(200, *frames, generator=generator)
    sigma = (known - known[:, :, :1]).square().mean((0, 1, 3, 4)).sqrt()
    schedule = torch.cos(torch.linspace(1.56, 0.01, steps + 1)) ** 2
    for alpha_bar, following in itertools.pairwise(schedule):
        a, s = vp_coefficients(alpha_bar)
        eps = network(z_t, known, alpha_bar)
        if with_prior:
            off = network(a * known[:200] + s * noise, known[200:], alpha_bar) - noise
            lam = training_free_lambda((s / a) * off.square().mean().sqrt(), sigma)
            eps = fuse_linear(image_noise_prior(z_t, picture, alpha_bar), eps, lam)
        later, less = vp_coefficients(following)
        z_t = later * (z_t - s * eps) / a + less * eps
    return z_t


def main(path: str = "toy.png", steps: int = 50) -> dict[str, float]:
    """Sample both ways, draw them, and return how far clips are from how their pictures really go on."""
    known, truth = draw_clips(2000, seed=0), draw_clips(12, seed=3)
    image, errors = Image.new("RGB", (1024, 480), "white"), {}
    draw = ImageDraw.Draw(image)
    for left, name in ((256, "no prior"), (768, "image noise prior")):
        made = sample(known, truth[:, :, :1], name != "no prior", steps)
        errors[name] = (made - truth).square().mean().sqrt().item()
        for clips, colour, width in ((known, "#d5d9df", 2), (made, "#c2410c", 2), (truth[:, :, [0, 0]], "#0a6ab8", 9)):
            for clip in (240 * clips[..., 0, 0] + 230).mT.tolist():
                draw.line([(left - 230 + x, y) for x, y in clip], colour, width)
    image.save(path)
    return errors


if __name__ == "__main__":
    print(main(*sys.argv[1:2]))
