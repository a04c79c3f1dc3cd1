"""What a problem is recognised by: its settings, and what its model does on fixed items."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from autoprune.errors import AutopruneWarning
from autoprune.evaluate.evidence import environment, observe_behaviour, observe_figures, propagate
from autoprune.evaluate.task_content import content_of, hash_settings
from autoprune.store.identity import Identity, Observation
from autoprune.weight_sets import pack_weights

if TYPE_CHECKING:
    from autoprune.api.problem import Problem


def behaviour_of(problem: Problem) -> Identity:
    """Return what `Problem.behaviour` is."""
    data = problem.data
    splits = [split for split in (data.train, data.validation, data.test) if split is not None]
    content = data.fingerprint if all(split.source.whole for split in splits) else str([len(s) for s in splits])
    settings = problem.evaluator.proxy.settings
    rounding = {"device", "threads", "mixed_precision", "cpu_bfloat16", "channels_last"}  # changes last digits
    chosen = {name: value for name, value in asdict(settings).items() if name not in rounding}
    torch_version, device, processor = settings.identity()
    decided = {
        "the search space": problem.space.fingerprint,
        "the weights": hashlib.sha256(pack_weights(problem.weights)).hexdigest(),
        "the objectives": json.dumps(list(problem.objectives.names)),
        "the limits": json.dumps(sorted(problem.limits.items())),
        "the criterion": problem.criterion_key(problem.criterion),
        "the seed": str(problem.seed),
        "the evaluator": problem.evaluator.name,
        "the evaluator's settings": json.dumps(chosen, sort_keys=True),
        "the task": problem.task.fingerprint,
    }
    if problem.latency is not None:
        decided["the latency table"] = problem.latency.fingerprint
    machine = {
        "torch": str(torch_version),
        "device": str(device),
        "processor": str(processor),
        "threads": str(settings.threads),
        "mixed precision": "on CPUs, too" if settings.cpu_bfloat16 else str(settings.mixed_precision),
        "channels last": str(settings.layout(problem.model)),
    }
    # Items of datasets are hashed as they are decoded, which another version of a library does with other digits.
    observed = {"the data": Observation(data.fingerprint, content), **observe_behaviour(problem.evaluator)}
    return Identity(decided, machine, propagate(observed), environment())


def identity_of(problem: Problem) -> Identity:
    """Return what `Problem.identity` is; warns where something does not repeat."""
    looks = [content_of(problem.task)]
    observed = {**problem.behaviour.observed, **problem._dense_measured[1]}  # measured between the looks
    looks.append(content_of(problem.task))
    observed |= observe_figures(problem.evaluator)
    looks.append(content_of(problem.task))
    observed["the task's settings"] = Observation(hash_settings(problem.task, *looks), problem.task.fingerprint)
    found = replace(problem.behaviour, observed=propagate(observed))
    if found.unrepeatable:
        msg = (
            f"{', '.join(found.unrepeatable)} did not come out the same twice in a row, or not at all, so what "
            "is measured cannot be recognised again: nothing is taken from the cache of evaluations and nothing "
            "kept in it; look for random numbers that no seed decides (dropout in evaluation, a random metric, "
            "transform or collation)"
        )
        warnings.warn(msg, AutopruneWarning, stacklevel=4)
    return found
