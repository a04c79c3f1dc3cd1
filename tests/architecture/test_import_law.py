"""Who may import whom: the layers of the package, its doors to heavy libraries, and what its import costs."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import autoprune

ROOT = Path(autoprune.__file__).parent

LAYERS = (
    ("errors",),
    ("core",),
    ("pareto", "store", "surgery", "searchspaces", "weight_sets"),
    ("clustering", "trace", "cost", "criteria", "regularizers", "train", "reconstruct", "strategies", "artifact"),
    ("prepare", "evaluate", "export", "latency", "libraries"),
    ("execute",),
    ("orchestrator", "comparison", "finetuning", "report", "plan"),
    ("api", ""),  # "" is the package itself, whose names are those of api
    ("data", "evaluators", "recipes", "tasks"),  # pages of public names
    ("config", "cli"),
    ("testing", "__main__"),
)
"""A unit may import itself and what stands in a line above its own; what stands beside it only where listed below."""

BESIDE = {
    ("criteria", "reconstruct"),
    ("regularizers", "criteria"),  # a penalty pushes the weights that criteria rank
    ("comparison", "orchestrator"),
    ("comparison", "report"),
    ("weight_sets", "surgery"),  # tensors are packed as in every other file
    ("store", "pareto"),  # a record of a run has its front
    ("cli", "config"),
    ("evaluate", "prepare"),
    ("train", "cost"),
    ("latency", "export"),  # what is timed in ONNX Runtime is what is exported
    ("trace", "cost"),
}

NARROWER = {"strategies": {"errors", "core", "pareto"}}
"""Units that may import less than their layer."""

DOORS = {
    "optuna": {"report/optuna_study.py", "strategies/_optuna.py"},
    "moocore": {"pareto/dominance.py", "pareto/hypervolume.py"},
    "pymoo": {"strategies/_pymoo.py"},
    "ray": {
        "execute/ray/backend.py",
        "execute/ray/checkpoints.py",
        "execute/ray/cluster.py",
        "execute/ray/target.py",
        "execute/ray/transport.py",
        "execute/ray/worker.py",
        "finetuning/_tune.py",
    },
    "onnx_ir": {"latency/onnx_graphs.py"},
    "onnxruntime": {"latency/onnx_runtime.py"},
    "plotly": {"report/document.py"},
    "jinja2": {"report/document.py"},
}
"""The only files that may import a heavy library."""

NUMPY_COUNTRY = (
    "errors.py",
    "core/",
    "pareto/",
    "store/",
    "strategies/",
    "cost/model.py",
    "cost/polynomials.py",
    "cost/timings.py",
    "latency/settings.py",
    "latency/table.py",
)
TORCH = ("torch", "torchvision", "torchmetrics", "timm")

RANK = {unit: rank for rank, layer in enumerate(LAYERS) for unit in layer}


@dataclass(frozen=True)
class Import:
    """One import statement: the file it stands in, its line, what it names, whether only type checkers follow it."""

    file: str
    line: int
    target: str
    is_for_types: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def imports_in(file: str, tree: ast.Module) -> Iterator[Import]:
    """Yield the imports of a file, those inside functions included; `__getattr__` of an ``__init__.py`` is lazy."""

    def visit(node: ast.AST, is_for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef) and child.name == "__getattr__" and file.endswith("__init__.py"):
                continue
            if isinstance(child, ast.Import):
                yield from (Import(file, child.lineno, alias.name, is_for_types) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}:{child.lineno}: relative imports hide the unit"
                for alias in child.names:
                    yield Import(file, child.lineno, f"{child.module}.{alias.name}", is_for_types)
            guarded = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            yield from visit(child, is_for_types or guarded)

    yield from visit(tree, False)


def unit_of(path: str) -> str:
    """Return the unit of a file such as ``core/jobs.py`` or of the name ``core.jobs``."""
    return path.replace("/", ".").partition(".")[0]


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    """Return every import of the package."""
    files = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
    return [found for file in files for found in imports_in(file, ast.parse((ROOT / file).read_text("utf-8")))]


def offences(imports: list[Import]) -> list[str]:
    """Return what breaks the layers, the doors or the border between the two countries."""
    offenders = []
    for found in imports:
        package, _, rest = found.target.partition(".")
        allowed = found.file in DOORS.get(package, {found.file})
        if package in TORCH:
            allowed = not found.file.startswith(NUMPY_COUNTRY)
        elif package == "autoprune" and found.file != "__init__.py":
            above, below = unit_of(found.file), unit_of(rest)
            is_unit = bool(below) and ((ROOT / below).is_dir() or (ROOT / f"{below}.py").is_file())
            if not is_unit and below not in RANK:
                below = "api"  # a public name of the package, as in `import autoprune as ap`
            assert {above, below} <= RANK.keys(), f"{found}: say in LAYERS where {above!r} and {below!r} stand"
            is_lower = RANK[below] < RANK[above] and below in NARROWER.get(above, {below})
            allowed = above == below or is_lower or (above, below) in BESIDE
        if not allowed:
            offenders.append(str(found))
    return offenders


def test_the_law_names_what_there_is() -> None:
    """Every unit, door and file that the law names exists, and every unit has its place in the layers."""
    named = {unit for unit in RANK if unit} | {unit for pair in BESIDE for unit in pair} | NARROWER.keys()
    present = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert named == present - {"__init__"}
    files = {file for files in DOORS.values() for file in files} | set(NUMPY_COUNTRY)
    assert [file for file in sorted(files) if not (ROOT / file).exists()] == []


def test_imports_keep_the_law(imports: list[Import]) -> None:
    """Imports point to lower layers; heavy libraries have one door each; the numpy country does not know torch."""
    assert not offences(imports), "\n".join(offences(imports))


@pytest.mark.parametrize(
    ("file", "source", "is_offence"),
    [
        ("core/new.py", "from autoprune.surgery import cut", True),
        ("core/new.py", "def f():\n    import torch.nn", True),
        ("strategies/new.py", "from autoprune.cost.model import CostModel", True),
        ("strategies/new.py", "from autoprune.core.space import SearchSpace", False),
        ("trace/new.py", "if True:\n    import optuna", True),
        ("strategies/_optuna.py", "import optuna", False),
        ("surgery/__init__.py", "def __getattr__(name):\n    from autoprune.api import Run", False),
        ("surgery/new.py", "def __getattr__(name):\n    from autoprune.api import Run", True),
    ],
)
def test_the_law_can_fail(file: str, source: str, is_offence: bool) -> None:
    """The check sees a planted offence, also inside a function, and lets what is allowed pass."""
    assert bool(offences(list(imports_in(file, ast.parse(source))))) is is_offence


def test_no_cycles(imports: list[Import]) -> None:
    """No file of the package needs itself in order to be imported."""
    modules = {
        path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", ".") for path in ROOT.rglob("*.py")
    }
    modules |= {module.removesuffix(".__init__") for module in modules}
    graph: dict[str, set[str]] = {}
    for found in imports:
        if not found.is_for_types:
            source = "autoprune." + found.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
            named = found.target if found.target in modules else found.target.rpartition(".")[0]
            graph.setdefault(source, set()).update({named} & modules - {source})
    assert list(graphlib.TopologicalSorter(graph).static_order())


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter that sees the package under test."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT.parent), *sys.path])}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_numpy_country_needs_no_torch() -> None:
    """Everything that chooses, and the arithmetic of costs, imports where torch is not installed."""
    files = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")]
    country = [file.removesuffix(".py").removesuffix("/__init__") for file in files if file.startswith(NUMPY_COUNTRY)]
    modules = ["autoprune." + file.replace("/", ".") for file in country]
    assert "autoprune.core.groups" in modules
    # A finder that refuses: libraries look for torch in sys.modules, and a None there would confuse them.
    blocker = f"""
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {(*TORCH, "ray", "plotly")!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
[importlib.import_module(name) for name in {modules!r}]
"""
    done = run(blocker)
    assert done.returncode == 0, done.stderr


def test_a_problem_needs_no_tables_and_no_pictures() -> None:
    """The verbs and a `Problem` load none of what only tables, pictures, statistics and other machines need."""
    done = run(
        "import sys, autoprune; autoprune.Problem, autoprune.search, autoprune.prune; "
        "print(*{'ray', 'optuna', 'pymoo', 'plotly', 'pandas', 'scipy.stats', 'scipy.optimize'} & sys.modules.keys())"
    )
    assert done.stdout.split() == [], f"autoprune.Problem loads {done.stdout} {done.stderr}"
    assert done.returncode == 0


def test_import_is_light() -> None:
    """`import autoprune` takes less than 0.3 s of the processor and loads neither torch nor ray."""
    code = (
        "import sys, time; start = time.process_time(); import autoprune; seconds = time.process_time() - start; "
        "print(seconds, *sorted({'torch', 'ray', 'optuna', 'pymoo', 'plotly', 'pandas'} & sys.modules.keys()))"
    )
    runs = [run(code) for _ in range(3)]
    assert all(done.returncode == 0 for done in runs), runs[0].stderr
    heavy = runs[0].stdout.split()[1:]
    assert not heavy, f"import autoprune loads {heavy}"
    assert min(float(done.stdout.split()[0]) for done in runs) < 0.3
