"""The frozen denoiser made to fit: in 8 bits, spread over processes, recomputing, compiled, laid out for its device."""

from collections.abc import Mapping

import torch
from diffusers import ModelMixin
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from ..config.training import TrainConfig
from ..core.errors import UserError
from .attention import told

HALF = (torch.bfloat16, torch.float16)
BLOCKS = (BasicTransformerBlock, ResnetBlock2D)  # what Diffusers recomputes, and what is sharded


def place(denoiser: ModelMixin, config: TrainConfig, device: torch.device) -> None:
    """Bring the denoiser and the adapter on it to `device`, in the way that the settings ask for."""
    if config.shard:
        shard(denoiser, device)  # block by block: the device need not hold the whole at any time
    denoiser.to(device)
    if not config.shard:  # which takes weights in torch's usual order alone
        lay_out(denoiser)
    if config.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    if config.compile:
        compile_blocks(denoiser)


def channels_last_pays(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether convolutions had better have frozen weights of this dtype in channels-last order.

    A GPU's kernels for half precision want that order, and turn other weights into it in every call. On a CPU it was
    measured slower.
    """
    return device.type == "cuda" and dtype in HALF


def lay_out(denoiser: ModelMixin) -> None:
    """Convolutions' weights in the order that pays on the device where they are."""
    for module in convolutions(denoiser):
        if channels_last_pays(module.weight.device, module.weight.dtype):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


def kernels_line(denoiser: ModelMixin, attention: Mapping[str, int]) -> str:
    """What a run says of how its GPU computes. attention: calls of each kernel."""
    order = "last" if is_channels_last(denoiser) else "first"
    return f"kernels: attention {told(attention)}; convolutions channels {order}"


def is_channels_last(denoiser: ModelMixin) -> bool:
    """Whether all convolutions' weights are in that order."""
    weights = (module.weight for module in convolutions(denoiser))
    return all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def convolutions(denoiser: ModelMixin) -> list[nn.Conv2d]:
    return [module for module in denoiser.modules() if isinstance(module, nn.Conv2d)]


def compile_blocks(denoiser: ModelMixin, **options) -> None:
    """torch.compile of the blocks that repeat, once for each shape; what cannot be compiled runs as it is.

    options: torch.compile's. The first steps are slower: the kernels are made when they are first needed.
    """
    torch._dynamo.config.suppress_errors = True  # no compiler on this machine, say
    denoiser.compile_repeated_blocks(**options)


def quantize(denoiser: ModelMixin) -> None:
    """The linear layers of the transformer blocks in 8 bits, a scale for each row; all else stays as it is.

    Raises UserError without torchao.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise UserError("--quantize int8 needs the package torchao: pip install torchao") from error
    quantize_(
        denoiser,
        Int8WeightOnlyConfig(),
        lambda module, name: isinstance(module, nn.Linear) and "transformer_blocks" in name,
    )


def shard(denoiser: ModelMixin, device: torch.device) -> None:
    """Spread the frozen weights over all processes of the run, with torch's fully_shard (FSDP).

    Each process keeps its share on its device and gathers a block's weights when the block is due, in the backward
    pass once more. What has a gradient stays whole everywhere. All processes must then call the denoiser alike.
    """
    # Here, for it is slow to import and not in every build of torch.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    learnable = {parameter for parameter in denoiser.parameters() if parameter.requires_grad}
    blocks = [module for module in denoiser.modules() if isinstance(module, BLOCKS)]
    for module in (*blocks, denoiser):
        fully_shard(module, mesh=mesh, ignored_params=learnable)
