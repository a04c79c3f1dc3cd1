"""Segmentation: pixels that are counted, networks that answer in mappings, data that is drawn or read from VOC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from PIL import Image
from torch import Tensor, nn

import autoprune as ap
from autoprune.errors import DataError, InvalidArgumentError, MetricError
from autoprune.searchspaces.models.shapes import shapes_segmenter
from autoprune.testing.task_laws import Subject, TaskLaws
from autoprune.train.generated_shapes import CLASSES, draw_scenes


def small_segmenter(seed: int = 0) -> nn.Module:
    """Build torchvision's FCN, a small one, with random weights."""
    torch.manual_seed(seed)
    return shapes_segmenter(width=4).eval()


class Answers(nn.Module):
    """Returns its input, in the form that a network of some library has."""

    def __init__(self, form: Any = lambda logits: logits) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Any:
        return self.form(x)


def batches(n: int = 11, classes: int = 5, size: int = 4, ignored: int = 255) -> list[tuple[Tensor, Tensor]]:
    """Make random logits and classes of pixels, some of which do not count."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, classes, 6, 7, generator=generator)
    targets = torch.randint(0, classes - 1, (n, 6, 7), generator=generator)  # the last class is predicted alone
    targets[torch.rand(n, 6, 7, generator=generator) < 0.2] = ignored
    return list(zip(logits.split(size), targets.split(size), strict=True))


@pytest.mark.parametrize("ignored", [255, -100, 3])
def test_figures_are_those_of_torchmetrics(ignored: int) -> None:
    """Over all pixels that count, whatever the batches; and the loss is torch's cross entropy."""
    task = ap.Segmentation(ignore_index=ignored)
    found = task.metric(Answers(), batches(ignored=ignored))
    logits, targets = (torch.cat(parts) for parts in zip(*batches(ignored=ignored), strict=True))
    there = targets != ignored
    classes = {"num_classes": 5, "average": "micro", "ignore_index": ignored}
    accuracy = torchmetrics.classification.MulticlassAccuracy(**classes)
    assert found["pixel_accuracy"] == pytest.approx(accuracy(logits, targets).item(), abs=1e-6)
    predicted = logits.argmax(dim=1)[there]
    each = torchmetrics.classification.MulticlassJaccardIndex(5, average="none")(predicted, targets[there])
    assert found["miou"] == pytest.approx(each.mean().item(), abs=1e-6)
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, targets, ignore_index=ignored).item(), rel=1e-5)
    assert tuple(found) == task.metrics
    whole = task.metric(Answers(), batches(size=11, ignored=ignored))
    assert [whole[name] for name in ("miou", "pixel_accuracy")] == [found["miou"], found["pixel_accuracy"]]


def test_every_form_of_logits_is_found() -> None:
    """A tensor, torchvision's mapping with and without a second classifier, ``logits``; at another size, too."""
    task, items = ap.Segmentation(), batches()
    plain = task.metric(Answers(), items)
    forms: tuple[Any, ...] = (
        lambda x: {"out": x},
        lambda x: {"out": x, "aux": -x},
        lambda x: {"hidden": x[:, :1], "logits": x},
    )
    for form in forms:
        assert task.metric(Answers(form), items) == plain
    halves = [(F.avg_pool2d(x, 2), y) for x, y in items]
    resized = [(F.interpolate(x, (6, 7), mode="bilinear", align_corners=False), y) for x, y in halves]
    assert task.metric(Answers(), halves) == task.metric(Answers(), resized)


def test_the_second_classifier_learns_with_its_weight() -> None:
    """It adds to the loss in training and to no figure; a batch without any pixel that counts has loss 0."""
    logits, targets = batches()[0]
    both = Answers(lambda x: {"out": x, "aux": -x})
    first, second = (F.cross_entropy(sign * logits, targets, ignore_index=255) for sign in (1, -1))
    torch.testing.assert_close(ap.Segmentation().loss(both, (logits, targets)), first + 0.5 * second)
    torch.testing.assert_close(ap.Segmentation(auxiliary=0.0).loss(both, (logits, targets)), first)
    assert ap.Segmentation().loss(both, (logits, torch.full_like(targets, 255))) == 0
    teacher = ap.Distillation(weight=1.0)
    assert teacher.loss({"out": logits, "aux": logits}, {"out": logits, "aux": -logits}, 1) == 0


def shapes(n: int = 60, **settings: Any) -> ap.Data:
    """Return a few drawn scenes."""
    scenes = draw_scenes(n, seed=3, size=32)
    return ap.Data((scenes.images, scenes.masks), **settings)


def test_what_does_not_fit_is_refused() -> None:
    """Transforms of images alone, targets of another kind and classes that the model lacks, in one sentence each."""
    task = ap.Segmentation()
    moved = shapes(transform=ap.ImageTransform(horizontal_flip=True))
    with pytest.raises(DataError, match="images and masks together"):
        ap.Problem(small_segmenter(), data=moved, task=task)
    with pytest.raises(DataError, match="integer classes of pixels as train targets"):
        ap.Problem(small_segmenter(), data=ap.Data((draw_scenes(60, 0, 32).images, np.arange(60) % 4)), task=task)
    with pytest.raises(DataError, match="Segmentation measures by targets"):
        ap.Problem(small_segmenter(), data=ap.Data(draw_scenes(60, 0, 32).images), task=task)
    with pytest.raises(MetricError, match="answers with 5 classes, but the data has pixels of class 7"):
        task.metric(Answers(), [(torch.zeros(1, 5, 2, 2), torch.full((1, 2, 2), 7))])
    with pytest.raises(MetricError, match="class -1"):
        task.metric(Answers(), [(torch.zeros(1, 5, 2, 2), torch.full((1, 2, 2), -1))])
    with pytest.raises(MetricError, match=r"expected \(n, classes, h, w\) logits"):
        task.metric(Answers(), [(torch.zeros(1, 5), torch.zeros(1, 2, 2, dtype=torch.int64))])
    with pytest.raises(MetricError, match="at least one pixel"):
        task.metric(Answers(), [(torch.zeros(1, 5, 2, 2), torch.full((1, 2, 2), 255))])
    with pytest.raises(InvalidArgumentError, match="auxiliary"):
        ap.Segmentation(auxiliary=-1.0)


