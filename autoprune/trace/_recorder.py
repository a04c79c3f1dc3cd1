"""Runs a model and follows ids through every torch function it calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _get_current_dispatch_mode, _pop_mode_temporarily
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.cost.multiply_adds import MacCounter
from autoprune.surgery.precision import is_inexact
from autoprune.trace._book import Contraction, Extent, Grid, IdBook, Producer, Site, SizeRule
from autoprune.trace._debts import Debts
from autoprune.trace._ids import Layers, along, compact, constant, has_ids, overlay, shrink, varying
from autoprune.trace._sizes import Arithmetic, AxisSize, ModuleInt, TracedInt, expression_of, leaves, untraced
from autoprune.trace._statistics import STATISTICS, StatisticCalls, watch_modules
from autoprune.trace.given_model import NOT_USER_CODE
from autoprune.trace.handlers import (
    ELEMENTWISE,
    FACTORIES,
    HANDLERS,
    MOVING,
    RECURRENT,
    TracedCall,
    combine,
    issued,
    make,
    plain_name,
)

# Leave torch without a trace; one element (a decision in Python) follows the example and is fine.
_LEAVING = {"numpy", "tolist", "__array__"}


class IdRecorder(TorchFunctionMode):
    """Follows ids through one model: a torch function mode that writes into an `IdBook`.

    Args:
        model: the copy of the model that will be run; its modules get hooks.
        book: the book that everything is written into.
        within_heads: whether channels within the heads of an attention vanish, rather than whole heads.
    """

    def __init__(self, model: nn.Module, book: IdBook, *, within_heads: bool = False) -> None:
        super().__init__()
        self.book = book
        self.modules = dict(model.named_modules())
        self.counting = True
        self.within_heads = within_heads
        self._counter = MacCounter()
        self._layers: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._names: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._weights: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._constants: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._stack: list[str] = [""]
        self._calls = StatisticCalls()
        self.debts = Debts(self)
        self._made: set[int] = set()
        self._undecided: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._loose: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._depth = 0
        for path, module in self.modules.items():
            for name, value in vars(module).items():
                if isinstance(value, Tensor):
                    self._loose[value] = f"{path}.{name}".lstrip(".")
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if is_inexact(tensor) or tensor.dtype == torch.bool:
                self._names[tensor] = name
                self._weights[tensor] = frozenset({name})
            elif tensor.dtype in (torch.int8, torch.uint8) and tensor.dim() > 1:
                self.debts.keep_stored(
                    tensor, f"{name!r}, which is stored in {str(tensor.dtype).removeprefix('torch.')}"
                )

    # ------------------------------------------------------------------ running

    @contextmanager
    def watching(self, model: nn.Module, inputs: list[Tensor]) -> Iterator[None]:
        """Follow everything that happens inside: torch functions, modules, operators that no torch function called."""
        handles = watch_modules(model, self._stack)
        self._layers.clear()
        self._calls = StatisticCalls()
        for tensor in inputs:
            self._layers[tensor] = (constant(tensor.shape),)
        self._counter = _Unseen(self)
        TracedInt.compared = self.book.compared
        try:
            with torch.no_grad(), self._counter, self:
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._stack[1:] = []
            TracedInt.compared = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Execute ``func`` and follow the ids through it."""
        kwargs = kwargs or {}
        plain_args, plain_kwargs = untraced(tuple(args)), untraced(dict(kwargs))
        self._depth += 1
        try:
            if self._depth > 1:
                return func(*plain_args, **plain_kwargs)
            name, in_place = plain_name(func)
            self.debts.call = self._calls.name(self.module) if name in STATISTICS else None
            original = self._original(plain_args) if in_place else None
            counted, written = self._counter.macs, len(self.book.contractions)
            result = func(*plain_args, **plain_kwargs)
            counted = self._counter.macs - counted
            call = TracedCall(name, func, plain_args, plain_kwargs, tuple(args), dict(kwargs), result, original)
            if name in ("size", "get:shape", "numel", "nelement"):
                return self._sizes(call)
            with _uncounted():  # what is done to ids is not counted: every operator would take its turn in Python
                self._note(call, in_place=in_place)
            self._reconcile(counted, written)
            return result
        finally:
            self._depth -= 1

    def _note(self, call: TracedCall, *, in_place: bool) -> None:
        """Follow the ids through a call that has run."""
        self.debts.carry_stored(call)
        if call.inputs and call.inputs[0] in self._loose and (call.name in ELEMENTWISE or call.name in MOVING):
            for output in call.outputs:
                self._loose[output] = self._loose[call.inputs[0]]
        if call.name in FACTORIES or (call.name == "expand" and not self.follows(call.inputs)):
            make(self, call)
        elif call.name in _LEAVING:
            self._leaving(call)
        elif self.follows(call.inputs):
            self._follow(call, in_place=in_place)
        else:
            for output in call.outputs:
                self._constants[output] = True

    def run_inside(self, function: Callable[[], Any], part: str = "") -> Any:
        """Run what a torch function does inside, written out as a model would, and follow it.

        Args:
            function: function of no arguments that is run.
            part: name of the part of the running module that does it; "" for the module itself.
        """
        depth, self._depth = self._depth, 0
        name = f"{self.module}.{part}".lstrip(".")
        self._stack.append(name if part and name in self.modules else self.module)
        try:
            with self._counter, self:
                return function()
        finally:
            self._stack.pop()
            self._depth = depth

    def _reconcile(self, macs: int, written: int) -> None:
        """Let the contractions that a call wrote down, from ``written`` on, add up to the ``macs`` that it ran.

        What no handler describes (unknown functions, products of constants) counts as a constant: its channels stay.
        """
        found = self.book.contractions[written:]
        if self.counting and macs != sum(contraction.dense for contraction in found):
            self.book.contractions[written:] = [Contraction(self.module, "other", macs, ())] if macs else []

    def _original(self, args: tuple[Any, ...]) -> Tensor | None:
        """Return the values of a constant that is about to be written into."""
        target = args[0] if args else None
        return target.clone() if isinstance(target, Tensor) and not self.follows([target]) else None

    def follows(self, tensors: list[Tensor]) -> bool:
        """Say whether any of the tensors is an activation or a tensor of the model."""
        return any(t in self._layers or t in self._names for t in tensors)

    def _follow(self, call: TracedCall, *, in_place: bool) -> None:
        carrying = [t for t in call.inputs if t in self._names or self.carries(t)]
        outputs = [call.args[0]] if call.name == "__setitem__" else call.outputs
        if not outputs:
            return
        if self._is_of_nothing(call, outputs):
            return
        handler = HANDLERS.get(call.name)
        of_weights = all(t in self._weights for t in call.inputs if self.follows([t]))
        n_pins = len(self.book.pins)
        if call.name not in RECURRENT:
            self.book.grids += [self._undecided.pop(t) for t in call.inputs if t in self._undecided]
        self.debts.carry(call, outputs, of_weights=of_weights)
        if not carrying:
            self._follow_nothing(call, outputs, of_weights=of_weights)
            if in_place and not of_weights:
                self._fill(outputs[0])
            return
        reason = ""
        if handler is None:
            reason = f"goes through `{call.name}`, which the tracer does not know"
        else:
            before = self._layers.get(outputs[0]) if in_place else None
            try:
                handler(self, call)
            except (RuntimeError, ValueError, IndexError, TypeError, KeyError, NotImplementedError) as error:
                reason = f"goes through `{call.name}`, which the tracer could not follow ({error})"
            else:
                if in_place and outputs[0] in self._layers:
                    self._spread(outputs[0], before)
        if reason:
            self.give_up(carrying, outputs, reason)
        if of_weights:
            self.debts.carry_sums(call.inputs, outputs)
            for output in outputs:
                self._weights[output] = self._sources(call)
        computed = (t in self._weights and t not in self._names for t in call.inputs)
        if of_weights or (call.name.startswith(("conv", "linear")) and any(computed)):
            self._add_remedy(n_pins)

    def _is_of_nothing(self, call: TracedCall, outputs: list[Tensor]) -> bool:
        """Say whether a call got no element of any activation, such as an expert without tokens; nothing can be tied.

        What it puts out has no channels, and what it writes into keeps those that it has.
        """
        activations = [t for t in call.inputs if t in self._layers and t not in self._weights]
        if all(t.numel() for t in activations) or call.name.startswith(("cat", "concat")):
            return False
        for output in outputs:
            if not output.numel() or all(output is not t for t in call.inputs):
                written = next((t for t in activations if t.shape == output.shape and t.numel()), None)
                self._layers[output] = (constant(output.shape),) if written is None else self.layers(written)
        return True

    def _follow_nothing(self, call: TracedCall, outputs: list[Tensor], *, of_weights: bool) -> None:
        """Note results in which no channel can vanish."""
        for output in outputs:
            if call.name.endswith("_like"):
                self._constants[output] = True
                continue
            made = issued(self, call) if call.name == "expand" else ()
            self._layers[output] = made or (constant(output.shape),)
            if of_weights:
                self._weights[output] = self._sources(call)

    def _fill(self, written: Tensor) -> None:
        """Let a constant hold data from now on, a part of which was written into it: images into a batch."""
        pointer = written.untyped_storage().data_ptr()
        for other in list(self._constants):
            if other not in self._layers and other.untyped_storage().data_ptr() == pointer:
                self._layers[other] = (constant(other.shape),)

    def _sources(self, call: TracedCall) -> frozenset[str]:
        """Return the names of the tensors of the model that the result of a call is computed from."""
        return frozenset().union(*(self._weights[t] for t in call.inputs if t in self._weights))

    def play_ids(self, weight: Tensor, ids: Tensor, role: str) -> None:
        """Note the role that ``ids`` play in a weight that was computed; what it is standardized over must be read."""
        if role != "in":
            self.debts.settle_standardized(weight, ids)
        self.book.play_ids(self._weights[weight], ids, role)

    def _add_remedy(self, first: int) -> None:
        """Let the pins from ``first`` on say what to do about the computed weight that caused them."""
        for i, event in enumerate(self.book.pins[first:], first):
            self.book.pins[i] = replace(event, reason=f"{event.reason}; {self._remedy()}")

    def _remedy(self) -> str:
        """Say what to do about a weight that the running module computes from its parameters."""
        name, _, inner = self.module.partition(".parametrizations.")
        module = self.modules[name]
        path = f"model.{name}" if name else "model"
        for hook in module._forward_pre_hooks.values():
            for kind, function in ((WeightNorm, "remove_weight_norm"), (SpectralNorm, "remove_spectral_norm")):
                if isinstance(hook, kind):
                    return f"remove the normalization first: torch.nn.utils.{function}({path})"
        if inner or is_parametrized(module):
            which = inner.partition(".")[0] or "weight"
            call = f"torch.nn.utils.parametrize.remove_parametrizations({path}, {which!r})"
            return f"remove the parametrization first: {call}"
        return f"store the computed weight in a plain layer in the place of {path} first"

    def give_up(self, inputs: list[Tensor], outputs: list[Tensor], reason: str) -> None:
        """Pin every channel that goes in; what comes out always stays."""
        site = self.site()
        for tensor in inputs:
            for layer in self.layers(tensor):
                self.book.pin(layer, reason, site)
        for output in outputs:
            before = self._layers.get(output)
            self._layers[output] = (constant(output.shape),)
            self._spread(output, before)

    def unseen(self, name: str, inputs: list[Tensor], outputs: list[Tensor], macs: int) -> None:
        """Note an operator that ran without a torch function: inside a jit-scripted function or compiled code."""
        self._reconcile(macs, len(self.book.contractions))
        if not self.follows(inputs):
            return
        if name in ("aten.detach.default", "aten.alias.default"):
            self.put(outputs[0], self.layers(inputs[0]))
            return
        carrying = [t for t in inputs if t in self._names or self.carries(t)]
        if name.split(".")[1] in ELEMENTWISE and len(outputs) == 1 and not any(outputs[0] is t for t in inputs):
            combine(self, inputs, outputs[0])
            return
        self.give_up(carrying, outputs, f"goes through `{name}` inside a jit-scripted or compiled function")

    def _leaving(self, call: TracedCall) -> None:
        self.debts.settle([tensor for tensor in call.inputs if tensor.numel() > 1])
        for tensor in call.inputs:
            for layer in self.layers(tensor) if self.follows([tensor]) else ():
                self.book.pin(layer, f"leaves torch through `{call.name}`", self.site())

    def _sizes(self, call: TracedCall) -> Any:
        tensor = call.args[0]
        if not isinstance(tensor, Tensor) or not self.follows([tensor]):
            return call.result
        if call.name in ("numel", "nelement"):
            total: int = 1
            for dim in range(tensor.dim()):
                total = self.size(tensor, dim) * total
            return total
        if isinstance(call.result, int):
            return self.size(tensor, call.arg(1, "dim"))
        return torch.Size([self.size(tensor, dim) for dim in range(tensor.dim())])

    # ------------------------------------------------------------------ ids of tensors

    def layers(self, tensor: Tensor) -> Layers:
        """Return the id layers of a tensor; a tensor of the model has one for each dimension it could be cut along."""
        known = self._layers.get(tensor)
        if known is not None:
            return known
        name = self._names.get(tensor)
        shape = tensor.shape
        dims = [d for d in range(tensor.dim()) if shape[d] > 1]
        if name is None or not dims:
            return (constant(shape),)
        for d in dims:
            if (name, d) not in self.book.roles:  # used as it is: it passes channels on, unless a contraction said more
                self.book.play(name, d, "thru")
        return tuple(along(self.book.axis(name, d, shape[d]), d, shape) for d in dims)

    def put(self, tensor: Tensor, layers: Layers) -> None:
        """Set the id layers of a tensor."""
        self._layers[tensor] = tuple(shrink(layer.expand(tensor.shape)) for layer in layers)

    def constant(self, tensor: Tensor) -> None:
        """Note that a tensor is a constant, whatever it was made next to."""
        self._layers.pop(tensor, None)
        self._constants[tensor] = True

    def make(self, size: int) -> Tensor:
        """Return (size,) new ids for a dimension of a constant whose size was computed."""
        ids = self.book.issue(size)
        self._made.update(ids.tolist())
        return ids

    def is_made(self, layer: Tensor) -> bool:
        """Say whether all ids of a layer are those that a constant was made with."""
        return set(torch.unique(compact(layer)).tolist()) <= self._made

    def adopt(self, target: Tensor, incoming: Tensor) -> None:
        """Tie the ids that a constant was made with to the ids that are written into it."""
        if set(varying(target)) == set(varying(incoming)) and self.is_made(target):
            self.book.unite(target, incoming, self.site())

    def when_used(self, tensor: Tensor, grid: Grid) -> None:
        """Note what must be decided about a tensor's ids where anything but a recurrent layer reads it."""
        self._undecided[tensor] = grid

    def carries(self, tensor: Tensor) -> bool:
        """Say whether an activation has elements that can vanish."""
        return any(has_ids(layer) for layer in self._layers.get(tensor, ()))

    def is_weight(self, tensor: Tensor) -> bool:
        """Say whether a tensor is computed from tensors of the model alone."""
        return tensor in self._weights

    def name(self, tensor: Tensor) -> str | None:
        """Return the name of a tensor of the model, None for any other."""
        return self._names.get(tensor)

    def about(self, reason: str, operands: list[Tensor]) -> str:
        """Return a reason with the name of an operand that is kept on a module, but not as a tensor of the model."""
        name = next((self._loose[t] for t in operands if t in self._loose), None)
        if name is None:
            return reason
        return f"{reason}: with {name!r}, which is neither a parameter nor a buffer; register it as a buffer"

    def single(self, tensor: Tensor, prefer: int | None = None) -> Tensor:
        """Return one id layer of a tensor (one that varies along ``prefer`` if there is one) and pin the others."""
        layers = self.layers(tensor)
        best = next((i for i, layer in enumerate(layers) if prefer is not None and prefer in varying(layer)), None)
        if best is None:
            best = next((i for i, layer in enumerate(layers) if varying(layer)), 0)
        for i, layer in enumerate(layers):
            if i != best:
                self.book.pin(layer, "varies along several dimensions at once", self.site())
        return layers[best]

    def channel_ids(self, tensor: Tensor, dim: int, role: str = "thru") -> Tensor:
        """Return the (size,) ids along ``dim`` of a tensor; everything inside a slice is tied.

        ``role`` is noted for the tensor of the model, or for those a weight was computed from.
        """
        name = self._names.get(tensor)
        if name is not None and tensor not in self._layers:
            self.book.play(name, dim, role)
            return self.book.axis(name, dim, tensor.shape[dim])
        layers = self.layers(tensor)
        layer = next((known for known in layers if dim in varying(known)), constant(tensor.shape))
        if self.is_weight(tensor):
            self.play_ids(tensor, layer, role)
        return self.book.slice_ids(layer, dim, self.site())

    def _spread(self, tensor: Tensor, before: Layers | None) -> None:
        """Let other views of a tensor that was written into see its new ids."""
        after: Layers = self._layers[tensor]
        if before is not None and len(before) == len(after):
            same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
            if same:
                return
        pointer = tensor.untyped_storage().data_ptr()
        for other in [*self._layers.keys(), *self._constants.keys()]:
            if other is tensor or other.untyped_storage().data_ptr() != pointer:
                continue
            theirs = self.layers(other)
            if len(theirs) == len(after) == 1:
                self._layers[other] = (shrink(overlay(tensor, after[0], other, theirs[0])),)
            else:
                self.book.pin(after[0], "is written into a view of another tensor", self.site())

    # ------------------------------------------------------------------ writing things down

    def site(self) -> Site:
        """Return the running module and the line of user code that called torch."""
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith(NOT_USER_CODE):
            frame = frame.f_back  # type: ignore[assignment]
        source = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""
        return Site(self._stack[-1], source)

    @property
    def module(self) -> str:
        """Dotted name of the running module."""
        return self._stack[-1]

    def size(self, tensor: Tensor, dim: int) -> int:
        """Return the size of a dimension as an integer that remembers its axis."""
        dim = dim % tensor.dim()
        size = int(tensor.shape[dim])
        name = self._names.get(tensor)
        if name is not None and tensor not in self._layers:  # to be asked for its size is no role
            extent = Extent(self.book.axis(name, dim, size), 0) if size > 1 else None
        else:
            extent = next((Extent(layer, dim) for layer in self.layers(tensor) if dim in varying(layer)), None)
        if extent is None:
            return size
        self.book.sizes.append(extent)
        return TracedInt(size, AxisSize(len(self.book.sizes) - 1))

    def rule(self, value: int, extent: Extent, what: str) -> None:
        """Note that ``value`` is used where the kept size of ``extent`` must stand."""
        expression = expression_of(value)
        if isinstance(expression, int) and not has_ids(extent.ids):
            return
        self.book.rules.append(SizeRule(expression, extent, what, self.site()))

    def stays(self, layer: Tensor, dim: int, what: str) -> None:
        """Note that the size of ``dim`` may not change."""
        if dim in varying(layer):
            self.rule(int(layer.shape[dim]), Extent(layer, dim), what)

    def grid(self, layer: Tensor, sizes: dict[int, int]) -> None:
        """Note ids that vary along several dimensions of a view; ``sizes`` are the size arguments by dimension."""

        def rank(dim: int) -> int:
            value = sizes.get(dim, -1)
            expression = expression_of(value)
            if value == -1 or any(isinstance(leaf, AxisSize) for leaf in leaves(expression)):
                return 0
            return 1 if isinstance(expression, ModuleInt | Arithmetic) else 2

        dims = varying(layer)
        if len(dims) > 1:
            preferred = tuple(sorted((d for d in dims if rank(d) < 2), key=rank))
            self.book.grids.append(Grid(layer, preferred, self.site()))

    def contraction(self, kind: str, constant_factor: int, factors: list[Extent]) -> None:
        """Note a contraction: ``constant_factor`` times the sizes of ``factors`` multiply-adds."""
        if self.counting:
            self.book.contractions.append(Contraction(self.module, kind, constant_factor, tuple(factors)))

    def kept_layer(self, channels: int, reason: str) -> None:
        """Note that the running module produces channels that all stay, and why."""
        self.book.producers.setdefault(
            (self.module, 0), Producer(self.module, constant((channels,)), reason, self.site())
        )

    def traced_attribute(self, call: TracedCall, position: int, name: str) -> int | None:
        """Return an argument if it remembers where it came from, else None."""
        value = call.traced(position, name)
        return value if isinstance(value, TracedInt) else None

    def producer(self, weight: Tensor, ids: Tensor) -> None:
        """Note that the running module produces the channels ``ids`` with ``weight``."""
        name = self._names.get(weight)
        module = self.module or (name or "")
        reason = ""
        if not has_ids(ids):
            reason = f"has a weight computed in a way that the tracer could not follow; {self._remedy()}"
        first = int(ids[0]) if ids.numel() else 0
        self.book.producers.setdefault((module, first), Producer(module, ids, reason, self.site()))


def _uncounted() -> AbstractContextManager[Any]:
    """Return a context in which the innermost counter of operators sees nothing."""
    return nullcontext() if _get_current_dispatch_mode() is None else _pop_mode_temporarily()


class _Unseen(MacCounter):
    """Counts all operators, and sees those that run without any torch function: in jit-scripted and foreign code."""

    def __init__(self, recorder: IdRecorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        recorder = self._recorder
        counted = self.macs
        recorder._depth += 1
        try:
            result = super().__torch_dispatch__(func, types, args, kwargs)
            if recorder._depth == 1:
                inputs = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
                outputs = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
                recorder.unseen(str(func), inputs, outputs, self.macs - counted)
        finally:
            recorder._depth -= 1
        return result
