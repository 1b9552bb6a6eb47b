"""CC+ES (Sec. 5.3, Fig. 7): an image of the content, inverted with the content's LoRA, edited by the style's words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from ..backbones.protocol import Attached, Backbone, Conditions
from ..config.fields import setting
from ..config.training import ShowsContent, ShowsStyle
from ..core.errors import UserError
from ..data.images import whole
from ..data.inputs import Group, read_inputs
from ..files.lora import Layers
from ..files.opening import Opened, save_method_file
from ..maths.inversion import grid, invert, move
from ..maths.null_text import guided, retrace
from ..maths.prompt_to_prompt import alignment, refine
from .added import Additions, LowRankTerm
from .inverting import Inverts, content_tensors, encode_one
from .low_rank import LoraContentConfig, check_fit, open_lora
from .protocol import Pair
from .tokens import is_on

SMALL = 32 * 32  # tokens: self-attention of more is left alone


@dataclass(frozen=True, kw_only=True)
class EditConfig(ShowsContent, Inverts):
    """Settings of the inversion of one image of the content. It is what is drawn, edited: seeds change nothing."""

    stage, result, section = "cc+es", "cc_es.safetensors", "merge"
    needs = ("content_dir", "content_file")
    own_presets = {"sdxl": dict(resolution=1024), "embedded": dict(edit_guidance=2.5)}
    # Images of it are drawn as it was inverted: their setting -> the one of these that says so.
    drawn_as: ClassVar[dict[str, str]] = {
        "steps": "inversion_steps",
        "guidance": "edit_guidance",
        "size": "resolution",
    }

    style_trigger: str = setting(
        "word of prompts that is left out: no style is learned, so the model knows none",
        ShowsStyle.style_trigger,
    )
    edit_guidance: float = setting("classifier-free guidance scale of drawing from it", 7.5, low=0, high=1000)
    cross_share: float = setting(
        "share of the steps whose cross-attention is the source's", 0.8, low=0, high=1
    )
    self_share: float = setting("share of the steps whose self-attention is the source's", 0.4, low=0, high=1)


class NullText:
    """The assembly: the content's first image, as noise and embeddings of nothing that lead back to it."""

    def __init__(self, config: EditConfig) -> None:
        assert config.content_file is not None  # it is needed
        self.config, self.content = config, open_lora(config.content_file, "content")
        groups = [Group("content", config.content_dir, config.content_prompt)]
        inputs = read_inputs(groups, config.resolution, config.fit)
        self.image, self.prompt = inputs.images[0], inputs.prompts[0]

    def make(self, folder: Path, facts: Mapping[str, str]) -> None:
        config = self.config
        backbone, latents, conditions, timesteps, alphas, device = encode_one(
            config, self.content, self.image, self.prompt
        )
        Additions(backbone.denoiser, {name: LowRankTerm(*pair) for name, pair in self.content.layers.items()})
        seen = seen_at(backbone, config.resolution, device)
        prompted = {**conditions, **seen}
        nothing = {**backbone.encode_unguided(), **seen}

        def with_prompt(x: Tensor, t: Tensor) -> Tensor:
            return backbone.predict(x, t, prompted)

        def with_nothing(x: Tensor, t: Tensor, embedding: Tensor) -> Tensor:
            return backbone.predict(x, t, {**nothing, "hidden": embedding.to(backbone.denoiser.dtype)})

        kind = backbone.prediction_type
        noisy = invert(with_prompt, latents, timesteps, alphas, kind)
        nulls, losses = retrace(
            with_nothing, with_prompt, noisy, timesteps, alphas, kind, nothing["hidden"], config.edit_guidance
        )
        tensors = {"noise": noisy[-1:].cpu(), "nulls": nulls.cpu(), "losses": torch.tensor(losses)}
        tensors |= content_tensors(self.content)
        names = (
            "resolution",
            "edit_guidance",
            "cross_share",
            "self_share",
            "style_trigger",
            "content_trigger",
        )
        told = {name: str(getattr(config, name)) for name in names}
        metadata = {**facts, **told, "source_prompt": self.prompt, "trained_parameters": "0"}
        save_method_file(folder / config.result, "cc+es", tensors, backbone.denoiser, metadata)


def seen_at(backbone: Backbone, size: int, device: torch.device) -> Conditions:
    """What the denoiser is told of an image of `size` pixels that was neither scaled nor cropped, a row."""
    seen = backbone.image_conditions(whole(size))
    return {name: value[None].to(device, backbone.denoiser.dtype) for name, value in seen.items()}


class Edit:
    """An attention processor that gives the target, last of four samples, the attention of the source before it.

    The samples: source and target without the prompt, source and target with theirs. Between edits the stock
    processor answers.
    """

    def __init__(self, stock: Any, cross: bool, state: "AttachedEdit") -> None:
        self.stock, self.cross, self.state = stock, cross, state

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if self.state.progress is None:
            return self.stock(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )  # (samples, heads, tokens, width of a head)
        weights = (attn.scale * q.float() @ k.float().mT).softmax(-1)
        source, target = weights[2], weights[3]
        if self.cross and self.state.progress < self.state.cross_share:
            target = refine(source, target, self.state.places)
        elif not self.cross and self.state.progress < self.state.self_share and q.shape[2] <= SMALL:
            target = source
        weights = torch.cat([weights[:3], target[None]])
        y = (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](y))


