"""Laws that every search strategy keeps.

To check a strategy of your own, inherit and say which one::

    class TestMine(StrategyLaws):
        @pytest.fixture
        def info(self):
            return StrategyInfo("mine", "what it does", "mypackage.mine:MyStrategy")
"""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from autoprune.core.jobs import Candidate, Evaluate, Job, Outcome, evaluations, job_from_json, job_to_json
from autoprune.core.protocols import SearchSetup, Strategy
from autoprune.errors import InvalidArgumentError
from autoprune.pareto.hypervolume import hypervolume
from autoprune.strategies.registry import StrategyInfo, make_strategy
from autoprune.testing.toys import failed_outcome, single_genome_space, toy_outcome, toy_setup, toy_space

Run = Callable[[SearchSetup, Job], Outcome]

LEARNING_WIDTHS = (16, 32, 32, 64, 64, 32, 16, 64)
MARGIN = 0.01
"""How much more of the box between dense model and origin a learning strategy dominates than random search does."""


def drive(
    strategy: Strategy, setup: SearchSetup, n: int, *, window: int = 4, run: Run = toy_outcome, first: bool = True
) -> list[Job]:
    """Ask for up to ``n`` jobs, at most ``window`` in flight, telling one at a time in order of their ids.

    Args:
        strategy: the strategy to drive.
        setup: the setup that the strategy was built with.
        n: stop after so many jobs.
        window: most jobs in flight.
        run: turns a job into its outcome.
        first: tell the oldest job in flight first, or else the newest.

    Returns:
        The jobs as asked; fewer than ``n`` when the strategy finished.
    """
    asked: list[Job] = []
    in_flight: list[Job] = []
    while True:
        jobs = strategy.ask(min(window - len(in_flight), n - len(asked)))
        asked += jobs
        in_flight += jobs
        if not in_flight:
            return asked
        strategy.tell([run(setup, in_flight.pop(0 if first else -1))])


def genomes_of(jobs: Sequence[Job]) -> list[tuple[int, ...]]:
    """Return the genomes of Evaluate jobs."""
    return [job.candidate.genome for job in jobs if isinstance(job, Evaluate)]


def candidates_of(jobs: Sequence[Job]) -> list[Candidate]:
    """Return what Evaluate jobs measure: genomes, each with the weights it inherits."""
    return [job.candidate for job in jobs if isinstance(job, Evaluate)]


def two_evaluations(strategy: Strategy, setup: SearchSetup) -> tuple[Evaluate, Evaluate]:
    """Ask until two Evaluate jobs are in flight, running whatever must be prepared before."""
    found: list[Evaluate] = []
    while len(found) < 2:
        for job in strategy.ask(2 - len(found)):
            if isinstance(job, Evaluate):
                found.append(job)
            else:
                strategy.tell([toy_outcome(setup, job)])
    return found[0], found[1]


@functools.cache
def warm_up(factory: str, n: int) -> None:
    """Let a strategy import what it imports on first use, which may draw examples for docstrings; once is enough."""
    setup = toy_setup(limits={"macs": "50%"}, evaluations=n)
    drive(StrategyInfo("", "", factory).load()(setup), setup, n)


def sequence(name: str, factory: str, n: int) -> str:
    """Return as JSON what a strategy proposes on the toy problem; for comparison between processes."""
    setup = toy_setup(seed=5, limits={"macs": "60%"}, evaluations=n)
    strategy = StrategyInfo(name, "", factory).load()(setup)
    return json.dumps([job_to_json(job) for job in drive(strategy, setup, n)])


ELSEWHERE = """
import importlib, sys
name, factory, n = sys.argv[1:]
importlib.import_module(factory.partition(":")[0])
print("loaded:", sorted({"torch", "ray"} & sys.modules.keys()))
from autoprune.testing.strategy_laws import sequence
print(sequence(name, factory, int(n)))
"""
"""What another process says: what importing a strategy loads, then its `sequence`."""


