"""Traces a model: runs it once in evaluation and once in training mode and follows which channel is which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn

from autoprune.core.groups import BoolArray, Structure, TensorInfo
from autoprune.core.space import SearchSpace
from autoprune.cost.samples import Samples, find_samples
from autoprune.errors import InvalidArgumentError, NothingPrunableError, TraceError, unknown_name
from autoprune.surgery.forward import (
    counted_outputs,
    describe_example,
    is_named,
    named_outputs,
    tensors_in,
)
from autoprune.surgery.listening import answers, modules_in, usual_outputs
from autoprune.surgery.places import Settings, own_settings
from autoprune.trace._book import IdBook, Site
from autoprune.trace._recorder import IdRecorder
from autoprune.trace._sizes import ModuleInt, TracedInt
from autoprune.trace.branches import find_branches
from autoprune.trace.given_model import copy_model, refuse_unready, undisturbed, unwrap
from autoprune.trace.grouping import build
from autoprune.trace.idle import idle_layers, redraw_input
from autoprune.trace.validation import cost_notes, pin_offenders
from autoprune.trace.validation.reference import redraw
from autoprune.trace.validation.units import sample_genomes

AttentionCut = Literal["heads", "widths"]
"""What vanishes in attention: whole heads, or widths within all heads alike."""

_LONGEST = 1200  # characters of a model's own error message
_VISITS = 16  # passes that look for layers which did not run yet
_FRUITLESS = 3  # such passes in a row, after which the rest is given up


def trace(
    model: nn.Module,
    example_input: Any,
    *,
    outputs: Sequence[str] = (),
    attention: AttentionCut = "heads",
    validate: bool = True,
    seed: int = 0,
) -> Structure:
    """Find out which channels of a model can be removed, and what must be removed with them.

    The model is run on a copy, in evaluation and in training mode; the model itself, random states and the training
    flags stay as they are.

    Args:
        model: any module whose forward runs on ``example_input``; wrappers of parallel training and of
            ``torch.compile`` are looked through.
        example_input: a tensor, a tuple or list of arguments, or a dict of keyword arguments; small ones trace
            faster.
        outputs: dotted names of the outputs that count, such as ``["logits"]`` of a data class or a mapping, or
            ``["0"]`` of a tuple; ``["head()"]`` is what the module ``head`` puts out. All by default, and the heads of
            torchvision's single-stage detectors. The channels of the others (hidden states) may vanish.
        attention: parts of attention that vanish: whole ``"heads"``, or ``"widths"`` within them, in all heads alike: a
            channel of the queries with its partner among the keys, and a channel of the values.
        validate: compare cut models with the dense one and pin what does not agree (see `validation`).
        seed: seed for everything that is drawn at random.

    Returns:
        Groups of channels, tensors, attributes, operators, and for everything that cannot be pruned the reason.

    Raises:
        InvalidArgumentError: ``model`` is not a module, is a TorchScript module, is quantized or has no values yet, or
            the example has no tensor, or ``outputs`` names what the model does not put out.
        TraceError: the model's forward fails on the example.
        NothingPrunableError: no channel may be removed; the message says why.
    """
    model = unwrap(model)
    with undisturbed():
        samples = _checked_samples(model, example_input)
        structure = _record(model, samples, outputs, attention, seed)
        branches = structure.branches if validate else ()  # what has not been tried may not vanish
        structure = replace(structure, branches=branches)
        if validate:
            structure = pin_offenders(model, structure, samples, seed=seed)
        if not structure.groups:
            raise NothingPrunableError(_nothing(structure))
        genomes = sample_genomes(structure, seed) if validate else []
        return replace(structure, notes=_notes(model, structure, samples, genomes))


def trace_space(
    model: nn.Module,
    example_input: Any,
    layout: Callable[[Structure], SearchSpace],
    *,
    outputs: Sequence[str] = (),
    attention: AttentionCut = "heads",
    seed: int = 0,
) -> SearchSpace:
    """Trace a model, lay out what may be searched, and validate at those widths only.

    A model that breaks at width 1, or at odd widths, is right in a space that has none of them.

    Args:
        model: see `trace`.
        example_input: see `trace`.
        layout: makes the space of a structure: `SearchSpace.build` with the user's rules.
        outputs: see `trace`.
        attention: see `trace`.
        seed: seed for everything that is drawn at random.

    Raises:
        TraceError: see `trace`.
        NothingPrunableError: no channel may be removed; the message says why.
    """
    model = unwrap(model)
    with undisturbed():
        samples = _checked_samples(model, example_input)
        found = _record(model, samples, outputs, attention, seed)
        if not found.groups:
            raise NothingPrunableError(_nothing(found))
        space = layout(found)
        valid = pin_offenders(model, found, samples, seed=seed, space=space)
        if not valid.groups:
            raise NothingPrunableError(_nothing(valid))
        space = space if valid is found else layout(valid)
        genomes = sample_genomes(valid, seed, space)
        return replace(space, structure=replace(valid, notes=_notes(model, valid, samples, genomes)))


def _checked_samples(model: nn.Module, example_input: Any) -> Samples:
    """Check what is to be traced; find out how the example holds its samples.

    On a copy: what a forward caches would hide from the trace.
    """
    refuse_unready(model)
    if not tensors_in(example_input):
        msg = f"expected an example input with at least one tensor, got {type(example_input).__name__}"
        raise InvalidArgumentError(msg)
    if any(tensor.is_meta for tensor in tensors_in(example_input)):
        msg = "expected an example input with values, got one on the meta device; make it on the model's device"
        raise InvalidArgumentError(msg)
    copied = copy_model(model)
    try:
        return find_samples(copied, example_input)
    except TraceError as error:
        if error.__cause__ is None:
            raise
        raise _failure(model, example_input, error.__cause__) from error.__cause__


def _failure(model: nn.Module, example_input: Any, error: BaseException) -> TraceError:
    device = next((str(t.device) for t in model.parameters()), "cpu")
    away = next((t.device for t in tensors_in(example_input) if str(t.device) != device), None)
    move = "" if away is None else f"; the example input is on {away}: move it to the model's device"
    return TraceError(
        f"the model's forward failed on the example input ({describe_example(example_input)}; the model is on "
        f"{device}): {type(error).__name__}: {str(error)[:_LONGEST]}{move}"
    )


def _record(model: nn.Module, samples: Samples, names: Sequence[str], attention: AttentionCut, seed: int) -> Structure:
    if isinstance(names, str):
        msg = f"expected a list of names of outputs, such as outputs=[{names!r}], got {names!r}"
        raise InvalidArgumentError(msg)
    if attention not in get_args(AttentionCut):
        raise unknown_name("cut of attention", attention, get_args(AttentionCut))
    outputs = tuple(names) or usual_outputs(model)
    structure = replace(_follow(model, samples, outputs, attention, seed), outputs=outputs)
    return replace(structure, branches=find_branches(model, structure, samples))


def _follow(
    model: nn.Module,
    samples: Samples,
    outputs: Sequence[str],
    attention: AttentionCut,
    seed: int,
    *,
    reads_settings: bool = True,
) -> Structure:
    """Run a copy in evaluation and in training mode and put down what was followed.

    Integers in settings (a ``config``) are followed, too, unless modules tell each other something by settings that
    they share: for the first each has a copy.
    """
    again = partial(_follow, model, samples, outputs, attention, seed, reads_settings=False)
    book = IdBook()
    copied = copy_model(model)
    settings = own_settings(copied) if reads_settings else []
    integers = _trace_integers(copied, settings)
    shared = [(own.values, dict(own.values)) for own in settings if own.shared]
    recorder = IdRecorder(copied, book, within_heads=attention == "widths")
    copied.eval()
    try:
        output = _run(copied, recorder, samples.take(1), outputs)
    except Exception as error:
        if shared:
            return again()
        raise _failure(model, samples.example, error) from error
    _check_names(outputs, output)
    recorder.counting = False
    copied.train()
    note = ""
    try:
        _run(copied, recorder, samples.take_small(2), outputs)
    except Exception as error:  # noqa: BLE001  (a model without a training forward is traced for evaluation only)
        if shared:
            return again()
        note = f"; the training-mode forward failed and was not traced: {type(error).__name__}: {error}"
    _visit_idle(copied, recorder, samples, outputs, seed)
    if any(now.keys() != old.keys() or any(now[key] is not old[key] for key in old) for now, old in shared):
        return again()
    return build(book, model, integers, _tensors(model), describe_example(samples.example) + note, seed)


def _visit_idle(model: nn.Module, recorder: IdRecorder, samples: Samples, outputs: Sequence[str], seed: int) -> None:
    """Look for layers that no pass ran, with other weights and inputs: which of them run may depend on the data.

    Args:
        model: the copy that was traced, which gets new weights.
        recorder: its recorder.
        samples: the samples of the example input.
        outputs: names of the outputs that count.
        seed: seed for the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    fruitless = 0
    for _ in range(_VISITS):
        idle = idle_layers(model, recorder.book.ran)
        if not idle or fruitless == _FRUITLESS:
            return
        try:
            redraw(model, generator)
            _run(model, recorder, redraw_input(samples.take_small(2), generator), outputs)
        except Exception:  # noqa: BLE001  (random weights may be none that a model's code takes)
            return
        fruitless = fruitless + 1 if idle_layers(model, recorder.book.ran) == idle else 0


