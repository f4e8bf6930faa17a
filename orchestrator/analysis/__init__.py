"""Reading a sweep's results."""

from orchestrator.analysis.summary import Saved, compute_saved

__all__ = ["Saved", "compute_saved"]