@functools.cache
def elsewhere(name: str, factory: str, n: int) -> list[str]:
    """Return what a new process with another hash seed says; one for all laws, since a start takes a second or two."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, name, factory, str(n)],
        env={**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


class StrategyLaws:
    """The laws; subclasses give the fixture ``info``, and ``length`` where proposals are expensive."""

    @pytest.fixture
    def info(self) -> StrategyInfo:
        """Return the strategy under test."""
        raise NotImplementedError

    @pytest.fixture
    def length(self) -> int:
        """Return how many evaluations a run has: enough to reach what the strategy does after its start."""
        return 26

    @pytest.fixture
    def learning_run(self) -> tuple[int, int]:
        """Return evaluations and seeds of the comparison with random search."""
        return 300, 3

    @pytest.fixture
    def setup(self, length: int) -> SearchSetup:
        """Return a toy problem with a hard limit that most genomes break."""
        return toy_setup(limits={"macs": "50%"}, evaluations=length)

    @pytest.fixture
    def strategy(self, info: StrategyInfo, setup: SearchSetup) -> Strategy:
        """Return a fresh strategy."""
        return info.load()(setup)

    def test_asks_are_feasible_and_within_n(self, strategy: Strategy, setup: SearchSetup, length: int) -> None:
        """Every genome lies in the space and within the limits; never more than n jobs, none for n = 0."""
        n_asked = 0
        for n in (0, 1, 3, 0, 7) * 3:
            jobs = strategy.ask(min(n, length - n_asked))
            n_asked += len(jobs)
            assert len(jobs) <= n
            for genome in genomes_of(jobs):
                batch = np.array([genome], dtype=np.int64)
                setup.space.check(batch)
                assert setup.costs(batch)["macs"][0] <= setup.limits["macs"]
            strategy.tell([toy_outcome(setup, job) for job in jobs])
        assert n_asked

    def test_negative_n_is_refused(self, strategy: Strategy) -> None:
        """Asking for fewer than no jobs is an error that names the number."""
        with pytest.raises(InvalidArgumentError, match="-2"):
            strategy.ask(-2)

    def test_ids_count_up_from_zero(self, strategy: Strategy, setup: SearchSetup, length: int) -> None:
        """Ids are 0, 1, 2, ... in the order asked."""
        jobs = drive(strategy, setup, length)
        assert [job.id for job in jobs] == list(range(len(jobs)))

    def test_nothing_is_proposed_twice(self, strategy: Strategy, setup: SearchSetup, length: int) -> None:
        """A candidate is measured once: a second time it would cost budget and teach nothing."""
        candidates = candidates_of(drive(strategy, setup, length))
        assert len(set(candidates)) == len(candidates)

    def test_jobs_survive_json(self, strategy: Strategy, setup: SearchSetup) -> None:
        """What is asked goes through the ledger and comes back equal, so that its outcome can be told."""
        jobs = strategy.ask(3)
        assert jobs
        restored = [job_from_json(json.loads(json.dumps(job_to_json(job)))) for job in jobs]
        assert restored == jobs
        strategy.tell([toy_outcome(setup, job) for job in restored])

    def test_any_order_and_any_subset_may_be_told(
        self, info: StrategyInfo, strategy: Strategy, setup: SearchSetup, length: int
    ) -> None:
        """Outcomes arrive as they like; the strategy goes on asking."""
        rng = np.random.default_rng(1)
        in_flight: list[Job] = []
        n_asked = 0
        while n_asked < length:
            jobs = strategy.ask(5)
            n_asked += len(jobs)
            in_flight += jobs
            if not in_flight:
                break
            rng.shuffle(in_flight)
            told = in_flight[: 1 + int(rng.integers(len(in_flight)))]
            del in_flight[: len(told)]
            strategy.tell([toy_outcome(setup, job) for job in told])
        assert n_asked >= (1 if info.is_finite else length)

    @pytest.mark.parametrize("fails", [pytest.param(2, id="every second"), pytest.param(1, id="all")])
    def test_failures_are_tolerated(
        self, info: StrategyInfo, strategy: Strategy, setup: SearchSetup, length: int, fails: int
    ) -> None:
        """Failed candidates, even all of them, do not stop a strategy; without any weights it may finish."""

        def run(setup: SearchSetup, job: Job) -> Outcome:
            return failed_outcome(job) if job.id % fails == 0 else toy_outcome(setup, job)

        jobs = drive(strategy, setup, length, run=run)
        assert len(jobs) == length or info.is_finite or (info.recipes and fails == 1)

    def test_unknown_and_repeated_outcomes_are_refused(self, strategy: Strategy, setup: SearchSetup) -> None:
        """Telling a job that was never asked, or twice, is an error that names it and teaches nothing."""
        first, second = two_evaluations(strategy, setup)
        outcomes = [toy_outcome(setup, job) for job in (first, second)]
        with pytest.raises(InvalidArgumentError, match="job 4141 was never asked"):
            strategy.tell([outcomes[0], toy_outcome(setup, Evaluate(4141, first.candidate))])
        with pytest.raises(InvalidArgumentError, match=f"job {first.id} was told before"):
            strategy.tell([outcomes[0], outcomes[0]])
        strategy.tell(outcomes)
        with pytest.raises(InvalidArgumentError, match=f"job {second.id} was told before"):
            strategy.tell([outcomes[1]])

    def test_outcome_of_another_candidate_is_refused(self, strategy: Strategy, setup: SearchSetup) -> None:
        """An outcome must be of the job as it was asked, not only of its id."""
        first, second = two_evaluations(strategy, setup)
        with pytest.raises(InvalidArgumentError, match=f"job {first.id}"):
            strategy.tell([toy_outcome(setup, Evaluate(first.id, second.candidate))])

    def test_inputs_are_not_mutated(self, info: StrategyInfo, setup: SearchSetup, length: int) -> None:
        """Neither the setup nor the told outcomes nor their order change."""
        before = copy.deepcopy((dict(setup.limits), setup.seed.state, setup.rankings["toy"].scores))
        strategy = info.load()(setup)
        for _ in range(length // 5 + 1):
            outcomes = [toy_outcome(setup, job) for job in reversed(strategy.ask(5))]
            kept = copy.deepcopy(outcomes)
            strategy.tell(outcomes)
            assert outcomes == kept
        limits, seed, scores = before
        assert dict(setup.limits) == limits
        assert setup.seed.state == seed
        for now, then in zip(setup.rankings["toy"].scores, scores, strict=True):
            np.testing.assert_array_equal(now, then)

    def test_global_random_state_is_left_alone(self, info: StrategyInfo, setup: SearchSetup, length: int) -> None:
        """Nothing is drawn from, or seeded in, the global streams of Python and numpy."""
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        expected = random.random(), np.random.random()  # noqa: NPY002
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        drive(info.load()(setup), setup, length)
        assert (random.random(), np.random.random()) == expected  # noqa: NPY002

    @pytest.mark.parametrize("failing", [pytest.param(False, id="all run"), pytest.param(True, id="half fail")])
    def test_nothing_is_drawn_from_an_unseeded_generator(
        self, info: StrategyInfo, setup: SearchSetup, length: int, failing: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Libraries fall back on the entropy of the machine where no stream is passed on: too rarely to be noticed."""
        warm_up(info.factory, length + 3)
        seeded = np.random.default_rng
        monkeypatch.setattr(np.random, "default_rng", lambda seed=None: Trap() if seed is None else seeded(seed))

        def run(setup: SearchSetup, job: Job) -> Outcome:
            return failed_outcome(job) if failing and job.id % 2 else toy_outcome(setup, job)

        strategy = info.load()(setup)
        past = [run(setup, job) for job in drive(strategy, setup, length, run=run)]
        heir = info.load()(setup)
        heir.absorb(past)
        drive(heir, setup, 3, run=run)

    def test_same_seed_same_sequence(self, info: StrategyInfo, length: int) -> None:
        """Equal setups give equal jobs, whatever the global streams hold."""
        runs = []
        for global_seed in (1, 2):
            random.seed(global_seed)
            np.random.seed(global_seed)  # noqa: NPY002
            runs.append(sequence(info.name, info.factory, length))
        assert runs[0] == runs[1]

    def test_other_seed_other_sequence(self, info: StrategyInfo, length: int) -> None:
        """The seed is used, unless the strategy declares that nothing in it is random."""
        one, other = (toy_setup(seed=seed, evaluations=length) for seed in (0, 1))
        sequences = [candidates_of(drive(info.load()(setup), setup, length)) for setup in (one, other)]
        assert (sequences[0] == sequences[1]) is not info.is_random

    def test_same_sequence_in_another_process(self, info: StrategyInfo, length: int) -> None:
        """Neither the process nor its hash seed matters."""
        there = elsewhere(info.name, info.factory, length)[1]
        assert there == sequence(info.name, info.factory, length)

    def test_replay_gives_the_same_future(self, info: StrategyInfo, setup: SearchSetup, length: int) -> None:
        """A new object that repeats the asks and tells up to any step goes on as the old one does."""
        full = drive(info.load()(setup), setup, length)
        for stop in (1, length // 3, length - 2):
            replayed = info.load()(setup)
            asked: list[Job] = []
            in_flight: list[Job] = []
            while len(asked) < stop:  # as `drive` does, cut off in the middle of a window
                jobs = replayed.ask(min(4 - len(in_flight), length - len(asked)))
                asked += jobs
                in_flight += jobs
                if not in_flight:
                    break
                if len(asked) < stop:
                    replayed.tell([toy_outcome(setup, in_flight.pop(0))])
            while in_flight:
                replayed.tell([toy_outcome(setup, in_flight.pop(0))])
                jobs = replayed.ask(min(4 - len(in_flight), length - len(asked)))
                asked += jobs
                in_flight += jobs
            assert asked == full

    def test_two_instances_share_nothing(self, info: StrategyInfo, setup: SearchSetup, length: int) -> None:
        """Two strategies taking turns propose what each proposes alone."""
        alone = drive(info.load()(setup), setup, length, window=1)
        pair = [info.load()(setup), info.load()(setup)]
        asked: list[list[Job]] = [[], []]
        for _ in range(length):
            for strategy, jobs in zip(pair, asked, strict=True):
                new = strategy.ask(1)
                jobs += new
                strategy.tell([toy_outcome(setup, job) for job in new])
        assert asked == [alone, alone]

    def test_space_of_one_genome_ends(self, info: StrategyInfo, length: int) -> None:
        """Where nothing can be chosen, the one genome is proposed once and the search is finished."""
        setup = toy_setup(single_genome_space(), evaluations=length)
        assert set(genomes_of(drive(info.load()(setup), setup, 10))) == {(0,)}

    def test_small_space_ends(self, info: StrategyInfo, length: int) -> None:
        """A space with fewer genomes than evaluations is finished, and a random method has then seen all of it."""
        setup = toy_setup(toy_space((4, 8), levels=3), evaluations=length)
        candidates = candidates_of(drive(info.load()(setup), setup, 100))
        assert len(set(candidates)) == len(candidates)
        n_genomes = len({candidate.genome for candidate in candidates})
        assert n_genomes <= setup.space.size
        if info.is_random and not info.recipes:
            assert n_genomes == len(candidates) == setup.space.size

    @pytest.mark.parametrize("objectives", [("accuracy", "macs", "params"), ("accuracy", "params")])
    def test_other_objectives(self, info: StrategyInfo, length: int, objectives: tuple[str, ...]) -> None:
        """Two or three objectives, whichever they are, are searched."""
        setup = toy_setup(objectives=objectives, evaluations=length)
        assert drive(info.load()(setup), setup, length)

    def test_absorb_continues_the_ids_and_repeats_nothing(
        self, info: StrategyInfo, setup: SearchSetup, length: int
    ) -> None:
        """After taking over a run, ids go on behind it and no candidate of it is proposed again."""
        past = [toy_outcome(setup, job) for job in drive(info.load()(setup), setup, length // 2)]
        past[1] = failed_outcome(past[1].job)
        heir = info.load()(setup)
        heir.absorb(past[::-1])
        future = drive(heir, setup, length // 2)
        assert [job.id for job in future] == list(range(len(past), len(past) + len(future)))
        assert not set(candidates_of(future)) & set(candidates_of([outcome.job for outcome in past]))
        assert future or info.is_finite

    def test_heirs_of_one_run_agree(self, info: StrategyInfo, setup: SearchSetup, length: int) -> None:
        """Two strategies that take over the same run, in whatever order it is given, propose the same."""
        past = [toy_outcome(setup, job) for job in drive(info.load()(setup), setup, length // 2)]
        heirs = [info.load()(setup) for _ in range(2)]
        heirs[0].absorb(past)
        heirs[1].absorb(past[::-1])
        assert drive(heirs[0], setup, length // 2) == drive(heirs[1], setup, length // 2)

    def test_absorb_after_ask_is_refused(self, strategy: Strategy, setup: SearchSetup) -> None:
        """A strategy that has begun cannot take over another run."""
        outcomes = [toy_outcome(setup, job) for job in strategy.ask(2)]
        with pytest.raises(InvalidArgumentError, match="has not asked yet"):
            strategy.absorb(outcomes)

    def test_module_needs_no_torch(self, info: StrategyInfo, length: int) -> None:
        """Importing the strategy loads neither torch nor ray."""
        assert elsewhere(info.name, info.factory, length)[0] == "loaded: []"

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_learning_beats_random(self, info: StrategyInfo, learning_run: tuple[int, int]) -> None:
        """On eight variables, the mean hypervolume over some seeds beats random search by `MARGIN`."""
        if not info.is_learning:
            pytest.skip("declares that it does not learn, or that a recipe does, which the toy draws at random")
        n, n_seeds = learning_run
        space = toy_space(LEARNING_WIDTHS)
        setups = [toy_setup(space, seed=seed, limits={"macs": "70%"}, evaluations=n) for seed in range(n_seeds)]
        learned = [dominated_share(setup, drive(info.load()(setup), setup, n, window=16)) for setup in setups]
        drawn = [dominated_share(setup, drive(make_strategy("random", setup), setup, n, window=16)) for setup in setups]
        assert np.mean(learned) > np.mean(drawn) + MARGIN


class Trap:
    """Stands in for an unseeded generator."""

    def __getattr__(self, name: str) -> object:
        msg = f"{name}() of a generator without a seed"
        raise AssertionError(msg)


def dominated_share(setup: SearchSetup, jobs: Sequence[Job]) -> float:
    """Return the share of the box between dense MACs, accuracy 0.1 and the ideal point that ``jobs`` dominate."""
    dense = setup.costs(setup.space.full_genome[None, :])["macs"][0]
    outcomes = evaluations(toy_outcome(setup, job) for job in jobs)
    points = np.array([[0.95 - outcome.metrics["accuracy"], outcome.costs["macs"] / dense] for outcome in outcomes])
    return hypervolume(points / [0.85, 1.0], (1.0, 1.0))
