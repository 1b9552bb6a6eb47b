"""Which tasks can be begun: a heap of those whose needs are met, the most wanted first."""

import heapq
from collections import defaultdict
from collections.abc import Sequence


class Board:
    """Tasks by number, the lowest the most wanted; 10^6 of them cost microseconds each."""

    def __init__(self, needs: Sequence[tuple[int, ...]]) -> None:
        """needs: of each task, the numbers of those that come before it, each once."""
        self.left = len(needs)  # not finished
        self._open = [len(each) for each in needs]  # needs that are not met
        self._after: defaultdict[int, list[int]] = defaultdict(list)
        for number, each in enumerate(needs):
            for need in each:
                self._after[need].append(number)
        self._ready = [number for number, count in enumerate(self._open) if not count]  # sorted: a heap
        self._aside: list[tuple[float, int]] = []  # a heap of (when, number)

    def take(self, now: float) -> int | None:
        """The most wanted task that can be begun; the caller has it until `finish` or `put_back`."""
        while self._aside and self._aside[0][0] <= now:
            heapq.heappush(self._ready, heapq.heappop(self._aside)[1])
        return heapq.heappop(self._ready) if self._ready else None

    def finish(self, number: int) -> None:
        """A task that was taken is done: those that waited for it alone can be begun."""
        self.left -= 1
        for later in self._after.pop(number, ()):
            self._open[later] -= 1
            if not self._open[later]:
                heapq.heappush(self._ready, later)

    def put_back(self, number: int, when: float) -> None:
        """A task that was taken can be begun again from `when` on."""
        heapq.heappush(self._aside, (when, number))
