"""Search-based pruning: a trained model, data and a budget in; a Pareto front of smaller models out.

The public names are resolved on first use: importing the package loads neither torch nor anything else that is heavy.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from autoprune.core.lazy import lazy_names

if TYPE_CHECKING:
    __version__: str
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
    from autoprune.execute.ray_settings import RaySettings
    from autoprune.pareto.front import Front
    from autoprune.surgery.cut import cut
    from autoprune.trace import trace as trace_model
    from autoprune.trace.validation import validate
    from autoprune.train.data import Data
    from autoprune.train.loop import fit
    from autoprune.train.named_data import load_data
    from autoprune.train.settings import FitSettings
    from autoprune.train.tasks import Classification, FunctionTask, TorchMetrics
    from autoprune.train.transforms import ImageTransform

_WHERE = {
    "Budget": "autoprune.core.budget",
    "Classification": "autoprune.train.tasks",
    "Comparison": "autoprune.api",
    "Data": "autoprune.train.data",
    "FitSettings": "autoprune.train.settings",
    "FunctionTask": "autoprune.train.tasks",
    "ImageTransform": "autoprune.train.transforms",
    "Problem": "autoprune.api",
    "Pruned": "autoprune.api",
    "ProxySettings": "autoprune.evaluate.evaluator",
    "RaySettings": "autoprune.execute.ray_settings",
    "ReconstructedSettings": "autoprune.evaluate.reconstructed",
    "Run": "autoprune.api",
    "Front": "autoprune.pareto.front",
    "RunPoint": "autoprune.api",
    "SearchSpace": "autoprune.core.space",
    "TorchMetrics": "autoprune.train.tasks",
    "TunedFront": "autoprune.api",
    "TunedPoint": "autoprune.api",
    "compare": "autoprune.api",
    "cut": "autoprune.surgery.cut",
    "describe": "autoprune.artifact",
    "finetune": "autoprune.api",
    "fit": "autoprune.train.loop",
    "load": "autoprune.artifact",
    "load_data": "autoprune.train.named_data",
    "open_run": "autoprune.api",
    "prune": "autoprune.api",
    "recover": "autoprune.api",
    "search": "autoprune.api",
    "trace_model": "autoprune.trace:trace",
    "validate": "autoprune.trace.validation",
}

__all__ = [
    "Budget",
    "Classification",
    "Comparison",
    "Data",
    "FitSettings",
    "Front",
    "FunctionTask",
    "ImageTransform",
    "Problem",
    "ProxySettings",
    "Pruned",
    "RaySettings",
    "ReconstructedSettings",
    "Run",
    "RunPoint",
    "SearchSpace",
    "TorchMetrics",
    "TunedFront",
    "TunedPoint",
    "__version__",
    "compare",
    "cut",
    "describe",
    "finetune",
    "fit",
    "load",
    "load_data",
    "open_run",
    "prune",
    "recover",
    "search",
    "trace_model",
    "validate",
]


_lazily, __dir__ = lazy_names(__name__, _WHERE)


def __getattr__(name: str) -> Any:
    return importlib.metadata.version("autoprune") if name == "__version__" else _lazily(name)
