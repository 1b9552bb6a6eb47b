"""Importing big libraries quickly, at the start of a process of our own."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """While torch and what builds on it are imported nothing is collected, nor do later collections look at them.

    They leave 700,000 objects that live as long as the process, which Python's collector would go through again and
    again while they come, and once more at exit. For commands, not for a library: what is garbage at the end of it
    stays. Where torch has been imported before, nothing is done.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
