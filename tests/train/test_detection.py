"""Detection: lists of images, boxes by torchvision's detectors, answers of their heads, data that is drawn or read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.detection import MeanAveragePrecision

import autoprune as ap
from autoprune.cost.counter import count_macs
from autoprune.errors import DataError, InvalidArgumentError, MetricError
from autoprune.searchspaces.models.shapes import ShapesLevels, shapes_detector
from autoprune.surgery.forward import forward
from autoprune.surgery.listening import answers, listening
from autoprune.testing.task_laws import Subject, TaskLaws
from autoprune.train.distill import Distillation, Recorder
from autoprune.train.generated_shapes import Boxed, draw_scenes
from autoprune.train.source import n_items, take_items, unpack_batch
from autoprune.train.task_traits import distilled_loss
from autoprune.train.voc_and_coco import NAMES

Target = dict[str, Tensor]

SIZE = 32


def detector(seed: int = 0) -> nn.Module:
    """Build torchvision's SSD, a small one, with random weights."""
    torch.manual_seed(seed)
    return shapes_detector(width=4, size=SIZE).eval()


def shapes(n: int = 60, **settings: Any) -> ap.Data:
    """Return a few drawn scenes with boxes."""
    return ap.Data(Boxed(draw_scenes(n, seed=3, size=SIZE)), **settings)


class TestDetection(TaskLaws):
    @pytest.fixture
    def subject(self) -> Subject:
        return Subject(ap.Detection(), detector(), shapes(val_size=12), (ap.Segmentation(), ap.Classification()))


class Finds(nn.Module):
    """Finds what it was told: an image holds the number of its answer."""

    def __init__(self, found: Sequence[Target]) -> None:
        super().__init__()
        self.found = found

    def forward(self, images: Sequence[Tensor]) -> list[Target]:
        return [self.found[int(image.flatten()[0])] for image in images]


def boxes(n: int, rng: np.random.Generator, **more: Tensor) -> Target:
    """Make random boxes of three classes."""
    corners = torch.from_numpy(rng.uniform(0, 20, (n, 2)).astype(np.float32))
    sizes = torch.from_numpy(rng.uniform(4, 12, (n, 2)).astype(np.float32))
    return {
        "boxes": torch.cat([corners, corners + sizes], 1),
        "labels": torch.from_numpy(rng.integers(1, 4, n)),
        **more,
    }


def test_figures_are_those_of_torchmetrics_in_any_batches() -> None:
    """Over boxes that were moved, added and lost; an image may have none; crowds neither help nor harm."""
    rng = np.random.default_rng(0)
    targets = [boxes(n, rng) for n in (3, 1, 0, 4, 2, 5)]
    found = []
    for target in targets:
        extra = boxes(2, rng)
        moved = {name: torch.cat([target[name][1:], extra[name]]) for name in target}
        moved["boxes"] = moved["boxes"] + torch.from_numpy(rng.normal(0, 0.6, moved["boxes"].shape)).float()
        found.append({**moved, "scores": torch.from_numpy(rng.uniform(size=len(moved["labels"]))).float()})
    images = [torch.full((3, 8 + i, 9), float(i)) for i in range(6)]
    expected = MeanAveragePrecision()
    expected.update(found, targets)
    wanted = {name: value for name, value in expected.compute().items() if name in ("map", "map_50")}
    for size in (1, 4, 6):
        starts = range(0, 6, size)
        loader = [([images[i : i + size]], targets[i : i + size]) for i in starts]
        figures = ap.Detection().metric(Finds(found), loader)
        assert figures == {name: pytest.approx(float(value)) for name, value in wanted.items()}
    assert 0.2 < figures["map"] < figures["map_50"] < 1
    crowd = boxes(1, rng, iscrowd=torch.tensor([1]))
    joined = {name: torch.cat([targets[0][name], crowd[name]]) for name in targets[0]}
    joined["iscrowd"] = torch.tensor([0, 0, 0, 1])
    ignored = [([images], [joined, *targets[1:]])]
    assert ap.Detection().metric(Finds(found), ignored)["map"] >= figures["map"]


