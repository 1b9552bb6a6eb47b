"""Riemannian precondition (Sec. 4.3, Eq. 13-14): a half's gradient divided by its partner's Gram matrix."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

# Small beside the Gram matrix of a trained half: 640 rows with entries of 1e-3 give eigenvalues near 6e-4.
# Where a half is all but zero it rules, and caps the direction at 1e6 times the gradient.
DAMPING = 1e-6


def precondition(
    B: Tensor, D: Tensor, grad_B: Tensor, grad_D: Tensor, damping: float = DAMPING
) -> tuple[Tensor, Tensor]:
    """grad_B (D D^T + damping I)^-1 and (B^T B + damping I)^-1 grad_D: Eq. 14 and 13 with M = D, N = B.

    B, grad_B (..., m - d_out, r); D, grad_D (..., r, n - d_in); leading dimensions are a stack of layers.
    Returns both directions in float64, shaped like the gradients: a Gram matrix squares the condition number.
    Raises torch.linalg.LinAlgError where a Gram matrix is not finite, or singular under zero damping.
    """
    B, D, grad_B, grad_D = (tensor.double() for tensor in (B, D, grad_B, grad_D))
    direction_B = _solve(D @ D.mT, grad_B.mT, damping).mT
    direction_D = _solve(B.mT @ B, grad_D, damping)
    return direction_B, direction_D


def _solve(gram: Tensor, gradient: Tensor, damping: float) -> Tensor:
    """(gram + damping I)^-1 gradient, by Cholesky: (..., r, r), (..., r, k) -> (..., r, k)."""
    gram.diagonal(dim1=-2, dim2=-1).add_(damping)
    return torch.cholesky_solve(gradient, torch.linalg.cholesky(gram))


class _Riemannian(Optimizer):
    """Shared by both optimizers: pairs in two groups, stacked by shape to step, decoupled weight decay."""

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]], lr, **settings) -> None:
        pairs = list(pairs)
        for index, pair in enumerate(pairs):
            if len(pair) != 2 or any(half is None for half in pair):
                raise ValueError(f"pair {index}: B or D is missing; each preconditions the other")
            B, D = pair
            if B.ndim != 2 or D.ndim != 2 or B.shape[1] != D.shape[0]:
                raise ValueError(
                    f"pair {index}: B {tuple(B.shape)} and D {tuple(D.shape)} do not share a rank; "
                    "expected (m - d_out, r) and (r, n - d_in)"
                )
        if not settings["damping"] > 0:
            raise ValueError(f"damping is {settings['damping']}; must be positive, for B or D may be zero")
        lr_B, lr_D = (lr, lr) if isinstance(lr, (int, float)) else lr
        groups = [
            {"params": [B for B, _ in pairs], "lr": lr_B, "half": "content"},
            {"params": [D for _, D in pairs], "lr": lr_D, "half": "style"},
        ]
        super().__init__(groups, {"lr": 0.0, **settings})

    def add_param_group(self, param_group: dict) -> None:
        if len(self.param_groups) == 2:
            raise ValueError("the two groups hold all B and all D; a third group would have no partner")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure=None) -> Tensor | None:
        """One step of every pair. Raises ValueError, before anything moves, where B or D has no gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        content, style = self.param_groups
        stacks = defaultdict(list)  # layers of one shape: one batched Cholesky for all of them
        for index, pair in enumerate(zip(content["params"], style["params"], strict=True)):
            if any(half.grad is None for half in pair):
                raise ValueError(f"pair {index}: B or D has no gradient; each preconditions the other")
            stacks[*(half.shape for half in pair), pair[0].device].append(pair)
        for pairs in stacks.values():
            halves = list(zip(*pairs, strict=True))  # all B, all D
            stacked = [torch.stack(half).double() for half in halves]
            gradients = [torch.stack([p.grad for p in half]).double() for half in halves]
            directions = precondition(*stacked, *gradients, content["damping"])
            for group, half, direction in zip(self.param_groups, halves, directions, strict=True):
                for p, d in zip(half, self._moves(half, direction, group), strict=True):
                    # In float64, and rounded to p's dtype once.
                    p.copy_(p.double() * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * d)
        return loss

    def _moves(self, half: Sequence[Tensor], direction: Tensor, group: dict) -> Iterable[Tensor]:
        """What lr multiplies, for each parameter of `half`, given their directions (layers, *shape)."""
        raise NotImplementedError


class RiemannianSGD(_Riemannian):
    """Eq. 13-14 as they stand, for pairs (B (m - d_out, r), D (r, n - d_in)); both step from old values.

    lr: one rate, or (content, style). Decoupled decay: B <- (1 - lr weight_decay) B - lr direction.
    param_groups are all B, then all D. Raises ValueError for a pair that is incomplete or differs in rank.
    """

    def __init__(self, pairs, lr=1e-4, damping: float = DAMPING, weight_decay: float = 0.0) -> None:
        super().__init__(pairs, lr, damping=damping, weight_decay=weight_decay)

    def _moves(self, half, direction, group):
        return direction


class RiemannianAdamW(_Riemannian):
    """Eq. 13-14, then Adam moments of the preconditioned gradient (Zhang and Pilanci 2024), decoupled decay.

    Arguments as in RiemannianSGD and torch.optim.AdamW. The moments are in self.state, in float32 also for
    bfloat16 parameters. Raises ValueError for a pair that is incomplete or differs in rank.
    """

    def __init__(
        self, pairs, lr=1e-4, betas=(0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01,
        damping: float = DAMPING,
    ) -> None:  # fmt: skip
        super().__init__(pairs, lr, betas=betas, eps=eps, weight_decay=weight_decay, damping=damping)

    def _moves(self, half, direction, group):
        beta1, beta2 = group["betas"]
        for p, d in zip(half, direction.float(), strict=True):
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(d), torch.zeros_like(d)
            state["step"] += 1
            step = state["step"].item()
            state["exp_avg"].lerp_(d, 1 - beta1)
            state["exp_avg_sq"].mul_(beta2).addcmul_(d, d, value=1 - beta2)
            mean = state["exp_avg"].double() / (1 - beta1**step)
            variance = state["exp_avg_sq"].double() / (1 - beta2**step)
            yield mean / (variance.sqrt() + group["eps"])

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        # Optimizer has cast the moments to each parameter's dtype; take them again as they were saved.
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        held = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(saved, held, strict=True):
            for key, value in state_dict["state"].get(index, {}).items():
                self.state[p][key] = value.to(device=value.device if key == "step" else p.device, copy=True)
