"""What a model answers where that is not what it returns: the outputs of modules inside, such as a detector's heads.

A detector returns boxes that were selected by their scores; how many there are follows from their values, so that they
can be compared with another model's by nothing but a metric. What counts is what the selection starts from. Its name is
that of the module, called: ``"head()"``, or ``"head().cls_logits"`` for a part of what it puts out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from autoprune.errors import InvalidArgumentError, did_you_mean
from autoprune.surgery.forward import forward

_CALLED = "()"

_DETECTORS = {
    f"torchvision.models.detection.{name}": (f"head{_CALLED}",)
    for name in ("ssd.SSD", "retinanet.RetinaNet", "fcos.FCOS")
}
"""What counts of networks that select boxes, by the class of the model."""


def usual_outputs(model: Any) -> tuple[str, ...]:
    """Return the names of the outputs that count where nobody names any; nothing where all that is returned counts."""
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(model).__mro__)
    return next((_DETECTORS[name] for name in names if name in _DETECTORS), ())


def modules_in(names: Sequence[str]) -> list[str]:
    """Return the modules whose outputs count, by name.

    >>> modules_in(["head().cls_logits", "logits"])
    ['head']
    """
    found = [name.partition(_CALLED)[0] for name in names if _CALLED in name]
    return list(dict.fromkeys(found))


class Listener:
    """Hears what the modules put out that count, each when it is first called in a pass.

    Attributes:
        modules: names of the modules.
        heard: their outputs in the latest pass, as ``"head()"``.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = tuple(modules)
        self.heard: dict[str, Any] = {}

    def answer(self, outputs: Any) -> Any:
        """Return what the model answers in a pass that returned ``outputs``."""
        return self.heard if self.modules else outputs


class _Enough(Exception):  # noqa: N818  no error: everything was heard
    pass


@contextmanager
def listening(model: Any, names: Sequence[str] = (), *, enough: bool = False) -> Iterator[Listener]:
    """Listen to the modules of a model whose outputs count.

    Args:
        model: the model that is called meanwhile; of other callables, what they return counts.
        names: names of the outputs that count; by default the usual ones.
        enough: end a pass by an exception as soon as all has been heard.

    Raises:
        InvalidArgumentError: there is no module of that name.
    """
    if not isinstance(model, nn.Module):
        yield Listener(())
        return
    listener = Listener(modules_in(names or usual_outputs(model)))
    inside = dict(model.named_modules())

    def hear(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            listener.heard.setdefault(f"{name}{_CALLED}", output)
            if enough and len(listener.heard) == len(listener.modules):
                raise _Enough

        return hook

    hooks = []
    try:
        if listener.modules:
            hooks.append(model.register_forward_pre_hook(lambda *_: listener.heard.clear(), prepend=True))
        for name in listener.modules:
            if name not in inside or not name:
                msg = f"expected outputs= to name a module inside the model, such as 'head()', got {name + _CALLED!r}"
                raise InvalidArgumentError(msg + did_you_mean(name, list(inside)))
            hooks.append(inside[name].register_forward_hook(hear(name)))
        yield listener
    finally:
        for hook in hooks:
            hook.remove()


def answers(model: Any, inputs: Any, names: Sequence[str] = (), *, whole: bool = False) -> Any:
    """Run a model and return what counts of its outputs: what it returns, or what modules inside put out.

    In the latter case the model itself runs as in evaluation, whatever the mode of its modules, since in training a
    detector returns losses, and only with targets.

    Args:
        model: the model to run, or any callable.
        inputs: inputs in any form that `forward` takes.
        names: names of the outputs that count; by default the usual ones.
        whole: run to the end all the same where modules inside have been heard.
    """
    with listening(model, names, enough=not whole) as listener:
        if not listener.modules:
            return forward(model, inputs)
        training, model.training = model.training, False
        try:
            return listener.answer(forward(model, inputs))
        except _Enough:
            return listener.answer(None)
        finally:
            model.training = training
