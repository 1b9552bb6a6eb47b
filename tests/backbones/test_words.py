"""New words of a base model: what they change, what they leave, and that they go again."""

import pytest
import torch
from conftest import refused, tiny_pipeline, tiny_sd15_pipeline

from b4m.backbones.sd15 import SD15
from b4m.backbones.sdxl import SDXL
from b4m.backbones.words import NewWords, vectors_of, widths

PROMPT = "a photo of snq bear in w@z style"


@pytest.fixture
def backbone() -> SDXL:
    return SDXL(tiny_pipeline(), "tiny")


def taught(backbone, *words: str, plain: str = "bear") -> NewWords:
    vectors = vectors_of(backbone, plain)
    return NewWords(
        backbone, words, {name: torch.stack([vector] * len(words)) for name, vector in vectors.items()}
    )


def test_a_word_that_starts_as_another_reads_as_it(backbone):
    expected = backbone.encode_prompts(["a photo of bear bear in bear style"])
    taught(backbone, "snq", "w@z")
    found = backbone.encode_prompts([PROMPT])
    assert found.keys() == expected.keys() == {"hidden", "pooled"}
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_it_is_a_whole_word_and_one_token(backbone):
    taught(backbone, "snq")
    for tokenizer in (backbone.pipe.tokenizer, backbone.pipe.tokenizer_2):
        assert tokenizer.tokenize("a snq, bear") == ["a</w>", "snq", ",</w>", "bear</w>"]
        assert "snq" not in tokenizer.tokenize("snqx")


def test_gradients_reach_its_rows_in_every_table_and_nothing_else(backbone):
    words = taught(backbone, "snq")
    sum(value.square().sum() for value in backbone.encode_prompts([PROMPT]).values()).backward()
    assert {*words.rows} == {"clip_l", "clip_g"} and all(rows.grad.any() for rows in words.rows.values())
    for encoder in (backbone.pipe.text_encoder, backbone.pipe.text_encoder_2):
        learns = {id(rows) for rows in words.rows.values()}
        assert [id(p) in learns for p in encoder.parameters() if p.grad is not None] == [True]


def test_a_model_in_half_precision_stays_one():
    """Pipelines ask a text encoder for its dtype, and draw in it."""
    backbone = SDXL(tiny_pipeline().to(torch.bfloat16), "tiny")
    words = taught(backbone, "snq")
    assert all(rows.dtype == torch.float32 for rows in words.rows.values())
    for encoder in (backbone.pipe.text_encoder, backbone.pipe.text_encoder_2):
        assert encoder.dtype == torch.bfloat16
    assert backbone.encode_prompts([PROMPT])["hidden"].dtype == torch.bfloat16


def test_switched_off_and_removed_the_base_model_is_itself(backbone):
    bare, tokenizer = backbone.encode_prompts([PROMPT]), backbone.pipe.tokenizer
    words = taught(backbone, "snq")
    assert not torch.equal(backbone.encode_prompts([PROMPT])["hidden"], bare["hidden"])
    words.switch(False)
    assert torch.equal(backbone.encode_prompts([PROMPT])["hidden"], bare["hidden"])
    words.switch(True)
    words.remove()
    assert backbone.pipe.tokenizer is tokenizer and not any(
        p.requires_grad for p in backbone.pipe.text_encoder.parameters()
    )
    assert torch.equal(backbone.encode_prompts([PROMPT])["pooled"], bare["pooled"])


def test_the_prompts_end_is_found_where_the_base_model_says_it_is_token_2(backbone):
    """transformers then looks for the largest token, which is a new word's."""
    models = [m for m in backbone.pipe.text_encoder_2.modules() if hasattr(m, "eos_token_id")]
    assert models
    expected = backbone.encode_prompts(["a photo of bear"])["pooled"]
    for model in models:
        model.eos_token_id = 2
    words = taught(backbone, "snq")
    assert torch.equal(backbone.encode_prompts(["a photo of snq"])["pooled"], expected)
    words.remove()
    assert all(model.eos_token_id == 2 for model in models)


def test_several_vectors_stand_for_one_word(backbone):
    taught(backbone, "snq", "snq_1")
    found, expected = (backbone.encode_prompts([text])["hidden"] for text in ("a snq", "a bear bear"))
    assert torch.equal(found, expected)


def test_a_word_that_is_taken_is_refused_and_changes_nothing(backbone):
    tokenizer = backbone.pipe.tokenizer
    refused(lambda: taught(backbone, "bear</w>"), "bear</w>", "tiny")
    refused(lambda: taught(backbone, "snq", "snq"), "snq")
    refused(lambda: vectors_of(backbone, ""), "plain word")
    assert backbone.pipe.tokenizer is tokenizer


def test_a_family_with_one_encoder_has_one_table():
    backbone = SD15(tiny_sd15_pipeline(), "tiny")
    assert widths(backbone) == {"clip_l": 24}
    words = taught(backbone, "snq")
    assert {*words.rows} == {"clip_l"}
