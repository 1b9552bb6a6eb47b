"""Custom Diffusion's merge in closed form (Kumari et al. 2023, arXiv 2212.04488): changes of a layer in one."""

import torch
from torch import Tensor

RIDGE = 1e-6  # of the Gram matrix of other captions, times its mean eigenvalue: it may have more dimensions than rows


def closed_form(C: Tensor, C_reg: Tensor, V: Tensor) -> Tensor:
    """dW (m, n) with dW C^T = V^T exactly that moves the keys or values of C_reg least, |dW C_reg^T|_F.

    C (k, n): token features of the concepts' prompts, no two alike; V (k, m): what their own trainings add for them;
    C_reg (many, n): token features of other captions. float64. Appendix of the paper: with G = C_reg^T C_reg and
    d = C G^-1, dW = V^T (d C^T)^-1 d. A ridge keeps G invertible where captions are fewer than dimensions.
    """
    return V.T @ merger(C, C_reg)


def merger(C: Tensor, C_reg: Tensor) -> Tensor:
    """(d C^T)^-1 d (k, n) of `closed_form`: the same for all layers."""
    G = C_reg.T @ C_reg
    G = G + RIDGE * G.diagonal().mean() * torch.eye(len(G), dtype=G.dtype, device=G.device)
    d = torch.linalg.solve(G, C.T).T
    return torch.linalg.solve(d @ C.T, d)
