"""The search spaces that ship with autoprune: each loads, matches its network, and its reference costs are exact."""

from __future__ import annotations

import pytest
import torch

from autoprune.config import SPACES as KNOWN
from autoprune.config import read_problem_file
from autoprune.config.building import build_example, build_model
from autoprune.core.space import SearchSpace
from autoprune.cost.counter import count_macs, count_params
from autoprune.cost.model import CostModel
from autoprune.trace import trace

SPACES = (
    "digits-resnet",
    "mobilenetv2-cifar10",
    "polsar-complex",
    "polsar-real",
    "resnet18-imagenet",
    "resnet20-cifar10",
    "resnet50-imagenet",
    "resnet56-cifar10",
    "shapes-detector",
    "shapes-segmenter",
    "vgg16-cifar10",
)


def test_every_space_ships() -> None:
    """The files are found beside the installed package, each with a line about itself."""
    assert tuple(KNOWN) == SPACES
    assert all(info.summary for info in KNOWN.values())


@pytest.mark.parametrize("name", SPACES)
def test_reference_costs_are_exact(name: str) -> None:
    """The costs in the file, an independent counter on the model, and the cost model at full width are equal."""
    file = read_problem_file(name)
    model, example = build_model(file, with_weights=False), build_example(file)
    structure = trace(model, example, validate=False)
    space = SearchSpace.build(structure, **file.tables.space.model_dump())
    counted = CostModel(structure, space)(space.full_genome[None, :])
    reference = file.tables.reference
    assert reference.macs == count_macs(model, example) == int(counted["macs"][0])
    assert reference.params == count_params(model) == int(counted["params"][0])


@pytest.mark.parametrize("name", SPACES)
def test_names_say_what_the_network_takes(name: str) -> None:
    """Every network answers to a batch of two."""
    file = read_problem_file(name)
    n_classes = 1000 if name.endswith("imagenet") else 4 if name.startswith("polsar") else 10
    with torch.inference_mode():
        outputs = build_model(file, with_weights=False)(build_example(file).repeat(2, 1, 1, 1))
    if name == "shapes-segmenter":
        assert outputs["out"].shape == (2, 4, 64, 64)
    elif name == "shapes-detector":
        assert [found.keys() for found in outputs] == [{"boxes", "labels", "scores"}] * 2
    else:
        assert outputs.shape == (2, n_classes)
