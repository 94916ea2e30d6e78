"""The FID Inception-v3 against the original's features."""

import numpy as np
import pytest
import torch

from trip.evaluation.features.inception import FIDInception, inception_features

TOLERANCE = 1e-5


@pytest.fixture
def reference(weights):
    return np.load(weights / "inception_reference.npz")


@pytest.fixture
def network(weights):
    return inception_features(weights / "inception_fid.safetensors")


def test_features_of_photographs_are_the_originals(reference, network, relative_error):
    found = network(torch.from_numpy(reference["images_uint8"])[None])[0]
    assert relative_error(found, reference["features_images"]) < TOLERANCE
    assert (network.name, network.size) == ("Inception-v3 (FID)", 299)


@pytest.mark.slow
def test_features_of_noise_are_the_originals(reference, network, relative_error):
    noise = [np.random.default_rng(i).integers(0, 256, (3, 299, 299), dtype=np.uint8) for i in reference["seeds"]]
    found = network(torch.from_numpy(np.stack(noise).transpose(0, 2, 3, 1).copy())[None])[0]
    assert relative_error(found, reference["features_seeded"]) < TOLERANCE


def test_parameter_names_are_pytorch_fids():
    names = set(FIDInception().state_dict())
    assert len(names) == 564
    assert {"Conv2d_1a_3x3.conv.weight", "Mixed_6e.branch7x7dbl_5.bn.bias", "Mixed_7c.branch_pool.conv.weight"} <= names
