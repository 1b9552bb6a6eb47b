"""The frozen UNet made to fit: in 8 bits, spread over processes, recomputing, compiled."""

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from .config import TrainConfig
from .errors import UserError

BLOCKS = (BasicTransformerBlock, ResnetBlock2D)  # what Diffusers recomputes, and what is sharded


def place(unet: UNet2DConditionModel, config: TrainConfig, device: torch.device) -> None:
    """Bring the UNet and the adapter on it to `device`, in the way that the settings ask for."""
    if config.shard:
        shard(unet, device)  # block by block: the device need not hold the whole at any time
    unet.to(device)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if config.compile:
        compile_blocks(unet)


def compile_blocks(unet: UNet2DConditionModel, **options) -> None:
    """torch.compile of the blocks that repeat, once for each shape; what cannot be compiled runs as it is.

    options: torch.compile's. The first steps are slower: the kernels are made when they are first needed.
    """
    torch._dynamo.config.suppress_errors = True  # no compiler on this machine, say
    unet.compile_repeated_blocks(**options)


def quantize(unet: UNet2DConditionModel) -> None:
    """The linear layers of the transformer blocks in 8 bits, a scale for each row; all else stays as it is.

    Raises UserError without torchao.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise UserError("--quantize int8 needs the package torchao: pip install torchao") from error
    quantize_(
        unet,
        Int8WeightOnlyConfig(),
        lambda module, name: isinstance(module, nn.Linear) and "transformer_blocks" in name,
    )


def shard(unet: UNet2DConditionModel, device: torch.device) -> None:
    """Spread the frozen weights over all processes of the run, with torch's fully_shard (FSDP).

    Each process keeps its share on its device and gathers a block's weights when the block is due, in the backward
    pass once more. What has a gradient, B and D, stays whole everywhere. All processes must then call the UNet alike.
    """
    # Here, for it is slow to import and not in every build of torch.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    learnable = {parameter for parameter in unet.parameters() if parameter.requires_grad}
    blocks = [module for module in unet.modules() if isinstance(module, BLOCKS)]
    for module in (*blocks, unet):
        fully_shard(module, mesh=mesh, ignored_params=learnable)
