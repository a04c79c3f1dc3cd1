"""What a probe shares with the dense model: everything that runs before the first tensor that the probe changes.

A probe lowers one variable alone, so every module that has run before gives bit for bit what it gives in the dense
model. The first probe of a variable remembers the outputs of these modules, batch by batch; the next ones, and the
first of a later variable as far as that goes, take them from memory.

Which module runs when, and which tensors are read when, is traced once. What is remembered is tried on two small
batches before it is used: where a model keeps something between its modules, so that leaving some out changes what
others give, its probes run as a whole.
"""

from __future__ import annotations

import functools
import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from autoprune.surgery.forward import forward
from autoprune.surgery.matching import named_tensors
from autoprune.surgery.precision import is_inexact
from autoprune.train.recalibrate import batch_norms

MAX_BYTES = 512 * 2**20
"""Memory for outputs; where they take more nothing is shared."""

_END = 2**62
"""A time after everything."""

_Key = tuple[nn.Module, int]


@dataclass(eq=False)
class _Call:
    """One call of a module in a forward pass.

    Attributes:
        key: the module, and how many of its calls came before.
        parent: the call that it is part of.
        start: the time at which it began, in events of the pass.
        end: the time at which it was over.
        parts: calls that are part of it.
        reads: times at which anything but a module took one of its output tensors.
        is_whole: whether its outputs are all that it does: tensors of their own, and its inputs stay as they were.
    """

    key: _Key
    parent: _Call | None
    start: int
    end: int = _END
    parts: list[_Call] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    is_whole: bool = False

    def is_read(self, without: Iterable[_Call]) -> bool:
        """Say whether anything reads its outputs in a pass without some calls."""
        return any(not any(call.start < time < call.end for call in without) for time in self.reads)