def test_drawn_scenes_agree_with_themselves() -> None:
    """Equal arguments draw equal scenes; every box holds pixels of its class up to its edges, and every pixel a box."""
    scenes, again, other = draw_scenes(30, 0), draw_scenes(30, 0), draw_scenes(30, 1)
    assert np.array_equal(scenes.images, again.images)
    assert not np.array_equal(scenes.images, other.images)
    assert np.array_equal(draw_scenes(5, 0).images, scenes.images[:5])
    assert {int(label) for labels in scenes.labels for label in labels} == set(range(1, len(CLASSES)))
    for mask, boxes, labels in zip(scenes.masks, scenes.boxes, scenes.labels, strict=True):
        covered = np.zeros_like(mask, dtype=bool)
        for (left, top, right, bottom), label in zip(boxes.astype(int), labels, strict=True):
            inside = mask[top:bottom, left:right] == label
            edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
            assert all(edge.any() for edge in edges)
            covered[top:bottom, left:right] = True
        assert not mask[~covered].any()


def write_voc(root: Path, n: int) -> None:
    """Write images and masks in the layout of PASCAL VOC 2012."""
    scenes = draw_scenes(2 * n, seed=5, size=48)
    voc = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    names = [f"2007_{i:06d}" for i in range(2 * n)]
    for name, image, mask in zip(names, scenes.images, scenes.masks, strict=True):
        Image.fromarray(image[:40]).save(voc / "JPEGImages" / f"{name}.jpg", quality=95)
        palette = Image.fromarray(mask[:40], mode=None).convert("P")
        palette.save(voc / "SegmentationClass" / f"{name}.png")
    for role, part in (("train", names[:n]), ("val", names[n:])):
        (voc / "ImageSets" / "Segmentation" / f"{role}.txt").write_text("\n".join(part) + "\n")


def test_voc_is_read_as_it_is_stored(tmp_path: Path) -> None:
    """Images and masks stay on top of each other, the test images are VOC's validation images, borders do not count."""
    write_voc(tmp_path, 12)
    data = ap.load_data("voc_segmentation", root=tmp_path, image_size=40, val_size=4)
    assert (len(data.train), len(data.validation), len(data.test or ())) == (8, 4, 12)
    scenes = draw_scenes(24, seed=5, size=48)
    images, masks = next(iter(data.test.loader(12)))
    assert images.shape == (12, 3, 40, 40)
    assert torch.equal(masks, torch.from_numpy(scenes.masks[12:, :40, 4:44]).long())
    pixels = torch.from_numpy(scenes.images[12:, :40, 4:44]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (data.transform.mean, data.transform.std))
    assert ((images * std + mean) - pixels).abs().mean() < 0.03  # JPEG loses a little
    first, second, again = (next(iter(data.train.loader(8, seed=seed)))[1] for seed in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert {int(value) for value in first.unique()} <= {0, 1, 2, 3, 255}
    with pytest.raises(DataError, match="VOC 2012 is not in"):
        ap.load_data("voc_segmentation", root=tmp_path / "elsewhere")


class TestSegmentation(TaskLaws):
    @pytest.fixture
    def subject(self) -> Subject:
        others = ap.Segmentation(ignore_index=-100), ap.Segmentation(auxiliary=0.0), ap.Classification()
        return Subject(ap.Segmentation(), small_segmenter(), shapes(val_size=12), others)


def test_a_segmenter_is_pruned_by_its_pixels(tmp_path: Path) -> None:
    """From a trained network to a file: figures of the task, and the same ones after loading."""
    model, data, task = small_segmenter(), shapes(100), ap.Segmentation()
    ap.fit(model, data, task, ap.FitSettings(epochs=30, batch_size=16, learning_rate=0.1, weight_decay=1e-4))
    problem = ap.Problem(model, data=data, task=task, limits={"macs": "60%"}, evaluation={"batch_size": 10})
    assert problem.objectives.names == ("miou", "macs")
    assert problem.dense_metrics["miou"] > 0.3  # the background alone: 0.21
    run = ap.search(problem, "uniform", 3, store=tmp_path / "run")
    point = run.pick()
    assert point.metrics.keys() == {"miou", "pixel_accuracy", "loss", "distance"}
    point.save(tmp_path / "small.autoprune")
    small = ap.load(tmp_path / "small.autoprune", small_segmenter(seed=1))
    assert problem.evaluator.measure(small) == point.metrics


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_torchvisions_segmenters(name: str) -> None:
    """Validated (masked = sliced), both classifiers keep their classes, and one training step of a cut model runs."""
    import torchvision

    torch.manual_seed(0)
    second = {} if name.startswith("lraspp") else {"aux_loss": True}
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4, **second).eval()
    images = torch.rand(2, 3, 64, 64)
    structure = ap.trace_model(model, images)
    kept = structure.kept_genes(
        [np.arange(group.width) for group in structure.groups], np.maximum(structure.full_widths // 2, 1)
    )
    small = ap.cut(model, structure, kept)
    assert {key: value.shape for key, value in small(images).items()} == {
        key: value.shape for key, value in model(images).items()
    }
    ap.Segmentation().loss(small.train(), (images, torch.zeros(2, 64, 64, dtype=torch.int64))).backward()
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in model.parameters())
