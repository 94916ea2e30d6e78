"""FVD and FID: Fréchet distances of generated clips from real ones, by I3D's or Inception's features."""

import math

import torch

from trip.evaluation.clips import Batch
from trip.evaluation.features.base import FeatureNetwork
from trip.evaluation.frechet import FeatureSet, frechet_distance, frechet_interval
from trip.evaluation.metric import FLOOR, GENERATED, REFERENCE, Metric, Result, register_metric
from trip.evaluation.networks import Networks


class FrechetMetric(Metric):
    """Distances by the networks that a subclass names."""

    against = True
    sides = (GENERATED, REFERENCE, FLOOR)

    def __init__(self, networks: Networks, *, seed: int = 0, allow_few: bool = False) -> None:
        super().__init__(networks, seed=seed, allow_few=allow_few)
        self.features: dict[str, FeatureSet] = {}

    def distances(self) -> dict[str, FeatureNetwork]:
        """Name of the number -> the network that it is made of."""
        raise NotImplementedError

    def check(self, clips: int, real: int, frames: int) -> None:
        """Ask the networks, by a black clip, whether so many clips of so many frames are enough.

        Raises:
            ValueError: too few clips, or clips that are too short for a network.
        """
        for name, network in self.distances().items():
            *samples, width = network(torch.zeros(1, frames, 32, 32, 3, dtype=torch.uint8)).shape
            check_samples(name, width, (clips, real), math.prod(samples), self.allow_few)

    def update(self, batch: Batch) -> None:
        """Features of the clips, or of all their frames."""
        for name, network in self.distances().items():
            features = batch.features(network).numpy()
            features = features if features.ndim == 3 else features[:, None]
            self.features.setdefault(name, FeatureSet(network.name, features.shape[-1])).add(features)

    def result(self, real: "FrechetMetric | None") -> list[Result]:
        """The distances from the real clips."""
        if real is None:
            return []
        return [
            frechet_result(name, made, real.features[name], allow_few=self.allow_few, seed=self.seed)
            for name, made in self.features.items()
        ]


@register_metric("fvd")
class FVD(FrechetMetric):
    """By I3D's logits, and by VideoMAE's features where one is named."""

    def distances(self) -> dict[str, FeatureNetwork]:
        """I3D, and VideoMAE."""
        found, second = {"FVD": self.networks.local("i3d")}, self.networks.second_video
        return found if second is None else found | {f"FVD ({second.name})": second}


@register_metric("fid")
class FID(FrechetMetric):
    """By Inception's features of all frames."""

    def distances(self) -> dict[str, FeatureNetwork]:
        """Inception."""
        return {"FID": self.networks.local("inception")}


def frechet_result(
    name: str, generated: FeatureSet, reference: FeatureSet, *, allow_few: bool = False, seed: int = 0
) -> Result:
    """A distance with its interval, and with its numbers of clips as the note.

    Args:
        name: of the metric. generated, reference: features of both sides, by one network.
        allow_few: do not insist on more features than their width. seed: of the bootstrap.

    Raises:
        ValueError: too few features for a covariance of full rank, or fewer than 2 clips.
    """
    width, clips = len(generated.mean), (generated.clips, reference.clips)
    enough = check_samples(name, width, clips, generated.count // max(generated.clips, 1), allow_few)
    value = frechet_distance(generated.gaussian, reference.gaussian)
    note = "" if enough else f": too few for {width} features, far too high; compare at equal counts only"
    return Result(
        name=name,
        value=value,
        n=generated.clips,
        interval=frechet_interval(value, generated, reference, seed),
        features=generated.name,
        note=sides_of(clips) + note,
    )


def check_samples(name: str, width: int, clips: tuple[int, int], samples_each: int, allow_few: bool) -> bool:
    """Whether (generated, real) clips give more samples than features.

    Raises:
        ValueError: they do not and few are not allowed, or there is a single clip.
    """
    if min(clips) < 2:
        raise ValueError(f"{name} of {sides_of(clips)} has no covariance; give at least 2 clips a side")
    enough = min(clips) * samples_each > width
    if not enough and not allow_few:
        raise ValueError(
            f"{name} of {sides_of(clips)} would be mostly sampling error, {width} features need more than {width} "
            "samples; add clips, or accept it with --allow-few (allow_few=True)"
        )
    return enough


def sides_of(clips: tuple[int, int]) -> str:
    """How many are compared with how many."""
    return f"{clips[0]} clips against {clips[1]} real ones"
