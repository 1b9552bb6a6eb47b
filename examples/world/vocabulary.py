"""The words of the drawn world, and the CLIP tokenizer that reads them."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from world import styles
from world.contents import CLASSES, COLOURS
from world.contents.markings import KINDS as MARKINGS
from world.extras import ACCESSORIES, SECONDS
from world.grounds import GROUND_COLOURS, WORDS
from world.styles.parameters import vocabulary

MAX_TOKENS = 40
GRAMMAR = "a an the photo of in on at and with wearing , style background room thing".split()
PICTURES = ("picture", "image", "drawing")
VIEWS = ("from near", "from far")


def words() -> list[str]:
    """Every word that a caption of the world may use, once; the rare families' words are left to be spelled,
    as a token of theirs would keep the random embedding that it starts with."""
    looks = sorted(word for family in styles.FAMILIES.values() for word in vocabulary(family.parameters))
    phrases = (word for phrase in (*WORDS.values(), *VIEWS) for word in phrase.split())
    every = (
        *GRAMMAR,
        *CLASSES,
        *COLOURS,
        *GROUND_COLOURS,
        *MARKINGS,
        *ACCESSORIES,
        *SECONDS,
        *phrases,
        *PICTURES,
        *styles.FAMILIES,
        *looks,
    )
    return list(dict.fromkeys(every))


@cache
def known_words() -> frozenset[str]:
    """Those that are one token."""
    return frozenset(words())


def tokenizer() -> CLIPTokenizer:
    """A byte-level BPE in which every word of the world is one token and any other text still has a spelling."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        end_of_word_suffix="</w>",
        show_progress=False,
        initial_alphabet=alphabet,
        # A byte may also end a word. Left to itself the trainer lists only the endings that it saw, in an order that
        # differs from process to process: a base would not know its own words again.
        special_tokens=[f"{byte}</w>" for byte in alphabet],
    )
    bpe.train_from_iterator([words()], trainer)
    model = json.loads(bpe.to_str())["model"]
    tokens = [*model["vocab"], "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[tuple(merge) for merge in model["merges"]],
        model_max_length=MAX_TOKENS,
    )
