"""Simulated voters with known preferences: what a report will look like, and whether it finds what is there."""

import hashlib
import random
import shutil
from pathlib import Path

from ...core.errors import UserError
from .ballot import ballot, sides
from .questions import VOTES, Study, read_study
from .report import SIMULATED, write_report
from .settings import SimulateConfig
from .store import Store

FOLDER = "simulated"  # beside the real votes, never among them


def simulate(config: SimulateConfig) -> Path:
    """Let simulated voters answer the whole study, and report on them; the report's folder. Raises UserError."""
    folder = Path(config.study)
    study, known = read_study(folder), config.known()
    if unknown := sorted(known.keys() - set(study.methods)):
        raise UserError(
            f"--strengths {unknown[0]}: no method of this study; it has {', '.join(study.methods)}"
        )
    target = folder / FOLDER
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    store = Store(target / VOTES, study.key, flush=False)
    try:
        vote_all(study, store, known, config.voters, config.seed)
        return write_report(target, study, store, SIMULATED)
    finally:
        store.close()


def vote_all(study: Study, store: Store, strengths: dict[str, float], voters: int, seed: int = 0) -> None:
    """Every voter answers every question: chooses a method with probability strength / sum of those shown.

    A method without a strength has 1. Attention checks are passed.
    """
    for number in range(voters):
        chance = random.Random(hashlib.sha256(f"{seed}/{number}".encode()).digest())
        voter = store.voter(store.join(None))
        assert voter is not None
        for question in ballot(study, voter):
            shown = [option.method for option in sides(study, voter, question)]
            weights = [strengths.get(name, 1.0) for name in shown]
            chosen = question.right or chance.choices(shown, weights)[0]
            store.add(voter, question.id, chosen, shown)
