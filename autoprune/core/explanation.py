"""Per layer: can it be pruned, to which widths, or why not."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from autoprune.core.patterns import producers

if TYPE_CHECKING:
    from autoprune.core.space import SearchSpace


HEADS = ("layer", "channels", "widths", "driven by, or why not")


@dataclass(frozen=True)
class LayerExplanation:
    """The choices that a search has for the output channels of one layer.

    Attributes:
        module: dotted name of the layer.
        channels: output channels in the dense model.
        variables: names of the width variables that drive them; empty when the layer keeps all of them.
        widths: allowed widths, per variable.
        reason: the reason why channels stay; "" if none has to.
        source: ``file:line`` of the code that caused it, "" when there is none.
    """

    module: str
    channels: int
    variables: tuple[str, ...]
    widths: tuple[tuple[int, ...], ...]
    reason: str
    source: str

    @property
    def prunable(self) -> bool:
        """Whether any output channel of the layer may be removed."""
        return bool(self.variables)


@dataclass(frozen=True)
class Explanation:
    """The layers of a model in execution order; prints as a table, also in a notebook.

    Attributes:
        layers: one entry per layer that produces channels.
        size: number of genomes in the space.
        notes: remarks on what the counted costs mean or leave out; usually empty.
    """

    layers: tuple[LayerExplanation, ...]
    size: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a table for a terminal."""
        rows = [HEADS, *self._rows]
        sizes = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [f"{a:<{sizes[0]}}  {b:>{sizes[1]}}  {c:<{sizes[2]}}  {d}".rstrip() for a, b, c, d in rows]
        return "\n".join([*lines, *self._totals])

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        head, *body = (
            "<tr>" + "".join(f'<{tag} style="text-align:left">{escape(text)}</{tag}>' for text in row) + "</tr>"
            for tag, row in (("th", HEADS), *(("td", row) for row in self._rows))
        )
        totals = "".join(f"<div>{escape(text)}</div>" for text in self._totals)
        return f"<div><table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>{totals}</div>"

    @property
    def _rows(self) -> list[tuple[str, str, str, str]]:
        return [(layer.module, str(layer.channels), _widths(layer), _remark(layer)) for layer in self.layers]

    @property
    def _totals(self) -> list[str]:
        names = {name for layer in self.layers for name in layer.variables}
        n_prunable = sum(layer.prunable for layer in self.layers)
        total = f"{len(names)} width variables, {_count(self.size)} genomes"
        found = f"{n_prunable} of {len(self.layers)} layers prunable, {total}"
        return [found, *(f"note: {note}" for note in self.notes)]


def explain(space: SearchSpace) -> Explanation:
    """Explain ``space`` layer by layer."""
    structure = space.structure
    members: dict[str, list[int]] = {}
    for i, modules in enumerate(producers(structure)):
        for module in modules:
            members.setdefault(module, []).append(i)
    pinned = {pin.module: pin for pin in reversed(structure.pins)}
    fixed = dict(space.fixed)
    layers = []
    for module, channels in structure.layers:
        groups = members.get(module, [])
        driving = dict.fromkeys(int(space.variable_of[i]) for i in groups if space.variable_of[i] >= 0)
        variables = [space.variables[i] for i in driving]
        kept = [fixed.get(i, "no variable drives it") for i in groups if space.variable_of[i] < 0]
        pin = pinned.get(module)
        if pin is not None:
            kept.append(pin.reason)
        if not groups and pin is None:
            kept.append("its channels cannot be followed to what consumes them")
        layers.append(
            LayerExplanation(
                module=module,
                channels=channels,
                variables=tuple(variable.name for variable in variables),
                widths=tuple(variable.widths for variable in variables),
                reason="; ".join(dict.fromkeys(kept)),
                source=pin.source if pin is not None else "",
            )
        )
    alike = dict.fromkeys(layers)  # the layers and directions of a recurrent module are one row where they are the same
    return Explanation(tuple(alike), space.size, structure.notes)


def _widths(layer: LayerExplanation) -> str:
    return " + ".join(_list_widths(widths) for widths in layer.widths) if layer.widths else "all"


def _list_widths(widths: tuple[int, ...]) -> str:
    if len(widths) <= 8:
        return " ".join(str(width) for width in widths)
    return f"{widths[0]} {widths[1]} .. {widths[-1]} ({len(widths)})"


def _remark(layer: LayerExplanation) -> str:
    source = f"({layer.source})" if layer.source else ""
    drivers = ", ".join(layer.variables) + (";" if layer.variables and layer.reason else "")
    return " ".join(part for part in (drivers, layer.reason, source) if part)


def _count(size: int) -> str:
    return f"{size:,}" if size < 10**9 else f"10^{len(str(size)) - 1}"
