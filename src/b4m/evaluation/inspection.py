"""What a content, a style, both, a LoRA or a method's file does to each layer: norms and ranks of blocks, overlap.

norm            Frobenius norm of dW and of its blocks A C (frozen), A D (style), B C (content), B D (interaction)
                of Eq. 8-9; share is a block's part of |dW|^2.
effective rank  exp(entropy of sigma / sum(sigma)) of the singular values sigma: O. Roy, M. Vetterli, "The effective
                rank: a measure of effective dimensionality", EUSIPCO 2007. 0 for a zero block.
overlap         of content and style in the latent space R^r. B C and A D share neither a row nor a column of dW, so
                their own row and column spaces are orthogonal whatever was learned. In R^r they meet: D writes its
                column space, B reads its row space, and B D = 0 where these are orthogonal. Both fill R^r as soon as
                they are r wide, so the leading singular directions are compared that carry 90 % of |B|^2 and of
                |D|^2, r_B and r_D of them: mean squared cosine of the principal angles, 0 apart, 1 one inside the
                other. Random directions give r_B r_D / r in sum, max(r_B, r_D) / r in the mean: the chance level.

Of a method's file that is no LoRA (`save_method_file`) whatever is a matrix counts as a layer: "part/layer/up" and
"part/layer/down" as their product, a table of words' vectors and a change of weights as they are.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..backbones.latent_diffusion import check_base
from ..backbones.registry import family_of
from ..core.errors import UserError, note, printable
from ..core.storage import check_floats, write_atomic, write_text
from ..files.concept import Concept, check_pair
from ..files.contents import check_pairs
from ..files.fused import Layers, fuse, split_lora
from ..files.opening import Opened, open_any
from ..maths.plp import FACTORS, BasisSpec, frozen_sizes, split, start
from .inspection_report import figure_of, groups, groups_of_parts, order, shares
from .settings import InspectConfig

CARRIED = 0.9  # of |B|^2 and |D|^2, by the directions whose overlap is measured


def inspect(config: InspectConfig) -> dict[str, Any]:
    """Measure, write inspection.json and inspection.png into config.output, and return what the JSON holds.

    Keys: files, type, basis (None: only dW is measured), groups and layers (name -> what `measure` returns); of a
    method's file also facts, what else it holds and says.
    Raises UserError, and then writes nothing, for files that cannot be read or do not compose.
    """
    files = [file for file in (config.file, config.style_file) if file is not None]
    opened = [open_any(file) for file in files]
    alone = opened[0].kind == "method" and len(opened) == 1
    found = _of_method(opened[0]) if alone else _of_blocks(opened, config.base_model)
    report = {"files": files, **found}
    text = json.dumps(report, indent=1, allow_nan=False)
    figure = figure_of(report)
    folder = Path(config.output)
    write_text(folder / "inspection.json", text)
    write_atomic(folder / "inspection.png", lambda partial: figure.savefig(partial, format="png"))
    return report


def _of_blocks(opened: Sequence[Opened], base_model: str | None) -> dict[str, Any]:
    """The report on concepts and LoRAs."""
    kind, spec, pairs = _pairs(opened, base_model)
    layers = {}
    for name in sorted(pairs, key=order):
        up, down = pairs[name]
        m, n = len(up), down.shape[1]
        sizes = None if spec is None else frozen_sizes(m, n, spec.ratio)
        layers[name] = {"m": m, "n": n, "r": len(down), **measure(up, down, sizes)}
    basis_facts = None if spec is None else asdict(spec)
    return {"type": kind, "basis": basis_facts, "groups": groups(layers), "layers": layers}


def _of_method(opened: Opened) -> dict[str, Any]:
    """The report on the file of a method that is no LoRA: its matrices in their parts, and what else it holds."""
    pairs, others = _matrices(opened)
    if not pairs:
        held = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in list(others.items())[:3])
        raise UserError(f"{opened.where}: holds no matrices, only {held or 'nothing'}; see b4m info")
    layers = {}
    for name, (up, down) in tqdm(pairs.items(), desc="layers", leave=False):
        sizes = {"m": len(up), "n": down.shape[1], "r": len(down)}
        layers[name] = {**sizes, **measure(up, down, None)}
    return {
        "type": f"file of the method {printable(opened.method)[:80]}",
        "basis": None,
        "groups": groups_of_parts(layers),
        "layers": layers,
        "facts": _told(opened.metadata)
        | {
            "bytes": Path(opened.where).stat().st_size,
            "numbers": sum(tensor.numel() for tensor in opened.tensors.values()),
            "besides": _besides(others),
        },
    }


def _matrices(opened: Opened) -> tuple[Layers, dict[str, Tensor]]:
    """The matrices of a method's file, each as a product up (m, r) and down (r, n), and its other tensors.

    Raises UserError for pairs that do not multiply and for values that are not finite.
    """
    others = dict(opened.tensors)
    numbers = {name: each for name, each in others.items() if each.dim() > 1 and each.is_floating_point()}
    check_floats(opened.where, {name: each.flatten(1) for name, each in numbers.items()})
    pairs = {}
    for name in sorted(opened.tensors, key=order):
        stem = name.removesuffix("/up")
        if name != stem and f"{stem}/down" in others:
            up, down = others.pop(name), others.pop(f"{stem}/down")
            check_pairs(opened.where, {stem: (up, down)})
            pairs[stem] = up, down.flatten(1)
    for name in sorted(others.keys() & numbers.keys(), key=order):
        if others[name].dim() == 2 and others[name].numel():
            pairs[name] = _as_pair(others.pop(name))
    return pairs, others


def _told(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the file says of itself."""
    return {key.removeprefix("b4m."): value for key, value in sorted(metadata.items()) if key != "format"}


