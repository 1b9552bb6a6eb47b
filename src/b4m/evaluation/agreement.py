"""How far voters agree: Krippendorff's alpha for names without an order."""

from collections import Counter
from collections.abc import Iterable, Sequence


def krippendorff_alpha(units: Iterable[Sequence[str]]) -> float:
    """1 when voters always agree, 0 when they agree as often as chance would, below 0 when less.

    units: for each question the names that its voters chose, any number of them; a question with fewer than two votes
    says nothing. Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C (nominal data, any number
    of observers, missing data). nan where no question has two votes, or where only one name was ever chosen.
    """
    counted = [Counter(unit) for unit in units if len(unit) > 1]
    total = Counter[str]()
    for unit in counted:
        total += unit
    n = total.total()
    apart = n**2 - sum(
        count**2 for count in total.values()
    )  # ordered pairs of unlike names, whoever chose them
    if not apart:
        return float("nan")
    seen = sum(
        (unit.total() ** 2 - sum(count**2 for count in unit.values())) / (unit.total() - 1)
        for unit in counted
    )
    return 1 - (n - 1) * seen / apart
