"""A regularizer: weight decay on every channel that can be cut, from a step on that is a setting."""

from dataclasses import dataclass

from autoprune.regularizers import Regularizer, RegularizerInfo


@dataclass(frozen=True)
class RidgeSettings:
    """Settings of `Ridge`.

    Attributes:
        strength: factor of the penalty.
        after: share of the training before it begins.
    """

    strength: float = 0.01
    after: float = 0.0


class Ridge(Regularizer):
    """Half the squared norms."""

    Settings = RidgeSettings

    def penalty(self, step, n_steps):
        begun = step >= self.settings.after * n_steps
        return begun * self.settings.strength * self.channels.squared_norms().sum() / 2


INFO = RegularizerInfo("acme_ridge", "weight decay on channels", "acme.ridge:Ridge")
