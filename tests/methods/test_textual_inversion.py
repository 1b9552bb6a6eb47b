"""Textual Inversion: vectors learn in both tables and nothing else does; what is loaded reads and draws the same."""

import pytest
import torch
from conftest import SIZE, picture, refused
from loras import job
from safetensors.torch import load_file

from b4m.backbones.registry import open_backbone
from b4m.methods.textual_inversion import InversionContentConfig, InversionStyleConfig, TextualInversion
from b4m.sampling.attach import attach
from b4m.sampling.sample import sample
from b4m.training.loop import train

JOBS = {"content": InversionContentConfig, "style": InversionStyleConfig}
PROMPT = "a snq bear in w@z chalk style"


@pytest.fixture
def config(tiny_base, folders, tmp_path):
    def make(kind: str, **changes):
        given = {f"{kind}_dir": folders[kind], f"{kind}_class": "bear", **changes}
        return job(JOBS[kind], tiny_base, tmp_path / kind, **given)

    return make


@pytest.fixture(scope="module")
def files(tiny_base, folders, tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("words")
    return {
        f"{kind}_file": str(train(job(cls, tiny_base, root / kind, **{f"{kind}_dir": folders[kind]})).path)
        for kind, cls in JOBS.items()
    }


def test_both_tables_move_from_the_plain_word(config, tiny_base):
    backbone = open_backbone(tiny_base)
    learner = TextualInversion().task(config("content")).start(backbone)
    plain = backbone.pipe.tokenizer("bear", add_special_tokens=False).input_ids
    table = backbone.pipe.text_encoder.get_input_embeddings().table.weight
    assert torch.equal(learner.words.rows["clip_l"][0], table[plain[0]])
    result = train(config("content"))
    learned = load_file(result.path)
    assert learned["clip_l"].shape == learned["clip_g"].shape == (1, 24)
    for name, rows in learner.words.rows.items():
        assert not torch.equal(learned[name], rows.detach())


def test_loaded_it_reads_as_it_was_learned_and_two_go_into_one_prompt(files, tiny_base, tmp_path):
    backbone = open_backbone(tiny_base)
    bare = backbone.encode_prompts([PROMPT])
    attach(backbone, **files)
    both = backbone.encode_prompts([PROMPT])
    for name in ("hidden", "pooled"):
        assert not torch.equal(both[name], bare[name])
    one = sample(backbone, [PROMPT], [1], steps=2, size=SIZE)[0].tobytes()
    other = open_backbone(tiny_base)
    attach(other, **files)
    assert torch.equal(other.encode_prompts([PROMPT])["pooled"], both["pooled"])
    assert sample(other, [PROMPT], [1], steps=2, size=SIZE)[0].tobytes() == one
    drawn = {}
    for dials in ((1, 1), (1, 0), (0, 1), (0, 0)):
        image = sample(
            other, [PROMPT], [1], steps=2, size=SIZE, content_strength=dials[0], style_strength=dials[1]
        )
        drawn[dials] = image[0].tobytes()
    attach(other)
    assert len({*drawn.values()}) == 4 and drawn[1, 1] == one
    assert drawn[0, 0] == sample(other, [PROMPT], [1], steps=2, size=SIZE)[0].tobytes()
    refused(
        lambda: [attach(other, **files), sample(other, [PROMPT], [1], style_strength=0.5)],
        "style strength 0.5",
    )


def test_stock_diffusers_takes_the_file(files, tiny_base):
    ours, stock = open_backbone(tiny_base), open_backbone(tiny_base)
    attach(ours, content_file=files["content_file"])
    tables = load_file(files["content_file"])
    pipe = stock.pipe
    parts = {"clip_l": (pipe.text_encoder, pipe.tokenizer), "clip_g": (pipe.text_encoder_2, pipe.tokenizer_2)}
    for table, (encoder, tokenizer) in parts.items():
        pipe.load_textual_inversion(
            {"snq": tables[table][0]}, token="snq", text_encoder=encoder, tokenizer=tokenizer
        )
    for name, value in ours.encode_prompts(["a photo of snq"]).items():
        assert torch.allclose(stock.encode_prompts(["a photo of snq"])[name], value, atol=1e-6)


def test_several_vectors(config, tiny_base, tmp_path):
    path = train(config("content", vectors=3, content_trigger="sks")).path
    assert load_file(path)["clip_l"].shape == (3, 24)
    backbone = open_backbone(tiny_base)
    attach(backbone, content_file=str(path))
    assert {"sks", "sks_1", "sks_2"} <= {*backbone.pipe.tokenizer.get_added_vocab()}


def test_an_image_without_the_word_and_a_wrong_base_are_refused(config, files, folders, tmp_path, tiny_base):
    task = TextualInversion().task(config("content", content_trigger="bear</w>"))
    refused(lambda: task.start(open_backbone(tiny_base)), "bear</w>")
    picture(1).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a bear")
    refused(lambda: TextualInversion().task(config("content", content_dir=str(tmp_path))), "a bear", "'snq'")
    backbone = open_backbone(tiny_base)
    refused(lambda: attach(backbone, lora_file=files["content_file"]), "--content-file")
