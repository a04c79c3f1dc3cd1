"""An evaluator: all weights scaled down before the candidate is sliced."""

from dataclasses import dataclass

from autoprune.evaluators import EvaluatorInfo, InheritedWeights, ProxySettings


@dataclass(frozen=True)
class DampedSettings(ProxySettings):
    """Settings of `Damped`.

    Attributes:
        damping: what every weight is multiplied by.
    """

    damping: float = 0.9


class Damped(InheritedWeights):
    """Inherited weights, scaled."""

    name = "acme_damped"
    Settings = DampedSettings
    keeps_the_whole_model = False

    def _weights(self, kept, inherited):
        scale = self.settings.damping
        return {name: t * scale if t.is_floating_point() else t for name, t in inherited.weights.items()}


INFO = EvaluatorInfo(
    "acme_damped", "inherited weights, scaled", "acme.damped:Damped", settings="acme.damped:DampedSettings"
)