def test_lists_of_images_are_items() -> None:
    """Whatever their sizes: batches are told apart, counted and taken from image by image."""
    images = tuple(torch.rand(3, 8 + i, 9) for i in range(3))
    targets = tuple({"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)} for _ in range(3))
    inputs, found = unpack_batch((images, targets))
    assert found == list(targets)
    assert n_items((inputs, found)) == 3
    taken = take_items(inputs, [2, 0])
    assert [image.shape[1] for image in taken[0]] == [10, 8]
    scenes = Boxed(draw_scenes(45, 0, SIZE))
    plain = ap.Data(scenes, val_size=5)
    loaded = ap.Data(DataLoader(scenes, collate_fn=lambda items: tuple(zip(*items, strict=True))), val_size=5)
    for data in (plain, loaded):
        inputs, found = data.example_batch(4)
        assert n_items((inputs, found)) == len(found) == 4
        assert len(forward(detector(), inputs)) == 4
    assert plain.fingerprint == loaded.fingerprint


def test_answers_are_those_of_the_heads() -> None:
    """Before any box is selected, in any mode, and also where the model is run for something else."""
    model, images = detector(), torch.rand(2, 3, SIZE, SIZE)
    heads = answers(model, images)["head()"]
    assert heads["cls_logits"].shape[:1] == heads["bbox_regression"].shape[:1] == (2,)
    torch.testing.assert_close(heads, model.head(list(model.backbone(model.transform(images)[0].tensors).values())))
    with listening(model) as listener:
        returned = model(images)
    assert isinstance(returned, list)
    torch.testing.assert_close(listener.answer(returned)["head()"], heads)
    model.train()
    assert answers(model, images)["head()"].keys() == heads.keys()
    assert all(module.training for module in model.modules())
    assert not model._forward_hooks
    with pytest.raises(
        InvalidArgumentError, match=r"a module inside the model, such as 'head\(\)', got 'heads\(\)'.*head"
    ):
        answers(model, images, ["heads()"])


def test_everything_before_the_heads_can_be_cut() -> None:
    """Validated (masked = sliced); classes and boxes stay; images given one by one trace as a batch of them does."""
    model = detector()
    structure = ap.trace_model(model, torch.rand(2, 3, SIZE, SIZE))
    listed = ap.trace_model(model, ([torch.rand(3, SIZE, SIZE)],))
    assert [(group.name, group.width) for group in structure.groups] == [(g.name, g.width) for g in listed.groups]
    assert structure.outputs == ("head()",)
    assert {pin.module.rpartition(".module_list")[0] for pin in structure.pins} == {
        "head.classification_head",
        "head.regression_head",
    }
    assert all("is part of the model's output 'head()" in pin.reason for pin in structure.pins)


class Normalized(ShapesLevels):
    """Scales one map by its length over the channels, as the SSD of the paper does."""

    def forward(self, x: Tensor) -> Any:
        found = super().forward(x)
        found["out"] = 20 * nn.functional.normalize(found["out"])
        return found


def test_a_batch_of_written_images_is_no_weight() -> None:
    """Detectors write images into a constant: what is computed of it is data, whose channels a norm does not hold."""
    model = detector()
    model.backbone = Normalized(4).eval()
    structure = ap.trace_model(model, ([torch.rand(3, SIZE, SIZE)],))
    assert not any("normal" in pin.reason for pin in structure.pins)
    assert {pin.module.split(".")[0] for pin in structure.pins} == {"head"}


def fitted() -> tuple[nn.Module, ap.Data]:
    """Return a detector that has learned a little, and its data."""
    model, data = detector(), shapes(64)
    settings = ap.FitSettings(epochs=8, batch_size=14, optimizer="adamw", learning_rate=0.01, weight_decay=0.0)
    ap.fit(model, data, ap.Detection(), settings)
    return model, data


MEASURE = """
import json, sys
import autoprune as ap
from autoprune.evaluate.measure import measure
from tests.train.test_detection import detector, shapes
print(json.dumps(measure(ap.load(sys.argv[1], detector(1)), shapes(64).validation, ap.Detection())))
"""


def test_a_detector_is_pruned_recovered_and_saved(tmp_path: Path) -> None:
    """Within its limit, by the distance of its heads; recovery needs no label; a new process has the same figures."""
    model, data = fitted()
    problem = ap.Problem(model, data=data, task=ap.Detection(), limits={"macs": "60%"}, evaluation={"batch_size": 4})
    assert problem.objectives.names == ("map", "macs")
    assert problem.structure.outputs == ("head()",)
    run = ap.search(problem, "uniform", 2, store=tmp_path / "run")
    point = run.pick()
    assert point.costs["macs"] <= 0.6 * problem.dense_costs["macs"]
    assert point.metrics.keys() == {"map", "map_50", "distance"}
    assert point.metrics["distance"] > 0
    small = point.build()
    assert count_macs(small, data.example_batch(1)[0]) == point.costs["macs"]
    settings = ap.FitSettings(
        steps=8, batch_size=16, optimizer="adamw", learning_rate=1e-3, weight_decay=0.0,
        distillation=ap.Distillation(weight=1.0),
    )  # fmt: skip
    nearer = problem.evaluator.measure(ap.recover(small, model, data, settings=settings))
    assert nearer["distance"] < point.metrics["distance"]
    point.save(tmp_path / "small.autoprune")
    there = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "small.autoprune")], capture_output=True, text=True, check=True
    )
    assert json.loads(there.stdout) == {name: point.metrics[name] for name in ("map", "map_50")}


