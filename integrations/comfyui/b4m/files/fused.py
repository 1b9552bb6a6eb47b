"""A content and a style as one LoRA: the basis in a file's header, fused by it, dialled, taken apart again.

The ComfyUI nodes run this very file (integrations/comfyui): it needs torch and the maths, no model.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.storage import FLOATS, own
from ..maths.plp import BasisSpec, basis, compose, frozen_sizes, reading, split, start

Layers = dict[str, tuple[Tensor, Tensor]]  # layer -> up (m, r), down (r, n)


def spec_metadata(spec: BasisSpec) -> dict[str, str]:
    """The basis as metadata, written so that it reads back bit for bit. ("b4m.kind" is content or style.)"""
    return {
        "b4m.seed": str(spec.seed),
        "b4m.rank": str(spec.rank),
        "b4m.ratio": repr(float(spec.ratio)),
        "b4m.basis": spec.kind,
        "b4m.scale": repr(float(spec.scale)),
        **({} if spec.inputs == "cosine" else {"b4m.inputs": spec.inputs}),
    }


def read_spec(where: str, metadata: Mapping[str, str]) -> BasisSpec | None:
    """The basis in a file's metadata; None where it names none. UserError, led by `where`, if damaged."""
    found: list[Any] = [metadata.get(f"b4m.{name}") for name in ("seed", "rank", "ratio", "basis", "scale")]
    if all(value is None for value in found):
        return None
    try:
        seed, rank, ratio, kind, scale = found
        inputs = metadata.get("b4m.inputs", "cosine")
        return BasisSpec(int(seed), int(rank), float(ratio), kind, float(scale), inputs)
    except (TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{where}: its basis (seed, rank, ratio, basis, scale: {found}) cannot be read; get the file again"
        ) from error


def fuse(
    spec: BasisSpec,
    layer: str,
    widths: tuple[int, int],
    factors: dict[str, Tensor],
    inputs: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """W_up (m, r) and W_down (r, n) of one layer; a half that is not given is as before training.

    inputs: (floor(r/2), d_in), what a content's file carries of C where it is not the spec's.
    """
    A, C = basis(spec, layer, *widths)
    C = C if inputs is None else reading(inputs, spec.rank)
    B, D = start(spec, layer, *widths)
    return compose(A, factors.get("content", B), C, factors.get("style", D))


def dialled(layers: Layers, spec: BasisSpec, strength: Mapping[str, float]) -> Layers:
    """A fused LoRA whose B and D are multiplied. Raises UserError as `split_lora` does."""
    return {
        layer: compose(A, strength["content"] * B, C, strength["style"] * D)
        for layer, (A, B, C, D) in _blocks(layers, spec).items()
    }


def split_lora(layers: Layers, spec: BasisSpec) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Content (layer -> B) and style (layer -> D) of a fused LoRA: its learnable blocks, bit for bit.

    Raises UserError where the frozen blocks are not those of `spec`: another basis, or a file from elsewhere.
    """
    blocks = _blocks(layers, spec)
    # Copies, which do not keep the whole file in memory.
    content = {layer: own(B) for layer, (_, B, _, _) in blocks.items()}
    return content, {layer: own(D) for layer, (_, _, _, D) in blocks.items()}


def inputs_in(layers: Layers, spec: BasisSpec) -> dict[str, Tensor]:
    """Layer -> (floor(r/2), d_in), what C reads where that is not the spec's; empty where it is. UserError likewise."""
    if spec.inputs == "cosine":
        return {}
    return {layer: own(C[-(spec.rank // 2) :]) for layer, (_, _, C, _) in _blocks(layers, spec).items()}


def _blocks(layers: Layers, spec: BasisSpec) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Layer -> A, B, C, D; A and C as they are before a file rounds them, where the spec says what they are."""
    blocks = {}
    for layer, (up, down) in layers.items():
        m, n = up.shape[0], down.shape[1]
        A, C = basis(spec, layer, m, n)
        found_a, B, found_c, D = split(up, down, *frozen_sizes(m, n, spec.ratio))
        if spec.inputs == "principal":
            half = spec.rank - spec.rank // 2
            C = torch.cat([C[:half], found_c[half:]])  # zeros, and what was measured
        for name, found, frozen in (("A", found_a, A), ("C", found_c, C)):
            if not _is_rounded(found, frozen):
                raise UserError(
                    f"{layer}: its frozen block {name} is not the one of {spec}; "
                    "only a LoRA that was fused from this basis can be split into content and style"
                )
        blocks[layer] = A, B, C, D
    return blocks


def _is_rounded(found: Tensor, frozen: Tensor) -> bool:
    """Whether a float32 block from a file is `frozen` in one of the dtypes a LoRA may be stored in."""
    return any(torch.equal(found, frozen.to(dtype).float()) for dtype in FLOATS)
