"""ONNX graphs of cut networks, made from one export of the dense model.

`torch.onnx.export` takes seconds, and a latency table needs dozens of networks. They differ in their parameters and
in a few constants that their widths decide: the groups of a depthwise convolution, the sizes that a reshape names. So
the dense model is exported and optimized once, with its parameters left open, and the parameters of a cut network are
put into that graph by name. Constants are learnt from networks that were exported for themselves: each is proportional
to a power of some parameter's size. Whether a graph computes what its network computes is for the caller to check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir
from torch import Tensor, nn

from autoprune.core.groups import FloatArray
from autoprune.export import onnx_program

POWERS = (1.0, -1.0, -0.5, -0.25, 0.5, 0.25)
"""How constants follow sizes: counts as they are, scales of attention by a root."""

LARGEST = 64
"""Numbers in an array that may depend on widths; longer ones are data."""


class OnnxGraphs:
    """Graphs of networks that were cut from one model.

    Args:
        model: the dense model.
        example: an input of it, in any form that `autoprune.surgery.forward.forward` takes.

    Attributes:
        exported: how many networks torch has exported.

    Raises:
        TraceError: torch cannot export the model.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        self._example = example
        self._graph = _Graph(model, example)
        self._dense = self._graph.numbers()
        self._seen: list[dict[str, Any]] = []
        self._sizes = [_sizes(model)]
        self._tensors = list(_tensors(model).items())
        self.exported = 1

    def of(self, network: nn.Module) -> bytes:
        """Return the serialized graph of a cut network, as far as its constants are known."""
        if self._seen:
            sizes = np.stack(self._sizes)
            self._graph.put(self._expected(sizes[1:] / sizes[0], _sizes(network) / sizes[0]))
        return self._graph.serialized(network)

    def exported_alone(self, network: nn.Module) -> bytes:
        """Return the serialized graph of a network that torch exports, which tells nothing about others."""
        return _Graph(network, self._example).serialized(network)

    def exported_anew(self, network: nn.Module) -> bytes:
        """Return the serialized graph of a network that torch exports, and learn its constants."""
        graph = _Graph(network, self._example)
        self.exported += 1
        numbers = graph.numbers()
        if {name: value.shape for name, value in numbers.items()} == {n: v.shape for n, v in self._dense.items()}:
            self._seen.append(numbers)
            self._sizes.append(_sizes(network))
        return graph.serialized(network)

    def _expected(self, ratios: FloatArray, wanted: FloatArray) -> dict[str, Any]:
        """Return the constants of a network.

        Where several sizes explain what was seen, that of the parameter which is used nearest in the graph is believed.

        Args:
            ratios: (k, m) sizes of the parameters of those that were seen, as shares of the dense ones.
            wanted: (m,) the same of the network whose constants are asked for.
        """
        used_at = self._graph.used_at()
        at = np.array([used_at.get(name, -np.inf) for name, tensor in self._tensors for _ in tensor.shape])
        found = {}
        for constant in self._graph.constants:
            dense = self._dense[constant.name]
            new = dense.flatten()
            seen = np.stack([numbers[constant.name].flatten() for numbers in self._seen])
            nearest = np.argsort(np.abs(at - constant.at), kind="stable")
            for i in np.flatnonzero((seen != new).any(axis=0)):
                new[i] = _follow(new[i], seen[:, i], ratios[:, nearest], wanted[nearest])
            found[constant.name] = new.reshape(dense.shape)
        return found

    def modules(self) -> dict[str, str]:
        """Return which module's weights a node works with, by the names of nodes and of what they compute.

        What has no weights belongs to the module that is before it in the graph; "" before the first.
        """
        return self._graph.modules()