def test_labels_and_heads_teach_together() -> None:
    """The detector's own loss and its teacher's heads share one pass; at weight 0.5 each has half."""
    student, teacher, data = detector(1).train(), detector(0), shapes()
    batch, task = next(iter(data.train.loader(6))), ap.Detection()
    calls: list[int] = []
    student.register_forward_hook(lambda *_: calls.append(1))
    for norm in (module for module in student.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.eval()
    own = task.loss(student, batch)
    wanted = answers(teacher, batch[0])
    towards = Distillation(weight=1.0).loss(answers(student, batch[0]), wanted, None)
    calls.clear()
    both = distilled_loss(task, Recorder(student), batch, lambda: wanted, Distillation(weight=0.5))
    assert len(calls) == 1
    torch.testing.assert_close(both, 0.5 * own + 0.5 * towards)


def test_images_alone_are_enough() -> None:
    """Without boxes a detector is judged by its heads, from a tensor of images or a dataset of lists."""
    model, images = detector(), torch.from_numpy(draw_scenes(60, 0, SIZE).images)
    problem = ap.Problem(model, data=ap.Data(images), levels=3)
    assert problem.objectives.names == ("distance", "macs")
    assert problem.dense_metrics == {"distance": 0.0}

    def joined(items: list[Any]) -> Any:
        return [image for image, _ in items]

    scenes = DataLoader(Boxed(draw_scenes(60, 0, SIZE)), collate_fn=joined)
    listed = ap.Problem(model, data=ap.Data(scenes, unpack=lambda images: ((images,), None)), levels=3)
    assert listed.dense_metrics == {"distance": 0.0}
    assert listed.dense_costs == problem.dense_costs


def test_what_does_not_fit_is_refused() -> None:
    """Transforms, targets of another kind, boxes without an area, models of another kind: one sentence each."""
    task = ap.Detection()
    with pytest.raises(DataError, match="no transform of images for detection"):
        ap.Problem(detector(), data=shapes(transform=ap.ImageTransform((0.5,) * 3, (0.5,) * 3)), task=task)
    masks = ap.Data((draw_scenes(60, 0, SIZE).images, draw_scenes(60, 0, SIZE).masks))
    with pytest.raises(DataError, match=r"of 'boxes' \(k, 4\) and 'labels'"):
        ap.Problem(detector(), data=masks, task=task)
    with pytest.raises(DataError, match="Detection measures by targets"):
        ap.Problem(detector(), data=ap.Data(draw_scenes(60, 0, SIZE).images), task=task)
    image, flat = torch.rand(3, SIZE, SIZE), torch.tensor([[4.0, 4, 4, 9]])
    for wrong, match in (
        ({"boxes": flat, "labels": torch.tensor([1])}, "positive width and height"),
        ({"boxes": flat + torch.tensor([0, 0, 5, 0]), "labels": torch.tensor([0])}, "classes from 1"),
        ({"boxes": flat, "labels": torch.tensor([1.0])}, "integer labels"),
        ({"boxes": flat[0], "labels": torch.tensor([1])}, r"\(k, 4\) boxes"),
    ):
        with pytest.raises(MetricError, match=match):
            task.loss(detector(), ([[image]], [wrong]))
    right = [{"boxes": flat + torch.tensor([0, 0, 5, 0]), "labels": torch.tensor([1])}]
    nothing = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
    with pytest.raises(MetricError, match="boxes, labels and scores of each image from the model"):
        task.metric(nn.Sequential(nn.Conv2d(3, 2, 1)), [(image[None], right)])
    with pytest.raises(MetricError, match="at least one box"):
        task.metric(detector(), [([[image]], nothing)])
    assert task.loss(detector(), ([[image]], nothing)).isfinite()


def test_without_its_libraries_detection_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the door, with what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pycocotools" else object())
    with pytest.raises(InvalidArgumentError, match=r"needs pycocotools; pip install 'autoprune\[detection\]'"):
        ap.Detection()


def write_voc(root: Path, n: int) -> None:
    """Write images and boxes in the layout of PASCAL VOC 2007, the last box of an image as a difficult one."""
    scenes = draw_scenes(2 * n, seed=5, size=48)
    voc = root / "VOCdevkit" / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (voc / folder).mkdir(parents=True)
    names = [f"{i:06d}" for i in range(2 * n)]
    for i, name in enumerate(names):
        Image.fromarray(scenes.images[i]).save(voc / "JPEGImages" / f"{name}.jpg")
        objects = ""
        for k, (box, label) in enumerate(zip(scenes.boxes[i].astype(int), scenes.labels[i], strict=True)):
            corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, *box[2:]), strict=True))
            inner = "".join(f"<{side}>{value}</{side}>" for side, value in corners.items())
            difficult = int(k == len(scenes.labels[i]) - 1 and k > 0)
            kind = f"<name>{NAMES[label]}</name><difficult>{difficult}</difficult>"
            objects += f"<object>{kind}<bndbox>{inner}</bndbox></object>"
        (voc / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    for role, part in (("trainval", names[:n]), ("test", names[n:])):
        (voc / "ImageSets" / "Main" / f"{role}.txt").write_text("\n".join(part) + "\n")


def write_coco(root: Path, n: int) -> None:
    """Write images and boxes in the layout of COCO 2017."""
    scenes = draw_scenes(2 * n, seed=5, size=48)
    (root / "annotations").mkdir()
    for role, part in (("train2017", range(n)), ("val2017", range(n, 2 * n))):
        (root / role).mkdir()
        images, annotations = [], []
        for i in part:
            Image.fromarray(scenes.images[i]).save(root / role / f"{i:012d}.jpg")
            images.append({"id": i, "file_name": f"{i:012d}.jpg", "height": 48, "width": 48})
            for k, (box, label) in enumerate(zip(scenes.boxes[i].tolist(), scenes.labels[i].tolist(), strict=True)):
                size = [box[2] - box[0], box[3] - box[1]]
                crowd = int(k == len(scenes.labels[i]) - 1 and k > 0)
                item = {"id": len(annotations) + 1, "image_id": i, "category_id": label, "bbox": [*box[:2], *size]}
                annotations.append({**item, "iscrowd": crowd, "area": size[0] * size[1]})
        content = {"images": images, "annotations": annotations, "categories": [{"id": c} for c in (1, 2, 3)]}
        (root / "annotations" / f"instances_{role}.json").write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_files_are_read_as_they_are_stored(kind: str, tmp_path: Path) -> None:
    """Boxes arrive to the pixel with their classes and marks; training crops and flips them with their images."""
    write = write_voc if kind == "voc" else write_coco
    write(tmp_path, 45)
    name, settings = ("voc_detection", {"root": tmp_path}) if kind == "voc" else (f"coco:{tmp_path}", {})
    data = ap.load_data(name, val_size=15, **settings)
    assert (len(data.train), len(data.validation), len(data.test or ())) == (30, 15, 45)
    scenes = draw_scenes(90, seed=5, size=48)
    (images,), targets = next(iter(data.test.loader(45)))
    offset = 1 if kind == "voc" else 0  # VOC's first classes stand for those that were drawn
    for i, (image, target) in enumerate(zip(images, targets, strict=True), start=45):
        assert torch.equal(target["boxes"], torch.from_numpy(scenes.boxes[i]))
        assert target["labels"].tolist() == [label + offset for label in scenes.labels[i]]
        assert target["iscrowd"].tolist() == [
            int(0 < k == len(target["labels"]) - 1) for k in range(len(target["labels"]))
        ]
        assert (image - torch.from_numpy(scenes.images[i]).permute(2, 0, 1) / 255).abs().mean() < 0.05
    first, again = (next(iter(data.train.loader(30, seed=0, augment=True))) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[0][0], again[0][0], strict=True))
    assert {tuple(image.shape) for image in first[0][0]} != {(3, 48, 48)}
    if kind == "coco":
        assert ap.Detection().loss(detector().train(), first).isfinite()
    else:
        with pytest.raises(MetricError, match="classes up to 4, which the model does not have"):
            ap.Detection().loss(detector().train(), first)
    with pytest.raises(DataError, match="VOC 2007 is not in" if kind == "voc" else "expected COCO's images in"):
        ap.load_data(name if kind == "voc" else f"coco:{tmp_path / 'x'}", root=tmp_path / "elsewhere")


@pytest.mark.timeout(1800)
@pytest.mark.zoo
@pytest.mark.parametrize(
    "name", ["ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn", "fcos_resnet50_fpn"]
)
def test_torchvisions_detectors(name: str) -> None:
    """Validated (masked = sliced) at full size; classes and boxes stay; half of everything else still learns."""
    import torchvision

    torch.manual_seed(0)
    size = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 128}
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4, **size).eval()
    images = torch.rand(2, 3, 64, 64)
    structure = ap.trace_model(model, images)
    assert {pin.module.split(".")[0] for pin in structure.pins} == {"head"}
    kept = structure.kept_genes(
        [np.arange(group.width) for group in structure.groups], np.maximum(structure.full_widths // 2, 1)
    )
    small = ap.cut(model, structure, kept)
    found, wanted = (answers(net, images)["head()"] for net in (small, model))
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in wanted.items()}
    target = {"boxes": torch.tensor([[10.0, 10, 40, 50]]), "labels": torch.tensor([1])}
    ap.Detection().loss(small.train(), (images, [target, target])).backward()
    assert sum(p.numel() for p in small.parameters()) < 0.5 * sum(p.numel() for p in model.parameters())
