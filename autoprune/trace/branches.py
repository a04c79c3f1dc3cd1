"""Groups that may vanish as a whole: residual blocks, and whatever else the outputs can do without.

Where a group has no channel left, the layers that read nothing else put out a constant. What remains is a network if
every output still follows from the input on some other way: past the block, along the stream. Which ways there are says
the autograd graph of one forward pass. Groups that only feed what is gone, or are only fed by it, go with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from autoprune.core.groups import Axis, Structure
from autoprune.cost.samples import Samples
from autoprune.surgery.forward import counted_outputs, tensors_in
from autoprune.surgery.listening import answers
from autoprune.trace.given_model import copy_model


def find_branches(model: nn.Module, structure: Structure, samples: Samples) -> tuple[tuple[int, ...], ...]:
    """Return `Structure.branches` as far as the ways through the model say; whether the rest runs is to be tried.

    All of them may vanish at once. None where no gradient leads from the outputs to the input.

    Args:
        model: the traced model; a copy is run.
        structure: the traced structure of the model.
        samples: the samples of the example input.
    """
    try:
        ways = _Ways(model, structure, samples)
    except Exception:  # noqa: BLE001  (a forward that cannot be differentiated raises whatever it raises)
        return ()
    gone: set[int] = set()
    found: dict[int, tuple[int, ...]] = {}
    for unit in structure.tied_sets:
        if ways.lead_past({*gone, *unit}):
            gone.update(unit)
            found |= {g: (g, *(other for other in unit if other != g), *ways.idle_without(unit)) for g in unit}
    return tuple(tuple(g for g in branch if g in found) for _, branch in sorted(found.items()))


class _Ways:
    """The ways from the input to the outputs of a model.

    Args:
        model: see `find_branches`.
        structure: see `find_branches`.
        samples: see `find_branches`.
    """

    def __init__(self, model: nn.Module, structure: Structure, samples: Samples) -> None:
        self._n_groups = len(structure.groups)
        owners = {axis.tensor.rpartition(".")[0] for axis in structure.axes}
        with torch.enable_grad():
            outputs, made, starts = _run(model, structure, samples, owners)
        #: nodes of the graph, each after those that it is computed from
        nodes = _in_order([t.grad_fn for t in outputs if t.grad_fn is not None])
        number = {node: i for i, node in enumerate(nodes)}
        self._from = [[number[child] for child, _ in node.next_functions if child in number] for node in nodes]
        self._starts = {number[node] for node in starts if node in number}
        alive = self._alive(set())
        self._outputs = [number[t.grad_fn] for t in outputs if t.grad_fn is not None and alive[number[t.grad_fn]]]
        places = {name: [number[node] for node in called if node in number] for name, called in made.items()}
        self._ends, self._producers = _ends(model, structure, places)

    def lead_past(self, groups: Iterable[int]) -> bool:
        """Say whether every output that follows from the input does so without these groups."""
        alive = self._alive(self._cut(groups))
        return bool(self._outputs) and all(alive[i] for i in self._outputs)

    def idle_without(self, groups: Iterable[int]) -> list[int]:
        """Return the other groups that have no effect without these."""
        cut = self._cut(groups)
        alive = self._alive(cut)
        heard = [False] * len(alive)
        for i in self._outputs:
            heard[i] = True
        for i in reversed(range(len(heard))):
            if heard[i] and i not in cut:
                for child in self._from[i]:
                    heard[child] = True
        given = set(groups)
        return [
            g
            for g, nodes in self._producers.items()
            if g not in given and nodes and not any(heard[i] and alive[i] for i in nodes)
        ]

    def _cut(self, groups: Iterable[int]) -> set[int]:
        return {node for g in groups for node in self._ends[g]}

    def _alive(self, cut: set[int]) -> list[bool]:
        alive: list[bool] = []
        for i, children in enumerate(self._from):
            alive.append(i not in cut and (i in self._starts or any(alive[child] for child in children)))
        return alive


def _run(
    model: nn.Module, structure: Structure, samples: Samples, owners: Iterable[str]
) -> tuple[list[Tensor], dict[str, list[Any]], list[Any]]:
    """Run a model on one sample.

    Returns:
        Its outputs, the nodes of the autograd graph that the ``owners`` put out, by name, and those of its inputs.
    """
    starts: list[Any] = []

    def begin(tensor: Tensor) -> Tensor:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return tensor
        begun = tensor.detach().requires_grad_().clone()
        starts.append(begun.grad_fn)
        return begun

    copied = copy_model(model).eval().requires_grad_(requires_grad=False)
    example = pytree.tree_map_only(Tensor, begin, samples.take_small(1))
    whole_numbers = {t.untyped_storage().data_ptr() for t in tensors_in(example) if not t.is_floating_point()}
    made: dict[str, list[Any]] = {name: [] for name in owners}
    with ExitStack() as stack:
        for name, module in copied.named_modules():
            if isinstance(module, nn.Embedding):  # what whole numbers of the input choose follows from the input

                def chosen(_: nn.Module, args: Any, y: Tensor) -> Tensor:
                    is_given = args and args[0].untyped_storage().data_ptr() in whole_numbers
                    return begin(y) if is_given else y

                stack.callback(module.register_forward_hook(chosen).remove)
            if name in made and next(module.children(), None) is None:

                def note(_: nn.Module, __: Any, y: Any, name: str = name) -> None:
                    made[name] += [t.grad_fn for t in tensors_in(y) if t.grad_fn is not None]

                stack.callback(module.register_forward_hook(note).remove)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(lambda _: torch.zeros(0), lambda t: t))
        return counted_outputs(answers(copied, example, structure.outputs), structure.outputs), made, starts


def _in_order(ends: Iterable[Any]) -> list[Any]:
    """Return the nodes that lead to ``ends``, each after those that it is computed from."""
    order: dict[Any, None] = {}
    waiting = [(end, False) for end in ends]
    entered: set[Any] = set()
    while waiting:
        node, is_done = waiting.pop()
        if is_done:
            order[node] = None
        elif node not in entered:
            entered.add(node)
            waiting.append((node, True))
            waiting += [(child, False) for child, _ in node.next_functions if child is not None]
    return list(order)


def _ends(
    model: nn.Module, structure: Structure, places: dict[str, list[int]]
) -> tuple[list[set[int]], dict[int, list[int]]]:
    """Return per group the nodes that are constant without it, and those that produce its channels.

    Groups that anything but layers produces have no entry among the producers.
    """
    axes: dict[tuple[str, int], Axis] = {axis.key: axis for axis in structure.axes}
    ends: list[set[int]] = []
    producers: dict[int, list[int]] = {}
    for g, group in enumerate(structure.groups):
        ends.append(set())
        producers[g] = []
        for tensor, dim, role, _ in group.axes:
            owner = tensor.rpartition(".")[0]
            module = model.get_submodule(owner)
            is_whole = (
                bool((structure.group_of[axes[tensor, dim].genes] == g).all()) and (axes[tensor, dim].genes >= 0).all()
            )
            if role != "thru" and is_whole and isinstance(module, _ConvNd | nn.Linear):
                ends[g].update(places[owner])
            if role == "out":
                if g in producers and places[owner]:
                    producers[g] += places[owner]
                else:
                    producers.pop(g, None)
    return ends, producers
