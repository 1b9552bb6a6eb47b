"""How long a prompt a model's text encoders read."""

from collections.abc import Sequence
from typing import Any

from ..data.summary import Cut

UNKNOWN = 10**6  # tokens: a tokenizer that says more, as one without its files does, says nothing


def cut_off(tokenizers: Sequence[Any], prompts: Sequence[str]) -> Cut:
    """What is left unread of each prompt by the tokenizer that reads least of it."""
    limit = min(tokenizer.model_max_length for tokenizer in tokenizers)
    rests = ([_rest(tokenizer, prompt) for tokenizer in tokenizers] for prompt in prompts)
    return Cut(limit, tuple(max(each, key=len) for each in rests))


def _rest(tokenizer: Any, prompt: str) -> str:
    """The end of the prompt behind the tokenizer's limit."""
    limit = tokenizer.model_max_length
    if not tokenizer.is_fast:
        ids = tokenizer(prompt, verbose=False).input_ids
        return tokenizer.decode(ids[limit - 1 : -1]) if len(ids) > limit else ""
    found = tokenizer(prompt, return_offsets_mapping=True, verbose=False)
    if len(found.input_ids) <= limit:
        return ""
    start, _ = found.offset_mapping[limit - 1]  # the last token that is read is the one that ends a prompt
    while start and prompt[start].isalnum() and prompt[start - 1].isascii() and prompt[start - 1].isalnum():
        start -= 1  # of a word in halves, the whole
    return prompt[start:].strip()
