"""A smaller classifier of timm, as itself and as the backbone of something else.

    pip install timm
    python examples/timm_classifier.py

Random weights and images stand for yours: `pretrained=True`, and images as the network is trained on.
"""

import numpy as np
import timm
import torch

import autoprune as ap


def main() -> None:
    """Halve the multiply-adds of a network, save, load, and build on its features."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=10)
    images = np.random.default_rng(0).random((48, 3, 32, 32), dtype=np.float32)

    found = ap.prune(model, ap.Data(images), {"macs": "50%"}, divisor=8)
    print(found.summary)
    found.save("small.autoprune")

    small = ap.load("small.autoprune", timm.create_model("test_resnet", num_classes=10))
    image = torch.rand(1, 3, 32, 32)
    ap.correct_feature_info(small, model, image)  # timm's table speaks of the dense model
    features = small.forward_intermediates(image, intermediates_only=True)
    assert [entry["num_chs"] for entry in small.feature_info] == [feature.shape[1] for feature in features]
    print("channels of the features:", [entry["num_chs"] for entry in small.feature_info])

    # All outputs of a backbone keep their width, so that what is built on it fits; the layers between them shrink.
    backbone = timm.create_model("test_resnet", features_only=True)
    lighter = ap.prune(backbone, ap.Data(images), {"macs": "70%"}).model
    assert lighter.feature_info.channels() == [feature.shape[1] for feature in lighter(image)]


if __name__ == "__main__":
    main()
