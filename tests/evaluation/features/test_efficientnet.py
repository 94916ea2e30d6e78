"""EfficientNet-Lite0 recognises what it was trained to recognise."""

import numpy as np
import torch

from trip.evaluation.features.efficientnet import EfficientNetLite0, efficientnet_features

BELL_COTE, PALACE, DAISY = 442, 698, 985  # ImageNet's numbers


def test_photographs_of_a_palace_and_of_a_flower(weights):
    network = efficientnet_features(weights / "efficientnet_lite0.safetensors")
    images = torch.from_numpy(np.load(weights / "inception_reference.npz")["images_uint8"])[None]
    features = network(images)
    assert features.shape == (1, 2, 1280) and (network.name, network.size) == ("EfficientNet-Lite0", 224)
    palace, flower = network.network._fc(features[0])
    assert set(palace.topk(2).indices.tolist()) == {BELL_COTE, PALACE}
    assert int(flower.argmax()) == DAISY


def test_shape_of_the_network():
    network = EfficientNetLite0()
    assert sum(p.numel() for p in network.parameters()) == 4_652_008
    assert len(network.state_dict()) == 296 and len(network._blocks) == 16
    assert sum(block.skips for block in network._blocks) == 9
