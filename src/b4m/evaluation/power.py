"""How many votes and voters a difference between two methods needs."""

from collections import defaultdict
from collections.abc import Sequence
from math import ceil
from statistics import NormalDist, fmean

from .preference import Vote

POWER, ALPHA = 0.8, 0.05


def votes_needed(difference: float, together: float = 1.0, power: float = POWER, alpha: float = ALPHA) -> int:
    """Independent votes with which two shares that differ by `difference` are told apart, with probability `power`.

    together: the two shares added up; 1 where only the two are shown, less where others take votes, too. A vote is
    worth +1, -1 or 0, so its variance is `together` when the two are alike and `together - difference^2` when not
    (two-sided test at level `alpha`; Connor 1987, "Sample size for testing differences in proportions for the
    paired-sample design"). Raises ValueError unless 0 < difference <= together <= 1.
    """
    if not 0 < difference <= together <= 1:
        raise ValueError(f"difference {difference} of shares that add up to {together}")
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    root = z_alpha * together**0.5 + z_power * (together - difference**2) ** 0.5
    return ceil((root / difference) ** 2)


def design_effect(votes: Sequence[Vote], first: str, second: str) -> float:
    """Variance of the two shares' difference with voters as clusters, over that of independent votes; at least 1.

    1 when a voter's next vote is as unpredictable as another voter's; up to the votes of a voter when each always
    votes alike. Kish 1965, "Survey Sampling", by the usual sum of squared totals of the voters.
    """
    worth = [(vote.voter, (vote.chosen == first) - (vote.chosen == second)) for vote in votes]
    mean = fmean(value for _, value in worth)
    totals: defaultdict[int, float] = defaultdict(float)
    for voter, value in worth:
        totals[voter] += value - mean
    independent = sum((value - mean) ** 2 for _, value in worth)
    return max(1.0, sum(total**2 for total in totals.values()) / independent) if independent else 1.0
