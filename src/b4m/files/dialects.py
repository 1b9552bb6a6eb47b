"""How each family of tools spells a LoRA's keys: one table of dialects, from a layer to its keys and back.

A layer is its module's full path in a Diffusers UNet. A key is the layer's spelling and an ending that says which
tensor it is: the down or the up half, or alpha (the LoRA is scaled by alpha / rank; without one, by 1).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

SDXL_DEPTH = 2  # layers_per_block of SDXL's UNet, by which the original SDXL names count their blocks

_N = r"(?:0|[1-9]\d{0,3})"
_UNIT = (
    rf"(?:proj_in|proj_out|transformer_blocks\.{_N}\."
    r"(?:attn[12]\.to_(?:q|k|v|out\.0)|ff\.net\.(?:0\.proj|2)))"
)
# The linear layers that underscored names are for: those in an SDXL UNet's transformers. One such name has one reading.
_LAYER = re.compile(
    rf"(?:(?P<side>down|up)_blocks\.(?P<block>{_N})|mid_block)\.attentions\.(?P<slot>{_N})\.(?P<unit>{_UNIT})",
    re.ASCII,
)
_ORIGINAL = re.compile(
    rf"(?:(?P<side>input|output)_blocks\.(?P<block>{_N})|middle_block)\.1\.(?P<unit>{_UNIT})", re.ASCII
)
# In these words an underscore belongs to the word; every other one stands for a dot.
_WORDS = re.compile(
    r"((?:down|up|input|output|transformer)_blocks|(?:mid|middle)_block|proj_in|proj_out|to_[qkv]|to_out)|_"
)
# Per side: its original name, the number of its first block, and how many slots it has beyond layers_per_block.
_SIDES = {"down": ("input", 1, 0), "up": ("output", 0, 1)}
_WRAPPERS = re.compile(r"(?:base_model\.model\.)?(?:unet\.)*")
_MODULE = re.compile(r"(?!text_encoder|lora_)\w+(?:\.\w+)*", re.ASCII)
_PROJECTIONS = (".to_q", ".to_k", ".to_v", ".to_out.0")
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


def _from_dotted(body: str, depth: int) -> str | None:
    bare = _WRAPPERS.sub("", body, count=1)
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
    return layer if layer and _LAYER.fullmatch(layer) else None


def _to_kohya(layer: str, depth: int) -> str | None:
    return _KOHYA + layer.replace(".", "_") if _LAYER.fullmatch(layer) else None


def _from_original(body: str, depth: int) -> str | None:
    """input_blocks n: one convolution, then per block `depth` layers and a downsampler; output_blocks: depth + 1."""
    found = _ORIGINAL.fullmatch(_dotted(body) or "")
    if found is None:
        return None
    if found["side"] is None:
        return f"mid_block.attentions.0.{found['unit']}"
    side = next(ours for ours, (theirs, _, _) in _SIDES.items() if theirs == found["side"])
    _, first, beyond = _SIDES[side]
    block, slot = divmod(int(found["block"]) - first, depth + 1)
    if block < 0 or slot >= depth + beyond:
        return None
    return f"{side}_blocks.{block}.attentions.{slot}.{found['unit']}"


def _to_original(layer: str, depth: int) -> str | None:
    """The inverse of `_from_original`."""
    found = _LAYER.fullmatch(layer)
    if found is None:
        return None
    slot, slots, name = int(found["slot"]), 1, "middle_block"
    if found["side"] is not None:
        theirs, first, beyond = _SIDES[found["side"]]
        slots, name = depth + beyond, f"{theirs}_blocks_{first + int(found['block']) * (depth + 1) + slot}"
    if slot >= slots:
        return None
    return f"{_KOHYA}{name}_1_{found['unit'].replace('.', '_')}"


def _dotted(body: str) -> str | None:
    """A kohya name with its dots back; None without kohya's prefix."""
    if not body.startswith(_KOHYA):
        return None
    return _WORDS.sub(lambda found: found[1] or ".", body.removeprefix(_KOHYA))


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


def parse(key: str, depth: int = SDXL_DEPTH) -> tuple[str, str, str] | None:
    """A tensor's key -> (dialect, layer, "down" | "up" | "alpha"); None for a key of any other kind."""
    key = re.sub(r"\.default\.weight$", ".weight", key)  # peft's name of the adapter
    for name, dialect in DIALECTS.items():
        for half, ending in (("down", dialect.down), ("up", dialect.up), ("alpha", ".alpha")):
            if key.endswith(ending) and (layer := dialect.read(key.removesuffix(ending), depth)):
                return name, layer, half
    return None


def detect(keys: Iterable[str], depth: int = SDXL_DEPTH) -> list[str]:
    """The dialects of a file's down and up halves, sorted; an alpha's key may belong to several."""
    parsed = [parse(key, depth) for key in keys]
    return sorted({found[0] for found in parsed if found and found[2] != "alpha"})
