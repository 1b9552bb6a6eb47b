"""What a file is, told from its names and shapes: for which model, of which kind; also where b4m has no use for it."""

import re
from collections.abc import Iterable, Mapping
from functools import cache

from torch import Tensor, nn

from ..backbones.published import PUBLISHED, empty_unet

Sizes = dict[str, tuple[int, int]]  # layer -> (outputs, inputs of one output)

# Parts that are left out where a file is used, since only the UNet is adapted.
_BESIDE = {
    "text encoder": re.compile(
        r"(?:lora_te\d?_|(?:base_model\.model\.)?"
        r"(?:text_encoders?(?:_\d)?|text_model|te\d?|clip_[lg]|cond_stage_model|conditioner)\.)"
    ),
    "bundled embedding": re.compile(r"bundle_emb\."),
}
# Kinds that change a layer in another way than those that are read.
_METHODS = {
    "an OFT or BOFT": r"\.(?:oft|boft)_",
    "an IA3": r"\.ia3_l|\.on_input$",
    "a GLoRA": r"\.[ab][12]\.weight$",
    "a VeRA": r"\.vera_lambda",
    "an AdaLoRA": r"\.lora_E",
    "a LoRA with biases": r"(?:\.lora_B|\.lora_up|\.lora\.up)(?:\.\w+)?\.bias$|\.diff_b$|\.b_norm$",
    "a file of whole differences": r"\.diff$|\.w_norm$|\.set_weight$",
    "a LoRA in scaled 8-bit numbers": r"\.(?:scale_weight|weight_scale)$|scaled_fp8",
}
# Models that are no Stable Diffusion UNet, by names in which every "_" is a "."; the first row that fits counts.
_MODELS = {
    "FLUX.2": r"to\.qkv\.mlp\.proj|(?:double|single)\.stream\.modulation",
    "Chroma": r"distilled\.guidance\.layer",
    "AuraFlow": r"joint\.transformer\.blocks|double\.layers\.\d",
    "HunyuanVideo": r"img\.mlp\.fc1|token\.refiner",
    "FLUX.1": r"single\.transformer\.blocks\.\d|(?:double|single)\.blocks\.\d",
    "Qwen-Image": r"transformer\.blocks\.\d+\.(?:img|txt)\.m(?:lp|od)",
    "Stable Diffusion 3": r"joint\.blocks\.\d",
    "FLUX.1, Qwen-Image or Stable Diffusion 3": r"transformer\.blocks\.\d+\.attn\.",
    "Z-Image or Lumina": r"(?:^|\.)layers\.\d+\.attention\.|(?:context|noise)\.refiner",
    "Wan or another video model": r"(?<!transformer\.)\bblocks\.\d+\.(?:(?:self|cross)\.attn\.|attn[12]\.to)",
    "Stable Cascade": r"prior\.unet|(?:down|up)\.blocks\.\d+\.\d+\.attention",
    "a text encoder of the T5 kind": r"(?:en|de)coder\.block\.\d+\.layer",
    "a vision model": r"vision\.model\.|(?:^|\.)visual\.|(?:^|\.)vit\.",
    "a language model": (
        r"(?:^|\.)layers\.\d+\.(?:self\.attn|mlp|linear\.attn)\.|(?:^|\.)h\.\d+\.(?:attn|mlp|self)|"
        r"query\.key\.value|embed\.tokens|lm\.head"
    ),
    "a text or vision model": r"encoder\.layer\.\d+\.",
    "another image or video transformer": r"(?:^|\.)transformer\.blocks?\.|^(?:base\.model\.model\.)?transformer\.",
}
# Files that adapt nothing.
_WHOLES = {
    "a ControlNet": r"^(?:control_model|controlnet)",
    "an IP-Adapter": r"^(?:ip_adapter|image_proj)\.",
    "a motion module of AnimateDiff": r"motion_modules",
    "a whole checkpoint": r"^model\.diffusion_model\.",
    "a UNet or ControlNet": r"^(?:unet\.)?(?:down_blocks|mid_block|up_blocks)\..*\.(?:weight|bias)$",
    "an autoencoder": r"^(?:first_stage_model|encoder\.(?:conv_in|mid|down)|decoder\.(?:conv_in|mid|up)|quant_conv)",
    "a text encoder": r"^(?:text_model|transformer\.text_model)\.",
    "an embedding (textual inversion)": r"^(?:emb_params|clip_[lg]|t5xxl|string_to_param.*|<[^>]*>)$",
}
_ADAPTS = re.compile(r"\.lora_|_lora\.|\.lora\.|\.alpha$|\.hada_|\.lokr_|\.dora_scale$")
_WIDTHS = {1536: "Stable Diffusion 3", 2432: "Stable Diffusion 3", 3840: "Z-Image", 2304: "Lumina"}
_FLUX_BLOCKS = 19  # of FLUX.1 with names that Qwen-Image, which has 60, shares


def beside(key: str) -> str | None:
    """Which of the parts that are left out a key belongs to."""
    return next((part for part, pattern in _BESIDE.items() if pattern.match(key)), None)


def foreign(tensors: Mapping[str, Tensor], unknown: Iterable[str]) -> str | None:
    """What a file with keys that are not understood is, in words; None where names and shapes do not tell."""
    unknown = [key for key in unknown if not beside(key)]
    if not unknown:
        return "a LoRA of a text encoder" if any(map(_ADAPTS.search, tensors)) else "a text encoder"
    if found := _first(_METHODS, unknown):
        return found
    if adapting := [key for key in unknown if _ADAPTS.search(key)]:
        model = _first(_MODELS, [key.replace("_", ".") for key in adapting])
        return model and f"a LoRA of {_by_shape(model, tensors, adapting)}"
    return None if any(map(_ADAPTS.search, tensors)) else _first(_WHOLES, unknown)


def made_for(sizes: Sizes) -> tuple[str, ...]:
    """The published Stable Diffusion models that have all these layers."""
    return tuple(one.title for one in PUBLISHED if sizes.items() <= _published_sizes(one.title).items())


@cache
def _published_sizes(title: str) -> Sizes:
    return sizes_of(empty_unet(title))


def sizes_of(denoiser: nn.Module) -> Sizes:
    """Of every layer that a file may change."""
    return {
        name: (module.weight.shape[0], module.weight.shape[1:].numel())
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def _first(patterns: Mapping[str, str], keys: Iterable[str]) -> str | None:
    """The first of `patterns` that one of the keys fits."""
    keys = list(keys)
    return next(
        (name for name, pattern in patterns.items() if any(re.search(pattern, k) for k in keys)), None
    )


def _by_shape(model: str, tensors: Mapping[str, Tensor], keys: Iterable[str]) -> str:
    """One of the models whose names are alike, by its layers' widths and its number of blocks."""
    if " or " not in model:
        return model
    widths = {side for key in keys for side in tensors[key].shape}
    blocks = [
        int(number) for key in keys for number in re.findall(r"transformer_blocks[._](\d{1,3})[._]", key)
    ]
    if max(blocks, default=0) >= _FLUX_BLOCKS and 3072 in widths:
        return "Qwen-Image"
    return next((name for width, name in _WIDTHS.items() if width in widths and name in model), model)
