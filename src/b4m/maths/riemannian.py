"""Riemannian precondition (Sec. 4.3, Eq. 13-14): a factor's gradient divided by its partner's Gram matrix."""

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

# Small beside the Gram matrix of a trained factor: 640 rows with entries of 1e-3 give eigenvalues near 6e-4.
# Where a factor is all but zero it rules, and caps the direction at 1e6 times the gradient.
DAMPING = 1e-6
FUSED_KERNELS = ("cpu", "cuda", "mps", "xpu")  # devices on which torch moves a whole list at once
NO_FLOAT64 = {"mps": torch.float32}  # Apple's GPUs


def precondition(
    B: Tensor, D: Tensor, grad_B: Tensor, grad_D: Tensor, damping: float = DAMPING
) -> tuple[Tensor, Tensor]:
    """grad_B (D D^T + damping I)^-1 and (B^T B + damping I)^-1 grad_D: Eq. 14 and 13 with M = D, N = B.

    B, grad_B (..., m - d_out, r); D, grad_D (..., r, n - d_in); leading dimensions are a stack of layers.
    Returns both directions, shaped like the gradients and in their dtype, float32 at least. The inverses are made
    in float64, for a Gram matrix squares the condition number; the gradients are as good as their own dtype.
    Where the device has no float64, in float32, with the damping raised to what float32 leaves of a Gram matrix.
    Raises torch.linalg.LinAlgError on the CPU where a Gram matrix is not finite, or singular under zero
    damping; elsewhere that layer's directions are not finite, since to ask would make the host wait.
    """
    dtype = torch.promote_types(grad_B.dtype, torch.float32)
    exact = NO_FLOAT64.get(B.device.type, torch.float64)
    B, D = B.to(exact), D.to(exact)
    direction_B = grad_B.to(dtype) @ _inverse(D @ D.mT, damping).to(dtype)
    direction_D = _inverse(B.mT @ B, damping).to(dtype) @ grad_D.to(dtype)
    return direction_B, direction_D


def _inverse(gram: Tensor, damping: float) -> Tensor:
    """(gram + damping I)^-1 of symmetric matrices (..., r, r), by Cholesky."""
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    if gram.dtype == torch.float64:
        diagonal.add_(damping)
    else:  # rounding has moved the eigenvalues by about eps times the trace: less damping may leave one below 0
        least = torch.finfo(gram.dtype).eps * diagonal.sum(-1, keepdim=True)
        diagonal.add_(least.clamp(min=damping))
    if gram.device.type != "cpu":
        return _unasked(gram)
    factor, _ = torch.linalg.cholesky_ex(gram, check_errors=True)
    return torch.cholesky_inverse(factor)


def _unasked(gram: Tensor) -> Tensor:
    """gram^-1, nan where there is none: for devices, which cholesky_inverse would make the host wait for."""
    factor, info = torch.linalg.cholesky_ex(gram)
    factor = factor.masked_fill((info != 0)[..., None, None], torch.nan)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    root = torch.linalg.solve_triangular(factor, identity.expand_as(gram), upper=False)
    return root.mT @ root


class _Riemannian(Optimizer):
    """Shared by both optimizers: pairs in two groups, each preconditioned by its partner, decoupled weight decay."""

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]], lr, **settings) -> None:
        pairs = list(pairs)
        for index, pair in enumerate(pairs):
            if len(pair) != 2 or any(factor is None for factor in pair):
                raise ValueError(f"pair {index}: B or D is missing; each preconditions the other")
            B, D = pair
            if B.ndim < 2 or (*B.shape[:-2], B.shape[-1]) != tuple(D.shape[:-1]):
                raise ValueError(
                    f"pair {index}: B {tuple(B.shape)} and D {tuple(D.shape)} do not share a rank; "
                    "expected (..., m - d_out, r) and (..., r, n - d_in)"
                )
        if not settings["damping"] > 0:
            raise ValueError(f"damping is {settings['damping']}; must be positive, for B or D may be zero")
        lr_B, lr_D = (lr, lr) if isinstance(lr, (int, float)) else lr
        groups = [
            {"params": [B for B, _ in pairs], "lr": lr_B, "factor": "content"},
            {"params": [D for _, D in pairs], "lr": lr_D, "factor": "style"},
        ]
        super().__init__(groups, {"lr": 0.0, **settings})

    def add_param_group(self, param_group: dict) -> None:
        if len(self.param_groups) == 2:
            raise ValueError("the two groups hold all B and all D; a third group would have no partner")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure=None) -> Tensor | None:  # pyrefly: ignore[bad-override]
        """One step of every pair. Raises ValueError, before anything moves, where B or D has no gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        content, style = self.param_groups
        pairs = list(zip(content["params"], style["params"], strict=True))
        for index, pair in enumerate(pairs):
            if any(factor.grad is None for factor in pair):
                raise ValueError(f"pair {index}: B or D has no gradient; each preconditions the other")
        for B, D in pairs:
            directions = precondition(B, D, B.grad, D.grad, content["damping"])
            for group, factor, direction in zip(self.param_groups, (B, D), directions, strict=True):
                wide = factor.to(direction.dtype)  # the parameter itself, if it is as wide
                self._move(factor, wide, direction, group)
                if wide is not factor:
                    factor.copy_(wide)  # rounded once
        return loss

    @abstractmethod
    def _move(self, factor: Tensor, wide: Tensor, direction: Tensor, group: dict) -> None:
        """Step `wide`, the parameter `factor` in float32 or wider, along `direction`, in place."""


class RiemannianSGD(_Riemannian):
    """Eq. 13-14 as they stand, for pairs (B (m - d_out, r), D (r, n - d_in)); both step from old values.

    A pair may be many layers of one shape at once, with leading dimensions that both share (maths.stacks): one batched
    Cholesky for all of them, where pairs are stepped one after another.
    lr: one rate, or (content, style). Decoupled decay: B <- (1 - lr weight_decay) B - lr direction.
    param_groups are all B, then all D. Raises ValueError for a pair that is incomplete or differs in rank.
    """

    def __init__(self, pairs, lr=1e-4, damping: float = DAMPING, weight_decay: float = 0.0) -> None:
        super().__init__(pairs, lr, damping=damping, weight_decay=weight_decay)

    def _move(self, factor, wide, direction, group):
        wide.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])


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

    def _move(self, factor, wide, direction, group):
        state = self.state[factor]
        if not state:
            state["step"] = torch.zeros((), device=direction.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(direction), torch.zeros_like(direction)
        beta1, beta2 = group["betas"]
        adamw(
            [wide], [direction], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]],
            fused=factor.device.type in FUSED_KERNELS,
            amsgrad=False, maximize=False, beta1=beta1, beta2=beta2,
            lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
        )  # fmt: skip

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        # Optimizer has cast the moments to each parameter's dtype; take them again as they were saved.
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        held = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(saved, held, strict=True):
            for key, value in state_dict["state"].get(index, {}).items():
                self.state[p][key] = value.to(device=p.device, copy=True)
