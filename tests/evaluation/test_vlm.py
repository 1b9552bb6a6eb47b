"""A vision-language model as a witness: a tiny random LLaVA for the path, stand-ins for questions and answers."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import picture
from PIL import Image
from test_extractors import make_clip, make_dino
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from b4m.core.errors import UserError
from b4m.evaluation.manifest import Shot
from b4m.evaluation.panel import load_extractors, provenance
from b4m.evaluation.report import summarise, tables
from b4m.evaluation.score import score
from b4m.evaluation.settings import EvaluateConfig
from b4m.evaluation.vlm import LONGEST, SHOWN, Vlm, load_vlm, verdict

WORDS = (
    "<unk>",
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "yes",
    "no",
    "user",
    "one",
    "word",
    "image",
    "last",
    "style",
)
TEMPLATE = (
    "{% for turn in messages %}user {% for part in turn['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
)


def make_vlm(folder: Path, template: str | None = TEMPLATE) -> str:
    """A random LLaVA that is saved to sample its answers."""
    torch.manual_seed(6)
    vocabulary = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()
    special = dict(unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary, extra_special_tokens=["<image>"], **special
    )
    small = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    ids = dict(pad_token_id=1, bos_token_id=2, eos_token_id=3)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=28, patch_size=14, projection_dim=8, **small),
        text_config=LlamaConfig(vocab_size=len(WORDS), num_key_value_heads=2, **small, **ids),
        image_token_index=4,
        pad_token_id=1,
    )
    network = LlavaForConditionalGeneration(config)
    network.lm_head.weight.data *= 50  # so that it is sure of what it says
    network.generation_config.update(do_sample=True, temperature=5.0)
    network.save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
        image_token="<image>",
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return make_vlm(tmp_path_factory.mktemp("vlm"))


@torch.no_grad()
def greedily(folder: str, pictures, question: str) -> str:
    """The likeliest token after each other, by the network alone."""
    network = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(
        text=f"user {'<image> ' * len(pictures)}{question} ", images=pictures, return_tensors="pt"
    )
    words, said = inputs["input_ids"], []
    while len(said) < LONGEST and (not said or said[-1] != 3):
        logits = network(input_ids=words, pixel_values=inputs["pixel_values"]).logits
        said.append(int(logits[0, -1].argmax()))
        words = torch.cat([words, torch.tensor([said[-1:]])], 1)
    return processor.decode(said, skip_special_tokens=True).strip()


def test_a_model_says_what_is_likeliest_and_is_asked_once(tiny, tmp_path):
    vlm = load_vlm(tiny, cache=tmp_path)
    shown, question = [picture(0, (30, 40)), picture(1)], "last image one style"
    expected = greedily(tiny, shown, question)
    assert vlm.answer(shown, question) == expected and expected
    assert vlm.answer(shown[::-1], question) == greedily(tiny, shown[::-1], question)
    again = load_vlm(tiny, cache=tmp_path)
    again._ask = None  # whoever asks now fails
    assert again.answer([each.copy() for each in shown], question) == expected


def test_another_model_and_another_question_are_other_answers(tiny, tmp_path):
    asked = []

    def ask(pictures, question):
        asked.append(question)
        return "yes"

    for fingerprint, question in (("a" * 64, "one"), ("b" * 64, "one"), ("b" * 64, "two"), ("b" * 64, "two")):
        Vlm("name", ask, fingerprint, tmp_path).answer([picture(0)], question)
    assert asked == ["one", "one", "two"]
    changed = shutil.copytree(tiny, tmp_path / "changed")
    (changed / "chat_template.jinja").write_text(TEMPLATE.replace("user", "user user"))
    assert load_vlm(str(changed)).fingerprint != load_vlm(tiny).fingerprint == load_vlm(tiny).fingerprint


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("yes", 1),
        ("No.", 0),
        ("**Yes**, it is the same bear.", 1),
        ("  no\nThe marks differ, yes.", 0),
        ("Answer: yes", 1),
        ("yes and no", None),
        ("Yes/No", None),
        ("yes or no?", None),
        ("", None),
        ("not sure", None),
        ("Nothing of it", None),
        ("yesterday", None),
        ("The last image shows a bear", None),
        ("I would say yes", None),
    ],
)
def test_what_counts_as_a_verdict(answer, expected):
    assert verdict(answer) == expected


class Witness:
    """Answers by the word that tells its questions apart, and keeps what it was shown."""

    def __init__(self, **answers):
        self.answers, self.seen = answers, []

    def __call__(self, pictures, question):
        about = next(word for word in ("description", "subject", "style") if word in question)
        self.seen.append((about, len(pictures), pictures[-1].getpixel((0, 0)), question))
        return self.answers[about]


@pytest.fixture
def shot(tmp_path) -> Shot:
    for name, colour, count in (("bear", "red", SHOWN + 1), ("chalk", "green", 1)):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new("RGB", (8, 8), colour).save(tmp_path / name / f"{index}.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "a.png")
    folders = tmp_path / "bear", tmp_path / "chalk"
    return Shot(tmp_path / "a.png", "a bear {in} chalk style", 0, "bear", "chalk", *folders)


def ask(shot: Shot, witness: Witness) -> dict:
    vlm = Vlm("stand-in", witness, "0" * 64)
    return vlm.scores(Image.open(shot.file), shot.content_dir, shot.style_dir, shot.prompt)


def test_the_image_is_shown_last_after_its_references(shot):
    witness = Witness(subject="yes", style="no", description="Yes.")
    found = ask(shot, witness)
    assert found == {"vlm_content": 1, "vlm_style": 0, "vlm_both": 0, "vlm_prompt": 1, "vlm_silent": 0}
    blue = (0, 0, 255)
    assert [each[:3] for each in witness.seen] == [
        ("subject", SHOWN + 1, blue),
        ("style", 2, blue),
        ("description", 1, blue),
    ]
    assert "a bear {in} chalk style." in witness.seen[2][3]


def test_an_answer_that_cannot_be_read_is_no_verdict_and_is_counted(shot):
    found = ask(shot, Witness(subject="perhaps", style="yes", description="a bear"))
    assert found == {"vlm_style": 1, "vlm_silent": pytest.approx(2 / 3)}


def test_the_verdicts_stand_in_every_table(shot, tiny, tmp_path):
    clip, dino = make_clip(tmp_path / "clip"), make_dino(tmp_path / "dino")
    extractors = load_extractors(dino, clip, clip, vlm=tiny)
    assert provenance(extractors)["extractors"]["vlm"]["name"] == tiny
    answers = iter(["yes", "no", "no", "no", "yes", "well"])
    stand_in = Vlm("stand-in", lambda *_: next(answers), "0" * 64)
    Image.new("RGB", (8, 8), "black").save(tmp_path / "b.png")
    shots = [shot, dataclasses.replace(shot, file=tmp_path / "b.png", seed=1)]
    records = score(shots, dataclasses.replace(extractors, vlm=stand_in), progress=False)
    scores = summarise(records)["rows"]["pictures"]["scores"]
    means = {name: entry["mean"] for name, entry in scores.items() if name.startswith("vlm_")}
    assert means == {
        "vlm_content": 0.5,
        "vlm_style": 0.5,
        "vlm_both": 0,
        "vlm_weaker": 0.5,
        "vlm_prompt": 0,
        "vlm_silent": pytest.approx(1 / 6),
    }
    assert "| no verdict (VLM) |" in tables(summarise(records))


@pytest.mark.parametrize(
    "what, line",
    [
        ("nothing", "cannot be loaded"),
        ("template", "cannot be asked"),
        ("pickled", "cannot be loaded"),
        ("cut", "cannot be loaded|lack"),
        ("code", "cannot be loaded"),
    ],
)
def test_a_model_that_cannot_be_asked_is_refused_at_once(tiny, tmp_path, what, line):
    folder = tmp_path / "model"
    if what != "nothing":
        shutil.copytree(tiny, folder)
    if what == "template":
        make_vlm(folder, template=None)
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    if what == "pickled":
        torch.save({"x": torch.ones(1)}, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    if what == "cut":
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["num_hidden_layers"] = 3
        (folder / "config.json").write_text(json.dumps(config))
    if what == "code":
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "brought", "auto_map": {"AutoConfig": "brought.Config"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "brought.py").write_text("raise SystemExit('run')")
    with pytest.raises(UserError, match=f"vision-language model .*{line}") as caught:
        load_vlm(str(folder))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_model_is_a_setting_of_evaluate(tmp_path):
    assert EvaluateConfig(pictures=str(tmp_path), vlm="owner/name").vlm == "owner/name"
    with pytest.raises(UserError, match="--csd-extractor owner/name: write csd:PLACE"):
        EvaluateConfig(pictures=str(tmp_path), csd_extractor="owner/name")
