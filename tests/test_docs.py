"""The documentation site: its examples run, its fragments call what exists, and its pages are all in the menu."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import autoprune as ap
from autoprune.criteria import Evidence
from autoprune.testing import toys
from autoprune.weight_sets import Inherited

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))
KINDS = ("python", "py", "console", "text", "toml")
"""Examples that are run; fragments of larger programs, whose calls are checked; what a terminal shows; files."""


def blocks(page: Path, kind: str) -> list[str]:
    """Return the blocks of one kind of a page, those in tabs included."""
    found = re.findall(rf"^( *)```{kind}\n(.*?)^ *```$", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [dedent(text) for _, text in found]


def run_page(name: str) -> dict[str, Any]:
    """Run the examples of a page from top to bottom and return the names that they leave."""
    names: dict[str, Any] = {"__name__": __name__}
    for block in blocks(DOCS / f"{name}.md", "python"):
        exec(compile(block, f"{name}.md", "exec"), names)
    return names


def test_every_block_is_of_a_kind() -> None:
    """No block of code is neither run, nor checked, nor marked as what a terminal or a file shows."""
    for page in PAGES:
        fences = re.findall(r"^ *```(.*)$", page.read_text("utf-8"), flags=re.MULTILINE)
        assert set(fences[::2]) <= set(KINDS), page.name
        assert set(fences[1::2]) <= {""}, page.name


def test_every_page_is_in_the_menu() -> None:
    """And the menu has no page that there is not."""
    menu = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text("utf-8"))["nav"]

    def pages(entry: object) -> list[str]:
        inner = entry if isinstance(entry, list) else [*entry.values()] if isinstance(entry, dict) else []
        return [entry] if isinstance(entry, str) else [page for item in inner for page in pages(item)]

    assert sorted(pages(menu)) == [page.name for page in PAGES]


def test_the_reference_has_every_name() -> None:
    """Each public name of the package has its place, once."""
    told = re.findall(r"^::: autoprune\.(\w+)$", (DOCS / "api.md").read_text("utf-8"), flags=re.MULTILINE)
    assert sorted(told) == sorted({*ap.__all__} - {"__version__"})


def test_your_model_in_ten_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page does what it says: half of the MACs, a front, a report, and a file that loads to the same model."""
    monkeypatch.chdir(tmp_path)
    names = run_page("ten-minutes")
    assert names["found"].share["macs"] <= 0.5
    assert names["found"].after["accuracy"] > 0.8
    assert names["point"].costs["macs"] <= 0.4 * names["problem"].dense_costs["macs"]
    assert type(names["again"]) is names["Net"]
    assert {path.name for path in (tmp_path / "runs/mine").iterdir()} >= {"report.html", "run.sqlite"}


@pytest.mark.parametrize("name", ["tasks", "how-it-works"])
def test_pages_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of these pages run as they stand."""
    monkeypatch.chdir(tmp_path)
    assert run_page(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["migration", "complex"])
def test_long_pages_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So do those of these, which take longer."""
    monkeypatch.chdir(tmp_path)
    assert run_page(name)


def test_the_lines_of_the_migration_page_are_counted() -> None:
    """The table says how long the three examples of the same job are, and what it says is so."""
    page = DOCS / "migration.md"
    examples = [*blocks(page, "python"), *blocks(page, "text")]
    lines = [[line for line in text.splitlines() if line and not re.match(r"import |from ", line)] for text in examples]
    told = re.search(r"\| lines of code above, without imports \| (\d+) \| (\d+) \| (\d+) \|", page.read_text("utf-8"))
    assert told is not None
    assert [len(of) for of in lines] == [int(number) for number in told.groups()]


def test_what_one_writes_oneself() -> None:
    """The strategy proposes genomes of the space, the criterion scores every channel, the recipe makes weights."""
    names = run_page("extending")
    setup = toys.toy_setup()
    for job in names["CoinFlips"](setup).ask(5):
        setup.space.check(np.array([job.candidate.genome]))
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)).eval()
    structure = ap.trace_model(model, torch.rand(1, 4))
    tensors = dict(model.state_dict())
    [scores] = names["largest_weight"](Evidence(model, structure, tensors, None, None, 0))
    assert scores.tolist() == pytest.approx(model[0].weight.detach().abs().amax(dim=1).tolist())
    settings = names["ScaledSettings"](0.5)
    parent = Inherited(tensors, ())
    made = names["Scaled"].prepare(None, settings, parent, 0, identity="", slot=None)
    assert torch.equal(made.weights["0.weight"], 0.5 * tensors["0.weight"])
    for info, known in (("INFO", "largest_weight"), ("RECIPE", "Scaled")):
        assert known in repr(names[info])


FRAGMENTS = [page for page in PAGES if blocks(page, "py") and page.stem != "recipes"]  # which test_recipes compares


@pytest.mark.parametrize("page", FRAGMENTS, ids=lambda page: page.stem)
def test_fragments_call_what_exists(page: Path) -> None:
    """Whatever a fragment takes from autoprune is there, and has the arguments that it is given."""
    owners = {"ap": ap, "point": ap.RunPoint, "run": ap.Run, "comparison": ap.Comparison}
    checked = 0
    for node in (node for block in blocks(page, "py") for node in ast.walk(ast.parse(block))):
        called = re.match(r"(\w+)\.(\w+)$", ast.unparse(node.func)) if isinstance(node, ast.Call) else None
        if called and called[1] in owners:
            parameters = inspect.signature(getattr(owners[called[1]], called[2])).parameters
            assert {keyword.arg for keyword in node.keywords} <= {*parameters, None}, ast.unparse(node)
            checked += 1
    assert checked
