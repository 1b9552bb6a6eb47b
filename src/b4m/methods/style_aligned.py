"""StyleAligned (Hertz et al. 2024, arXiv 2312.02133): self-attention that looks at an inverted image of the style."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.protocol import Attached, Backbone, Conditions
from ..config.fields import setting
from ..config.training import ShowsStyle
from ..core.errors import UserError
from ..data.images import Picture
from ..data.inputs import Group, read_inputs
from ..files.lora import Layers
from ..files.opening import Opened, save_method_file
from ..maths.inversion import invert
from .added import Additions, LowRankTerm
from .inverting import Inverts, content_tensors, encode_one
from .low_rank import LoraContentConfig, check_fit, open_lora
from .protocol import Pair
from .tokens import is_on

EPS = 1e-5  # of the variance over tokens


@dataclass(frozen=True, kw_only=True)
class StyleAlignedConfig(ShowsStyle, Inverts):
    """Settings of the inversion of one image of the style, and of how it is looked at."""

    stage, result, section = "style-aligned", "style_aligned.safetensors", "merge"
    needs = ("style_dir", "content_file")

    copies: int = setting(
        "how often the style's tokens stand beside an image's own: 2 is the published shift of log 2 for real images",
        2,
        low=1,
        high=100,
    )


class Inversion:
    """The assembly: the first of the style's images, inverted, beside the content's LoRA."""

    def __init__(self, config: StyleAlignedConfig) -> None:
        assert config.content_file is not None  # it is needed
        self.config, self.content = config, open_lora(config.content_file, "content")
        words = " ".join(word for word in config.style_prompt.split() if word != config.style_trigger)
        self.prompt = words  # the base model knows no trigger word
        groups = [Group("style", config.style_dir, words)]
        self.image = read_inputs(groups, config.resolution, config.fit).images[0]

    def make(self, folder: Path, facts: Mapping[str, str]) -> None:
        config = self.config
        backbone, latents, conditions, timesteps, alphas, _ = encode_one(
            config, self.content, self.image, self.prompt
        )
        noisy = invert(
            lambda x, t: backbone.predict(x, t, conditions),
            latents,
            timesteps,
            alphas,
            backbone.prediction_type,
        )
        tensors = {"noisy": noisy.cpu(), "timesteps": timesteps, "size": torch.tensor(config.resolution)}
        tensors["original_size"] = torch.tensor(self.image.original_size)
        tensors["crop_top_left"] = torch.tensor(self.image.crop_top_left)
        tensors |= content_tensors(self.content)
        words = {
            key[4:]: text for key, text in self.content.metadata.items() if key.startswith("b4m.content_")
        }
        told = {"reference_prompt": self.prompt, "copies": str(config.copies), "trained_parameters": "0"}
        metadata = {**facts, **words, **told}
        save_method_file(folder / config.result, "style-aligned", tensors, backbone.denoiser, metadata)


def adain(features: Tensor, reference: Tensor) -> Tensor:
    """Features (samples, tokens, n) with the mean and spread over tokens of the reference's: the paper's Eq. 3."""
    spread, wanted = (x.var(1, keepdim=True, correction=0).add(EPS).sqrt() for x in (features, reference))
    return (features - features.mean(1, keepdim=True)) / spread * wanted + reference.mean(1, keepdim=True)


class Shared:
    """Forward hooks of self-attention's projections: they remember what the reference says, then show it to others.

    Keys and values may be more than queries: stock processors of Diffusers only see longer ones.
    """

    def __init__(self, denoiser: nn.Module, copies: int) -> None:
        self.mode, self.copies = "off", copies
        self.seen: dict[str, Tensor] = {}
        self.handles = []
        for name, module in denoiser.named_modules():
            if name.endswith(("attn1.to_q", "attn1.to_k", "attn1.to_v")):
                self.handles.append(module.register_forward_hook(self._hook(name)))

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if self.mode == "remember":
                self.seen[name] = output
            if self.mode != "show":
                return None
            reference = spread_over(self.seen[name], len(output))
            own = output if name.endswith("to_v") else adain(output, reference)
            return own if name.endswith("to_q") else torch.cat([own, *[reference] * self.copies], dim=1)

        return hook

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def spread_over(rows: Tensor, samples: int) -> Tensor:
    """Each of `rows` for an equal share of the samples, in order."""
    return rows.repeat_interleave(samples // len(rows), dim=0)


class AttachedStyle:
    """The content's LoRA on a denoiser, which looks at the reference before each of its calls."""

    def __init__(
        self,
        backbone: Backbone,
        content: Layers,
        noisy: Tensor,
        timesteps: Tensor,
        told: tuple[Conditions, Conditions],
        copies: int,
    ) -> None:
        """told: what the reference is told without and with its prompt, a row each."""
        self.backbone, self.noisy, self.timesteps, self.told = backbone, noisy, timesteps, told
        self.terms = {name: LowRankTerm(*pair) for name, pair in content.items()}
        self.additions = Additions(backbone.denoiser, self.terms)
        self.shared = Shared(backbone.denoiser, copies)  # after the additions, whose sum it sees
        self.content, self.style, self.looking = 1.0, True, False
        self.handle = backbone.denoiser.register_forward_pre_hook(self._look, with_kwargs=True)
        self.done = backbone.denoiser.register_forward_hook(self._leave)

    def arguments(self, content: float, style: float) -> None:
        self.content, self.style = content, is_on("style", style)
        self._dial(self.content)

    def _dial(self, content: float) -> None:
        for term in self.terms.values():
            term.strength = content

    @torch.no_grad()
    def _look(self, denoiser: nn.Module, given: tuple, named: dict[str, Any]) -> None:
        """Show the reference at this noise level to the base model alone, and remember what attention makes of it."""
        if self.looking or not self.style:
            return
        sample, timestep = given[0], torch.as_tensor(given[1] if len(given) > 1 else named["timestep"])
        times = timestep.flatten().cpu()
        guided = len(times) == 1 and len(sample) % 2 == 0 and _is_guided(self.backbone)
        told = self.told if guided else (self.told[1],) * len(times)
        nearest = (self.timesteps[None] - times[:, None]).abs().argmin(1)
        rows = self.noisy[nearest].to(sample.device).repeat(len(told) // len(times), 1, 1, 1)
        conditions = {name: torch.cat([each[name] for each in told]).to(sample) for name in told[0]}
        self.looking, self.shared.mode = True, "remember"
        self._dial(0.0)
        try:
            self.backbone.predict(rows, timestep.flatten().to(sample.device).expand(len(rows)), conditions)
        finally:
            self.looking, self.shared.mode = False, "show"
            self._dial(self.content)

    def _leave(self, denoiser: nn.Module, given: tuple, output: Any) -> None:
        if not self.looking:
            self.shared.mode = "off"
            self.shared.seen.clear()

    def remove(self) -> None:
        self.handle.remove()
        self.done.remove()
        self.shared.remove()
        self.additions.remove()


class StyleAligned:
    """The method: nothing learns the style, it is looked at."""

    name, doc = (
        "style-aligned",
        "a content's LoRA, and attention to an inverted image of the style (StyleAligned)",
    )
    jobs = (StyleAlignedConfig,)
    triggers = True
    by_sample = False
    two_dials = True

    def task(self, config: Any) -> Inversion:
        return Inversion(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        return {"lora_file": pair.train(StyleAlignedConfig, content_file=pair.train(LoraContentConfig))}

    @torch.no_grad()
    def attach(self, backbone: Backbone, files: Mapping[str, Opened]) -> Attached:
        opened = files["lora"]
        try:
            content, noisy, timesteps, picture, copies = _read(opened)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{opened.where}: incomplete for a file of the method {self.name}; make it again"
            ) from error
        check_fit(opened.where, content, backbone.denoiser, backbone.name)
        seen = backbone.image_conditions(picture)
        of_image = {name: value[None] for name, value in seen.items()}
        prompt = opened.metadata.get("b4m.reference_prompt", "")
        without, with_prompt = backbone.encode_unguided(), backbone.encode_prompts([prompt])
        told = {**without, **of_image}, {**with_prompt, **of_image}
        return AttachedStyle(backbone, content, noisy, timesteps, told, copies)


def _is_guided(backbone: Backbone) -> bool:
    """Whether the pipeline at work gives the denoiser two halves, the first without the prompt."""
    return getattr(backbone.pipe, "_guidance_scale", 0.0) > 1


def _read(opened: Opened) -> tuple[Layers, Tensor, Tensor, Picture, int]:
    """What `Inversion.make` has written. Raises KeyError, ValueError."""
    tensors = opened.tensors
    names = [name[len("content/") : -len("/up")] for name in tensors if name.endswith("/up")]
    content: Layers = {
        name: (tensors[f"content/{name}/up"], tensors[f"content/{name}/down"]) for name in names
    }
    noisy, timesteps = tensors["noisy"], tensors["timesteps"]
    (height, width), (top, left) = (tensors[name].tolist() for name in ("original_size", "crop_top_left"))
    if noisy.dim() != 4 or timesteps.shape != noisy.shape[:1]:
        raise ValueError("odd shapes")
    size = int(tensors["size"])
    picture = Picture(
        Path(opened.where), None, "", torch.zeros(()).expand(3, size, size), (height, width), (top, left)
    )
    return content, noisy, timesteps, picture, int(opened.metadata["b4m.copies"])