class AttachedEdit:
    """The content's LoRA on a denoiser, and the inverted image that is drawn anew with other words."""

    progress: float | None = None  # of an edit under way: from 0 to 1
    places: Tensor  # of the target's tokens in the source

    def __init__(self, backbone: Backbone, opened: Opened, content: Layers) -> None:
        self.backbone, facts = backbone, opened.metadata
        self.noise, self.nulls = opened.tensors["noise"], opened.tensors["nulls"]
        self.source, self.trigger = facts["b4m.source_prompt"], facts["b4m.style_trigger"]
        self.size, self.guidance = int(facts["b4m.resolution"]), float(facts["b4m.edit_guidance"])
        self.cross_share, self.self_share = (float(facts[f"b4m.{name}_share"]) for name in ("cross", "self"))
        self.where, self.edits = opened.where, True
        denoiser = backbone.denoiser
        self.terms = {name: LowRankTerm(*pair) for name, pair in content.items()}
        self.additions = Additions(denoiser, self.terms)
        self.stock = dict(denoiser.attn_processors)
        denoiser.set_attn_processor({name: Edit(p, "attn2" in name, self) for name, p in self.stock.items()})

    def arguments(self, content: float, style: float) -> None:
        self.edits = is_on("style", style)
        for term in self.terms.values():
            term.strength = content

    def draw(self, prompts: Sequence[str], steps: int, guidance: float, width: int, height: int) -> Tensor:
        """Latents (prompts, c, h, w). Raises UserError for steps, guidance or size that are not the inversion's."""
        made = len(self.nulls), self.guidance, f"{self.size}x{self.size}"
        asked = steps, guidance, f"{width}x{height}"
        if asked != made:
            raise UserError(
                f"{self.where}: was inverted for --steps {made[0]} --guidance {made[1]} --size {made[2]}, not for "
                f"{asked[0]}, {asked[1]} and {asked[2]}; give those"
            )
        known = {prompt: self._edit(prompt) for prompt in dict.fromkeys(prompts)}
        return torch.cat([known[prompt] for prompt in prompts])

    @torch.no_grad()
    def _edit(self, prompt: str) -> Tensor:
        backbone, device = self.backbone, self.backbone.denoiser.device
        target = (
            " ".join(word for word in prompt.split() if word != self.trigger) if self.edits else self.source
        )
        tokenizer = getattr(backbone.pipe, next(iter(backbone.encoders)))
        ids = tokenizer([self.source, target], padding="max_length", truncation=True).input_ids
        self.places = alignment(*ids).to(device)
        seen, nothing = seen_at(backbone, self.size, device), backbone.encode_unguided()
        told = backbone.encode_prompts([self.source, target])
        fixed = {name: torch.cat([value, value, told[name]]) for name, value in nothing.items()}
        fixed |= {name: value.repeat(4, *[1] * (value.dim() - 1)) for name, value in seen.items()}
        steps, alphas = len(self.nulls), backbone.alphas_cumprod.to(device)
        timesteps = grid(steps, len(alphas))
        x = self.noise.to(device).repeat(2, 1, 1, 1)
        try:
            for step, null in enumerate(self.nulls.to(told["hidden"])):
                self.progress = step / steps
                hidden = torch.cat([null[None], null[None], told["hidden"]])
                now, later = timesteps[steps - step], timesteps[steps - step - 1]
                time = now.to(device).expand(4)
                said = backbone.predict(x.repeat(2, 1, 1, 1), time, {**fixed, "hidden": hidden}).float()
                without, with_prompt = said.chunk(2)
                said = guided(without, with_prompt, self.guidance)
                x = move(x, said, alphas[now], alphas[later], backbone.prediction_type)
        finally:
            self.progress = None
        return x[1:]

    def remove(self) -> None:
        self.additions.remove()
        self.backbone.denoiser.set_attn_processor(dict(self.stock))


class EditedContent:
    """The method: an image at a time, so a subset of a table."""

    name, doc = "cc+es", "an image of the content, inverted and edited by the style's words (CC+ES)"
    jobs = (EditConfig,)
    triggers = True
    by_sample = False
    two_dials = True

    def task(self, config: Any) -> NullText:
        return NullText(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        return {"lora_file": pair.train(EditConfig, content_file=pair.train(LoraContentConfig))}

    def attach(self, backbone: Backbone, files: Mapping[str, Opened]) -> Attached:
        opened = files["lora"]
        tensors = opened.tensors
        names = [name[len("content/") : -len("/up")] for name in tensors if name.endswith("/up")]
        try:
            content = {
                name: (tensors[f"content/{name}/up"], tensors[f"content/{name}/down"]) for name in names
            }
            check_fit(opened.where, content, backbone.denoiser, backbone.name)
            return AttachedEdit(backbone, opened, content)
        except (KeyError, ValueError) as error:
            raise UserError(f"{opened.where}: incomplete for a file of {self.name}; make it again") from error
