"""What to try next: the search space, and the samplers that propose configurations from it."""

from orchestrator.search.samplers import Proposer, Told, make_proposer
from orchestrator.search.space import SearchSpace

__all__ = ["Proposer", "SearchSpace", "Told", "make_proposer"]
