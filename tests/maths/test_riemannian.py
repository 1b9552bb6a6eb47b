"""The Riemannian precondition (Eq. 13-14): slow float64 references, and the properties it exists for."""

import copy

import pytest
import reference_optimizers
import torch

from b4m.maths.riemannian import DAMPING, RiemannianAdamW, RiemannianSGD, precondition

# (m - d_out, r, n - d_in); several layers of one shape, and one whose r x r Gram matrices are singular
SHAPES = ((5, 3, 4), (6, 4, 6), (5, 3, 4), (2, 5, 3), (5, 3, 4))
OPTIMIZERS = (RiemannianSGD, RiemannianAdamW)


def problem(seed: int = 0, dtype=torch.float32):
    """Layers (B, D), well away from zero, and one target (m - d_out, n - d_in) for each product B D."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    layers = [(matrix(a, r), matrix(r, b)) for a, r, b in SHAPES]
    return layers, [matrix(a, b) for a, _, b in SHAPES]


def parameters(layers):
    return [tuple(torch.nn.Parameter(factor.clone()) for factor in layer) for layer in layers]


def backward(pairs, targets):
    """Gradients of sum |B D - target|^2 / 2."""
    for pair in pairs:
        for p in pair:
            p.grad = None
    sum((B @ D - t).square().sum() / 2 for (B, D), t in zip(pairs, targets, strict=True)).backward()


def train(optimizer, pairs, targets, steps):
    for _ in range(steps):
        backward(pairs, targets)
        optimizer.step()


def relative(found, expected) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("damping, weight_decay, lr", [
    (1e-2, 0.0, (0.003, 0.003)), (1e-2, 0.3, (0.005, 0.001)), (1.0, 0.1, (0.003, 0.03)),
])  # fmt: skip
@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_hundred_steps_equal_the_slow_reference(cls, damping, weight_decay, lr):
    layers, _ = problem()
    pairs = parameters(layers)
    # Given gradients, not those of a loss: near its minimum Adam turns a rounding error into a whole step.
    gradients = [problem(seed=step)[0] for step in range(1, 101)]
    more = {"betas": (0.8, 0.95), "eps": 1e-2} if cls is RiemannianAdamW else {}
    optimizer = cls(pairs, lr=lr, damping=damping, weight_decay=weight_decay, **more)
    for step in gradients:
        for pair, given in zip(pairs, step, strict=True):
            pair[0].grad, pair[1].grad = given
        optimizer.step()
    reference = reference_optimizers.adamw if more else reference_optimizers.sgd
    for index, (layer, pair) in enumerate(zip(layers, pairs, strict=True)):
        layer = tuple(factor.double() for factor in layer)
        given = [tuple(gradient.double() for gradient in step[index]) for step in gradients]
        expected = reference(layer, given, lr, damping, weight_decay, **more)
        for found, factor, start in zip(pair, expected, layer, strict=True):
            assert relative(found.detach(), factor) < 1e-5
            assert relative(start, factor) > 1e-3, "it moved"


def test_precondition_of_a_stack_is_that_of_each_layer():
    torch.manual_seed(0)
    shapes = ((7, 4), (4, 5), (7, 4), (4, 5))
    B, D, grad_B, grad_D = (torch.randn(2, 3, *shape, dtype=torch.float64) for shape in shapes)
    stacked = precondition(B, D, grad_B, grad_D, 1e-3)
    for i in range(2):
        for j in range(3):
            one = [tensor[i, j].double() for tensor in (B, D, grad_B, grad_D)]
            expected = reference_optimizers.directions(*one, 1e-3)
            for found, reference in zip(stacked, expected, strict=True):
                torch.testing.assert_close(found[i, j], reference, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_update_of_the_product_is_invariant_to_how_it_is_divided(seed):
    generator = torch.Generator().manual_seed(seed)
    B, D, G, S = (torch.randn(shape, generator=generator, dtype=torch.float64)
                  for shape in ((8, 4), (4, 7), (8, 7), (4, 4)))  # fmt: skip
    S = S + 3 * torch.eye(4)
    updates, plain = [], []
    for b, d in ((B, D), (B @ S, torch.linalg.solve(S, D))):
        gradients = G @ d.T, b.T @ G
        direction_b, direction_d = precondition(b, d, *gradients, 1e-14)
        updates.append(direction_b @ d + b @ direction_d)  # the change of b d, to first order in lr
        plain.append(gradients[0] @ d + b @ gradients[1])
    torch.testing.assert_close(*updates, rtol=1e-8, atol=1e-10)
    assert relative(*plain) > 0.1, "which plain gradients are not"


def test_both_halves_step_from_their_old_values():
    (B, D), target = problem()[0][0], problem()[1][0]
    pairs = parameters([(B, D)])
    train(RiemannianSGD(pairs, lr=0.5, damping=1e-3), pairs, [target], 1)
    error = B @ D - target
    direction_B, direction_D = precondition(B, D, error @ D.T, B.T @ error, 1e-3)
    torch.testing.assert_close(pairs[0][0].detach(), (B - 0.5 * direction_B).float())
    torch.testing.assert_close(pairs[0][1].detach(), (D - 0.5 * direction_D).float())


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_groups_are_the_halves_each_with_its_own_rate(cls):
    layers, targets = problem()
    pairs = parameters(layers)
    optimizer = cls(pairs, lr=(0.0, 1e-2))
    assert [group["factor"] for group in optimizer.param_groups] == ["content", "style"]
    train(optimizer, pairs, targets, 3)
    for layer, pair in zip(layers, pairs, strict=True):
        assert torch.equal(layer[0], pair[0]) and not torch.equal(layer[1], pair[1])
    optimizer.param_groups[1]["lr"] = 0.0  # as a schedule does
    before = [pair[1].clone() for pair in pairs]
    train(optimizer, pairs, targets, 1)
    assert all(torch.equal(old, pair[1]) for old, pair in zip(before, pairs, strict=True))


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_weight_decay_is_decoupled(cls):
    layers, _ = problem()
    pairs = parameters(layers)
    for pair in pairs:
        for p in pair:
            p.grad = torch.zeros_like(p)
    cls(pairs, lr=(0.1, 0.01), weight_decay=0.5).step()
    for layer, pair in zip(layers, pairs, strict=True):
        for start, p, lr in zip(layer, pair, (0.1, 0.01), strict=True):
            torch.testing.assert_close(p.detach(), start * (1 - 0.5 * lr), rtol=1e-6, atol=0)


@pytest.mark.parametrize("cls", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_round_trip_continues_bit_for_bit(cls, dtype, tmp_path):
    layers, targets = problem(dtype=dtype)
    first = parameters(layers)
    optimizer = cls(first, lr=0.01, weight_decay=0.1, damping=0.01)
    train(optimizer, first, targets, 5)
    torch.save(optimizer.state_dict(), tmp_path / "state")
    second = copy.deepcopy(first)
    resumed = cls(second, lr=0.5)  # the saved settings win
    resumed.load_state_dict(torch.load(tmp_path / "state"))
    shared = cls(copy.deepcopy(first), lr=0.5)
    shared.load_state_dict(optimizer.state_dict())  # must not hold the first one's own tensors
    train(optimizer, first, targets, 5)
    train(resumed, second, targets, 5)
    third = [*zip(*(group["params"] for group in shared.param_groups), strict=True)]
    train(shared, third, targets, 5)
    for pairs in (second, third):
        for a, b in zip(first, pairs, strict=True):
            assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    fresh = copy.deepcopy(first)
    train(cls(fresh, lr=0.01, weight_decay=0.1, damping=0.01), fresh, targets, 5)
    train(optimizer, first, targets, 5)
    assert (cls is RiemannianSGD) == all(torch.equal(a[0], b[0]) for a, b in zip(first, fresh, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_state_is_in_state_and_in_float32(dtype):
    layers, targets = problem(dtype=dtype)
    pairs = parameters(layers)
    optimizer = RiemannianAdamW(pairs, lr=0.01)
    train(optimizer, pairs, targets, 2)
    for resumed in (False, True):
        if resumed:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = RiemannianAdamW(pairs)
            optimizer.load_state_dict(state)
        for pair in pairs:
            for p in pair:
                assert p.dtype == dtype and p.grad.dtype == dtype
                assert set(optimizer.state[p]) == {"step", "exp_avg", "exp_avg_sq"}
                assert all(value.dtype == torch.float32 for value in optimizer.state[p].values())
    assert not [key for key, value in vars(optimizer).items() if torch.is_tensor(value)]


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_a_missing_partner_is_refused(cls):
    B, D = parameters([(torch.ones(4, 2), torch.ones(2, 3))])[0]
    for pairs in ([(B, None)], [(None, D)], [(B, D), (B,)], [(D, B)], [(B, torch.ones(3, 3))]):
        with pytest.raises(ValueError, match="pair"):
            cls(pairs)
    optimizer = cls([(B, D)])
    with pytest.raises(ValueError, match="partner"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    for grad_B, grad_D in ((None, torch.ones(2, 3)), (torch.ones(4, 2), None)):
        B.grad, D.grad = grad_B, grad_D
        with pytest.raises(ValueError, match="no gradient"):
            optimizer.step()
    assert (B == 1).all() and (D == 1).all()


@pytest.mark.parametrize("damping", [0.0, -1e-6, float("nan")])
def test_damping_must_be_positive(damping):
    with pytest.raises(ValueError, match="damping"):
        RiemannianSGD([(torch.ones(4, 2), torch.ones(2, 3))], damping=damping)


def test_halves_of_zero_step_by_the_damped_gradient():
    pairs = parameters([(torch.zeros(4, 2), torch.zeros(2, 3))])
    for p in pairs[0]:
        p.grad = torch.ones_like(p)
    RiemannianSGD(pairs, lr=1e-4).step()
    for p in pairs[0]:
        torch.testing.assert_close(p.detach(), torch.full_like(p, -1e-4 / DAMPING))


def test_empty_halves_of_ratio_one_are_left_alone():
    pairs = parameters([(torch.ones(0, 2), torch.ones(2, 0)), (torch.ones(4, 2), torch.ones(2, 3))])
    for pair in pairs:
        for p in pair:
            p.grad = torch.ones_like(p)
    for cls in OPTIMIZERS:
        cls(pairs).step()
    assert (pairs[1][0] < 1).all()
