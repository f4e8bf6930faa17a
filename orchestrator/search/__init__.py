"""What to try next: the search space, and the samplers that propose configurations from it."""

from orchestrator.search.narrowing import check_params, merged, narrowed
from orchestrator.search.samplers import Proposer, Told, make_proposer
from orchestrator.search.space import SearchSpace

__all__ = [
    "Proposer",
    "SearchSpace",
    "Told",
    "check_params",
    "make_proposer",
    "merged",
    "narrowed",
]
