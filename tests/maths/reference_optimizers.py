"""Slow references of the Riemannian optimizers: one layer at a time, in float64, inverses written out."""

import torch


def directions(B, D, grad_B, grad_D, damping):
    """Eq. 14 and 13 for one layer."""
    eye = torch.eye(B.shape[1], dtype=torch.float64)
    inverse_D = torch.linalg.inv(D @ D.T + damping * eye)
    inverse_B = torch.linalg.inv(B.T @ B + damping * eye)
    return grad_B @ inverse_D, inverse_B @ grad_D


def sgd(layer, gradients, lr, damping, weight_decay):
    """layer: (B, D) in float64; gradients: one (grad_B, grad_D) a step. Returns (B, D) after them all."""
    B, D = layer
    for gradient in gradients:
        direction_B, direction_D = directions(B, D, *gradient, damping)
        B = B - lr[0] * weight_decay * B - lr[0] * direction_B
        D = D - lr[1] * weight_decay * D - lr[1] * direction_D
    return B, D


def adamw(layer, gradients, lr, damping, weight_decay, betas, eps):
    """As sgd, with Adam moments of the preconditioned gradient."""
    factors = list(layer)
    first, second = [torch.zeros_like(h) for h in factors], [torch.zeros_like(h) for h in factors]
    for t, gradient in enumerate(gradients, start=1):
        for i, direction in enumerate(directions(*factors, *gradient, damping)):
            first[i] = betas[0] * first[i] + (1 - betas[0]) * direction
            second[i] = betas[1] * second[i] + (1 - betas[1]) * direction**2
            mean, variance = first[i] / (1 - betas[0] ** t), second[i] / (1 - betas[1] ** t)
            decayed = factors[i] - lr[i] * weight_decay * factors[i]
            factors[i] = decayed - lr[i] * mean / (torch.sqrt(variance) + eps)
    return factors
