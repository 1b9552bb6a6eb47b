"""What Custom Diffusion's files hold, on a base model: changed keys and values of cross-attention, and new words."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..backbones.protocol import Backbone
from ..backbones.words import NewWords
from ..core.errors import UserError
from ..files.opening import Opened, open_any
from ..maths.plp import FACTORS
from .added import Additions
from .class_images import METHOD as NAME
from .denoising import one_dial
from .tokens import is_on, read_vectors, trigger_in

RESULT = "custom_diffusion.safetensors"
ENDS = ("attn2.to_k", "attn2.to_v")


def open_own(path: str, what: str, tensor: str) -> Opened:
    """A file of this method that holds `tensor`. Raises UserError."""
    opened = open_any(path)
    if opened.method != NAME or not any(name.startswith(tensor) for name in opened.tensors):
        raise UserError(f"{opened.where}: holds no {what} of {NAME}; make them with b4m train {NAME}:...")
    return opened


class Change(nn.Module):
    """What is added to the weight of a layer, (m, n), from nothing; weight decay then pulls towards the base model."""

    def __init__(self, change: Tensor) -> None:
        super().__init__()
        self.change, self.strength = nn.Parameter(change), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.strength * (x @ self.change.to(x.dtype).T)


class AttachedCustom:
    """Changed keys and values and new words on a base model, there or not."""

    def __init__(self, backbone: Backbone, changes: Mapping[str, Tensor], words: NewWords) -> None:
        self.changes, self.words = {name: Change(change) for name, change in changes.items()}, words
        self.additions = Additions(backbone.denoiser, self.changes)

    def arguments(self, content: float, style: float) -> None:
        on = is_on("content and style", one_dial(content, style))
        self.words.switch(on)
        for module in self.changes.values():
            module.strength = float(on)

    def prompt_at(self, prompt: str, timestep: float) -> str:
        return prompt

    def remove(self) -> None:
        self.words.remove()
        self.additions.remove()


class OneConcept(AttachedCustom):
    """Of one kind, whose dial alone counts."""

    kind = "content"

    def arguments(self, content: float, style: float) -> None:
        own = {"content": content, "style": style}[self.kind]
        super().arguments(own, own)


def attached_to(
    backbone: Backbone, changes: Mapping[str, Tensor], words: NewWords, kinds: Sequence[str]
) -> AttachedCustom:
    """With the dials that its kinds have."""
    if len(kinds) == 2:
        return AttachedCustom(backbone, changes, words)
    attached = OneConcept(backbone, changes, words)
    attached.kind = kinds[0]
    return attached


def keys_and_values(backbone: Backbone) -> dict[str, nn.Linear]:
    """Cross-attention's, by name. Raises UserError for a base model without any."""
    found = {name: m for name, m in backbone.denoiser.named_modules() if name.endswith(ENDS)}
    if not found:
        raise UserError(f"base model {backbone.name}: has no {' or '.join(ENDS)}, which {NAME} trains")
    return found  # pyrefly: ignore[bad-return]


def attach_file(backbone: Backbone, opened: Opened) -> AttachedCustom:
    """What a training or a merge has written, onto the base model. Raises UserError."""
    layers = keys_and_values(backbone)
    changes = {name: opened.tensors.get(f"kv/{name}") for name in layers}
    wrong = [name for name, c in changes.items() if c is None or c.shape != layers[name].weight.shape]
    if wrong:
        raise UserError(
            f"{opened.where}: nothing that fits {wrong[0]}; give a file of {NAME} that was trained or merged"
        )
    kinds = tuple(FACTORS) if opened.role == "lora" else (opened.role,)
    tables = read_vectors(opened, backbone, "words/", rows=len(kinds))
    words = NewWords(backbone, [trigger_in(opened, kind) for kind in kinds], tables)
    return attached_to(backbone, {name: c for name, c in changes.items() if c is not None}, words, kinds)
