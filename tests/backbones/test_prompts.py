"""What text encoders do not read of a prompt is told in its own words."""

import pytest
from conftest import tiny_pipeline, tiny_tokenizer

from b4m.backbones.prompts import cut_off
from b4m.backbones.registry import cut_off_at_hand
from b4m.backbones.sdxl import SDXL

# Sixteen tokens, of which one begins and one ends every prompt.
FITS = "a photo of snq Bear in a Photo of a bear in chalk style"
LONG = f"{FITS}  W@Z"


def test_words_behind_the_limit_are_told_as_they_were_written(tiny_base):
    found = cut_off([tiny_tokenizer(), tiny_tokenizer()], ["", FITS, LONG])
    assert found.limit == 16 and found.words == ("", "", "W@Z")
    assert SDXL(tiny_pipeline()).cut_off([FITS, LONG]).words == ("", "W@Z")
    assert cut_off_at_hand(tiny_base, [FITS, LONG]).words == ("", "W@Z")


def test_a_word_that_is_read_in_part_is_told_whole():
    assert cut_off([tiny_tokenizer()], [f"{FITS[:-12]} 12345"]).words == ("12345",)


def test_the_tokenizer_that_reads_least_decides():
    wide, narrow = tiny_tokenizer(), tiny_tokenizer()
    wide.model_max_length = 99
    assert cut_off([wide, narrow], [LONG]).words == cut_off([narrow, wide], [LONG]).words == ("W@Z",)
    assert cut_off([wide], [LONG]).words == ("",)


@pytest.mark.parametrize("where", ["/nowhere", "somebody/something"])
def test_without_the_base_model_nothing_is_said_and_nothing_fetched(where):
    assert cut_off_at_hand(where, [LONG]) is None


def test_a_broken_base_model_is_no_matter_of_prompts(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    assert cut_off_at_hand(str(tmp_path), [LONG]) is None
