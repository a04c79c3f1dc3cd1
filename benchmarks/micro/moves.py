"""How far a reader has to walk: the files, functions and moves between files of one evaluation, from ask to next ask.

    python benchmarks/micro/moves.py [strategy] [--path]

One search of the small digits network with default settings runs in this process; the calls between two asks of its
middle are recorded with `sys.setprofile`. Counted is what stands in ``autoprune/``, comprehensions excepted:

* files and functions: those that were entered at least once;
* moves: calls into another file than that of the nearest caller in ``autoprune/`` (a library between them does not
  count). Calls within a file are free, and so are returns and generators that go on.

Below that, how often what should happen once per candidate does. `random` asks for one candidate at a time; `pymoo`
asks for a generation, so that a part of the work falls between other asks.

| `random`         | before | now |
|------------------|--------|-----|
| files            | 39     | 37  |
| functions        | 137    | 145 |
| moves            | 226    | 130 |
| cost model       | 4      | 1   |
| space.check      | 10     | 4   |
| price, estimate  | 3      | 1   |
| cache key        | 4      | 1   |
| job to JSON      | 3      | 1   |
| outcome to JSON  | 2      | 2   |
| objective values | 2      | 2   |
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from inspect import CO_GENERATOR
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import autoprune as ap
from autoprune.testing.digits_network import digits_network

PACKAGE = str(Path(ap.__file__).parent)

WATCHED = {
    "cost model": ("cost/model.py", "__call__"),
    "space.check": ("core/space.py", "check"),
    "price": ("evaluate/runner.py", "price"),
    "cache key": ("store/cache.py", "key"),
    "job to JSON": ("core/jobs.py", "job_to_json"),
    "outcome to JSON": ("core/jobs.py", "outcome_to_json"),
    "objective values": ("core/objectives.py", "values"),
}


class Walk:
    """Records the calls between two asks.

    Args:
        first: which ask to begin with, counted from 0.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self._asks = 0
        self._generators: set[FrameType] = set()
        self.calls: list[tuple[CodeType, CodeType | None]] = []  # callee and its nearest caller in the package

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Take note of an event of the interpreter."""
        del argument
        code = frame.f_code
        if event != "call" or code.co_name.startswith("<") or not code.co_filename.startswith(PACKAGE):
            return
        if code.co_name == "ask" and code.co_filename.endswith("strategies/_base.py"):
            self._asks += 1
        if code.co_flags & CO_GENERATOR:
            if frame in self._generators:  # it goes on
                return
            self._generators.add(frame)
        if self._asks == self._first + 1:
            self.calls.append((code, _caller(frame)))


def _caller(frame: FrameType) -> CodeType | None:
    above = frame.f_back
    while above is not None and not above.f_code.co_filename.startswith(PACKAGE):
        above = above.f_back
    return None if above is None else above.f_code


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the search and print the table."""
    parser = argparse.ArgumentParser(description="Files, functions and moves of one evaluation.")
    parser.add_argument("strategy", nargs="?", default="random")
    parser.add_argument("--path", action="store_true", help="print every call")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    walk = Walk(first=15)
    with tempfile.TemporaryDirectory() as folder:
        problem = ap.Problem(digits_network(), data=ap.load_data("digits"))
        sys.setprofile(walk)
        try:
            ap.search(problem, options.strategy, 60, prepare=None, store=Path(folder) / "run")
        finally:
            sys.setprofile(None)
    name = {code: str(Path(code.co_filename).relative_to(PACKAGE)) for pair in walk.calls for code in pair if code}
    moves = [(caller, code) for code, caller in walk.calls if caller is None or name[caller] != name[code]]
    if options.path:
        for code, caller in walk.calls:
            here = "" if caller is None else f"{name[caller]}:{caller.co_qualname}"
            print(f"{here:70} -> {name[code]}:{code.co_qualname}")
    entered = [code for code, _ in walk.calls]
    print(f"files {len({name[code] for code in entered})}, functions {len(set(entered))}, moves {len(moves)}")
    counts = Counter((name[code], code.co_name) for code in entered)
    for label, where in WATCHED.items():
        print(f"{label:20} {counts[where]}")


if __name__ == "__main__":
    main()
