"""The search itself.

Job i is asked once all outcomes up to i - W have been told, in id order, so asks and tells interleave identically for
any number of workers. An outcome is committed before the strategy is told. A search is resumed by running it again
on the same store.
"""

from autoprune.orchestrator.loop import Stop
from autoprune.orchestrator.progress import SearchProgress
from autoprune.orchestrator.run import SearchResult, run_search

__all__ = ["SearchProgress", "SearchResult", "Stop", "run_search"]