def _notes(model: nn.Module, structure: Structure, samples: Samples, genomes: Iterable[BoolArray]) -> tuple[str, ...]:
    """Return what must be said about the costs, and about layers that no pass ran."""
    notes = cost_notes(model, structure, samples, genomes)
    idle = idle_layers(model, dict(structure.layers))
    if idle:
        more = f" and {len(idle) - 3} more" if len(idle) > 3 else ""
        notes.append(
            f"{', '.join(idle[:3])}{more} did not run on the example input and keep all channels; where other data run "
            "them, give an example on which they run"
        )
    return tuple(notes)


def _run(model: nn.Module, recorder: IdRecorder, example_input: Any, outputs: Sequence[str]) -> Any:
    pins = recorder.book.pins
    n_before = len(pins)
    with recorder.watching(model, tensors_in(example_input)):
        output = answers(model, example_input, outputs, whole=True)
    counted = counted_outputs(output, outputs)
    recorder.debts.settle(counted)
    n_run = len(pins)
    names = {id(tensor): name for name, tensor in named_outputs(output)}
    for tensor in filter(lambda tensor: recorder.follows([tensor]), counted):
        reason = "is part of the model's output"
        if names.get(id(tensor)) and len(counted) > 1:
            reason += f" {names[id(tensor)]!r}; if it does not count, name the outputs that do: `outputs=`"
        for layer in recorder.layers(tensor):
            recorder.book.pin(layer, reason, Site("", ""))
    if modules_in(outputs):  # what is done to an answer behind it explains it less
        pins[n_before:] = [*pins[n_run:], *pins[n_before:n_run]]
    return output


