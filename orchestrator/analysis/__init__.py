"""Reading a sweep's results."""

from orchestrator.analysis.front import pareto_front
from orchestrator.analysis.summary import Saved, compute_saved

__all__ = ["Saved", "compute_saved", "pareto_front"]
