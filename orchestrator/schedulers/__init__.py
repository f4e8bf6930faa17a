"""Rules that end trials early, behind one interface. See `base`."""

from orchestrator.schedulers.base import Action, Decision, Outcome, Scheduler, TrialInfo
from winnow.spec import SchedulerSpec

__all__ = ["Action", "Decision", "Outcome", "Scheduler", "TrialInfo", "make_scheduler"]


def make_scheduler(spec: SchedulerSpec, seed: int) -> Scheduler:
    """The scheduler that a sweep asks for. `seed` (the search's) drives the audit coin.

    With `spec.mode == "shadow"` it expects that none of its decisions is carried out: see
    `tracking`.
    """
    from orchestrator.schedulers.asha import ASHA
    from orchestrator.schedulers.dynamics import Dynamics
    from orchestrator.schedulers.none import NoScheduler
    from orchestrator.schedulers.paper_sign import PaperSign

    match spec.name:
        case "none":
            return NoScheduler(spec, seed)
        case "asha":
            return ASHA(spec, seed)
        case "paper-sign":
            return PaperSign(spec, seed)
        case "dynamics":
            return Dynamics(spec, seed)