def _check_names(outputs: Sequence[str], output: Any) -> None:
    """Refuse names of outputs that are not there."""
    there = [name for name, _ in named_outputs(output)]
    for given in outputs:
        if not any(is_named(name, [given]) for name in there):
            shown = ", ".join(there) if any(there) else "a single one without a name"
            msg = f"expected outputs= to name outputs of the model, which has {shown}; got {given!r}"
            raise InvalidArgumentError(msg)


def _trace_integers(model: nn.Module, settings: Sequence[Settings]) -> dict[ModuleInt, int]:
    """Let every integer on the modules of ``model`` remember its place; return their values.

    Args:
        model: the copy that is traced.
        settings: the settings of its modules, each module's its own, whose integers do so, too.
    """
    found: dict[ModuleInt, int] = {}

    def traced(leaf: ModuleInt, value: int) -> TracedInt:
        found[leaf] = value
        return TracedInt(value, leaf)

    def follow(module: str, prefix: str, values: dict[str, Any]) -> None:
        for attribute, value in list(values.items()):
            place = f"{prefix}{attribute}"
            if type(value) is int:
                values[attribute] = traced(ModuleInt(module, place), value)
            elif type(value) in (tuple, list) and value and all(type(v) is int for v in value):
                values[attribute] = type(value)(traced(ModuleInt(module, place, i), v) for i, v in enumerate(value))
            elif type(value) is torch.Size:
                values[attribute] = torch.Size([traced(ModuleInt(module, place, i), v) for i, v in enumerate(value)])

    for own in settings:
        follow(own.module, f"{own.place}.", own.values)
    for name, module in model.named_modules():
        follow(name, "", vars(module))
    return found


def _tensors(model: nn.Module) -> list[TensorInfo]:
    """Describe every parameter and buffer once, with all its names."""
    found: dict[int, TensorInfo] = {}
    for kind, named in (
        ("parameter", model.named_parameters(remove_duplicate=False)),
        ("buffer", model.named_buffers(remove_duplicate=False)),
    ):
        for name, tensor in named:
            known = found.get(id(tensor))
            aliases = (*known.aliases, name) if known else (name,)
            found[id(tensor)] = TensorInfo(
                aliases[0],
                tuple(tensor.shape),
                known.kind if known else kind,
                aliases,
                2 if tensor.is_complex() else 1,
            )
    return list(found.values())


def _nothing(structure: Structure) -> str:
    if not structure.layers:
        return (
            "nothing can be pruned: the model's forward ran no convolution, linear layer or embedding of its own; "
            "layers in a plain list or dict are not seen, use nn.ModuleList or nn.ModuleDict"
        )
    why = "; ".join(f"{pin.module or 'the model'} {pin.reason}" for pin in structure.pins[:5])
    more = f"; and {len(structure.pins) - 5} more" if len(structure.pins) > 5 else ""
    return f"nothing can be pruned: {why}{more}"
