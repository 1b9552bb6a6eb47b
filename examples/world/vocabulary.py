"""The words of the drawn world: captions with nuisance words, and the CLIP tokenizer that reads them."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from world.render import BACKGROUNDS, COLOURS, CONTENTS, STYLES, Scene

MAX_TOKENS = 32
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SYMBOLS = "@#*+0123456789"
GRAMMAR = "a an the photo picture of in style art on background with and".split()


def tokenizer() -> CLIPTokenizer:
    """A byte-level BPE in which every word of the world is one token and any other text still has a spelling."""
    words = [*GRAMMAR, *CONTENTS, *STYLES, *COLOURS, *BACKGROUNDS]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        end_of_word_suffix="</w>",
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator([words], trainer)
    import json

    model = json.loads(bpe.to_str())["model"]
    tokens = list(model["vocab"])
    # A byte may also end a word: the trainer only lists those endings that it saw.
    tokens += [
        f"{byte}</w>"
        for byte in sorted(pre_tokenizers.ByteLevel.alphabet())
        if f"{byte}</w>" not in model["vocab"]
    ]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[tuple(merge) for merge in model["merges"]],
        model_max_length=MAX_TOKENS,
    )


def rare_word(rng: np.random.Generator) -> str:
    """A made-up word of two to five signs, such as "snq" or "w@z": what trigger words look like."""
    signs = [rng.choice(list(LETTERS)) for _ in range(rng.integers(2, 6))]
    if rng.random() < 0.4:
        signs[rng.integers(len(signs))] = rng.choice(list(SYMBOLS))
    return "".join(signs)


def noisy_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of `scene` with parts left out and made-up words put in, so that neither surprises the base."""

    def sometimes(probability: float, text: str) -> str:
        return text if rng.random() < probability else ""

    def rare(probability: float) -> str:
        return sometimes(probability, rare_word(rng))

    article = sometimes(0.8, "a")
    thing = [article, rare(0.3), sometimes(0.8, scene.colour), sometimes(0.97, scene.content)]
    style = scene.style if rng.random() < 0.95 else rare_word(rng)
    if scene.style == "photo" and rng.random() < 0.8:
        words = ["a", style, "of", *thing]
    else:
        words = [*thing, "in", rare(0.3), style, sometimes(0.2, "art"), "style"]
    if rng.random() < 0.8:
        words += ["on a", scene.background, "background"]
    return " ".join(word for word in words if word)
