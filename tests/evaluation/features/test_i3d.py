"""I3D against the original's logits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trip.evaluation.features.base import pad_same
from trip.evaluation.features.i3d import I3D, i3d_features, max_pool

TOLERANCE = 1e-5


def reference_clip(reference, name: str) -> torch.Tensor:
    """A clip of the reference file: stored at half size, or random from its seed."""
    if name.startswith("seed"):
        clip = np.random.default_rng(int(name[4:])).integers(0, 256, (16, 224, 224, 3), dtype=np.uint8)
    else:
        clip = reference[f"{name}_uint8"].repeat(2, axis=1).repeat(2, axis=2)
    return torch.from_numpy(clip)[None]


@pytest.fixture
def reference(weights):
    return np.load(weights / "i3d_reference.npz")


@pytest.fixture
def network(weights):
    return i3d_features(weights / "i3d_kinetics400.safetensors")


def test_logits_are_the_originals(reference, network, relative_error):
    found = network(reference_clip(reference, "dog"))[0]
    assert relative_error(found, reference["dog_logits"]) < TOLERANCE
    label = str(reference["class_names"][int(found.argmax())])
    assert label == str(reference["class_names"][reference["dog_logits"].argmax()])
    assert (network.name, network.size) == ("I3D-K400", 224)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bedroom", "seed0", "seed1"])
def test_logits_of_the_other_reference_clips(reference, network, relative_error, name):
    assert relative_error(network(reference_clip(reference, name))[0], reference[f"{name}_logits"]) < TOLERANCE


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (2, 2, 2)])
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("shape", [(5, 9, 8), (4, 8, 7)])
def test_maxima_axis_by_axis_are_those_of_the_pool(kernel, stride, shape):
    x = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(max_pool(x, kernel, stride), F.max_pool3d(pad_same(x, kernel, stride), kernel, stride))


def test_short_clips_are_refused_in_one_line():
    with pytest.raises(ValueError, match="at least 9 frames, got 8"):
        I3D()(torch.zeros(1, 3, 8, 224, 224))


def test_parameter_names_are_pytorch_i3ds():
    names = set(I3D().state_dict())
    assert len(names) == 344
    assert {"Conv3d_1a_7x7.conv3d.weight", "Mixed_4f.b2b.bn.running_var", "logits.conv3d.bias"} <= names
