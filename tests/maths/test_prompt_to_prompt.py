"""Prompt-to-prompt: which tokens are whose, and whose attention they get."""

import torch

from b4m.maths.prompt_to_prompt import alignment, refine


def test_added_words_have_no_place_in_the_source():
    assert alignment([0, 5, 6, 7, 1, 1, 1], [0, 5, 6, 8, 9, 7, 1]).tolist() == [0, 1, 2, -1, -1, 3, 4]
    assert alignment([3, 4], [3, 4]).tolist() == [0, 1]


def test_tokens_of_both_attend_as_in_the_source_and_added_ones_as_they_like():
    source, target = torch.arange(8.0).reshape(1, 2, 4), -torch.arange(8.0).reshape(1, 2, 4)
    mixed = refine(source, target, torch.tensor([0, -1, 1, 3]))
    assert mixed[0].tolist() == [[0, -1, 1, 3], [4, -5, 5, 7]]