def _as_pair(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix as a product through its shorter side."""
    eye = torch.eye(min(matrix.shape))
    return (matrix, eye) if matrix.shape[1] <= len(matrix) else (eye, matrix)


def _besides(tensors: Mapping[str, Tensor]) -> str:
    """What is no matrix, by part: how many tensors of which shapes."""
    found: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for name, tensor in tensors.items():
        found[name.partition("/")[0]].append(tuple(tensor.shape))
    parts = [
        f"{name}: {len(shapes)} of shape {shapes[0]}"
        if len(set(shapes)) == 1
        else f"{name}: {len(shapes)} tensors"
        for name, shapes in sorted(found.items())
    ]
    return "; ".join(parts) or "nothing"


def measure(W_up: Tensor, W_down: Tensor, sizes: tuple[int, int] | None) -> dict[str, Any]:
    """norm, share, effective_rank and overlap (module docstring) of W_up (m, r), W_down (r, n), in float64.

    sizes: (d_out, d_in) of the frozen blocks; None for a LoRA without them, then of dW only. Angles are in degrees.
    overlap is None without B and D, or where one is zero. Costs four QR of one factor's size: no (m, n) matrix.
    """
    A, B, C, D = split(W_up.double(), W_down.double(), *(sizes or (0, 0)))
    A, B, C, D = _core(A), _core(B), _core(C.T), _core(D.T)
    products = {"dW": _core(torch.cat([A, B])) @ _core(torch.cat([C, D])).T}
    if sizes is not None:
        products |= {"frozen": A @ C.T, "style": A @ D.T, "content": B @ C.T, "interaction": B @ D.T}
    sigma = {name: torch.linalg.svdvals(product) for name, product in products.items()}
    norm = {name: float(values.norm()) for name, values in sigma.items()}
    return {
        "norm": norm,
        "share": shares({name: value**2 for name, value in norm.items()}),
        "effective_rank": {name: _effective_rank(values) for name, values in sigma.items()},
        "overlap": None if sizes is None else _overlap(B, D, len(W_down)),
    }


def _core(matrix: Tensor) -> Tensor:
    """R (at most r, r) of matrix (rows, r) = Q R: all of it but an orthonormal Q, which no spectrum sees."""
    return torch.linalg.qr(matrix, mode="r").R


def _effective_rank(sigma: Tensor) -> float:
    total = sigma.sum()
    return float(torch.special.entr(sigma / total).sum().exp()) if total > 0 else 0.0


def _overlap(B: Tensor, D: Tensor, r: int) -> dict[str, Any] | None:
    U, V = _leading(B), _leading(D)
    if not len(U) or not len(V):
        return None
    cosines = torch.linalg.svdvals(U @ V.T).clamp(max=1)
    return {
        "r_B": len(U),
        "r_D": len(V),
        "mean_squared_cosine": float(cosines.square().mean()),
        "chance": max(len(U), len(V)) / r,
        "angles": cosines.acos().rad2deg().tolist(),
    }


def _leading(core: Tensor) -> Tensor:
    """(k, r): the fewest right singular vectors that carry CARRIED of the squared norm; none of a zero matrix."""
    _, sigma, Vh = torch.linalg.svd(core, full_matrices=False)
    carried = sigma.square().cumsum(0)
    if not core.any():
        return Vh[:0]
    return Vh[: int((carried < CARRIED * carried[-1]).sum()) + 1]


def _pairs(opened: Sequence[Opened], base_model: str | None) -> tuple[str, BasisSpec | None, Layers]:
    """What the files are, their basis (None where a LoRA names none), and W_up and W_down of every layer."""
    first = opened[0]
    concepts = [each.concept for each in opened if each.concept]
    if len(concepts) == len(opened):
        if len(concepts) == 2:
            check_pair(*concepts)
        kind = "pair" if len(concepts) == 2 else first.kind
        return kind, first.spec, _compose(first.where, concepts, base_model)
    if len(opened) == 2:
        odd = next(each for each in opened if not each.concept)
        raise UserError(
            f"{odd.where}: not a concept file, as --style-file goes with a content file; leave --style-file out"
        )
    if first.contents.others:
        raise UserError(f"{first.where}: a {first.kind}; only concepts and plain LoRAs have blocks")
    for line in first.contents.notes:
        note(f"{first.where}: {line}")
    if first.spec is not None:
        split_lora(first.layers, first.spec)  # refuses frozen blocks that are not those of the basis
    flat = {layer: (up, down.flatten(1)) for layer, (up, down) in first.layers.items()}  # of convolutions
    return first.kind, first.spec, flat


def _compose(where: str, concepts: Sequence[Concept], base_model: str | None) -> Layers:
    """W_up and W_down of every layer, a half that is not given being untrained: what sampling would attach."""
    first = concepts[0]
    base_model = base_model or first.metadata.get("base_model")
    if base_model is None:
        raise UserError(f"{where}: names no base model; say with --base-model what it was made for")
    denoiser = family_of(base_model).empty_denoiser(base_model)
    check_base(first.unet_hash, denoiser, where, base_model)
    widths = {name: weight.shape for name, weight in denoiser.named_parameters()}
    pairs = {}
    for layer in first.tensors:
        m, n = widths.get(f"{layer}.weight", (0, 0))
        wanted = dict(zip(FACTORS, start(first.spec, layer, m, n), strict=True))
        _, d_in = frozen_sizes(m, n, first.spec.ratio)
        for concept in concepts:
            read = concept.inputs[layer].shape[1] if concept.inputs else d_in
            if concept.tensors[layer].shape != wanted[concept.kind].shape or read != d_in:
                raise UserError(f"{where}: {concept.kind} of {layer} misfits {base_model}; train it again")
        factors = {concept.kind: concept.tensors[layer] for concept in concepts}
        pairs[layer] = fuse(first.spec, layer, (m, n), factors, first.inputs.get(layer))
    return pairs
