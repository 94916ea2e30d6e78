"""The feature networks of an evaluation, each loaded when it is first asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from trip.evaluation.features.base import FeatureNetwork
from trip.evaluation.features.efficientnet import efficientnet_features
from trip.evaluation.features.i3d import i3d_features
from trip.evaluation.features.inception import inception_features
from trip.evaluation.weights import find_weights, sha256_of

if TYPE_CHECKING:
    from trip.evaluation.features.clip import CLIPFeatures

LOADERS: dict[str, Callable[[Path, str], FeatureNetwork]] = {
    "i3d": i3d_features,
    "inception": inception_features,
    "efficientnet-lite0": efficientnet_features,
}
"""Name of the weights -> ``load(file, device)``."""


@dataclass(kw_only=True)
class Networks:
    """Where networks come from, and those that were asked for.

    Attributes:
        weights: folder looked into before the cache. clip: CLIP by short name, hub id or folder.
        videomae: VideoMAE by hub id or folder. device: of all. hashes: network's name -> SHA-256 of its file.
    """

    weights: Path | None = None
    clip: str | None = None
    videomae: str | None = None
    device: str = "cpu"
    hashes: dict[str, str] = field(default_factory=dict)
    _loaded: dict[str, FeatureNetwork] = field(default_factory=dict)

    def local(self, name: str) -> FeatureNetwork:
        """A network of `LOADERS`.

        Raises:
            ValueError: its weights are not at hand, or not what they should be.
        """
        if name not in self._loaded:
            file = find_weights(name, self.weights)
            network = LOADERS[name](file, self.device)
            self._loaded[name], self.hashes[network.name] = network, sha256_of(file)
        return self._loaded[name]

    @cached_property
    def text_and_frames(self) -> "CLIPFeatures | None":
        """CLIP, or None where none is named."""
        if self.clip is None:
            return None
        from trip.evaluation.features.clip import clip_features

        return clip_features(self.clip, self.device)

    @cached_property
    def second_video(self) -> FeatureNetwork | None:
        """VideoMAE, or None where none is named."""
        if self.videomae is None:
            return None
        from trip.evaluation.features.videomae import videomae_features

        return videomae_features(self.videomae, self.device)
