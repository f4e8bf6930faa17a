"""The smallest effects that the design can detect, from its size alone: no run is looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from scipy.stats import t as student


def detectable_correlation(
    sizes: Sequence[int], covariates: int = 0, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest rank correlation, the same in all sweeps, that a two-sided test of its mean finds.

    `sizes` are configurations a sweep, `covariates` what is partialled out. Fisher's z of a
    Spearman correlation has variance 1.06 / (n - k - 3) (Fieller, Hartley and Pearson, 1957); the
    mean weighs each sweep the same.
    """
    variance = sum(1.06 / (n - covariates - 3) for n in sizes) / len(sizes) ** 2
    normal = NormalDist()
    reach = normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)
    return math.tanh(reach * math.sqrt(variance))


def tolerable_deviation(pairs: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """Largest standard deviation of paired differences, in margins, at which two one-sided tests
    show equivalence with the given power if there is no difference: √n / (t₁₋α,ₙ₋₁ + z₍₁₊power₎⸝₂)
    (Schuirmann, 1987, normal approximation of the power)."""
    critical = float(student.ppf(1 - alpha, pairs - 1))
    return math.sqrt(pairs) / (critical + NormalDist().inv_cdf((1 + power) / 2))


def detectable_shift(pairs: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest mean difference, in standard deviations of the differences, that a two-sided paired
    t-test finds (normal approximation of the power)."""
    critical = float(student.ppf(1 - alpha / 2, pairs - 1))
    return (critical + NormalDist().inv_cdf(power)) / math.sqrt(pairs)
