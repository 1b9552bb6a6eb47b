"""b4m push of a folder: a library's output or a studio's project in one repository, with one card."""

import json

import pytest
import torch
from conftest import picture, refused
from hubs import TOKEN, running
from huggingface_hub import constants

from b4m.apps.push.push import plan, push
from b4m.apps.push.settings import PushConfig
from b4m.files.concept import Concept, save_concept
from b4m.maths.plp import BasisSpec

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
SPEC = BasisSpec(seed=0, rank=4, ratio=0.5, kind="exact", scale=1.0)
HASH = "0" * 64


def concept(path, kind, unet_hash=HASH, **said):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (320, 4) if kind == "content" else (4, 1024)
    save_concept(path, Concept(kind, {LAYER: torch.ones(shape)}, SPEC, "all", unet_hash, said))
    return path


def config(folder, **changes):
    return PushConfig(**{"file": str(folder), "repo": "me/world", "license": "cc-by-4.0", **changes})


@pytest.fixture
def library(tmp_path):
    """As `b4m library` leaves it: a folder for each concept, with states and features that are nobody's business."""
    trained = tmp_path / "trained"
    for kind, name, prompt in (
        ("content", "bear", "a photo of snq bear"),
        ("content", "red-car", "a photo of snq red car"),
        ("style", "chalk", "a picture in w@z chalk style"),
    ):
        folder = trained / f"{kind}-{name}-0123456789ab"
        concept(folder / f"{kind}.safetensors", kind, prompt=prompt, trigger=prompt.split()[3])
        concept(folder / "state" / "step-5" / f"{kind}.safetensors", kind, prompt=prompt)
    concept(tmp_path / "results" / "features" / "abc.safetensors", "content")
    return tmp_path


def test_a_library_goes_up_under_the_names_of_its_concepts(library, monkeypatch):
    picture(0).save(library / "one.png")
    with running() as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        address = push(config(library, images=(str(library / "one.png"),)))
        sent = hub.repos["me/world"]["files"]
    assert address.endswith("me/world (private)")
    names = {"contents/bear.safetensors", "contents/red-car.safetensors", "styles/chalk.safetensors"}
    assert sent.keys() == {"README.md", "images/1.png", *names}
    source = library / "trained" / "content-bear-0123456789ab" / "content.safetensors"
    assert sent["contents/bear.safetensors"] == source.read_bytes()


def test_the_card_lists_every_file_and_puts_a_pair_together(library):
    text = plan(config(library)).card
    assert "2 content files, 1 style file" in text and "2 pairs" in text
    assert "| `contents/red-car.safetensors` | `content` |" in text
    assert "--content-file contents/bear.safetensors --style-file styles/chalk.safetensors" in text
    assert "'a photo of snq bear in w@z chalk style'" in text


def test_a_studio_calls_its_concepts_by_their_titles_and_none_twice(tmp_path):
    for ident in ("content-00000001", "content-00000002"):
        folder = tmp_path / "concepts" / ident
        concept(folder / "training" / "content.safetensors", "content")
        (folder / "concept.json").write_text(json.dumps({"kind": "content", "name": "Ted / my bear"}))
    concept(tmp_path / "trash" / "content-00000003" / "training" / "content.safetensors", "content")
    names = set(plan(config(tmp_path)).others)
    assert names == {"contents/Ted-my-bear.safetensors", "contents/Ted-my-bear-2.safetensors"}


def test_a_bar_in_a_strangers_prompt_does_not_end_a_cell(tmp_path):
    concept(tmp_path / "a.safetensors", "content", prompt="a | b")
    row = next(line for line in plan(config(tmp_path)).card.splitlines() if "contents/a" in line)
    assert row.replace("\\|", "").count("|") == 6


def test_a_folder_without_such_files_is_one_line(tmp_path):
    refused(lambda: plan(config(tmp_path)), "no content, style or LoRA file in this folder")


def test_files_for_several_base_models_are_not_mixed(tmp_path):
    concept(tmp_path / "a.safetensors", "content", base_model="one/base")
    concept(tmp_path / "b.safetensors", "style", base_model="other/base")
    refused(lambda: plan(config(tmp_path)), "for 2 base models")


def test_what_is_no_such_file_is_left_out_aloud(library, capsys):
    (library / "odd.safetensors").write_bytes(b"nothing")
    made = plan(config(library))
    assert len(made.others) == 3
    assert "left out" in capsys.readouterr().err
