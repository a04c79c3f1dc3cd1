"""Running one function on a chosen node of a cluster, such as measuring latency on the machine that counts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

from autoprune.errors import ExecutorError
from autoprune.execute.ray.cluster import Cluster
from autoprune.execute.ray.transport import loose_modules
from autoprune.execute.settings import RaySettings

T = TypeVar("T")

A_LITTLE = 0.001
"""Share of a resource that a measurement takes: any number of searches may name the same node."""


def run_on(target: str, function: Callable[[], T], *, cpus: float = 1.0, gpus: float = 0.0) -> T:
    """Return what a function returns on a node of the cluster that this process has joined, or that this machine is in.

    Args:
        target: name of a resource of the node (``"edge"``, ``"node:10.0.0.7"``), or a label of it (``"kind=edge"``).
        function: function that is called there; it travels by value.
        cpus: cores that are kept free of other work for it.
        gpus: number of GPUs, likewise.

    Raises:
        MissingDependencyError: Ray is not installed.
        ExecutorError: the cluster cannot be reached, no node of it is the target, or the node was lost.
    """
    with closing(Cluster(RaySettings(address="auto"))):
        import ray

        name, is_label, value = target.partition("=")
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if is_label:
            found = [node for node in nodes if node.get("Labels", {}).get(name) == value]
            where: dict[str, Any] = {"label_selector": {name: value}}
        else:
            found = [node for node in nodes if node["Resources"].get(name, 0) > 0]
            where = {"resources": {name: A_LITTLE}}
        if not any(
            node["Resources"].get("CPU", 0) >= cpus and node["Resources"].get("GPU", 0) >= gpus for node in found
        ):
            needs = f"{cpus:g} CPU cores" + (f" and {gpus:g} GPUs" if gpus else "")
            known = sorted({name for node in nodes for name in (*node["Resources"], *_labels(node))})
            msg = (
                f"expected a node with the {'label' if is_label else 'resource'} {target!r} and {needs} to measure on, "
                f"the {len(nodes)} nodes have {', '.join(known)}; see `ray start --resources` and `--labels`"
            )
            raise ExecutorError(msg)
        call = ray.remote(_call).options(num_cpus=cpus, num_gpus=gpus, max_retries=0, **where)
        with loose_modules():
            answer = call.remote(function)
        try:
            result: T = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            msg = f"measuring on {target!r} ended: {error}"
            raise ExecutorError(msg) from error
        return result


def _call(function: Callable[[], T]) -> T:
    return function()


def _labels(node: Any) -> list[str]:
    return [f"{name}={value}" for name, value in node.get("Labels", {}).items() if not name.startswith("ray.io/")]
