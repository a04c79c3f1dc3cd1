"""A candidate as it is: slice the inherited weights, recalibrate BatchNorm, measure. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from torch import Tensor, nn

from autoprune.core.groups import BoolArray
from autoprune.core.jobs import Prepare, WeightSet
from autoprune.evaluate.evaluator import Proxy, ProxySettings, fingerprint_of
from autoprune.surgery.copying import copy_model
from autoprune.surgery.cut import cut
from autoprune.surgery.skeleton import Skeleton
from autoprune.train.devices import placed, reproducible
from autoprune.train.job_setup import Genome, JobSetup
from autoprune.weight_sets import Inherited


class InheritedWeights:
    """Scores candidates with the weights they inherit.

    One persistent skeleton becomes every candidate in turn, so that a candidate costs its forward passes and little
    else. The same candidate gets the same figures whatever ran before.

    Args:
        setup: model, space, costs, data and task.
        settings: which items, and how the model runs.
    """

    name = "inherited"
    deterministic = True

    def __init__(self, setup: JobSetup, settings: ProxySettings | None = None) -> None:
        self.settings = settings or ProxySettings()
        self.setup = setup
        self._proxy = Proxy(setup, self.settings)
        self.device = self._proxy.device

    @property
    def proxy(self) -> Proxy:
        """The items that it measures on."""
        return self._proxy

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over settings, task and machine."""
        return fingerprint_of(self.name, self.settings, self.setup.task)

    def macs(self, genome: Genome) -> int:
        """Return the multiply-adds of one evaluation: recalibration and measurement."""
        return self.setup.macs(genome) * self._proxy.n_items

    def preparation(self, parent: WeightSet, id: int = 0) -> Prepare | None:  # noqa: ARG002  whatever the weights
        """Return None: the weights are all that is needed."""
        return None

    def evaluate(self, genome: Genome, inherited: Inherited, seed: int = 0) -> dict[str, float]:  # noqa: ARG002  nothing is random
        """Return the metrics of a candidate on the search-validation items.

        Raises:
            InvalidArgumentError: the genome is not of this space.
            MetricError: a figure is not one finite number.
        """
        with reproducible(self.settings.threads):
            return self._proxy.measure(self._scored(genome, inherited))

    def build(self, genome: Genome, inherited: Inherited, seed: int = 0) -> nn.Module:  # noqa: ARG002  nothing is random
        """Return the smaller model that `evaluate` measures: weights and BatchNorm statistics bit for bit."""
        with reproducible(self.settings.threads):
            scored = self._scored(genome, inherited)
            state = {name: tensor.clone() for name, tensor in scored.state_dict().items()}
        model = cut(self.setup.model, self.setup.structure, self.setup.kept(genome, inherited), inherited.weights)
        model.load_state_dict(state)
        return model.eval()

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics of any model on the same items, run in the same way."""
        with (
            reproducible(self.settings.threads),
            placed(model, self.device, training=False, channels_last=False),
        ):
            return self._proxy.measure(model)

    @cached_property
    def _skeleton(self) -> Skeleton:
        model = copy_model(self.setup.model).to(self.device)
        return Skeleton(model.eval(), self.setup.structure)

    def _scored(self, genome: Genome, inherited: Inherited) -> nn.Module:
        """Return the skeleton as the candidate, recalibrated; valid until the next one."""
        kept = self.setup.kept(genome, inherited)
        model = self._skeleton.build(self._weights(kept, inherited), kept).eval()
        self._proxy.recalibrate(model)
        return model

    def _weights(self, kept: BoolArray, inherited: Inherited) -> Mapping[str, Tensor]:  # noqa: ARG002  a subclass needs it
        """Return the dense tensors that are sliced to ``kept``."""
        return inherited.weights
