"""Property tests over random small networks."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoprune.trace import trace
from autoprune.trace.validation import validate
from tests.surgery.surgery_laws import check_full_genome_is_identical, check_masked_equals_sliced, random_kept
from tests.trace.random_networks import BLOCKS, NetworkSpec, build_network, example_input

recipes = st.builds(
    NetworkSpec,
    blocks=st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=4).map(tuple),
    width=st.sampled_from([8, 12]),
    head=st.sampled_from(["pooled", "flattened"]),
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(recipe=recipes, seed=st.integers(0, 2**16))
def test_masked_equals_sliced(recipe: NetworkSpec, seed: int) -> None:
    """Raw traces of random networks are right: nothing has to be pinned by the validation."""
    model = build_network(recipe, seed=seed)
    example = example_input()
    structure = trace(model, example, validate=False)
    assert validate(model, structure, example).agreed
    check_full_genome_is_identical(model, structure)
    if "group_norm" not in recipe.blocks:  # its statistics change with the channels
        rng = np.random.default_rng(seed)
        for _ in range(2):
            check_masked_equals_sliced(model, structure, random_kept(structure, rng), example)
