"""The frozen basis and the blocks of dW (Sec. 4.1)."""

import hashlib
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from b4m.core.errors import UserError
from b4m.maths import plp
from b4m.maths.plp import (
    KINDS,
    LEAST_POWER,
    BasisSpec,
    basis,
    compose,
    delta_weight,
    frozen_sizes,
    principal,
    reading,
    split,
    start,
)

WIDTHS = st.integers(1, 40)
RANKS = st.integers(2, 24)
RATIOS = st.sampled_from((0, 0.125, 0.5, 0.75, 1))

# sha256 of A's bytes followed by C's. Concept files rely on them: a changed digest is a changed file format.
PINNED = {
    (
        BasisSpec(seed=0, rank=64),
        "unet.layer.to_q",
        1280,
        1280,
    ): "9c96c49d7bc533da51afe4ee1ba46c5c5850f500d25260845d470b0c29654278",
    (
        BasisSpec(seed=7, rank=5, ratio=0.25),
        "b",
        33,
        20,
    ): "7f168674ccd8541cc4fa0557d0020cd839a8beb781b2b8f943240b9f79531f8e",
    (
        BasisSpec(seed=1, rank=16, kind="random"),
        "c",
        96,
        96,
    ): "2851690c56804dcab54a7769b8827f180461150b85af1619e4a95b911f951deb",
    (
        BasisSpec(seed=1, rank=16, kind="reference"),
        "c",
        96,
        128,
    ): "30c8516c3eb2068021e1958545921e43c27e6714cc3505e097435fe1345fb3a2",
}
DIGEST = """
import hashlib, sys
from b4m.maths.plp import BasisSpec, basis
for line in sys.stdin:
    A, C = basis(*eval(line))
    print(hashlib.sha256(A.numpy().tobytes() + C.numpy().tobytes()).hexdigest())
"""


def random_halves(spec: BasisSpec, m: int, n: int, seed: int = 0):
    """A, C of the basis and random B, D."""
    A, C = basis(spec, "layer", m, n)
    generator = torch.Generator().manual_seed(seed)
    B = torch.randn(m - len(A), spec.rank, generator=generator)
    D = torch.randn(spec.rank, n - C.shape[1], generator=generator)
    return A, B, C, D


def overlap(A, C) -> float:
    """|A C| / |A||C|."""
    return float((A @ C).norm() / (A.norm() * C.norm()))


def test_basis_is_bit_identical_in_a_new_process():
    lines = "".join(f"{arguments!r}\n" for arguments in PINNED)
    command = [sys.executable, "-c", DIGEST]
    ran = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == list(PINNED.values())


def test_basis_depends_on_everything_it_is_said_to_depend_on():
    first = (BasisSpec(seed=0, rank=8), "layer", 24, 24)
    others = [
        (BasisSpec(seed=1, rank=8), *first[1:]),
        (BasisSpec(seed=0, rank=10), *first[1:]),
        (BasisSpec(seed=0, rank=8, ratio=0.25), *first[1:]),
        (BasisSpec(seed=0, rank=8, kind="random"), *first[1:]),
        (BasisSpec(seed=0, rank=8, kind="reference"), *first[1:]),
        (first[0], "another layer", 24, 24),
        (first[0], "layer", 24, 32),
        (first[0], "layer", 32, 24),
    ]
    bases = [basis(*arguments) for arguments in (first, *others)]
    digests = {hashlib.sha256(A.numpy().tobytes() + C.numpy().tobytes()).digest() for A, C in bases}
    assert len(digests) == 1 + len(others)
    torch.manual_seed(1)  # and on nothing else
    again = basis(*first)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(again, basis(*first), strict=True))


@pytest.mark.parametrize("m, n, r", [(1280, 1280, 64), (640, 640, 64), (640, 2048, 16), (97, 51, 7)])
def test_exact_basis_is_orthogonal_and_the_others_are_no_better_than_chance(m, n, r):
    A, C = basis(BasisSpec(rank=r), "layer", m, n)
    assert overlap(A, C) < 1e-6
    assert overlap(A.half(), C.half()) < 1e-6, "stays exact in the dtype of a saved file"
    assert torch.linalg.matrix_rank(A) + torch.linalg.matrix_rank(C) == r
    for kind in ("random", "reference"):
        A, C = basis(BasisSpec(rank=r, kind=kind), "layer", m, n)
        assert overlap(A, C) == pytest.approx(r**-0.5, rel=0.25)


