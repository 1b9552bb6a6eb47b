"""The adapter on a UNet: a PLPLinear for each attention projection, and the processor that carries them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from ..core.errors import UserError
from .composing import Strength
from .plp import FACTORS, BasisSpec, compose, principal, reading
from .projection import PLPLinear

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
STOCK_PROCESSORS = (AttnProcessor, AttnProcessor2_0)  # both compute what PLPAttnProcessor adds to


class PLPAttnProcessor(nn.Module):
    """Scaled dot-product attention, self and cross, with a PLPLinear added to each adapted projection.

    layers: from the projection's name in the Attention module ("to_q", "to_out.0", ...) to its PLPLinear.
    The last three arguments of a call come from Diffusers' cross_attention_kwargs, for PLPLinear.forward.
    """

    def __init__(self, layers: Mapping[str, PLPLinear]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name.replace(".", "_"): layer for name, layer in layers.items()})
        self._by_name = dict(self.layers.items())  # the same without a module's slow attribute access

    # Not `forward`: Diffusers reads the signature of `__call__` to tell which cross_attention_kwargs to pass.
    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        content_samples: int | None = None,
        content_strength: Strength = 1.0,
        style_strength: Strength = 1.0,
    ) -> Tensor:
        """hidden_states (samples, tokens, n) or (samples, n, height, width), and out in the same shape.

        encoder_hidden_states (samples, tokens', n') is what keys and values come from; None: hidden_states.
        """

        def project(name: str, linear: nn.Module, x: Tensor) -> Tensor:
            layer = self._by_name.get(name)
            if layer is None:
                return linear(x)
            return layer(x, content_samples, content_strength, style_strength, linear)

        x = hidden_states if attn.spatial_norm is None else attn.spatial_norm(hidden_states, temb)
        if hidden_states.ndim == 4:
            x = x.flatten(2).transpose(1, 2)  # (samples, tokens, n)
        context = x if encoder_hidden_states is None else encoder_hidden_states
        mask = _heads_mask(attn, attention_mask, context)
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
        if encoder_hidden_states is None:
            context = x
        elif attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)

        q, k, v = (
            project(name, getattr(attn, name), tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for name, tokens in (("to_q", x), ("to_k", context), ("to_v", context))
        )  # (samples, heads, tokens, width of a head)
        q = q if attn.norm_q is None else attn.norm_q(q)
        k = k if attn.norm_k is None else attn.norm_k(k)
        y = _attention(q, k, v, mask).transpose(1, 2).flatten(2)

        y = attn.to_out[1](project("to_out_0", attn.to_out[0], y))  # [1] is dropout
        if hidden_states.ndim == 4:
            y = y.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection:
            y = y + hidden_states
        return y / attn.rescale_output_factor


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(width)) v, each (samples, heads, tokens, width of a head), in q's dtype."""
    dtype = q.dtype
    if q.device.type == "cpu" and dtype.itemsize < 4:  # its half-precision kernel: ten times slower, backward
        q, k, v = q.float(), k.float(), v.float()
        mask = mask if mask is None else mask.float()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).to(dtype)


def _heads_mask(attn: Attention, mask: Tensor | None, context: Tensor) -> Tensor | None:
    """Diffusers' additive mask as (samples, heads, 1 or tokens, tokens'), padded to the context's length."""
    if mask is None:
        return None
    samples, length, _ = context.shape
    mask = attn.prepare_attention_mask(mask, length, samples)  # (samples * heads, 1 or tokens, tokens')
    return mask.unflatten(0, (samples, attn.heads))


