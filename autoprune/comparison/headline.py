"""A comparison in two sentences: whose front holds most, and who is best at the shares that were compared."""

from __future__ import annotations

from autoprune.comparison.summary import ComparisonSummary, Contestant
from autoprune.report import units
from autoprune.strategies.registry import find_strategy
from autoprune.strategies.warm_start import split_key

MIN_EVALUATIONS = 20
"""Candidates of a search below which nobody leads: so few are little more than where it starts."""

_FINAL = {
    "tuned_test": "test items, after the short fine-tune",
    "test": "test items",
    "tuned": "after the short fine-tune",
    "searched": "as the searches measured it",
}
"""What a point was last measured by, in words, the most telling first."""


def headline(summary: ComparisonSummary) -> str:
    """Return the comparison in one sentence; nobody leads where a search was too short to say so."""
    best, random = summary.contestants[0], summary.contestant("random")
    if not best.mean > 0:
        return "Nobody leads: no strategy found a model that is better than the reference point in every objective."
    searches = [item for item in summary.contestants if not _is_of_given_sizes(item)]
    short = [item for item in searches if item is best or not item.space_exhausted]
    fewest = min((trial.evaluations for item in short for trial in item.trials), default=MIN_EVALUATIONS)
    if fewest < MIN_EVALUATIONS:
        return (
            f"Too early to say who leads: a run measured {fewest} candidates, and fewer than {MIN_EVALUATIONS} are "
            "little more than where a search starts."
        )
    text = f"{best.strategy} has the largest mean hypervolume, {best.mean:.4f}"
    if random is None or random is best:
        return f"{text}."
    verdict = next(
        (item.verdict for item in summary.differences if (item.first, item.second) == (best.strategy, "random")), ""
    )
    return f"{text}, against {random.mean:.4f} of random search" + (f" ({verdict})." if verdict else ".")


def best_within(summary: ComparisonSummary) -> str:
    """Return who is best within each share of the MACs, in one sentence; "" where no point lies within any.

    A hypervolume is of all sizes: it says little about those who made networks of the compared ones alone.
    """
    quality, rates = summary.objectives.quality, summary.meta.rates
    for field, words in _FINAL.items():
        found: list[str] = []
        for share in summary.shares:
            means = {
                item.strategy: sum(values) / len(values)
                for item in summary.contestants
                if (values := item.at(share, field))
            }
            if means:
                name = (max if quality.maximize else min)(means, key=means.__getitem__)
                of = "" if found else " of the MACs"
                best = units.amount(quality.name, means[name], rates)
                found.append(f"{name}, {best}, within {100 * share:g} %{of}")
        if found:
            return f"Best mean {units.title(quality.name)} ({words}): {'; '.join(found)}."
    return ""


def _is_of_given_sizes(item: Contestant) -> bool:
    """Say whether it makes networks of given sizes, so that the number of its candidates says nothing about it."""
    return find_strategy(split_key(item.strategy)[0])[0].aims == "shares"
