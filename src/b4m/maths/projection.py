"""The partly learnable projection as a layer: what holds A, B, C and D, and the product that both passes share."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .composing import Strength, runs
from .plp import BasisSpec, basis, compose, start

Fold = tuple[Tensor, Tensor | None]  # a weight (m, n) and a bias (m,)


class _RoutedProduct(torch.autograd.Function):
    """y = W x + b + W_up (W_down x), Eq. 8; backward, a sample's gradient goes to the factor it trains, Eq. 12.

    x (samples, n) -> y (samples, m). W and b of the frozen layer itself may be None: then its share is left out. Its
    product and the update's are summed as they are made, one tensor each way. B gets the gradient of samples
    [0, content_end), D of samples [style_start, samples). All share one product each way; a sample that must not
    reach a factor never enters its weight gradient.
    The zeros of the exact basis make the block A C of Eq. 11 zero: no mask, no third product.
    """

    @staticmethod
    def forward(ctx, x, W, b, A, B, C, D, content_end: int, style_start: int):
        W_up, W_down = (factor.to(x.dtype) for factor in compose(A, B, C, D))
        h = x @ W_down.T  # (samples, r)
        ctx.save_for_backward(x, h, W, W_up, W_down)
        ctx.content_end, ctx.style_start = content_end, style_start
        ctx.d_out, ctx.d_in = len(A), C.shape[1]
        return h @ W_up.T if W is None else F.linear(x, W, b).addmm_(h, W_up.T)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y):  # pyrefly: ignore[bad-override]
        x, h, W, W_up, W_down = ctx.saved_tensors
        needs_x, _, _, _, needs_B, _, needs_D, _, _ = ctx.needs_input_grad
        grad_x = grad_B = grad_D = None
        if needs_B:
            content = slice(0, ctx.content_end)
            grad_B = grad_y[content, ctx.d_out :].T @ h[content]
        if needs_x or needs_D:
            grad_h = grad_y @ W_up
            if needs_D:
                style = slice(ctx.style_start, None)
                grad_D = grad_h[style].T @ x[style, ctx.d_in :]
            if needs_x:
                grad_x = grad_h @ W_down if W is None else (grad_y @ W).addmm_(grad_h, W_down)
        return grad_x, None, None, None, grad_B, None, grad_D, None, None


def _is_plain(weight: Tensor, dtype: torch.dtype) -> bool:
    """A frozen weight that can be multiplied as it is: neither of another dtype nor quantized."""
    return type(weight) is nn.Parameter and weight.dtype == dtype and not weight.requires_grad


class PLPLinear(nn.Module):
    """The partly learnable projection of one linear layer (Sec. 4.1): parameters B and D, buffers A and C.

    B (m - d_out, r) and D (r, n - d_in) start so that dW = 0. They and the basis, A (d_out, r) and C (r, d_in), stay
    float32 whatever dtype the UNet around them is converted to.
    """

    def __init__(self, m: int, n: int, spec: BasisSpec, layer: str) -> None:
        super().__init__()
        A, C = basis(spec, layer, m, n)
        # Buffers: no gradient, no optimizer and no decay reaches them. Not saved: spec or file gives them again.
        self.register_buffer("A", A, persistent=False)
        self.register_buffer("C", C, persistent=False)
        self.B, self.D = map(nn.Parameter, start(spec, layer, m, n))
        self.folds: dict[tuple[float, float], Fold | None] | None = None  # by strengths, while `folding`

    def forward(
        self,
        x: Tensor,
        content_samples: int | None = None,
        content_strength: Strength = 1.0,
        style_strength: Strength = 1.0,
        onto: nn.Module | None = None,
    ) -> Tensor:
        """dW x: (samples, tokens, n) -> (samples, tokens, m), in x's dtype (or autocast's).

        onto: the layer that is adapted: onto(x) + dW x.
        content_samples: the first so many samples train B alone, the others D alone (Eq. 12); None: all both.
        content_strength, style_strength: scale B and D, of all samples or of each; a sample of a batch whose own are
        both 0 passes the frozen layer alone. Raises ValueError for more content samples than samples, for another
        number of strengths, and for content samples where each sample has strengths of its own.
        """
        if isinstance(content_strength, Sequence) or isinstance(style_strength, Sequence):
            if content_samples is not None:
                raise ValueError("content_samples is for training, strengths of each sample are for sampling")
            return self._by_runs(x, content_strength, style_strength, onto)
        samples = x.shape[0]
        if content_samples is not None and not 0 <= content_samples <= samples:
            raise ValueError(f"content_samples is {content_samples}, but the batch has {samples} samples")
        if self.folds is not None and onto is not None and not torch.is_grad_enabled():
            key = content_strength, style_strength
            if key not in self.folds:
                self.folds[key] = self._fold(onto, x.dtype, *key)
            if (folded := self.folds[key]) is not None:
                return F.linear(x, *folded)
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        W = b = None
        if type(onto) is nn.Linear and _is_plain(onto.weight, x.dtype):
            W, b = onto.weight, onto.bias
        B = self.B if content_strength == 1 else content_strength * self.B
        D = self.D if style_strength == 1 else style_strength * self.D
        flat = x.flatten(0, -2)  # (samples * tokens, n), samples in order: the same cut separates them
        cut = None if content_samples is None else content_samples * (flat.shape[0] // max(samples, 1))
        content_end, style_start = (flat.shape[0], 0) if cut is None else (cut, cut)
        y = _RoutedProduct.apply(flat, W, b, self.A, B, self.C, D, content_end, style_start)
        y = y.unflatten(0, x.shape[:-1])
        return y if onto is None or W is not None else onto(x) + y

    def _fold(self, onto: nn.Module, dtype: torch.dtype, content: float, style: float) -> Fold | None:
        """onto's W + dW at these strengths, summed in float32 and rounded once to W's dtype; and its bias.

        None: onto's weight cannot be read as it is.
        """
        if type(onto) is not nn.Linear or not _is_plain(onto.weight, dtype):
            return None
        W_up, W_down = compose(self.A, content * self.B, self.C, style * self.D)
        return torch.addmm(onto.weight.float(), W_up, W_down).to(dtype), onto.bias

    def _by_runs(self, x: Tensor, content: Strength, style: Strength, onto: nn.Module | None) -> Tensor:
        """Samples of equal strengths together, so that none pays for what it does not use."""
        parts = []
        for some, c, s in runs(content, style, len(x)):
            if onto is not None and c == s == 0:
                parts.append(onto(x[some]))
            else:
                parts.append(self(x[some], None, c, s, onto))
        return torch.cat(parts)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PLPLinear":
        # denoiser.to(float16) reaches this module too. It may move B, D, A, C but must not round them.
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)