class Adapter:
    """What was installed on a UNet: one PLPLinear per adapted layer, under the layer's full name in the UNet.

    layers: for instance {"down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": PLPLinear, ...}
    spec: the basis; choice: "square" or "all", which layers are adapted.
    """

    def __init__(self, spec: BasisSpec, choice: str, layers: dict[str, PLPLinear], stock: dict) -> None:
        self.spec, self.choice, self.layers = spec, choice, layers
        self._stock = stock  # the attention processors that were there before, by name

    @classmethod
    def install(
        cls, denoiser: ModelMixin, spec: BasisSpec, layers: str = "square", only: Sequence[str] = ()
    ) -> "Adapter":
        """Freeze the UNet and put an adapter that starts as the identity on its attention projections.

        layers: "square", those with m = n (Sec. 4.1), or "all", with the cross-attention keys and values.
        only: the blocks to adapt, by the start of their names (none: all of them).
        Raises UserError for another choice, a UNet without attention or with an adapter already.
        """
        if layers not in ("square", "all"):
            raise UserError(f'layers {layers!r}: choose "square" or "all"')
        stock = dict(denoiser.attn_processors)
        for name, processor in stock.items():
            if type(processor) not in STOCK_PROCESSORS:
                found = type(processor).__name__
                raise UserError(f"UNet, {name}: carries {found} already; load a base without adapters")
        installed, processors = {}, {}
        for name in stock:
            path = name.removesuffix(".processor")
            chosen = not only or path.startswith(tuple(f"{block}." for block in only))
            found = _adapted(denoiser.get_submodule(path), path, spec, layers) if chosen else {}
            installed |= {f"{path}.{projection}": layer for projection, layer in found.items()}
            processors[name] = PLPAttnProcessor(found)
        if not installed:
            raise UserError(f'UNet: layers "{layers}" finds no attention projection; is it an SDXL UNet?')
        denoiser.requires_grad_(False)
        denoiser.set_attn_processor(processors)
        return cls(spec, layers, installed, stock)

    def remove(self, denoiser: ModelMixin) -> None:
        """Put the stock attention processors back. The UNet stays frozen; this adapter keeps its B and D."""
        denoiser.set_attn_processor(dict(self._stock))

    def to(self, device: torch.device | str) -> "Adapter":
        """Move A, B, C and D of every layer, in place."""
        for layer in self.layers.values():
            layer.to(device)
        return self

    @contextmanager
    def folding(self) -> Iterator[None]:
        """While it lasts, a sample without gradients passes W + dW of its strengths as one weight.

        These are copies beside the base model's own weights, which are left alone: one of every adapted layer for each
        pair of strengths that comes up. B and D must not change meanwhile. Quantized layers, and those of another
        dtype than their input, go on as without.
        """
        for layer in self.layers.values():
            layer.folds = {}
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.folds = None

    def parameters_of(self, kind: str) -> list[nn.Parameter]:
        """B of every layer for "content", D for "style", in layer order."""
        return [getattr(layer, FACTORS[kind]) for layer in self.layers.values()]

    def pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """(B, D) of every layer, in layer order."""
        return [(layer.B, layer.D) for layer in self.layers.values()]

    def factor(self, kind: str) -> dict[str, Tensor]:
        """Copies on the CPU of B ("content") or D ("style") of every layer, by layer name."""
        factors = zip(self.layers, self.parameters_of(kind), strict=True)
        return {name: factor.detach().cpu().clone() for name, factor in factors}

    @torch.no_grad()
    def load_factor(self, kind: str, tensors: Mapping[str, Tensor]) -> None:
        """Set B ("content") or D ("style") of every layer. UserError, and nothing set, if one misfits."""
        where, advice = f"{kind} weights", "use the base, layers and rank that they were made with"
        factors = dict(zip(self.layers, self.parameters_of(kind), strict=True))
        if missing := [name for name in factors if name not in tensors]:
            raise UserError(f"{where}: no tensor for layer {missing[0]}; {advice}")
        if unknown := [name for name in tensors if name not in factors]:
            raise UserError(f"{where}: this UNet has no adapted layer {unknown[0]}; {advice}")
        for name, factor in factors.items():
            found, expected = tuple(tensors[name].shape), tuple(factor.shape)
            if found != expected:
                raise UserError(f"{where}: layer {name} is {found}, expected {expected}; {advice}")
        for name, factor in factors.items():
            factor.copy_(tensors[name])

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The lower half of C (floor(r/2), d_in) of every layer, by layer name: views, on the layers' device."""
        return {name: layer.C[-(self.spec.rank // 2) :] for name, layer in self.layers.items()}

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """While it lasts, what C would see is added up; then C reads the principal directions of it."""
        moments: dict[str, Tensor] = {}

        def add(name: str, x: Tensor, d_in: int) -> None:
            with torch.autocast(x.device.type, enabled=False):
                seen = x[..., :d_in].flatten(0, -2).float()
                moments[name] = moments.get(name, 0) + seen.T @ seen / len(seen)

        def hook(name: str) -> Callable:
            return lambda layer, args: add(name, args[0].detach(), layer.C.shape[1])

        hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in self.layers.items()]
        try:
            yield
        finally:
            for each in hooks:
                each.remove()
        self.load_inputs({name: principal(self.spec, moment) for name, moment in moments.items()})

    @torch.no_grad()
    def load_inputs(self, inputs: Mapping[str, Tensor]) -> None:
        """Set C of every layer from its lower half. UserError, and nothing set, where one is missing or misfits."""
        for name, own in self.inputs.items():
            if name not in inputs or inputs[name].shape != own.shape:
                found = tuple(inputs[name].shape) if name in inputs else "missing"
                raise UserError(
                    f"content weights: what {name} reads is {found}, expected {tuple(own.shape)}; "
                    "use the base, layers and rank that they were made with"
                )
        for name, layer in self.layers.items():
            layer.C.copy_(reading(inputs[name], self.spec.rank))

    @torch.no_grad()
    def lora(
        self, content_strength: float = 1.0, style_strength: float = 1.0
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """The adapter as an ordinary LoRA: layer name -> (W_up (m, r), W_down (r, n)), float32 on the CPU."""
        factors = {}
        for name, layer in self.layers.items():
            W_up, W_down = compose(layer.A, content_strength * layer.B, layer.C, style_strength * layer.D)
            factors[name] = W_up.cpu(), W_down.cpu()
        return factors


def _adapted(attn: Attention, path: str, spec: BasisSpec, layers: str) -> dict[str, PLPLinear]:
    """A fresh PLPLinear for each chosen projection of one attention, by the projection's name."""
    found = {}
    for projection in PROJECTIONS:
        weight = attn.get_submodule(projection).weight
        m, n = weight.shape
        if m == n or layers == "all":
            found[projection] = PLPLinear(m, n, spec, f"{path}.{projection}").to(weight.device)
    return found
