"""Partly learnable projection (Sec. 4.1, Eq. 4-11) as pure functions: basis, start, dW, compose, split.

One linear layer of output width m and input width n gets a rank-r update dW = W_up W_down, whose factors are
each cut in a frozen and a learnable part:

    W_up   = [A; B]    (m, r)    A (d_out, r) frozen,  B (m - d_out, r) learnable: the content
    W_down = [C  D]    (r, n)    C (r, d_in) frozen,   D (r, n - d_in)  learnable: the style

    dW = [ A C   A D ]  =  [ 0     A D ]  style alone           d_out rows
         [ B C   B D ]     [ B C   B D ]  content | interaction  m - d_out rows
          d_in  n - d_in

A C = 0 (Eq. 10) is what gives content and style a block each, and what makes dW = 0 at the start, B = D = 0.
"""

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError

KINDS = ("exact", "random", "reference")
INPUTS = ("cosine", "principal")
LEAST_POWER = 1e-3  # of the mean: a principal direction with less is not scaled up to the others
FACTORS = {"content": "B", "style": "D"}  # Sec. 4.2: B in the up projection, D in the down


@dataclass(frozen=True)
class BasisSpec:
    """What, with a layer's name and widths, determines the frozen A and C. Factors compose if theirs agree; not in
    `inputs`: only a content has use for C, and A C is zero with either.

    kind: "exact" (A C = 0); for comparison "random" (the paper's "w/o Orth"), "reference" (published code).
    scale: multiplies A and C. A D and B C grow with it and B D does not: the larger it is, with learning rates
        divided by it, the less a content and a style that were trained apart disturb each other when composed.
    inputs: what C reads of a layer's inputs. "cosine": directions of the seed; "principal": those in which the inputs
        vary most (`principal`), which training measures and a content's file carries.
    Raises UserError for a value out of range.
    """

    seed: int = 0
    rank: int = 64  # r
    ratio: float = 0.5  # share of frozen rows and columns, d/m and d/n
    kind: str = "exact"
    scale: float = 1.0  # 1: orthonormal factors, the size of the published initialisation
    inputs: str = "cosine"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"basis kind {self.kind!r}: unknown; choose one of {', '.join(KINDS)}")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise UserError(f"basis seed {self.seed!r}: must be a whole number, 0 or more")
        least = 2 if self.kind == "exact" else 1  # one dimension for A, one for C
        if not isinstance(self.rank, int) or self.rank < least:
            raise UserError(f"rank {self.rank!r}: the {self.kind} basis needs a whole number >= {least}")
        if not isinstance(self.ratio, (int, float)) or not 0 <= self.ratio <= 1:
            raise UserError(f"ratio {self.ratio!r}: must lie between 0 and 1 (the paper's choice is 0.5)")
        if not isinstance(self.scale, (int, float)) or not 0 < self.scale < math.inf:
            raise UserError(f"basis scale {self.scale!r}: must be above 0 (1 leaves the factors orthonormal)")
        if self.inputs not in INPUTS:
            raise UserError(f"inputs {self.inputs!r}: unknown; choose one of {', '.join(INPUTS)}")
        if self.inputs == "principal" and self.kind != "exact":
            raise UserError(f"principal inputs need the exact basis, not {self.kind}; choose cosine inputs")


def frozen_sizes(m: int, n: int, ratio: float) -> tuple[int, int]:
    """(d_out, d_in): how many rows of W_up (of m) and columns of W_down (of n) are frozen."""
    return round(ratio * m), round(ratio * n)


def basis(spec: BasisSpec, layer: str, m: int, n: int) -> tuple[Tensor, Tensor]:
    """The frozen A (d_out, r) and C (r, d_in) of one layer, float32 on the CPU (Eq. 5, 7, 10).

    A function of (seed, layer name, m, n, r, ratio, kind) alone, the same to the last bit on every machine. Principal
    inputs are not, so C is zero for them: `reading` makes it of what was measured.

    exact: R^r is split into its first ceil(r/2) and its last floor(r/2) coordinates. The rows of A lie in the
        first subspace and the columns of C in the second, so A C is zero without rounding, and stays zero in
        whatever dtype A and C are cast to. There A has orthonormal columns and C orthonormal rows (A^T A and
        C C^T are the projectors on the subspaces; entries are of the order 1/sqrt(d_out), 1/sqrt(d_in)).
        A block with fewer than r/2 rows or columns to fill is orthonormal along its shorter side instead.
    random: independent entries of variance 1/d_out in A, 1/d_in in C; |A C| / |A||C| is about 1/sqrt(r).
    reference: disjoint rows of one (d_out + d_in, r) orthonormal matrix, the published code; also 1/sqrt(r).
    """
    d_out, d_in = frozen_sizes(m, n, spec.ratio)
    r = spec.rank
    key = json.dumps([spec.seed, layer, m, n, r, float(spec.ratio), spec.kind])
    if spec.kind == "exact":
        half = r - r // 2
        A, C = np.zeros((d_out, r)), np.zeros((r, d_in))
        A[:, :half] = _orthonormal(d_out, half, key + "A")
        if spec.inputs == "cosine":
            C[half:] = _orthonormal(d_in, r - half, key + "C").T
    elif spec.kind == "random":
        A, C = _noise(d_out, r, key + "A"), _noise(d_in, r, key + "C").T
    else:
        Q = _orthonormal(d_out + d_in, r, key + "AC")
        A, C = Q[:d_out], Q[d_out:].T
    return _float32(spec.scale * A), _float32(spec.scale * C)


