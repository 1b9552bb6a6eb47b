"""What would spoil a result in silence: numbers that are not finite."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from ..core.errors import UserError
from ..data.inputs import MicroBatch
from ..methods.protocol import Learner

# Of one step: each micro-batch and the losses (samples,) of what it showed.
Passes = Sequence[tuple[MicroBatch, Tensor]]


def suspects(
    passes: Passes, learner: Learner, images: Sequence[Path], bad: Sequence[nn.Parameter] = ()
) -> str:
    """The samples whose loss is not finite; where every loss is, those that train a factor of `bad`.

    bad: of the learner's `parameters`, those whose gradient is not finite.
    -> " in sample 1 (bear.png)", or "" for none.
    """
    samples = [
        (sample, image, bool(finite))
        for shown, losses in passes
        for sample, image, finite in zip(shown.samples, shown.images, losses.isfinite().tolist(), strict=True)
    ]
    found = [(sample, image) for sample, image, finite in samples if not finite]
    if not found:
        kinds = _kinds(learner, bad)
        found = [(sample, image) for sample, image, _ in samples if kinds & learner.learns_from(sample)]
    names = [f"sample {sample + 1} ({images[image]})" for sample, image in dict.fromkeys(found)]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f" in {', '.join(names[:4])}{more}" if names else ""


def _kinds(learner: Learner, parameters: Sequence[nn.Parameter]) -> set[str]:
    """The kinds (start of a name in `named`) that lie in `parameters`, or in stacks of which the named are views."""
    storages = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    named = learner.named.items()
    return {name.split("/")[0] for name, part in named if part.untyped_storage().data_ptr() in storages}


def check_weights(parameters: Sequence[nn.Parameter], step: int, folder: Path) -> None:
    """Raise UserError for weights that no file should keep."""
    if not all(parameter.isfinite().all() for parameter in parameters):
        raise UserError(
            f"the weights are not finite after step {step}: nothing is saved of it, the last state in {folder} "
            "stays; lower --lr"
        )
