"""Running cut networks in ONNX Runtime, and reading from its profiles where the time goes."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from autoprune.core.groups import Operator
from autoprune.errors import MissingDependencyError, TraceError, warn
from autoprune.surgery.empty import Empty
from autoprune.surgery.forward import forward, tensors_in

if TYPE_CHECKING:
    from autoprune.latency.runtimes import Marked, Pass

MANY = 6
"""Exports from which on the user is told why it takes so long."""

TOLERANCE = 1e-3
"""How far outputs may be from those of torch, relative to the largest of them."""


class OnnxRuntime:
    """Runs networks that are cut from one model on the CPU, each checked against what torch computes.

    Args:
        model: the dense model.
        sample: one sample of its input.
        batch: the batch that is run.
        threads: CPU threads within operators.

    Raises:
        MissingDependencyError: packages are missing.
        TraceError: torch cannot export the model.
    """

    most_marked = 10  # reading what the profiler wrote of a pass takes longer than the pass

    def __init__(self, model: nn.Module, sample: Any, batch: Any, threads: int) -> None:
        missing = [package for package in ("onnx", "onnxscript", "onnxruntime") if find_spec(package) is None]
        if missing:
            msg = f"times in ONNX Runtime need {', '.join(missing)}: pip install 'autoprune[export]'"
            raise MissingDependencyError(msg)
        from autoprune.latency.onnx_graphs import OnnxGraphs

        self._sample = sample
        self._batch = batch
        self._threads = threads
        self._graphs = OnnxGraphs(model, sample)

    @property
    def exported(self) -> int:
        """How many networks torch has exported."""
        return self._graphs.exported

    def load(self, network: nn.Module) -> Callable[[], object]:
        """Return what runs one pass in ONNX Runtime, see `Runtime`."""
        session = self._opened(network)
        return partial(session.run, None, _feeds(session, self._batch))

    def mark(self, network: nn.Module, operators: Sequence[Operator]) -> Marked:
        """Return what runs one pass under ONNX Runtime's profiler, see `Runtime`."""
        modules = {operator.module for operator in operators}
        folder = tempfile.TemporaryDirectory(prefix="autoprune-profile-")
        session = self._opened(network, str(Path(folder.name) / "pass"))
        labels = {name: own if own in modules else "" for name, own in self._graphs.modules().items()}
        return _Profiled(session, self._batch, labels, folder)

    def _opened(self, network: nn.Module, profile: str = "") -> Any:
        """Return a session that computes what ``network`` does: where learnt constants do not, of torch's export."""
        with torch.inference_mode():
            expected = [tensor.float().cpu().numpy() for tensor in tensors_in(forward(network, self._sample))]
        dropped = any(isinstance(module, Empty) for module in network.modules())  # whose graph has fewer nodes
        graph = self._graphs.exported_alone(network) if dropped else self._graphs.of(network)
        session, wrong = self._tried(graph, expected, profile)
        if not wrong:
            return session
        if not dropped:
            session, wrong = self._tried(self._graphs.exported_anew(network), expected, profile)
            if self._graphs.exported == MANY:
                warn(
                    f"how the ONNX graph of {type(network).__name__} follows its widths is not understood: torch "
                    "exports every network by itself, which takes seconds for each",
                    stacklevel=2,
                )
        if wrong:
            msg = f"ONNX Runtime does not run the model of class {type(network).__name__}: {wrong}; use runtime='torch'"
            raise TraceError(msg)
        return session

    def _tried(self, graph: bytes, expected: Sequence[Any], profile: str) -> tuple[Any, str]:
        """Open a graph whose outputs for one sample should be ``expected``, and say what is wrong; "" for nothing."""
        try:
            session = self._session(graph, profile)
            found = session.run(None, _feeds(session, self._sample))
        except Exception as error:  # noqa: BLE001 - the bindings raise a dozen types
            return None, f"the exported graph does not run ({error})"
        if [output.shape for output in found] != [output.shape for output in expected]:
            return session, "the exported graph has outputs of other shapes"
        off = [
            np.abs(a - b).max(initial=0) / (np.abs(b).max(initial=0) + 1e-12)
            for a, b in zip(found, expected, strict=True)
        ]
        return session, "" if all(each <= TOLERANCE for each in off) else f"what it computes is off by {max(off):.1g}"

    def _session(self, graph: bytes, profile: str = "") -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = bool(profile)
        options.profile_file_prefix = profile
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def version() -> str:
    """Return the installed version, as it stands in tables."""
    try:
        return version_of("onnxruntime")
    except PackageNotFoundError:
        return "(not installed)"


def _feeds(session: Any, batch: Any) -> dict[str, Any]:
    """Return the tensors of a batch by the names of the graph's inputs."""
    names = [value.name for value in session.get_inputs()]
    if isinstance(batch, Mapping) and set(names) <= batch.keys():
        return {name: batch[name].numpy() for name in names}
    tensors = [leaf.numpy() for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)]
    return dict(zip(names, tensors, strict=True))


class _Profiled:
    """Runs passes under the profiler, which has the wall clock's time of every node.

    Args:
        session: a session that is profiled, and may have run before.
        batch: the batch that is run.
        labels: the module of each node and value of the graph before ONNX Runtime has fused any.
        folder: folder that the profile is written to.
    """

    def __init__(
        self, session: Any, batch: Any, labels: Mapping[str, str], folder: tempfile.TemporaryDirectory[str]
    ) -> None:
        self._session = session
        self._feeds = _feeds(session, batch)
        self._labels = labels
        self._folder = folder
        self._known: dict[str, str | None] = {}

    def __call__(self) -> None:
        self._session.run(None, self._feeds)

    def passes(self) -> Sequence[Pass]:
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        self._folder.cleanup()
        modules = tuple(dict.fromkeys(["", *self._labels.values()]))
        found = []
        spent: Counter[str] = Counter()
        label = ""
        for event in events:
            name = event["name"]
            if name.endswith("_kernel_time"):
                label = self._label(name.removesuffix("_kernel_time"), label)
                spent[label] += event["dur"]
            elif name == "model_run":
                spent[""] += event["dur"] - spent.total()  # what is between the nodes
                found.append((modules, 1e-6 * np.array([spent[module] for module in modules])))
                spent.clear()
        return found

    def _label(self, node: str, before: str) -> str:
        """Return the module of a node that ran; one that ONNX Runtime added belongs to the node before."""
        if node not in self._known:
            plain = re.sub(r"_token_\d+$", "", node.partition("/")[0])
            self._known[node] = self._labels.get(plain, self._labels.get(plain.removesuffix("_nchwc")))
        known = self._known[node]
        return before if known is None else known
