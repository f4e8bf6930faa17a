"""Rules that end trials early, behind one interface. See `base`."""

from orchestrator.schedulers.base import Action, Decision, Outcome, Scheduler, TrialInfo
from orchestrator.schedulers.transfer import Prior
from winnow.spec import SchedulerSpec

__all__ = ["Action", "Decision", "Outcome", "Scheduler", "TrialInfo", "make_scheduler"]


def make_scheduler(spec: SchedulerSpec, seed: int, prior: Prior | None = None) -> Scheduler:
    """The scheduler that a sweep asks for.

    `seed` (the search's) drives the audit coin and the draws of `random`. `prior` is what earlier
    sweeps showed; only `dynamics` reads it. With `spec.mode == "shadow"` the scheduler expects
    that none of its decisions is carried out: see `tracking`.
    """
    from orchestrator.schedulers.asha import ASHA
    from orchestrator.schedulers.dynamics import Dynamics
    from orchestrator.schedulers.hyperband import Hyperband
    from orchestrator.schedulers.median import MedianStopping
    from orchestrator.schedulers.none import NoScheduler
    from orchestrator.schedulers.one_epoch import OneEpoch
    from orchestrator.schedulers.paper_sign import PaperSign
    from orchestrator.schedulers.pareto import Pareto
    from orchestrator.schedulers.random_halving import RandomHalving
    from orchestrator.schedulers.rate_batch import RateBatchCurve
    from orchestrator.schedulers.wilcoxon import Wilcoxon

    match spec.name:
        case "none":
            return NoScheduler(spec, seed)
        case "random":
            return RandomHalving(spec, seed)
        case "one-epoch":
            return OneEpoch(spec, seed)
        case "asha":
            return ASHA(spec, seed)
        case "hyperband":
            return Hyperband(spec, seed)
        case "median":
            return MedianStopping(spec, seed)
        case "wilcoxon":
            return Wilcoxon(spec, seed)
        case "pareto":
            return Pareto(spec, seed)
        case "rate-batch-curve":
            return RateBatchCurve(spec, seed)
        case "paper-sign":
            return PaperSign(spec, seed)
        case "dynamics":
            return Dynamics(spec, seed, prior)
