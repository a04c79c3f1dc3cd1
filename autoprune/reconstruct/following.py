"""Where the output of a module goes: into a batch norm that takes it directly, and from there into a sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

_Origin = tuple[int, str, int]

_RECTIFIERS = frozenset({"relu", "relu_", "relu6", "hardtanh", "hardtanh_"})
"""Functions that give the same for everything below zero."""

_ADDITIONS = frozenset({"add", "add_", "__add__", "__iadd__", "__radd__"})


class OutputFollower(TorchFunctionMode):
    """Follows the outputs of modules for as long as it is entered.

    A batch norm that is given such an output as it is takes its place, so that what is added to a residual stream is
    known by the layer that computed it.

    Args:
        model: the model that is run meanwhile.
        names: dotted names of the modules to follow.
        on_call: called with a name, the input and the output, whenever the module has run.
        on_sum: called with a name and the other term, before the output is added to a tensor of its shape; of two
            outputs first for the one that was there first. What it returns is added in the place of the output.
        on_input: called with a name and the input, before the module runs.

    Attributes:
        norms: dotted name of the batch norm by the name of the module whose output it takes.
        n_calls: number of times that a module or batch norm has run, by its name.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Collection[str],
        on_call: Callable[[str, Tensor, Tensor], None],
        on_sum: Callable[[str, Tensor], Tensor | None] = lambda name, other: None,  # noqa: ARG005  nothing to do
        on_input: Callable[[str, Tensor], None] = lambda name, x: None,  # noqa: ARG005
    ) -> None:
        super().__init__()
        self.norms: dict[str, str] = {}
        self.n_calls: Counter[str] = Counter()
        self._on_call = on_call
        self._on_sum = on_sum
        self._on_input = on_input
        self._followed = {model.get_submodule(name): name for name in names}
        self._norms: dict[nn.Module, str] = {
            module: name for name, module in model.named_modules() if isinstance(module, _BatchNorm)
        }
        self._made_by: Any = WeakIdKeyDictionary()  # (turn, name, call) by tensors, which are no keys of a dict
        self._taken: dict[nn.Module, _Origin] = {}  # whose output a batch norm is working on
        self._is_aside = False  # while a callback works on what it was given
        self._hooks = ExitStack()
        self._n_sums: Counter[str] = Counter()
        self._n_uses: Counter[str] = Counter()
        self._sums: Any = WeakIdKeyDictionary()  # the name that was there last, by the sums themselves
        self._n_sum_uses: Counter[str] = Counter()
        self._n_rectified: Counter[str] = Counter()

    def joining(self) -> frozenset[str]:
        """Return the modules whose outputs were terms of a sum every time they ran, and nothing else."""
        return frozenset(
            name
            for name in self._followed.values()
            if self.n_calls[name] == self._n_sums[name] == self._n_uses[name] > 0
        )

    def rectified(self) -> frozenset[str]:
        """Return the modules from whose outputs, or the sums that they join last, only a rectifier ever reads."""
        joining = self.joining()
        uses = {name: (self._n_sum_uses if name in joining else self._n_uses)[name] for name in self._followed.values()}
        return frozenset(name for name, n in uses.items() if self.n_calls[name] == self._n_rectified[name] == n > 0)

    def __enter__(self) -> Self:
        """Hook the modules."""
        for module in self._followed:
            self._hooks.callback(module.register_forward_pre_hook(self._before_call, with_kwargs=True).remove)
            self._hooks.callback(module.register_forward_hook(self._after_call, with_kwargs=True).remove)
        for norm in self._norms:
            self._hooks.callback(norm.register_forward_pre_hook(self._before_norm).remove)
            self._hooks.callback(norm.register_forward_hook(self._after_norm).remove)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unhook them."""
        super().__exit__(kind, error, trace)
        self._hooks.close()
        self._made_by.clear()
        self._sums.clear()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func``, and see which followed tensors it reads."""
        kwargs = kwargs or {}
        if self._is_aside:
            return func(*args, **kwargs)
        given = list(tensors_in((args, kwargs)))
        read = [self._made_by[tensor] for tensor in given if tensor in self._made_by]
        sums = [self._sums[tensor] for tensor in given if tensor in self._sums]
        kind = getattr(func, "__name__", "")
        met = self._meet(*args) if read and kind in _ADDITIONS and not kwargs else ""
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            self._n_uses.update(name for _, name, _ in read)
            self._n_sum_uses.update(sums)
            if kind in _RECTIFIERS and (not kind.startswith("hardtanh") or kwargs.get("min_val") == 0):
                self._n_rectified.update([*(name for _, name, _ in read), *sums])
            if result in self._sums:
                del self._sums[result]  # changed in place
            if met:
                self._sums[result] = met
            if result in self._made_by and read:
                del self._made_by[result]  # changed in place
        return result

    def _meet(self, *terms: Any) -> str:
        """Say which terms of a sum are the latest outputs of followed modules; returns the last of them."""
        if len(terms) != 2 or not all(isinstance(term, Tensor) for term in terms) or terms[0].shape != terms[1].shape:
            return ""
        last = ""
        pairs = [(self._made_by[x], x, y) for x, y in (terms, terms[::-1]) if x in self._made_by]
        for (_, name, call), term, other in sorted(pairs, key=lambda pair: pair[0]):
            if call == self.n_calls[name]:
                self._n_sums[name] += 1
                last = name
                with self._aside():
                    instead = self._on_sum(name, other)
                if instead is not None:
                    term.copy_(instead)
        return last

    @contextmanager
    def _aside(self) -> Iterator[None]:
        self._is_aside = True
        try:
            yield
        finally:
            self._is_aside = False

    def _before_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self._is_aside:
            return
        name = self._followed[module]
        self.n_calls[name] += 1
        x = next(tensors_in((args, kwargs)))
        if x.numel():  # an expert that no token was sent to runs on nothing
            with self._aside():
                self._on_input(name, x)

    def _after_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        if self._is_aside:
            return
        name = self._followed[module]
        x = next(tensors_in((args, kwargs)))
        if x.numel():
            with self._aside():
                self._on_call(name, x, output)
        self._made_by[output] = (self.n_calls.total(), name, self.n_calls[name])

    def _before_norm(self, norm: nn.Module, args: tuple[Any, ...]) -> None:
        if self._is_aside:
            return
        self.n_calls[self._norms[norm]] += 1
        origin = self._made_by.pop(args[0], None) if args else None
        if origin is not None:
            self._taken[norm] = origin

    def _after_norm(self, norm: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
        origin = None if self._is_aside else self._taken.pop(norm, None)
        if origin is not None:
            self.norms[origin[1]] = self._norms[norm]
            self._made_by[output] = origin


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
