"""How each family of tools spells a file's keys: one table of dialects, from a layer to its keys and back.

A layer is its module's full path in a Diffusers UNet. A key is the layer's spelling and an ending that says which
part of the layer's change it is: the down or the up projection, alpha (the LoRA is scaled by alpha / rank; without one,
by 1), or a part of DoRA, LoHa or LoKr.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

SDXL_DEPTH = 2  # layers_per_block of SDXL's UNet, by which the original SDXL names count their blocks
OTHER = "other"  # the dialect of a spelling that is read and that none of DIALECTS writes
LONGEST = 300  # characters of a key; no layer's name comes near

_N = r"(?:0|[1-9]\d{0,3})"
_TRANSFORMER = (
    rf"proj_in|proj_out|transformer_blocks\.{_N}\."
    r"(?:attn[12]\.to_(?:q|k|v|out\.0)|ff\.net\.(?:0\.proj|2))"
)
_RESIDUAL = "conv1|conv2|time_emb_proj|conv_shortcut"
# The layers in the blocks of a Stable Diffusion UNet: where they stand, and their name there.
_LAYER = re.compile(
    rf"(?P<start>(?:(?:down|up)_blocks\.{_N}|mid_block)\.(?:attentions|resnets)\.{_N}|"
    rf"(?:down_blocks\.{_N}\.down|up_blocks\.{_N}\.up)samplers\.0)\."
    rf"(?P<unit>(?<=attentions\.\d\.)(?:{_TRANSFORMER})|(?<=resnets\.\d\.)(?:{_RESIDUAL})|(?<=samplers\.0\.)conv)",
    re.ASCII,
)
_ORIGINAL = re.compile(
    rf"(?P<start>(?:(?:input|output)_blocks\.{_N}|middle_block)\.\d)\.(?P<unit>\w+(?:\.\w+)*)", re.ASCII
)
# What the original implementation calls the layers of a residual block and of a downsampler, ...
_RENAMED = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
    "conv": "op",
}
# ... and those outside the blocks.
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_BLOCKS = 8  # more than any UNet has to a side
# In these words an underscore belongs to the word; every other one stands for a dot.
_WORDS = re.compile(
    r"((?:down|up|input|output|transformer)_blocks|(?:mid|middle)_block|proj_in|proj_out|to_[qkv]|to_out"
    r"|conv_in|conv_out|conv_shortcut|time_emb_proj|(?:time|add)_embedding|linear_[12]|time_embed|label_emb"
    r"|(?:in|out|emb)_layers|skip_connection)|_"
)
# What tools put before one and the same name, in any order and number.
_WRAPPERS = re.compile(r"(?:base_model\.model\.|(?:model\.)?diffusion_model\.|unet\.|module\.|_orig_mod\.)*")
_MODULE = re.compile(
    r"(?:(?:down|up)_blocks|mid_block|conv_in|conv_out|(?:time|add|class)_embedding|encoder_hid_proj)(?:\.\w+)*",
    re.ASCII,
)
_PROJECTIONS = (".to_q", ".to_k", ".to_v", ".to_out.0")
_UNDERSCORED = re.compile(r"(?:lora_unet|lycoris)_")
_KOHYA = "lora_unet_"
_DOUBLED = "unet.unet."

Spelling = Callable[[str, int], str | None]  # (name, layers_per_block) -> the other name; None: it has none


@dataclass(frozen=True)
class Dialect:
    """One spelling. `write`: layer -> start of its keys; `read`: the inverse; `down`, `up`: how keys end."""

    doc: str
    down: str
    up: str
    write: Spelling
    read: Spelling
    alpha: bool = False  # whether its readers expect an alpha
    numbered: bool = False  # whether block numbers depend on the UNet's layers_per_block
    implementation: str = "diffusers"  # whose module names these are, for modelspec.implementation


def unwrapped(body: str) -> str:
    """A dotted name without what tools put before it."""
    return _WRAPPERS.sub("", body, count=1)


def _from_dotted(body: str, depth: int) -> str | None:
    bare = unwrapped(body)
    if not _MODULE.fullmatch(bare):
        return None
    return re.sub(r"\.to_out$", ".to_out.0", bare)  # once one module, today a list of two


def _from_doubled(body: str, depth: int) -> str | None:
    return _from_dotted(body, depth) if body.startswith(_DOUBLED) else None


def _from_processor(body: str, depth: int) -> str | None:
    layer = _from_dotted(body.replace(".processor.", "."), depth)
    return layer if layer and layer.endswith(_PROJECTIONS) else None


def _to_processor(layer: str, depth: int) -> str | None:
    if not layer.endswith(_PROJECTIONS):
        return None
    attention, _, projection = layer.removesuffix(".0").rpartition(".")
    return f"unet.{attention}.processor.{projection}"


def _from_kohya(body: str, depth: int) -> str | None:
    layer = _dotted(body)
    return layer if layer and _is_layer(layer) else None


def _to_kohya(layer: str, depth: int) -> str | None:
    return _KOHYA + layer.replace(".", "_") if _is_layer(layer) else None


def _is_layer(name: str) -> bool:
    return name in OUTSIDE or _LAYER.fullmatch(name) is not None


def _from_original(body: str, depth: int) -> str | None:
    return _layer_of(_dotted(body) or "", depth)


def _from_original_dotted(body: str, depth: int) -> str | None:
    return _layer_of(unwrapped(body), depth)


@lru_cache(8)
def _starts(depth: int) -> dict[str, str]:
    """Where layers stand, in Diffusers' name and in the original one.

    input_blocks n: one convolution, then per block `depth` layers and a downsampler. output_blocks: `depth` + 1 layers
    per block, the last of which also holds the upsampler.
    """
    starts = {
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    for block, slot in product(range(_BLOCKS), range(depth + 1)):
        number = block * (depth + 1) + slot
        for place, kind in enumerate(("resnets", "attentions")):
            starts[f"up_blocks.{block}.{kind}.{slot}"] = f"output_blocks.{number}.{place}"
            if slot < depth:
                starts[f"down_blocks.{block}.{kind}.{slot}"] = f"input_blocks.{number + 1}.{place}"
    for block in range(_BLOCKS):
        last = block * (depth + 1) + depth
        starts[f"down_blocks.{block}.downsamplers.0"] = f"input_blocks.{last + 1}.0"
        starts[f"up_blocks.{block}.upsamplers.0"] = f"output_blocks.{last}.2"
    return starts


@lru_cache(8)
def _original_starts(depth: int) -> dict[str, str]:
    return {theirs: ours for ours, theirs in _starts(depth).items()}


_OURS = {theirs: ours for ours, theirs in (_RENAMED | OUTSIDE).items()}


def _layer_of(original: str, depth: int) -> str | None:
    """A layer by its original name."""
    if original in OUTSIDE.values():
        return _OURS[original]
    found = _ORIGINAL.fullmatch(original)
    if found is None:
        return None
    start, unit = found.groups()
    if unit == "conv" and start.startswith(
        "output"
    ):  # an upsampler, whose place hangs on what stands before it
        start = re.sub(r"\.1$", ".2", start)
    layer = f"{_original_starts(depth).get(start)}.{_OURS.get(unit, unit)}"
    return layer if _LAYER.fullmatch(layer) else None


def _to_original(layer: str, depth: int) -> str | None:
    """The inverse of `_from_original`, but for upsamplers: what stands before one is not in its name."""
    if layer in OUTSIDE:
        return _KOHYA + OUTSIDE[layer].replace(".", "_")
    found = _LAYER.fullmatch(layer)
    start = _starts(depth).get(found["start"]) if found and "upsamplers" not in layer else None
    if found is None or start is None:
        return None
    return _KOHYA + f"{start}.{_RENAMED.get(found['unit'], found['unit'])}".replace(".", "_")


def _dotted(body: str) -> str | None:
    """An underscored name with its dots back; None without the start that such names have."""
    start = _UNDERSCORED.match(body)
    return _WORDS.sub(lambda found: found[1] or ".", body[start.end() :]) if start else None


# In the order in which a key is tried: the doubled prefix before the single one.
DIALECTS = {
    "diffusers": Dialect(
        "Diffusers and peft",
        ".lora_A.weight",
        ".lora_B.weight",
        lambda layer, depth: f"unet.{layer}",
        _from_dotted,
    ),
    "published": Dialect(
        "the published B4M checkpoints",
        ".lora.down.weight",
        ".lora.up.weight",
        lambda layer, depth: _DOUBLED + layer,
        _from_doubled,
    ),
    "diffusers-old": Dialect(
        "older Diffusers",
        ".lora.down.weight",
        ".lora.up.weight",
        lambda layer, depth: f"unet.{layer}",
        _from_dotted,
    ),
    "diffusers-processor": Dialect(
        "the oldest Diffusers, attention projections only",
        "_lora.down.weight",
        "_lora.up.weight",
        _to_processor,
        _from_processor,
    ),
    "kohya": Dialect(
        "kohya, A1111 and ComfyUI, with Diffusers' block names",
        ".lora_down.weight",
        ".lora_up.weight",
        _to_kohya,
        _from_kohya,
        alpha=True,
    ),
    "kohya-original": Dialect(
        "kohya, A1111 and ComfyUI, with the block names of the original implementation",
        ".lora_down.weight",
        ".lora_up.weight",
        _to_original,
        _from_original,
        alpha=True,
        numbered=True,
        implementation="https://github.com/Stability-AI/generative-models",
    ),
}


# How keys of other spellings end, and which part of a layer's change that is.
_PARTS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_mid.weight": "mid",
    ".alpha": "alpha",
    ".dora_scale": "magnitude",
    ".lora_magnitude_vector": "rows",
    ".lora_magnitude_vector.weight": "rows",
    **{f".hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{part}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}
_READERS = (_from_kohya, _from_original, _from_original_dotted, _from_processor, _from_dotted)


def parse(key: str, depth: int = SDXL_DEPTH) -> tuple[str, str, str] | None:
    """A tensor's key -> (dialect or OTHER, layer, part); None for a key of any other kind.

    part: "down", "up", "alpha", or another of the parts of a change: "mid", "magnitude", "hada_w1_a", "lokr_w1", ...
    """
    if len(key) > LONGEST:
        return None
    key = named(key)
    for name, dialect in DIALECTS.items():
        for part, ending in (("down", dialect.down), ("up", dialect.up), ("alpha", ".alpha")):
            if key.endswith(ending) and (layer := dialect.read(key.removesuffix(ending), depth)):
                return name, layer, part
    for ending, part in _PARTS.items():
        body = key.removesuffix(ending)
        if body != key and (layer := next(filter(None, (read(body, depth) for read in _READERS)), None)):
            return OTHER, layer, part
    return None


def named(key: str) -> str:
    """A key without peft's name of the adapter, which a model's own state has: `lora_A.default.weight`."""
    return re.sub(r"(\.lora_(?:[AB]|magnitude_vector))\.\w+\.weight$", r"\1.weight", key)


def body_of(key: str) -> str:
    """What stands before the ending of a key that `parse` understands."""
    key = named(key)
    endings = [ending for ending in _PARTS if key.endswith(ending)]
    return key.removesuffix(max(endings, key=len)) if endings else key


def detect(keys: Iterable[str], depth: int = SDXL_DEPTH) -> list[str]:
    """The dialects of a file's projections and other parts, sorted; an alpha's key may belong to several."""
    parsed = [parse(key, depth) for key in keys]
    return sorted({found[0] for found in parsed if found and found[2] != "alpha"})
