"""Search-based channel pruning: a trained PyTorch model, data and a budget in; physically smaller models out.

One smaller model, in one call::

    import autoprune as ap

    found = ap.prune(model, ap.Data(train, val), {"macs": "50%"})
    print(found.summary)
    found.save("half.autoprune")
    small = ap.load("half.autoprune", fresh_dense_model)

A Pareto front of many sizes::

    problem = ap.Problem(model, data=data, objectives=("accuracy", "macs"), limits={"params": 150_000})
    run = ap.search(problem, "pymoo:nsga2", budget=ap.Budget(evaluations=400), store="runs/first")
    point = run.pick(max_macs="50%")
    point.save("half.autoprune")

What there is:

- **Pruning and searching**: `prune`, `Problem`, `search`, `Budget`, `compare`. What comes out is a `Pruned`, a `Run`
  with its `Front` of `RunPoint`, a `Comparison`. `open_run` opens a run's folder again; `RaySettings` uses a
  cluster.
- **Training**: `finetune` trains chosen points to their final weights (a `TunedFront` of `TunedPoint`); `recover`
  brings a smaller model nearer to the dense one without labels; `fit` is the training loop itself, `FitSettings` its
  settings, `Distillation` how much it learns from the dense model.
- **Data and tasks**: `Data`, `load_data`, `ImageTransform`; `Classification`, `Detection`, `Segmentation`,
  `TorchMetrics`, `FunctionTask`; `Unlabelled` for `Data` of inputs alone.
- **Measuring candidates**: `ProxySettings`, `ReconstructedSettings`; `LatencySettings`, `LatencyTable` predict times.
- **Files**: `load` and `describe` read pruned-model files; `export_model` writes ONNX; `save_pretrained` and
  `load_pretrained` keep the configuration of a model of transformers beside one, `correct_feature_info` puts timm's
  table right.
- **Parts**: `trace_model`, `validate`, `SearchSpace` and `cut` find what can be pruned, check it, and cut it.

To extend autoprune, see the pages of `strategies`, `criteria`, `evaluators`, `recipes`, `regularizers`, `data` and
`tasks`: each holds the base class, the settings and how to register a name (``help(ap.strategies)``).

Names are resolved on first use: importing the package loads neither torch nor anything else that is heavy.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from autoprune.core.registry import lazy_names

if TYPE_CHECKING:
    __version__: str
    from autoprune import criteria, data, evaluators, recipes, regularizers, strategies, tasks
    from autoprune.api import (
        Comparison,
        Problem,
        Pruned,
        Run,
        RunPoint,
        TunedFront,
        TunedPoint,
        compare,
        finetune,
        open_run,
        prune,
        recover,
        search,
    )
    from autoprune.artifact import describe, load
    from autoprune.core.budget import Budget
    from autoprune.core.space import SearchSpace
    from autoprune.evaluate.evaluator import ProxySettings
    from autoprune.evaluate.reconstructed import ReconstructedSettings
    from autoprune.execute.settings import RaySettings
    from autoprune.export import export as export_model
    from autoprune.latency.settings import LatencySettings
    from autoprune.latency.table import LatencyTable
    from autoprune.libraries import correct_feature_info, load_pretrained, save_pretrained
    from autoprune.pareto.front import Front
    from autoprune.surgery.cut import cut
    from autoprune.trace import trace as trace_model
    from autoprune.trace.validation import validate
    from autoprune.train.brought_tasks import FunctionTask, TorchMetrics
    from autoprune.train.data import Data
    from autoprune.train.detection import Detection
    from autoprune.train.distill import Distillation
    from autoprune.train.loop import fit
    from autoprune.train.named_data import load_data
    from autoprune.train.segmentation import Segmentation
    from autoprune.train.settings import FitSettings
    from autoprune.train.tasks import Classification, Unlabelled
    from autoprune.train.transforms import ImageTransform

_PAGES = ("criteria", "data", "evaluators", "recipes", "regularizers", "strategies", "tasks")
"""Modules of public names for those who extend autoprune."""

_WHERE = {
    "autoprune.api": (
        "Comparison",
        "Problem",
        "Pruned",
        "Run",
        "RunPoint",
        "TunedFront",
        "TunedPoint",
        "compare",
        "finetune",
        "open_run",
        "prune",
        "recover",
        "search",
    ),
    "autoprune.artifact": ("describe", "load"),
    "autoprune.core.budget": ("Budget",),
    "autoprune.core.space": ("SearchSpace",),
    "autoprune.evaluate.evaluator": ("ProxySettings",),
    "autoprune.evaluate.reconstructed": ("ReconstructedSettings",),
    "autoprune.execute.settings": ("RaySettings",),
    "autoprune.latency.settings": ("LatencySettings",),
    "autoprune.latency.table": ("LatencyTable",),
    "autoprune.export": ("export_model:export",),
    "autoprune.libraries": ("correct_feature_info", "load_pretrained", "save_pretrained"),
    "autoprune.pareto.front": ("Front",),
    "autoprune.surgery.cut": ("cut",),
    "autoprune.trace": ("trace_model:trace",),
    "autoprune.trace.validation": ("validate",),
    "autoprune.train.brought_tasks": ("FunctionTask", "TorchMetrics"),
    "autoprune.train.data": ("Data",),
    "autoprune.train.detection": ("Detection",),
    "autoprune.train.distill": ("Distillation",),
    "autoprune.train.loop": ("fit",),
    "autoprune.train.named_data": ("load_data",),
    "autoprune.train.segmentation": ("Segmentation",),
    "autoprune.train.settings": ("FitSettings",),
    "autoprune.train.tasks": ("Classification", "Unlabelled"),
    "autoprune.train.transforms": ("ImageTransform",),
}

__all__ = [
    "Budget",
    "Classification",
    "Comparison",
    "Data",
    "Detection",
    "Distillation",
    "FitSettings",
    "Front",
    "FunctionTask",
    "ImageTransform",
    "LatencySettings",
    "LatencyTable",
    "Problem",
    "ProxySettings",
    "Pruned",
    "RaySettings",
    "ReconstructedSettings",
    "Run",
    "RunPoint",
    "SearchSpace",
    "Segmentation",
    "TorchMetrics",
    "TunedFront",
    "TunedPoint",
    "Unlabelled",
    "__version__",
    "compare",
    "correct_feature_info",
    "criteria",
    "cut",
    "data",
    "describe",
    "evaluators",
    "export_model",
    "finetune",
    "fit",
    "load",
    "load_data",
    "load_pretrained",
    "open_run",
    "prune",
    "recipes",
    "recover",
    "regularizers",
    "save_pretrained",
    "search",
    "strategies",
    "tasks",
    "trace_model",
    "validate",
]


_lazily, __dir__ = lazy_names(__name__, _WHERE)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("autoprune")
    return importlib.import_module(f"autoprune.{name}") if name in _PAGES else _lazily(name)
