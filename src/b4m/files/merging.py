"""A LoRA of any tool, or one of its relatives, into a denoiser's own weights."""

import torch
from diffusers import ModelMixin
from torch import Tensor

from ..core.errors import UserError
from .contents import Contents
from .lora import fit
from .lycoris import change
from .opening import Opened


def change_of(where: str, contents: Contents, layer: str, weight: Tensor) -> Tensor:
    """dW of one of the layers, like its float32 `weight`; plain LoRAs in the shapes that `fit` gives them."""
    if layer in contents.layers:
        up, down = (matrix.to(weight.device) for matrix in contents.layers[layer])
        return (up @ down.flatten(1)).view_as(weight)
    return change(where, *contents.others[layer], weight)


@torch.no_grad()
def merge(opened: Opened, denoiser: ModelMixin, base_model: str) -> None:
    """W + dW for W, summed in float32 and rounded once to W's dtype.

    Raises UserError for a file that does not fit the denoiser of `base_model`, and, halfway, for one that does not fit
    its dtype.
    """
    where = opened.where
    if opened.kind == "method":
        raise UserError(f"{where}: a file of the method {opened.method}, and no LoRA that could be merged")
    layers = fit(where, opened.contents, denoiser, base_model)
    contents = Contents(layers, opened.contents.others)
    for layer in contents.sizes:
        weight = denoiser.get_submodule(layer).weight
        wide = weight.float()
        weight.copy_(wide + change_of(where, contents, layer, wide))
        if not torch.isfinite(weight).all():
            raise UserError(
                f"{where}: {layer} does not fit into {weight.dtype}; use --mixed-precision no or bf16"
            )
