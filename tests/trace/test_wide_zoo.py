"""The wide zoo: what is cut out of a network computes what it should, costs what is said, trains, and is exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autoprune.artifact import load, save
from autoprune.errors import TraceError
from autoprune.export import export
from autoprune.surgery.forward import counted_outputs, forward
from autoprune.surgery.listening import answers
from tests.surgery.surgery_laws import check_full_genome_is_identical, check_masked_equals_sliced, check_trains
from tests.trace.wide_zoo import ACCEPTED, TARGETS, WIDE, build, halve

pytestmark = pytest.mark.filterwarnings("ignore")  # those of eight libraries are theirs


def cases(*, exported: bool = False) -> list[object]:
    """Return the networks; all but the fast ones are run by `make test-zoo`."""
    slow = (pytest.mark.zoo, pytest.mark.timeout(600))
    chosen = {name: network for name, network in WIDE.items() if network.exports or not exported}
    return [pytest.param(name, marks=() if net.fast and not exported else slow) for name, net in chosen.items()]


@pytest.mark.parametrize("name", cases())
def test_half_of_a_network(name: str, tmp_path: Path) -> None:
    """Cut to half of every group: parameters, MACs as integers, masks, gradients, the file, and how much is left."""
    network = WIDE[name]
    model, example = build(name)
    half = halve(model, example, network.outputs)
    check_full_genome_is_identical(model, half.structure)
    assert half.costs["params"] == sum(p.numel() for p in half.small.parameters())
    assert half.costs["macs"] == half.counted_macs
    if not network.uncounted:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            forward(half.small, example)
        assert half.costs["macs"] == counter.get_total_flops() // 2
    assert 100 * half.left <= network.left
    save(tmp_path / "small", half.small, half.structure, kept=half.kept)
    again = load(tmp_path / "small", build(name)[0])
    with torch.no_grad():
        ours, theirs = (
            counted_outputs(answers(small.eval(), example, network.outputs), network.outputs)
            for small in (half.small, again)
        )
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, yours, rtol=0, atol=0, equal_nan=True)
    check_masked_equals_sliced(model, half.structure, half.kept, example, neutral=True, single=network.single)
    model.train(network.lesson is not None)
    check_trains(model, half.structure, half.kept, network.lesson() if network.lesson else example)


@pytest.mark.parametrize("name", cases(exported=True))
@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_what_exports_whole_exports_cut(form: str, name: str, tmp_path: Path) -> None:
    """A network that torch turns into ONNX, or into a program, is turned into it when it is cut."""
    model, example = build(name)
    try:
        export(model, example, tmp_path / "dense", form=form)
    except TraceError as error:
        pytest.skip(f"the dense network is not exported: {str(error)[:200]}")
    small = halve(model, example, WIDE[name].outputs).small
    export(small, example, tmp_path / "small", form=form)
    assert (tmp_path / "small").stat().st_size < (tmp_path / "dense").stat().st_size


def test_the_list_is_as_the_page_says() -> None:
    """At least 120 networks with the first zoo; more than 60 % left has a reason, and so has nothing else."""
    from tests.trace.zoo import ZOO

    assert len(WIDE) + len(ZOO) >= 120
    assert {network.family for network in WIDE.values()} == TARGETS.keys()
    for name, network in WIDE.items():
        assert (network.left > ACCEPTED) == bool(network.why), name
