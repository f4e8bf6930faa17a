"""Reading a sweep's results."""

from orchestrator.analysis.front import pareto_front
from orchestrator.analysis.random_choice import expected_best
from orchestrator.analysis.summary import Saved, compute_saved

__all__ = ["Saved", "compute_saved", "expected_best", "pareto_front"]
