"""A small detector and a small segmenter on drawn scenes, as subjects of the laws of evaluators."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import torch
from torch import nn

from autoprune.core.groups import IntArray
from autoprune.core.space import SearchSpace
from autoprune.cost.model import CostModel
from autoprune.evaluate.registry import EVALUATORS, make_evaluator
from autoprune.searchspaces.models.shapes import shapes_detector, shapes_segmenter
from autoprune.surgery.copying import copy_model
from autoprune.testing.evaluator_laws import Subject
from autoprune.trace import trace
from autoprune.train.data import Data
from autoprune.train.detection import Detection
from autoprune.train.distill import Distillation
from autoprune.train.generated_shapes import Boxed, draw_scenes
from autoprune.train.job_setup import JobSetup
from autoprune.train.loop import fit
from autoprune.train.segmentation import Segmentation
from autoprune.train.settings import FitSettings
from autoprune.train.tasks import Task
from autoprune.weight_sets import Inherited

SIZE, WIDTH, N_SCENES, N_VALIDATION = 32, 4, 120, 20
"""Pixels per side, channels of the first stage, scenes, and how many of these are held back."""

STEPS = 60
"""Of training: enough that BatchNorm statistics and heads are those of these images, not those of new layers."""


@cache
def scenes(kind: str) -> tuple[nn.Module, Data, Task]:
    """Return a network that has learned a little, its data and its task; the same for the same ``kind``.

    Args:
        kind: ``"detection"``, torchvision's SSD, or ``"segmentation"``, its FCN with a second classifier.
    """
    drawn = draw_scenes(N_SCENES, seed=3, size=SIZE)
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        detects = kind == "detection"
        model: nn.Module = shapes_detector(WIDTH, size=SIZE) if detects else shapes_segmenter(WIDTH)
    task: Task = Detection() if detects else Segmentation()
    data = Data(Boxed(drawn) if detects else (drawn.images, drawn.masks), val_size=N_VALIDATION)
    fit(model, data, task, FitSettings(steps=STEPS, batch_size=20, optimizer="adamw", learning_rate=5e-3))
    return model.eval(), data, task


def scene_setup(kind: str) -> JobSetup:
    """Return a new setup of `scenes`, with a model of its own."""
    model, data, task = scenes(kind)
    space = scene_space(kind)
    return JobSetup(copy_model(model), space, CostModel(space.structure, space), data, task)


@cache
def scene_space(kind: str) -> SearchSpace:
    """Return the search space of `scenes`, three widths per variable; a trace takes longer than an evaluation."""
    model, data, _ = scenes(kind)
    return SearchSpace.build(trace(model, data.example_batch()[0]), levels=3)


def scene_inherited(setup: JobSetup, seed: int = 0) -> Inherited:
    """Return the network's own weights with random channel orders."""
    rng = np.random.default_rng(seed)
    orders: tuple[IntArray, ...] = tuple(rng.permutation(group.width) for group in setup.structure.groups)
    return Inherited({name: tensor.clone() for name, tensor in setup.model.state_dict().items()}, orders)


def scene_subject(argument: str, batch_size: int = 20) -> Subject:
    """Return a new evaluator of the registry on drawn scenes, with little to do.

    Args:
        argument: kind and evaluator, such as ``"detection+reconstructed"``.
        batch_size: items per batch.
    """
    kind, name = argument.split("+")
    settings = EVALUATORS[name].load_settings()(n_calibration=40, batch_size=batch_size)
    if any(field.name == "fit" for field in dataclasses.fields(settings)):
        tuning = FitSettings(steps=3, batch_size=20, learning_rate=0.01, distillation=Distillation())
        settings = dataclasses.replace(settings, fit=tuning)  # type: ignore[call-arg]  # the field was just looked up
    setup = scene_setup(kind)
    return Subject(make_evaluator(name, setup, settings), setup, scene_inherited(setup))
