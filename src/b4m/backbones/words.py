"""New words: vectors for them beside the token tables of a base model's text encoders, which stay as they are."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from ..core.errors import UserError
from .protocol import Backbone

TABLES = ("clip_l", "clip_g")  # what files call the vectors of the first and of the second text encoder
LEGACY_END = (
    2  # an eos_token_id by which transformers takes the largest token for a prompt's end: a new word's
)


class WordTable(nn.Module):
    """A token table with more rows at its end: `rows` (k, width), of the tokens from number `first` on."""

    def __init__(self, table: nn.Embedding, rows: nn.Parameter, first: int) -> None:
        super().__init__()
        self.table, self.first = table, first
        # Behind the table, since a model calls the dtype of its first parameter its own.
        self.new = nn.ParameterList([rows])

    @property
    def weight(self) -> Tensor:
        """The old rows, which some readers ask for a dtype or a device."""
        return self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., ) token numbers -> (..., width), in the table's dtype."""
        new = tokens >= self.first
        old = self.table(tokens.masked_fill(new, 0))
        rows = self.new[0][(tokens - self.first).clamp(min=0)].to(old.dtype)
        return torch.where(new[..., None], rows, old)


class NewWords:
    """Words on a backbone, each a token of its own; until `remove` its tokenizers and text encoders know them.

    vectors: table of TABLES -> (words, width) float32, as many as the backbone has text encoders.
    """

    def __init__(self, backbone: Backbone, words: Sequence[str], vectors: Mapping[str, Tensor]) -> None:
        """Raises UserError for a word that is a token already."""
        self.backbone, self.words = backbone, tuple(words)
        self.rows: dict[str, nn.Parameter] = {}
        self._parts: list[tuple[str, Any, Any]] = []  # of the pipeline: name, as it was, with the words
        self._tables: list[tuple[Any, Any, Any]] = []  # text encoder, its table as it was, with the words
        self._ends: list[tuple[Any, int]] = []  # modules that look for a prompt's end, and the right token
        pairs = [(part, encoder) for part, encoder in backbone.encoders.items()]
        for name, (part, encoder) in zip(TABLES, pairs, strict=False):
            self._prepare(name, part, getattr(backbone.pipe, encoder), vectors[name])
        self.active = False
        self.switch(True)

    def _prepare(self, name: str, part: str, encoder: Any, vectors: Tensor) -> None:
        old = getattr(self.backbone.pipe, part)
        new, first = copy.deepcopy(old), len(old)
        taken = [
            word
            for place, word in enumerate(self.words)
            if word in self.words[:place] or word in old.get_vocab()
        ]
        if taken:
            raise UserError(
                f"trigger word {taken[0]!r}: given twice, or a token of {self.backbone.name} already; choose another"
            )
        new.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in self.words])
        table = encoder.get_input_embeddings()
        self.rows[name] = nn.Parameter(vectors.to(table.weight.device, torch.float32).clone())
        self._parts.append((part, old, new))
        self._tables.append((encoder, table, WordTable(table, self.rows[name], first)))
        ends = [m for m in encoder.modules() if getattr(m, "eos_token_id", None) == LEGACY_END]
        self._ends += [(module, new.eos_token_id) for module in ends]

    def switch(self, on: bool) -> None:
        """Whether the words are known: without them, the base model reads their letters."""
        if on == self.active:
            return
        self.active = on
        for part, old, new in self._parts:
            setattr(self.backbone.pipe, part, new if on else old)
        for encoder, old, new in self._tables:
            encoder.set_input_embeddings(new if on else old)
        for module, end in self._ends:
            module.eos_token_id = end if on else LEGACY_END

    def remove(self) -> None:
        self.switch(False)


def widths(backbone: Backbone) -> dict[str, int]:
    """The width of each token table."""
    encoders = (getattr(backbone.pipe, name) for name in backbone.encoders.values())
    pairs = zip(TABLES, encoders, strict=False)
    return {name: encoder.get_input_embeddings().weight.shape[1] for name, encoder in pairs}


def vectors_of(backbone: Backbone, word: str) -> dict[str, Tensor]:
    """What each token table says of a word: (width,) float32, the mean over its tokens where it has several."""
    found = {}
    for name, (part, encoder) in zip(TABLES, backbone.encoders.items(), strict=False):
        tokens = getattr(backbone.pipe, part)(word, add_special_tokens=False).input_ids
        table = getattr(backbone.pipe, encoder).get_input_embeddings().weight.detach()
        if not tokens:
            raise UserError(f"initial word {word!r}: {backbone.name} reads nothing there; give a plain word")
        found[name] = table[torch.tensor(tokens, device=table.device)].float().mean(0).cpu()
    return found