def test_the_scale_grows_the_blocks_of_one_half_and_leaves_the_interaction():
    m, n, r = 24, 20, 6
    A, C = basis(BasisSpec(rank=r), "layer", m, n)
    for kind in KINDS:
        plain = basis(BasisSpec(rank=r, kind=kind), "layer", m, n)
        for one, eight in zip(
            plain, basis(BasisSpec(rank=r, kind=kind, scale=8.0), "layer", m, n), strict=True
        ):
            assert torch.equal(8 * one, eight)
    B, D = torch.randn(12, r), torch.randn(r, 10)
    plain, scaled = delta_weight(A, B, C, D, "exact"), delta_weight(8 * A, B, 8 * C, D, "exact")
    assert torch.allclose(scaled[12:, :10], 8 * plain[12:, :10])
    assert torch.allclose(scaled[:12, 10:], 8 * plain[:12, 10:])
    assert torch.equal(scaled[12:, 10:], plain[12:, 10:])
    for scale in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match="basis scale"):
            BasisSpec(scale=scale)


@settings(max_examples=60, deadline=None)
@given(m=WIDTHS, n=WIDTHS, r=RANKS, ratio=RATIOS, kind=st.sampled_from(KINDS), seed=st.integers(0, 2**40))
def test_any_basis_has_its_shapes_and_is_orthonormal_where_it_says_so(m, n, r, ratio, kind, seed):
    d_out, d_in = frozen_sizes(m, n, ratio)
    A, C = basis(BasisSpec(seed, r, ratio, kind), "layer", m, n)
    assert A.shape == (d_out, r) and C.shape == (r, d_in)
    assert A.dtype == C.dtype == torch.float32
    assert A.isfinite().all() and C.isfinite().all()
    if kind == "exact":
        assert not (A @ C).any()
        for factor, share in ((A, r - r // 2), (C.T, r // 2)):  # singular values: min(rows, share) ones
            values = torch.linalg.svdvals(factor.double())
            ones = min(len(factor), share)
            assert ((values[:ones] - 1).abs() < 1e-6).all()
            assert (values[ones:] < 1e-6).all()
    if kind == "reference":
        gram = torch.cat([A, C.T]).double()
        gram = gram.T @ gram if len(gram) >= r else gram @ gram.T
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), atol=1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(m=WIDTHS, n=WIDTHS, r=RANKS, ratio=RATIOS, kind=st.sampled_from(KINDS), seed=st.integers(0, 99))
def test_blocks_of_delta_weight(m, n, r, ratio, kind, seed):
    A, B, C, D = random_halves(BasisSpec(seed, r, ratio, kind), m, n, seed)
    d_out, d_in = frozen_sizes(m, n, ratio)
    dW = delta_weight(A, B, C, D, kind)
    assert dW.shape == (m, n)
    top_left = torch.zeros(d_out, d_in) if kind == "exact" else A @ C
    expected = torch.cat([torch.cat([top_left, A @ D], 1), torch.cat([B @ C, B @ D], 1)])
    torch.testing.assert_close(dW, expected, atol=1e-5, rtol=1e-5)
    if kind == "exact":
        assert not dW[:d_out, :d_in].any()
        B, D = torch.zeros_like(B), torch.zeros_like(D)
        assert not delta_weight(A, B, C, D, kind).any(), "the adapter starts as the identity"


def test_delta_weight_of_the_exact_kind_is_zero_top_left_for_any_factors():
    A, B, C, D = (torch.randn(shape) for shape in ((3, 4), (5, 4), (4, 2), (4, 6)))
    assert not delta_weight(A, B, C, D, "exact")[:3, :2].any()
    assert delta_weight(A, B, C, D, "reference")[:3, :2].all()


@settings(max_examples=40, deadline=None)
@given(m=WIDTHS, n=WIDTHS, r=RANKS, ratio=RATIOS, dtype=st.sampled_from((torch.float32, torch.bfloat16)))
def test_split_undoes_compose_to_the_bit(m, n, r, ratio, dtype):
    factors = [part.to(dtype) for part in random_halves(BasisSpec(rank=r, ratio=ratio), m, n)]
    W_up, W_down = compose(*factors)
    assert W_up.shape == (m, r) and W_down.shape == (r, n) and W_up.dtype == dtype
    for part, again in zip(factors, split(W_up, W_down, *frozen_sizes(m, n, ratio)), strict=True):
        assert torch.equal(part, again)


@pytest.mark.parametrize("N", [1, 2, 7, 48, 640])
def test_own_cosine_is_the_cosine(N):
    t = torch.arange(9 * N).numpy()
    expected = torch.cos(2 * torch.pi * torch.from_numpy(t).double() / (4 * N))
    torch.testing.assert_close(torch.from_numpy(plp._cosine(t, N)), expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize("bad, word", [
    ({"kind": "orthogonal"}, "exact, random, reference"), ({"seed": -1}, "seed"), ({"seed": 0.5}, "seed"),
    ({"rank": 1}, "rank"), ({"rank": 0, "kind": "random"}, "rank"), ({"rank": 2.0}, "rank"),
    ({"ratio": 1.01}, "ratio"), ({"ratio": -0.1}, "ratio"), ({"ratio": float("nan")}, "ratio"),
])  # fmt: skip
def test_bad_spec_is_one_line_that_names_it(bad, word):
    with pytest.raises(UserError, match=word) as error:
        BasisSpec(**bad)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("m", "n"), [(12, 12), (20, 7)])
def test_start_is_zero_but_where_nothing_is_frozen(m, n):
    for ratio in (0.25, 0.5, 1.0):
        B, D = start(BasisSpec(rank=4, ratio=ratio), "x", m, n)
        assert not B.any() and not D.any()
        assert B.shape == (m - round(ratio * m), 4) and D.shape == (4, n - round(ratio * n))
    B, D = start(BasisSpec(rank=4, ratio=0.0, scale=2.0), "x", m, n)
    assert not B.any() and D.shape == (4, n) and D.abs().min() > 0  # B D = 0, and B has a gradient
    again, other = (start(BasisSpec(rank=4, ratio=0.0, scale=2.0), name, m, n)[1] for name in ("x", "y"))
    assert torch.equal(D, again) and not torch.equal(D, other)
    assert torch.equal(D, 2 * start(BasisSpec(rank=4, ratio=0.0), "x", m, n)[1])


# what a content reads of a layer's inputs


def seen(powers, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    """A moment with these powers along random orthonormal directions, and the directions as rows."""
    generator = torch.Generator().manual_seed(seed)
    directions, _ = torch.linalg.qr(torch.randn(len(powers), len(powers), generator=generator).double())
    return directions @ torch.tensor(powers).double().diag() @ directions.T, directions.T


def test_principal_inputs_are_the_strongest_and_carry_one_power():
    powers = [1.0, 9.0, 0.5, 4.0, 2.0, 0.1]
    moment, directions = seen(powers)
    rows = principal(BasisSpec(rank=6, scale=3.0, inputs="principal"), moment).double()
    assert rows.shape == (3, 6)
    carried = rows @ moment @ rows.T / 9  # without the scale
    wanted = (9.0 + 4.0 + 2.0) / 3
    assert torch.allclose(carried, wanted * torch.eye(3, dtype=torch.float64), atol=1e-4)
    along = (rows / rows.norm(dim=1, keepdim=True)) @ directions.T
    assert [int(row.abs().argmax()) for row in along] == [1, 3, 4]


def test_a_direction_that_hardly_occurs_is_not_blown_up():
    moment, _ = seen([1.0, 1e-9, 0.0])
    rows = principal(BasisSpec(rank=6, inputs="principal"), moment)
    assert rows.norm(dim=1).max() == pytest.approx(LEAST_POWER**-0.5, rel=1e-3)


@pytest.mark.parametrize(("r", "d_in"), [(6, 2), (7, 5), (2, 0), (8, 4)])
def test_principal_inputs_keep_the_block_a_c_at_zero(r, d_in):
    spec = BasisSpec(rank=r, inputs="principal")
    moment = seen([1.0 + i for i in range(d_in)])[0] if d_in else torch.zeros(0, 0)
    A, _ = basis(spec, "layer", 2 * d_in, 2 * d_in)
    C = reading(principal(spec, moment), r)
    assert C.shape == (r, d_in) and not (A @ C).any()
    assert int(C.any(1).sum()) == min(r // 2, d_in)


def test_nothing_that_was_seen_gives_directions_that_are_numbers():
    assert torch.isfinite(principal(BasisSpec(rank=4, inputs="principal"), torch.zeros(3, 3))).all()


def test_principal_inputs_are_not_known_from_the_spec_alone():
    ours, theirs = (BasisSpec(rank=4, inputs=inputs) for inputs in ("principal", "cosine"))
    (A, C), (same, _) = basis(ours, "layer", 8, 8), basis(theirs, "layer", 8, 8)
    assert torch.equal(A, same) and not C.any()


@pytest.mark.parametrize("wrong", [{"inputs": "odd"}, {"inputs": "principal", "kind": "random"}])
def test_inputs_that_cannot_be_are_one_line(wrong):
    with pytest.raises(UserError, match="inputs"):
        BasisSpec(**wrong)
