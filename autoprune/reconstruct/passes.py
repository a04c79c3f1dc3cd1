"""The passes of a cut model over all batches, advanced together from one consumer to the next.

A consumer can be solved when every batch has reached it, and what lies before it has been computed with the weights
that are solved by then. So each batch has a forward pass of its own, which stops where its batch has told what the
consumer needs, and goes on when the consumer is solved: the cut model runs once for all consumers. Only one pass runs
at any time.

Two things make a pass start again from the input. A consumer that runs several times in a forward pass has computed
something with the weights that it had before; so has one that runs before an earlier one is solved, as in a branch that
is not finished when the other one begins. And passes that have stopped hold their activations: those that do not fit
into the memory are given up, and start again when the next consumer is solved.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from autoprune.reconstruct.consumers import Consumer
from autoprune.reconstruct.following import OutputFollower, tensors_in
from autoprune.reconstruct.goals import Goal
from autoprune.reconstruct.norms import Batches, MovedNorms
from autoprune.reconstruct.statistics import FeatureReader, products, second_moments
from autoprune.reconstruct.strand import Strand
from autoprune.surgery.copying import copy_with
from autoprune.surgery.forward import forward

ROW_BYTES = 2**29
"""Memory for the rows of a consumer before a rectifier; where they take more they are met as they are."""

_MAX_HELD = 256
"""Passes that wait at a time: each of them is a thread."""


class Passes:
    """Forward passes of a cut model, one per batch.

    Args:
        pruned: the cut model; consumers are solved in it.
        goals: goals of the consumers that are not solved yet, by module; entries are taken out as they are solved.
        batches: the batches to run on.
        seed: seed for the positions that are sampled in large feature maps.
        max_rows: see `FeatureReader`.
        norms: norms to normalise by; None leaves it to the batch norms.
        max_bytes: memory for the activations of passes that wait.
    """

    def __init__(
        self,
        pruned: nn.Module,
        goals: Mapping[str, Goal],
        batches: Batches,
        *,
        seed: int,
        max_rows: int,
        norms: MovedNorms | None,
        max_bytes: int,
    ) -> None:
        self._max_rows = max_rows
        self._pruned = pruned
        self._batches = batches
        self._seed = seed
        self._max_bytes = max_bytes
        # Modules may keep something between two lines of their forward: every pass has modules of its own, with the
        # tensors of the one model.
        tensors = [(tensor, tensor.detach()) for tensor in chain(pruned.parameters(), pruned.buffers())]
        self._passes = [_Pass(copy_with(pruned, tensors), goals, norms, turn) for turn in range(len(batches))]

    def moments(self, consumer: Consumer) -> Seen | None:
        """Advance all passes until they have seen what solves a consumer, which then counts as solved.

        Returns:
            None for a consumer that never runs, or that is given other positions than in the dense model.
        """
        name = consumer.module
        module = self._pruned.get_submodule(name)
        target = _Target(name, module, FeatureReader(consumer, module, self._seed, self._max_rows))
        self._advance(target)
        return target.seen()

    def finish(self) -> None:
        """Let all passes run to their ends, with what is solved."""
        self._advance(None)

    def _advance(self, target: _Target | None) -> None:
        starting = [not each.leads_to(target.name if target else "") for each in self._passes]
        batches = iter(self._batches) if any(starting) else None
        for each, starts in zip(self._passes, starting, strict=True):
            inputs = next(batches)[0] if batches else None
            if starts:
                each.start(inputs)
            each.advance(target)
            held = [other.n_bytes for other in self._passes if other.n_bytes]
            if sum(held) > self._max_bytes or len(held) > _MAX_HELD:
                each.give_up()

    def close(self) -> None:
        """Give up what has not run to its end."""
        for each in self._passes:
            each.give_up()


@dataclass(frozen=True, eq=False)
class Seen:
    """What solves a consumer.

    Attributes:
        cross: (blocks, o, k + 1) means of ``t x'^T``.
        own: (blocks, k + 1, k + 1) means of ``x' x'^T``.
        rows: per batch and call, (blocks, rows, o) goals, (blocks, rows, k + 1) features, and what is added to the
            output, in its units, None for nothing. Empty if no rectifier follows, or if they take too much memory.
        halves: ``cross`` and ``own`` of every second batch, and of the others; none of a single batch.
        n_items: items that the rows are of.
    """

    cross: Tensor
    own: Tensor
    rows: list[tuple[Tensor, Tensor, Tensor | None]]
    halves: tuple[tuple[Tensor, Tensor], ...]
    n_items: int


class _Sums:
    """Sums over rows, see `Seen`."""

    def __init__(self) -> None:
        self.cross = self.own = torch.zeros((), dtype=torch.float64)
        self.n_rows = 0


class _Target:
    """The consumer that all passes go to, and what they have seen there."""

    def __init__(self, name: str, module: nn.Module, reader: FeatureReader) -> None:
        self.name = name
        self._module = module
        self.reader = reader
        self._sums = [_Sums(), _Sums()]  # of the even batches, and of the odd ones
        self._n_items = 0
        self._is_comparable = True
        self._rows: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._room = ROW_BYTES
        self._outputs: dict[Any, Tensor] = {}  # without their content, by shape, strides and type of the input

    def add(
        self, goal: Tensor, features: Tensor, stream: Tensor | None, turn: int, n_items: int, *, keep: bool
    ) -> None:
        """Add (blocks, rows, o) goals of (blocks, rows, k + 1) features of a batch."""
        self._n_items += n_items
        if keep:
            self._room -= goal.nbytes + features.nbytes + (stream.nbytes if stream is not None else 0)
            self._rows.append((goal, features, stream))
        if self._room < 0:
            self._rows.clear()
        sums = self._sums[turn % 2]
        sums.cross = sums.cross + products(goal, features)
        sums.own = sums.own + second_moments(features)
        sums.n_rows += features.shape[1]

    def refuse(self) -> None:
        """Note that a call has other positions than in the dense model: nothing says which belong together."""
        self._is_comparable = False
        self._rows.clear()

    def blank(self, x: Tensor) -> Tensor:
        """Return memory for the output of the consumer for an input, whatever is in it."""
        key = (x.shape, x.stride(), x.dtype)
        if key not in self._outputs:
            module = copy.deepcopy(self._module).to("meta")
            with torch.device("meta"):
                self._outputs[key] = type(module).forward(module, x.to("meta"))
        like = self._outputs[key]
        return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=x.device)

    def seen(self) -> Seen | None:
        """Return what was seen; None when there was nothing, or nothing to compare it with."""
        even, odd = self._sums
        n_rows = even.n_rows + odd.n_rows
        if not (n_rows and self._is_comparable):
            return None
        filled = all(half.n_rows for half in self._sums)
        halves = tuple((half.cross / half.n_rows, half.own / half.n_rows) for half in self._sums) if filled else ()
        cross, own = (even.cross + odd.cross) / n_rows, (even.own + odd.own) / n_rows
        return Seen(cross, own, self._rows, halves, self._n_items)


class _Pass:
    """The forward pass of one batch.

    Args:
        model: a copy of the cut model that shares its tensors.
        goals: goals of the consumers that are not solved yet, by module.
        norms: see `Passes`.
        turn: number of the batch.
    """

    def __init__(self, model: nn.Module, goals: Mapping[str, Goal], norms: MovedNorms | None, turn: int) -> None:
        self.n_bytes = 0
        self._model = model
        self._names = list(goals)
        self._goals = goals
        self._norms = norms
        self._turn = turn
        self._own = {tensor.untyped_storage().data_ptr() for tensor in chain(model.parameters(), model.buffers())}
        self._strand: Strand | None = None
        self._is_stale = False  # something was computed with weights that are out of date
        self._alive = _Alive()
        self._n_calls: Counter[str] = Counter()
        self._norm_calls: Counter[str] = Counter()
        self._under_way: dict[str, tuple[Tensor, int]] = {}  # inputs of consumers on the way to their sums
        self._target: _Target | None = None
        self._blank: Tensor | None = None  # in the place of an output that is computed when its consumer is solved
        self._leaves_blank = False
        for name, goal in goals.items():
            if goal.sum and goal.n_calls == 1:
                for part in filter(None, (name, goal.sum.norm)):
                    layer = model.get_submodule(part)
                    layer.forward = functools.partial(self._or_blank, layer.forward)

    def leads_to(self, name: str) -> bool:
        """Whether going on from here passes the consumer ("" for the end), or its sum, with everything up to date."""
        if self._strand is None or self._strand.is_done or self._is_stale:
            return False
        return not self._n_calls[name] or (name in self._under_way and self._goals[name].n_calls == 1)

    def start(self, inputs: Any) -> None:
        """Begin with the batch."""
        self.give_up()
        self._is_stale = self._leaves_blank = False
        self._blank = None
        self._n_calls.clear()
        self._norm_calls.clear()
        self._under_way.clear()
        self._alive = _Alive()
        self._strand = Strand(lambda: self._run(inputs))

    def advance(self, target: _Target | None) -> None:
        """Go on until the batch has told the target all that it has to tell."""
        self._target = target
        if self._strand:
            self._strand.resume()

    def give_up(self) -> None:
        """Forget how far the batch has come."""
        if self._strand:
            self._strand.give_up()
        self._strand = None
        self.n_bytes = 0

    def _run(self, inputs: Any) -> None:
        follower = OutputFollower(self._model, self._names, lambda *_: None, self._on_sum, self._on_input)
        with ExitStack() as stack:
            stack.enter_context(follower)  # first, so that it sees what a batch norm is given before anything reads it
            for name, layer in self._model.named_modules():
                if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
                    hook = layer.register_forward_pre_hook(lambda m, x, name=name: self._normalise(name, m, x[0]))
                    stack.callback(hook.remove)
            stack.enter_context(self._alive)
            forward(self._model, inputs)
        self.n_bytes = 0

    def _on_input(self, name: str, x: Tensor) -> None:
        self._n_calls[name] += 1
        goal = self._goals.get(name)
        if goal and goal.sum:
            self._under_way[name] = (x, _version(x))
            self._leaves_blank = self._target is not None and name == self._target.name and goal.n_calls == 1
        elif goal and self._target and name == self._target.name:
            self._tell(self._target, goal, x)

    def _on_sum(self, name: str, other: Tensor) -> Tensor | None:
        goal = self._goals.get(name)
        if goal is None or goal.sum is None or name not in self._under_way:
            return None
        x, version = self._under_way.pop(name)
        if not self._target or name != self._target.name:
            return None
        self._is_stale |= _version(x) != version  # overwritten meanwhile: it cannot run again on what is left
        self._tell(self._target, goal, x, other)
        self._blank = None
        # What is added to the stream, with the solved weights: nothing else has read it yet.
        output: Tensor = self._model.get_submodule(name)(x)
        if goal.sum.norm:
            self._norm_calls[goal.sum.norm] -= 1
            output = self._model.get_submodule(goal.sum.norm)(output)
        return output

    def _tell(self, target: _Target, goal: Goal, x: Tensor, other: Tensor | None = None) -> None:
        """Add what a call has to tell; wait after the last one."""
        rows = goal.rows[self._turn]
        if not rows:
            return  # it runs more often than in the dense model
        features, aim, count = target.reader(x), rows.pop(0), goal.counts[self._turn].pop(0)
        stream = None
        if target.reader.n_rows != count:
            target.refuse()
        else:
            if other is not None and goal.sum:
                stream = goal.in_blocks(goal.sum.before(target.reader.outputs(other)))
                aim = aim - stream
            target.add(aim, features, stream, self._turn, len(x), keep=goal.gate is not None)
        self._is_stale |= goal.n_calls > 1
        if not rows and self._strand:
            del features, aim, stream
            self.n_bytes = self._alive.n_bytes(self._own)
            self._strand.pause()

    def _or_blank(self, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Run a layer, unless nothing reads its output before it runs again with the solved weights."""
        if self._leaves_blank and self._target:
            self._leaves_blank = False
            self._blank = self._target.blank(x)
            return self._blank
        return x if x is self._blank else compute(x)

    def _normalise(self, name: str, layer: nn.Module, x: Tensor) -> None:
        if self._norms and x is not self._blank:
            self._norms.normalise(name, layer, x, self._turn, self._norm_calls[name])
        self._norm_calls[name] += 1


class _Alive(TorchFunctionMode):
    """Knows the tensors that were made while it is entered and that something still refers to."""

    def __init__(self) -> None:
        super().__init__()
        self._tensors: Any = WeakIdKeyDictionary()

    def n_bytes(self, besides: Iterable[int]) -> int:
        """Return their size, without those in the storages at the addresses ``besides``."""
        storages = (tensor.untyped_storage() for tensor in self._tensors)
        sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
        return sum(size for address, size in sizes.items() if address not in besides)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func`` and remember what it gave."""
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            self._tensors[tensor] = None
        return result


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written to, as far as that is known."""
    return 0 if tensor.is_inference() else tensor._version
