"""An array job for Slurm: each of its elements is a worker that goes through the same work list."""

import shlex
import sys
from pathlib import Path

from ...core.atomic import write_text
from ...core.errors import UserError
from ...core.mounts import check_locks
from ..settings import EngineConfig

SCRIPT = """\
#!/bin/bash
# {count} workers of: b4m {command}
# Each does what none has in hand or has done. Submit: sbatch {path}
# Add here, or after sbatch, what your cluster asks for: --partition, --time, --mem, --gpus-per-task=1.
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task=1
#SBATCH --output={logs}/%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
cd {here} || exit 2
srun {python} -m b4m {command} --workers 1
status=$?
# Stopped two minutes before its time was over, its state saved: this element goes on in its next turn.
[ $status -eq 143 ] && scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
exit $status
"""


def write_slurm(config: EngineConfig, root: Path, folder: str) -> Path:
    """The script, in `folder`. root: where the work lies. Raises UserError.

    Elements share the work by locks in `root`, as processes on one machine do, so a dependency never waits for a
    certain element: one that is stopped, requeued or missing leaves its work to the others.
    """
    if config.workers is None:
        raise UserError("--write-slurm: say with --workers how many elements the array job has")
    check_locks(root)
    place = Path(folder).absolute()
    path = place / "job.sh"
    if any(letter in str(place) for letter in "%\\ "):  # which Slurm reads as its own in a name of a log
        raise UserError(
            f"--write-slurm {place}: choose a folder without spaces, % and backslashes in its path"
        )
    text = SCRIPT.format(
        count=config.workers,
        last=config.workers - 1,
        command=shlex.join(config.words),
        name=config.name,
        path=path,
        logs=place,
        here=shlex.quote(str(Path.cwd())),
        python=shlex.quote(sys.executable),
    )
    write_text(path, text)
    return path
