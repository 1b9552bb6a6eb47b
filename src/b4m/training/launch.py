"""Devices and processes of a run, through accelerate."""

from accelerate import Accelerator, DistributedType
from accelerate.tracking import get_available_trackers

from ..core.errors import UserError

WRAPPERS = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def launch(mixed_precision: str, tracker: str, folder: str) -> Accelerator:
    """Devices, processes, precision and tracker. Raises UserError for what this machine does not have."""
    log_with = None if tracker == "none" else tracker
    if log_with and log_with not in map(
        str, get_available_trackers()
    ):  # accelerate would leave it out in silence
        raise UserError(f'--tracker {tracker}: its package is not installed; pip install "b4m[{tracker}]"')
    try:
        made = Accelerator(mixed_precision=mixed_precision, log_with=log_with, project_dir=folder)
    except (ValueError, ImportError) as error:
        raise UserError(
            f"--mixed-precision {mixed_precision}, --tracker {tracker}: not possible here: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    if made.distributed_type in WRAPPERS:
        raise UserError(
            f"accelerate is set to {made.distributed_type.value}, whose wrappers are no use here: launch with "
            "accelerate launch --multi_gpu instead, and give --shard to spread the frozen model over the processes"
        )
    return made


def check_shard(wanted: bool, accelerator: Accelerator) -> None:
    """Raises UserError where there is nothing to spread a model over."""
    if wanted and accelerator.num_processes == 1:
        raise UserError(
            "--shard spreads the model over processes, and this run has one: start several with accelerate launch "
            "--num_processes 2 on GPUs, with torchrun --nproc_per_node 2 on CPUs"
        )
