"""How often somebody may ask: a bucket of requests that refills with time, for each address or voter."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_KEYS = 10_000  # buckets in memory; the one used longest ago goes first


class Limit:
    """Allows `burst` at once and `rate` a second in the long run, for each key. Safe to use from several threads."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self.clock = rate, burst, clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # left, when

    def allows(self, key: str) -> bool:
        """Whether `key` may, now; takes one from its bucket if so."""
        now = self.clock()
        with self._lock:
            left = self._left(key, now)
            allowed = left >= 1
            self._buckets[key] = (left - allowed, now)
            self._buckets.move_to_end(key)
            if len(self._buckets) > MAX_KEYS:
                self._buckets.popitem(last=False)
        return allowed

    def spent(self, key: str) -> bool:
        """Whether `key` may not, now; takes nothing."""
        with self._lock:
            return self._left(key, self.clock()) < 1

    def _left(self, key: str, now: float) -> float:
        left, since = self._buckets.get(key, (float(self.burst), now))
        return min(float(self.burst), left + (now - since) * self.rate)
