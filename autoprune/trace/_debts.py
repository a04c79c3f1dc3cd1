"""What becomes a pin as soon as a tensor is used for more than it may be: debts that tensors carry with them.

Some uses of channels are harmless by themselves: a number that only Python decides by, a statistic that only normalizes
the channels it was taken over, a sum inside a weight that the channels never meet again. They are noted on the tensors
that they made, follow these from call to call, and are settled, which pins the channels, where another use shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.trace._book import Extent, PinEvent, StatisticCall
from autoprune.trace._ids import compact
from autoprune.trace._statistics import AVERAGES, Call
from autoprune.trace.handlers import ELEMENTWISE, MOVING, PRODUCING, TracedCall

if TYPE_CHECKING:
    from autoprune.trace._recorder import IdRecorder


class Debts:
    """The debts of one recorder's tensors.

    Args:
        recorder: follows the ids; debts are settled in its book.

    Attributes:
        call: the running call that may take a statistic, None for any other.
    """

    def __init__(self, recorder: IdRecorder) -> None:
        self._recorder = recorder
        self.call: Call | None = None
        self._owed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._statistics: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._sums: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._standardized: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._stored: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def carry(self, call: TracedCall, outputs: list[Tensor], *, of_weights: bool) -> None:
        """Follow what the inputs of a call owe to its outputs, or settle it.

        Args:
            call: a call that has run.
            outputs: tensors that it made or wrote into.
            of_weights: whether all that it read is computed from tensors of the model alone.
        """
        self._carry_owed(call.inputs, outputs)
        self._carry_statistics(call, outputs)
        self._carry_standardized(call, outputs, of_weights=of_weights)

    def keep_stored(self, tensor: Tensor, name: str) -> None:
        """Note that a tensor of the model holds weights as small integers, and what it is called in a reason."""
        self._stored[tensor] = name

    def owe(self, tensor: Tensor, layer: Tensor, reason: str) -> None:
        """Note that ``layer`` must stay if the number in ``tensor`` is used for more than a decision in Python."""
        self._owed[tensor] = [
            *self._owed.get(tensor, []),
            PinEvent(compact(layer).numpy(), reason, self._recorder.site()),
        ]

    def settle(self, tensors: list[Tensor]) -> None:
        """Pin what is owed for ``tensors``: they are used."""
        for tensor in tensors:
            for event in [*self._owed.pop(tensor, []), *self._statistics.pop(tensor, [])]:
                self._recorder.book.pin(torch.from_numpy(event.ids), event.reason, event.site)

    def statistic(self, layer: Tensor, dim: int, outputs: list[Tensor], reason: str) -> None:
        """Note that the running call takes a statistic over the channels of ``layer`` along ``dim``.

        A norm scales and shifts the channels with it that it was taken over: they can vanish, and it is taken over
        those that are left, as with torch's own norms. Where ``outputs`` are used for anything else, the channels stay.
        """
        if self.call is not None:
            self._recorder.book.statistics.append(StatisticCall(*self.call, Extent(layer, dim)))
        for output in outputs:
            event = PinEvent(torch.unique(compact(layer)).numpy(), reason, self._recorder.site())
            self._statistics[output] = [*self._statistics.get(output, []), event]

    def _carry_statistics(self, call: TracedCall, outputs: list[Tensor]) -> None:
        """Follow statistics through element-wise functions until they meet the channels that they were taken over."""
        used = [t for t in call.inputs if t in self._statistics]
        if not used:
            return
        of_weights = all(self._recorder.is_weight(t) for t in call.inputs if self._recorder.follows([t]))
        is_averaged = of_weights and call.name in AVERAGES
        if call.name not in ELEMENTWISE and call.name not in MOVING and not is_averaged:
            self.settle(used)
            return
        others = [t for t in call.inputs if t not in self._statistics] if call.name in ELEMENTWISE else []
        met = [t for t in others if self._recorder.is_weight(t)] if of_weights else []
        met = met or [t for t in others if self._recorder.carries(t) and not self._recorder.is_weight(t)]
        channels = [set(np.unique(compact(layer).numpy()).tolist()) for t in met for layer in self._recorder.layers(t)]
        for event in [event for t in used for event in self._statistics[t]]:
            own = set(event.ids.tolist())
            # beside a weight stand others that have none of its channels, such as a gain
            meeting = [ids for ids in channels if not of_weights or ids & own]
            if any(own == ids for ids in meeting):
                self._note_standardized(outputs if of_weights else [], [event])
                continue
            if meeting:
                self._recorder.book.pin(torch.from_numpy(event.ids), event.reason, event.site)
            for output in outputs:
                known = self._statistics.get(output, [])
                if not meeting and all(event is not other for other in known):
                    self._statistics[output] = [*known, event]

    def _note_standardized(self, weights: list[Tensor], events: list[PinEvent]) -> None:
        """Note that a statistic over channels of ``weights`` was applied to them."""
        for weight in weights:
            self._standardized[weight] = [*self._standardized.get(weight, []), *events]

    def _carry_standardized(self, call: TracedCall, outputs: list[Tensor], *, of_weights: bool) -> None:
        """Follow standardized weights to the layers that read them, and pin the channels where anything else does."""
        for tensor in [t for t in call.inputs if t in self._standardized]:
            if of_weights:
                self._note_standardized(outputs, self._standardized[tensor])
            elif call.name not in PRODUCING:
                for event in self._standardized[tensor]:
                    self._recorder.book.pin(torch.from_numpy(event.ids), event.reason, event.site)

    def settle_standardized(self, weight: Tensor, ids: Tensor) -> None:
        """Pin the channels that a weight is standardized over if they are among ``ids``, which are not only read."""
        for event in self._standardized.get(weight, []):
            if bool(torch.isin(compact(ids), torch.from_numpy(event.ids)).any()):
                self._recorder.book.pin(torch.from_numpy(event.ids), event.reason, event.site)

    def sum_inside_weight(self, output: Tensor, a: Tensor, b: Tensor) -> None:
        """Note that channels are summed over between two tensors of the model.

        That is a statistic, which changes when channels vanish, where the sum is over a tensor with itself or comes to
        a number; and where the sum meets a tensor that still has the channels. A parameter that a layer reads like an
        activation, or a factor of a low-rank weight, is none.
        """
        reason = "is summed over inside a weight"
        if torch.equal(a, b) or output.numel() == 1:
            self._recorder.book.pin(a, reason, self._recorder.site())
            self._recorder.book.pin(b, reason, self._recorder.site())
        else:
            ids = torch.cat([compact(a).reshape(-1), compact(b).reshape(-1)])
            self._sums[output] = [*self._sums.get(output, []), PinEvent(ids.numpy(), reason, self._recorder.site())]

    def carry_sums(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """Follow sums inside weights; where one meets the channels that it was taken over, pin them."""
        for event in [event for tensor in inputs for event in self._sums.get(tensor, [])]:
            ids = torch.from_numpy(event.ids)
            for output in outputs:
                if any(bool(torch.isin(compact(layer), ids[ids > 0]).any()) for layer in self._recorder.layers(output)):
                    self._recorder.book.pin(ids, event.reason, event.site)
                else:
                    self._sums[output] = [*self._sums.get(output, []), event]

    def carry_stored(self, call: TracedCall) -> None:
        """Follow weights that are stored as small integers to the layers that read them, which keep their channels."""
        stored = next((self._stored[t] for t in call.inputs if t in self._stored), None)
        if stored is None:
            return
        if all(self._recorder.is_weight(t) or not self._recorder.follows([t]) for t in call.inputs):
            for output in call.outputs:
                self._stored[output] = stored
        elif call.name in PRODUCING:
            channel = 1 - call.args[1].dim() if call.name.startswith("conv") else -1
            reason = (
                f"reads {stored}: quantized channels stay; prune the floating-point model it was made from, then "
                "quantize the smaller one"
            )
            self._recorder.kept_layer(call.outputs[0].shape[channel], reason)

    def _carry_owed(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        owing = [t for t in inputs if t in self._owed]
        if any(output.numel() > 1 for output in outputs):
            self.settle(owing)
        for tensor in owing:
            for output in outputs:
                self._owed[output] = [*self._owed.get(output, []), *self._owed.get(tensor, [])]
