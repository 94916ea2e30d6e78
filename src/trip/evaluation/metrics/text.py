"""How well frames fit their clip's prompt, by CLIP."""

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from trip.data.video.metadata import find_metadata
from trip.evaluation.clips import Batch, ClipFolder, prompt_of
from trip.evaluation.metric import ClipMetric, Metric, Result, mean_result, register_metric


@register_metric("text")
class TextSimilarity(ClipMetric):
    """Cosine of frames and prompt, in percent."""

    needs_clip = True

    def prepare(self, generated: ClipFolder, reference: ClipFolder | None) -> None:
        """Every generated clip needs its prompt."""
        for file in generated.files:
            if not prompt_of(file, None) and not prompt_of(file, find_metadata(file)):
                raise ValueError(f"{file} has no prompt; write it to {file.stem}.txt beside it")

    def check(self, clips: int, real: int, frames: int) -> None:
        """CLIP must be at hand."""
        assert self.networks.text_and_frames

    def update(self, batch: Batch) -> None:
        """Of clips with prompts, which real ones need not have."""
        clip = self.networks.text_and_frames
        if clip is not None and all(batch.prompts):
            self.extend("text", text_similarity(batch.features(clip), clip.text(batch.prompts)))

    def result(self, real: Metric | None) -> list[Result]:
        """The mean, named after the network."""
        clip = self.networks.text_and_frames
        if clip is None or "text" not in self.numbers:
            return []
        name = f"Text similarity ({clip.name})"
        return [mean_result(name, self.numbers["text"], features=clip.name, seed=self.seed)]


def text_similarity(frames: Float[Tensor, "b f d"], texts: Float[Tensor, "b d"]) -> Float[np.ndarray, " b"]:
    """100 x cosine of every frame's features with its clip's text, mean over frames."""
    unit, text = F.normalize(frames.double(), dim=-1), F.normalize(texts.double(), dim=-1)
    return 100 * (unit * text[:, None]).sum(-1).mean(1).numpy()
