"""Every registered evaluator under the evaluator laws."""

from __future__ import annotations

import pytest

from autoprune.errors import UnknownNameError
from autoprune.evaluate.registry import EVALUATORS, make_evaluator
from autoprune.testing.digits_network import digits_setup
from autoprune.testing.evaluator_laws import EvaluatorLaws


class TestEvaluators(EvaluatorLaws):
    @pytest.fixture(params=EVALUATORS)
    def factory(self, request: pytest.FixtureRequest) -> str:
        return f"autoprune.testing.evaluator_laws:digits_subject:{request.param}"


def test_registry_entries_load() -> None:
    """Every entry names an evaluator of that name, its settings, and describes itself."""
    for name, info in EVALUATORS.items():
        assert info.name == name
        assert info.summary
        assert make_evaluator(name, digits_setup()).name == name


def test_unknown_evaluators_get_a_suggestion() -> None:
    """A misspelt name is answered with the right one."""
    with pytest.raises(UnknownNameError, match="did you mean 'inherited'"):
        make_evaluator("inherit", digits_setup())
