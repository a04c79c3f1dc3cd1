"""Flip bits of ledgers and caches: ``python -m benchmarks.fuzz.stores [CASES] [SEED]``.

Of every four damaged files one is a cache, which a new search then uses, and three are ledgers, which are read and
resumed. Wanted: no other figures in silence, no raw traceback, no message of 2,000 characters.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.store.damaged_stores import damage_and_use


def main(cases: int = 2000, seed: int = 0) -> int:
    """Print what happened; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        verdict = damage_and_use(Path(folder), cases, seed)
    print(", ".join(f"{name}: {count}" for name, count in sorted(verdict.counts.items())))
    for name in ("silent", "tracebacks", "long"):
        found = getattr(verdict, name)
        print(f"{name}: {len(found)}")
        print("".join(f"  {case}\n" for case in found[:20]), end="")
    return 0 if verdict.is_fine else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