class _Graph:
    """An optimized graph whose parameters are not folded into anything."""

    def __init__(self, model: nn.Module, example: Any) -> None:
        program = onnx_program(model, example, optimize=False)
        inputs, initializers = program.model.graph.inputs, program.model.graph.initializers
        self._parameters = initializers.keys() & _tensors(model).keys()
        for name in self._parameters:  # what comes from outside may be anything: nothing is computed beforehand
            value = initializers.pop(name)
            value.const_value = None
            inputs.append(value)
        program.optimize()
        self._model = program.model
        inputs, initializers = program.model.graph.inputs, program.model.graph.initializers
        for value in [value for value in inputs if value.name in self._parameters]:
            inputs.remove(value)
            if value.uses():
                initializers[str(value.name)] = value
        for node in self._model.graph.all_nodes():
            for value in node.outputs:
                value.shape = None  # that of the dense network
        self.constants = self._find_constants()

    def numbers(self) -> dict[str, Any]:
        """Return the constants, arrays by name."""
        return {constant.name: constant.value for constant in self.constants}

    def put(self, numbers: Mapping[str, Any]) -> None:
        """Put other constants in."""
        for constant in self.constants:
            constant.put(numbers[constant.name])

    def used_at(self) -> dict[str, int]:
        """Return the number of the node that first uses each parameter."""
        found: dict[str, int] = {}
        for i, node in enumerate(self._model.graph):
            for value in node.inputs:
                if value is not None and value.name in self._parameters:
                    found.setdefault(value.name, i)
        return found

    def serialized(self, network: nn.Module) -> bytes:
        """Return the graph with the parameters of ``network``."""
        for name, tensor in _tensors(network).items():
            value = self._model.graph.initializers.get(name)
            if value is not None:
                value.const_value = onnx_ir.tensor(tensor.detach().cpu(), name=name)
                value.shape = onnx_ir.Shape(tensor.shape)
        return bytes(onnx_ir.to_proto(self._model).SerializeToString())

    def modules(self) -> dict[str, str]:
        found = {}
        current = ""
        weights: dict[str, str] = {name: name.rpartition(".")[0] for name in self._parameters}
        for node in self._model.graph:
            own = [weights.get(str(value.name), "") for value in node.inputs if value is not None]
            if own and all(own):  # a transposed weight
                weights.update({str(value.name): own[0] for value in node.outputs})
                continue
            if node.op_type in CONTRACTIONS:
                current = next(filter(None, own), current)
            found.update({str(name): current for name in (node.name, *(value.name for value in node.outputs))})
        return found

    def _find_constants(self) -> list[_Constant]:
        """Return all places of constants, after giving each its own: optimizing made one of those that were equal."""
        graph = self._model.graph
        found = []
        for i, node in enumerate(list(graph)):
            for j, value in enumerate(node.inputs):
                if value is not None and value.is_initializer() and value.name not in self._parameters:
                    own = onnx_ir.Value(name=f"{value.name}.{i}.{j}", const_value=value.const_value, type=value.type)
                    graph.register_initializer(own)
                    node.replace_input_with(j, own)
                    found.append(_Constant(i, f"{i} {node.op_type} {j}", own, ""))
            for name, attribute in node.attributes.items():
                if not attribute.is_ref() and attribute.type in (*NUMBERS, onnx_ir.AttributeType.TENSOR):
                    found.append(_Constant(i, f"{i} {node.op_type} {name}", node, name))
        return [constant for constant in found if constant.value.size <= LARGEST and constant.value.dtype.kind in "if"]


CONTRACTIONS = ("Conv", "ConvTranspose", "MatMul", "Gemm")

NUMBERS = tuple(onnx_ir.AttributeType[kind] for kind in ("INT", "INTS", "FLOAT", "FLOATS"))


@dataclass(frozen=True, eq=False)
class _Constant:
    """A place in a graph where numbers stand that are no parameters.

    Attributes:
        at: number of its node.
        name: the same in all graphs of one structure.
        holder: a node with an attribute, or an initializer.
        attribute: name of the attribute; "" for an initializer.
    """

    at: int
    name: str
    holder: onnx_ir.Node | onnx_ir.Value
    attribute: str

    @property
    def value(self) -> Any:
        """An array of integers or floats."""
        if isinstance(self.holder, onnx_ir.Value):
            return np.asarray(self.holder.const_value)
        attribute = self.holder.attributes[self.attribute]
        return np.asarray(attribute.value) if attribute.type in NUMBERS else attribute.value.numpy()

    def put(self, new: Any) -> None:
        if isinstance(self.holder, onnx_ir.Value):
            self.holder.const_value = onnx_ir.tensor(new, name=self.holder.name)
            return
        kind = self.holder.attributes[self.attribute].type
        value = new.tolist() if kind in NUMBERS else onnx_ir.tensor(new)
        self.holder.attributes[self.attribute] = onnx_ir.Attr(self.attribute, kind, value)


def _follow(dense: Any, seen: FloatArray, ratios: FloatArray, wanted: FloatArray) -> Any:
    """Return one number of a network, which follows the first size that explains the (k,) numbers that were seen."""
    whole = isinstance(dense, np.integer)
    for power in POWERS[:2] if whole else POWERS:
        fits = np.isclose(dense * ratios**power, seen[:, None], rtol=1e-5, atol=0).all(axis=0)
        if fits.any():
            value = float(dense * wanted[fits.argmax()] ** power)
            return round(value) if whole else value
    return dense


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers under every name that they have."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def _sizes(model: nn.Module) -> FloatArray:
    """Return the sizes of all tensors of a model; a network cut from it has as many, in the same order."""
    return np.array([size for tensor in _tensors(model).values() for size in tensor.shape], dtype=np.float64)
