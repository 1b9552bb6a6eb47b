"""What a content, a style, both or any LoRA does to each layer: norms and ranks of the blocks, overlap.

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
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backbones.latent_diffusion import check_base
from ..backbones.registry import family_of
from ..core.errors import UserError, note
from ..core.storage import write_atomic, write_text
from ..files.concept import Concept, check_pair
from ..files.fused import Layers, split_lora
from ..files.opening import open_any
from ..maths.plp import FACTORS, BasisSpec, basis, compose, frozen_sizes, split, start
from .inspection_report import figure_of, groups, order, shares
from .settings import InspectConfig

CARRIED = 0.9  # of |B|^2 and |D|^2, by the directions whose overlap is measured


def inspect(config: InspectConfig) -> dict[str, Any]:
    """Measure, write inspection.json and inspection.png into config.output, and return what the JSON holds.

    Keys: files, type, basis (None: only dW is measured), groups and layers (name -> what `measure` returns).
    Raises UserError, and then writes nothing, for files that cannot be read or do not compose.
    """
    files = [file for file in (config.file, config.style_file) if file is not None]
    kind, spec, pairs = _open(files, config.base_model)
    layers = {}
    for name in sorted(pairs, key=order):
        up, down = pairs[name]
        m, n = len(up), down.shape[1]
        sizes = None if spec is None else frozen_sizes(m, n, spec.ratio)
        layers[name] = {"m": m, "n": n, "r": len(down), **measure(up, down, sizes)}
    basis_facts = None if spec is None else asdict(spec)
    report = {"files": files, "type": kind, "basis": basis_facts, "groups": groups(layers), "layers": layers}
    text = json.dumps(report, indent=1, allow_nan=False)
    figure = figure_of(report)
    folder = Path(config.output)
    write_text(folder / "inspection.json", text)
    write_atomic(folder / "inspection.png", lambda partial: figure.savefig(partial, format="png"))
    return report


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


def _open(files: Sequence[str], base_model: str | None) -> tuple[str, BasisSpec | None, Layers]:
    """What the files are, their basis (None where a LoRA names none), and W_up and W_down of every layer."""
    opened = [open_any(file) for file in files]
    first = opened[0]
    concepts = [each.concept for each in opened if each.concept]
    if len(concepts) == len(opened):
        if len(concepts) == 2:
            check_pair(*concepts)
        kind = "pair" if len(concepts) == 2 else first.kind
        return kind, first.spec, _compose(first.where, concepts, base_model)
    if len(files) == 2:
        odd = next(each for each in opened if not each.concept)
        raise UserError(
            f"{odd.where}: not a concept file, as --style-file goes with a content file; leave --style-file out"
        )
    if first.contents.others or not first.layers:
        what = first.kind if first.contents.others else f"file of the method {first.method}"
        raise UserError(f"{first.where}: a {what}; only concepts and plain LoRAs have blocks")
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
        A, C = basis(first.spec, layer, m, n)
        factors = dict(zip(FACTORS, start(first.spec, layer, m, n), strict=True))
        for concept in concepts:
            if concept.tensors[layer].shape != factors[concept.kind].shape:
                raise UserError(f"{where}: {concept.kind} of {layer} misfits {base_model}; train it again")
            factors[concept.kind] = concept.tensors[layer]
        pairs[layer] = compose(A, factors["content"], C, factors["style"])
    return pairs
