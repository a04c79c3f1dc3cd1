"""An ONNX file in, a smaller ONNX file out.

    pip install "autoprune[export]" onnx2pytorch
    python examples/onnx_file.py

The file that is made here stands for yours. The converter turns it into an ordinary module, and that is pruned.
"""

import numpy as np
import onnx
import onnxruntime
import torch
from onnx2pytorch import ConvertModel
from torch import nn

import autoprune as ap


def make_file() -> None:
    """Write a small network with a residual sum as ``net.onnx``."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
            self.inner = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 3, padding=1))
            self.head = nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.head(torch.relu(x + self.inner(x)).mean((2, 3)))

    torch.manual_seed(0)
    ap.export_model(Net(), torch.rand(2, 3, 16, 16), "net.onnx")


def read_file() -> nn.Module:
    """Return the network of ``net.onnx``; call it again for a fresh dense model to load into."""
    return ConvertModel(onnx.load("net.onnx"), experimental=True).eval()  # experimental: batches of any size


def main() -> None:
    """Halve the multiply-adds of a file."""
    make_file()
    images = np.random.default_rng(0).random((48, 3, 16, 16), dtype=np.float32)

    model = read_file()
    found = ap.prune(model, ap.Data(images), {"macs": "50%"})
    print(found.summary)
    example, free = (torch.from_numpy(images[:2]),), {"x": {0: "batch"}}
    torch.onnx.export(found.model, example, "small.onnx", dynamo=False, input_names=["x"], dynamic_axes=free)
    found.save("small.autoprune")  # to train it on: ap.load("small.autoprune", read_file())

    again = ap.load("small.autoprune", read_file())
    session = onnxruntime.InferenceSession("small.onnx", providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {"x": images})
    np.testing.assert_allclose(answers, again(torch.from_numpy(images)).detach().numpy(), atol=1e-4)


if __name__ == "__main__":
    main()