def principal(spec: BasisSpec, moment: Tensor) -> Tensor:
    """The lower half of C (floor(r/2), d_in), float32 on the CPU, that reads a layer's strongest inputs.

    moment: (d_in, d_in), the mean of x x^T over the inputs x (d_in,) that C sees. Rows are its first eigenvectors, each
    scaled to carry the same power, which together is what they carry unscaled (a direction below LEAST_POWER of the
    mean carries less). Where d_in is smaller than r/2 the rows that are left over are zero.
    """
    power, vectors = torch.linalg.eigh(moment.double().cpu())  # ascending
    kept = min(spec.rank // 2, len(power))
    power, vectors = power.flip(0)[:kept], vectors.flip(1)[:, :kept]
    mean = power.mean()
    weight = (mean / power.clamp(min=LEAST_POWER * mean)).sqrt() if kept and mean > 0 else torch.ones(kept)
    rows = torch.zeros(spec.rank // 2, len(moment), dtype=torch.float64)
    rows[:kept] = spec.scale * weight[:, None] * vectors.T
    return rows.float()


def reading(inputs: Tensor, r: int) -> Tensor:
    """C (r, d_in) of its lower half (floor(r/2), d_in): over it the zeros that make A C zero."""
    return torch.cat([inputs.new_zeros(r - len(inputs), inputs.shape[1]), inputs])


def start(spec: BasisSpec, layer: str, m: int, n: int) -> tuple[Tensor, Tensor]:
    """B (m - d_out, r) and D (r, n - d_in) before training, float32: zero, so that dW = A C = 0.

    Where nothing is frozen (ratio 0) zeros on both sides would be a saddle that no gradient leaves; there D
    starts random and B at zero, as an ordinary LoRA does, and dW is still zero.
    """
    d_out, d_in = frozen_sizes(m, n, spec.ratio)
    B, D = torch.zeros(m - d_out, spec.rank), torch.zeros(spec.rank, n - d_in)
    if d_out == d_in == 0:
        D = _float32(
            spec.scale * _noise(n, spec.rank, json.dumps([spec.seed, layer, m, n, spec.rank]) + "D").T
        )
    return B, D


def delta_weight(A: Tensor, B: Tensor, C: Tensor, D: Tensor, kind: str) -> Tensor:
    """dW (m, n) of Eq. 8-9; for the "exact" kind Eq. 11, the block A C being zero whatever the rounding."""
    dW = torch.cat([A, B]) @ torch.cat([C, D], dim=1)
    if kind == "exact":
        dW[: len(A), : C.shape[1]] = 0
    return dW


def compose(A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    """W_up (m, r) = [A; B] and W_down (r, n) = [C D], Eq. 4 and 6: an ordinary LoRA."""
    return torch.cat([A, B]), torch.cat([C, D], dim=1)


def split(W_up: Tensor, W_down: Tensor, d_out: int, d_in: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A, B, C, D as views of W_up (m, r) and W_down (r, n): the inverse of compose."""
    return W_up[:d_out], W_up[d_out:], W_down[:, :d_in], W_down[:, d_in:]


def _orthonormal(rows: int, columns: int, key: str) -> np.ndarray:
    """A (rows, columns) float64 matrix with orthonormal columns, or rows where it is wider than tall.

    Columns drawn from the cosine (DCT-II) basis, without replacement; rows shuffled and given random signs.
    """
    if rows < columns:
        return _orthonormal(columns, rows, key).T
    frequency = _order(rows, key + "frequency")[:columns]
    position = _order(rows, key + "position")
    Q = _cosine((2 * position[:, None] + 1) * frequency, rows)  # cos(pi (i + 1/2) j / rows)
    Q *= np.where(frequency == 0, math.sqrt(1 / max(rows, 1)), math.sqrt(2 / max(rows, 1)))
    sign = 1.0 - 2.0 * (_words(rows, key + "sign") >> np.uint64(63))
    return sign[:, None] * Q


def _cosine(t: np.ndarray, N: int) -> np.ndarray:
    """cos(2 pi t / 4N) for whole t >= 0: a Taylor series for the quarter turn, and its mirror images.

    The C library's cosine may differ in the last bit from one machine to the next. Sums, products and
    quotients do not: IEEE 754 says how they round.
    """
    angle = (math.pi / 2) * np.arange(N + 1) / max(N, 1)
    quarter = np.ones(N + 1)
    for k in range(28, 0, -2):  # 1 - x^2/2 (1 - x^2/12 (1 - ...)), below 1e-20 after 14 terms
        quarter = 1.0 - angle * angle * quarter / (k * (k - 1))
    t = t % max(4 * N, 1)
    t = np.minimum(t, 4 * N - t)  # cos(-x) = cos(x)
    half = np.concatenate([quarter, -quarter[-2::-1]])  # cos(pi - x) = -cos(x)
    return half[t]


def _noise(rows: int, columns: int, key: str) -> np.ndarray:
    """Independent uniform float64 entries (rows, columns) of mean 0 and variance 1/rows."""
    unit = (_words(rows * columns, key) >> np.uint64(11)) * 2.0**-53  # in [0, 1)
    return math.sqrt(3 / max(rows, 1)) * (2.0 * unit.reshape(rows, columns) - 1.0)


def _order(size: int, key: str) -> np.ndarray:
    """A random permutation of range(size)."""
    return np.argsort(_words(size, key), kind="stable")


def _words(count: int, key: str) -> np.ndarray:
    """`count` random uint64 from a hash of key: no generator whose stream a new release might change."""
    return np.frombuffer(hashlib.shake_256(key.encode()).digest(8 * count), dtype="<u8").astype(np.uint64)


def _float32(matrix: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float32))