class _Trace(TorchFunctionMode):
    """The calls of a forward pass, and when it first needs what.

    Args:
        model: the model, in evaluation mode.
        inputs: a small batch.

    Attributes:
        first_use: the time at which a tensor is first read, or a module that owns it first runs, by its name.
        first_call: the time at which a module first runs, by its name.
        is_stateless: whether nothing keeps an output when the pass is over.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self._time = 0
        self._calls: list[_Call] = []
        self._stack: list[_Call] = []
        self._counts: Counter[nn.Module] = Counter()
        self._made: Any = WeakIdKeyDictionary()  # the calls that returned it, by tensors
        self._uses: dict[int, int] = {}  # by the identity of a tensor
        self._is_aside = False
        tensors = named_tensors(model)
        self._ids = {id(tensor) for tensor in tensors.values()}
        with torch.no_grad(), _replaced_forwards(model, self._call), self:
            outputs = forward(model, inputs)
        for call in (call for leaf in _leaves(outputs) for call in self._made.get(leaf, ())):
            call.reads.append(_END)
        del outputs
        if len(self._made):
            gc.collect()
        self.is_stateless = not len(self._made)
        began: dict[nn.Module, int] = {}
        for call in self._calls:
            began.setdefault(call.key[0], call.start)
        for module, time in began.items():
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                self._uses[id(tensor)] = min(self._uses.get(id(tensor), _END), time)
        self.first_call = {name: began[module] for name, module in model.named_modules() if module in began}
        self.first_use = {name: self._uses[id(tensor)] for name, tensor in tensors.items() if id(tensor) in self._uses}
        for norm in batch_norms(model):  # its statistics are those of all its calls together
            for above in (call for call in self._calls if call.key[0] is norm and self._counts[norm] > 1):
                part: _Call | None = above
                while part is not None:
                    part.is_whole = False
                    part = part.parent

    def before(self, time: int) -> list[_Call]:
        """Return the largest calls that are over by then and can be left out."""
        found, waiting = [], self._calls[:1]
        while waiting:
            call = waiting.pop()
            if call.is_whole and call.end <= time:
                found.append(call)
            elif call.start < time:
                waiting += call.parts
        return found

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func``, and see what it reads."""
        if not self._is_aside:
            self._time += 1
            for tensor in _leaves((args, kwargs)):
                if id(tensor) in self._ids:
                    self._uses.setdefault(id(tensor), self._time)
                for call in self._made.get(tensor, ()):
                    call.reads.append(self._time)
        return func(*args, **(kwargs or {}))

    def _call(self, module: nn.Module, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._time += 1
        call = _Call((module, self._counts[module]), self._stack[-1] if self._stack else None, self._time)
        self._counts[module] += 1
        self._calls.append(call)
        if call.parent:
            call.parent.parts.append(call)
        before = self._versions((args, kwargs))
        self._stack.append(call)
        output = compute(*args, **kwargs)
        self._stack.pop()
        self._time += 1
        call.end = self._time
        after, made = self._versions((args, kwargs)), self._versions(output)
        leaves = pytree.tree_leaves(output)
        is_new = all(isinstance(leaf, Tensor) for leaf in leaves) and not {*made} & {*before, *after}
        call.is_whole = bool(leaves) and is_new and before == after
        for leaf in _leaves(output):
            self._made.setdefault(leaf, []).append(call)
        return output

    def _versions(self, value: Any) -> dict[int, int]:
        """Return how often each storage of the tensors in ``value`` was written to, by its address."""
        self._is_aside = True
        try:
            tensors = [leaf for leaf in _leaves(value) if leaf.numel()]
            return {t.untyped_storage().data_ptr(): 0 if t.is_inference() else t._version for t in tensors}
        finally:
            self._is_aside = False


class SharedPrefix:
    """Remembers what runs in a model before the first change.

    Args:
        model: the module that becomes one candidate after the other; now one of them, in evaluation mode.
        inputs: inputs that candidates run on, the same tensors every time.
        tried: two small batches of inputs.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[Any], tried: Sequence[Any]) -> None:
        self._model = model
        self._tried = tried
        starts = [_leaves(batch)[0] for batch in (*tried, *inputs) if _leaves(batch)]
        self._turns = {id(tensor): tensor for tensor in starts}
        can_replace = not any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
        is_distinct = len(self._turns) == len(tried) + len(inputs)
        trace = _Trace(model, tried[0]) if can_replace and is_distinct else None
        self._trace = trace if trace and trace.is_stateless else None
        self._until = 0
        self._calls: list[_Call] = []  # that are left out
        self._memory: dict[_Key, dict[int, Any]] = {}  # their outputs by batch
        self._hollow: set[_Key] = set()  # of which only the shapes are remembered: nothing reads them
        self._room = MAX_BYTES

    def advance(self, tensors: Iterable[str], modules: Iterable[str]) -> list[str]:
        """Prepare for the candidate that the model is now.

        Args:
            tensors: names of the tensors in which it differs from the dense model.
            modules: names of the modules whose attributes differ.

        Returns:
            Names of the batch norms that need not run: they see what those of the dense model see.
        """
        if self._trace is None:
            return []
        times = [self._trace.first_use.get(name, 0) for name in tensors]
        times += [self._trace.first_call.get(name, 0) for name in modules]
        if (until := min(times, default=0)) != self._until:
            self._until = until
            calls = self._trace.before(until)
            self._calls = calls if self._is_right(calls) else []
            self._forget_others()
        skipped = {norm for call in self._calls for norm in batch_norms(call.key[0])}
        return [name for name, module in self._model.named_modules() if module in skipped]

    def _is_right(self, calls: Sequence[_Call]) -> bool:
        """Say whether leaving out calls changes nothing, not even after a pass over other items."""
        try:
            with torch.no_grad():
                wanted = _leaves(forward(self._model, self._tried[0]))
                for number in (0, 1, 0):
                    with self._running(calls):
                        found = _leaves(forward(self._model, self._tried[number]))
            return len(found) == len(wanted) and all(map(torch.equal, found, wanted))
        except Exception:  # noqa: BLE001  whatever a model raises where some of its modules do not run
            return False

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Let the model run without what comes before the change of the candidate that it is."""
        with self._running(self._calls):
            yield
        self._forget_others()

    @contextmanager
    def _running(self, calls: Sequence[_Call]) -> Iterator[None]:
        is_read = {call.key: call.is_read(calls) for call in calls}
        counts: Counter[nn.Module] = Counter()
        turn = 0
        skipped: set[_Key] = set()

        def run(module: nn.Module, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            nonlocal turn, skipped
            if module is self._model:
                counts.clear()
                first = next(iter(_leaves((args, kwargs))), None)
                turn = id(first) if self._turns.get(id(first)) is first else 0
                skipped = self._skipped(calls, turn) if turn else set()
            key = module, counts[module]
            counts[module] += 1
            if key in skipped:
                found = self._memory[key][turn]
                return found if key in self._hollow else pytree.tree_map(torch.clone, found)
            output = compute(*args, **kwargs)
            if turn and key in is_read:
                self._remember(key, turn, output, as_it_is=is_read[key])
            return output

        with _replaced_forwards(self._model, run):
            yield

    def _skipped(self, calls: Sequence[_Call], turn: int) -> set[_Key]:
        """Return which of the calls are not run, or of their parts: all whose outputs are there, or not needed."""
        found, is_settled = list(calls), False
        while not is_settled:
            lacking = [
                call
                for call in found
                if turn not in self._memory.get(call.key, ()) or (call.key in self._hollow and call.is_read(found))
            ]
            found = [call for call in found if call not in lacking]
            parts = [part for call in lacking for part in call.parts]
            while parts:
                part = parts.pop()
                if part.is_whole:
                    found.append(part)
                else:
                    parts += part.parts
            is_settled = not lacking
        return {call.key for call in found}

    def _remember(self, key: _Key, turn: int, output: Any, *, as_it_is: bool) -> None:
        if as_it_is:
            if key in self._hollow:
                self._hollow.remove(key)
                del self._memory[key]
            self._room -= sum(leaf.nbytes for leaf in _leaves(output))
            kept = pytree.tree_map(torch.clone, output)
        else:
            self._hollow.add(key)
            kept = pytree.tree_map(_hollowed, output)
        if self._room >= 0:
            self._memory.setdefault(key, {})[turn] = kept

    def _forget_others(self) -> None:
        """Keep what is needed for the calls that are left out, and nothing where that is too much."""
        if self._room < 0:
            self._calls = []
        needed = {call.key for call in self._calls}
        self._memory = {key: found for key, found in self._memory.items() if key in needed}
        self._hollow &= needed
        known = (leaf for key in needed - self._hollow for leaf in _leaves([*self._memory.get(key, {}).values()]))
        self._room = MAX_BYTES - sum(leaf.nbytes for leaf in known)


@contextmanager
def _replaced_forwards(model: nn.Module, run: Callable[..., Any]) -> Iterator[None]:
    """Call ``run(module, forward, ...)`` instead of the forward of every module."""
    own = {module: vars(module).get("forward") for module in model.modules()}
    try:
        for module in own:
            object.__setattr__(module, "forward", functools.partial(run, module, module.forward))
        yield
    finally:
        for module, replaced in own.items():
            if replaced is not None:
                object.__setattr__(module, "forward", replaced)
            else:
                vars(module).pop("forward", None)


def _hollowed(leaf: Tensor) -> Tensor:
    """Return what looks like a tensor, without its memory."""
    return leaf.new_full((), torch.nan if is_inexact(leaf) else 0).expand(leaf.shape)


def _leaves(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
