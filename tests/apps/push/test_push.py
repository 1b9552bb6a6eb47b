"""b4m push: what the card says of a file, and what reaches the hub, which is a stand-in here."""

import io
import json
import re

import pytest
import torch
import yaml
from conftest import picture, refused
from hubs import TOKEN, running
from huggingface_hub import constants
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from b4m.apps.cli import main
from b4m.apps.push import hub as to_hub
from b4m.apps.push.card import code
from b4m.apps.push.push import plan, push
from b4m.apps.push.settings import PushConfig
from b4m.config.presets import EMBEDDED, SDXL
from b4m.files.concept import Concept, save_concept
from b4m.files.fused import spec_metadata
from b4m.files.lora import save_lora
from b4m.maths.plp import BasisSpec

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
HOSTILE = 'snq\n---\n# Owned <script>alert(1)</script> ``![x](http://e.vil/x.png)`` "); import os #'
SPEC = BasisSpec(seed=0, rank=4, ratio=0.5, kind="exact", scale=1.0)


def lora(path, **said):
    """An ordinary LoRA file with this b4m metadata."""
    facts = {f"b4m.{key}": value for key, value in said.items()}
    save_lora(path, {LAYER: (torch.ones(640, 4), torch.ones(4, 2048))}, facts)
    return str(path)


def concept(path, **said):
    save_concept(path, Concept("content", {LAYER: torch.ones(320, 4)}, SPEC, "all", "0" * 64, said))
    return str(path)


def config(file, **changes):
    return PushConfig(**{"file": file, "repo": "me/bear", "license": "cc-by-4.0", **changes})


def front(card):
    _, head, body = re.split(r"^---$", card, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(head), body


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_OIDC_RESOURCE", raising=False)
    with running() as made:
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # as the tests otherwise are
        yield made


@pytest.fixture
def no_hub(monkeypatch):
    """A hub that fails the test if it is asked, and no token."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
    with running() as made:
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield made
        assert not made.calls


def test_a_push_is_private_and_holds_card_file_and_bare_images(tmp_path, hub, capsys):
    file = lora(
        tmp_path / "my bear.safetensors", base_model=SDXL, content_trigger="snq", content_prompt="a snq bear"
    )
    text = PngInfo()
    text.add_itxt("prompt", "a snq bear in chalk")
    text.add_itxt("lora_file", "/home/somebody/secret")
    picture(1).save(tmp_path / "one.png", pnginfo=text)
    exif = Image.Exif()
    exif[0x010F] = "secret camera"
    picture(2).save(tmp_path / "two.jpg", exif=exif)
    given = ["--images", str(tmp_path / "one.png"), str(tmp_path / "two.jpg")]
    assert main(["push", file, "--repo", "me/bear", "--license", "cc-by-4.0", *given]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/me/bear (private)"
    kept = hub.repos["me/bear"]
    assert kept["private"] and sorted(kept["files"]) == [
        "README.md",
        "images/1.png",
        "images/2.png",
        "my-bear.safetensors",
    ]
    assert kept["files"]["my-bear.safetensors"] == (tmp_path / "my bear.safetensors").read_bytes()
    for name in ("images/1.png", "images/2.png"):
        assert b"secret" not in kept["files"][name]
        assert Image.open(io.BytesIO(kept["files"][name])).size == picture(1).size
    facts, body = front(kept["files"]["README.md"].decode())
    assert facts["base_model"] == SDXL and facts["license"] == "cc-by-4.0"
    assert {"lora", "diffusers", "text-to-image"} <= set(facts["tags"]) and facts["instance_prompt"] == "snq"
    assert facts["widget"] == [
        {"text": "a snq bear in chalk", "output": {"url": "images/1.png"}},
        {"text": "-", "output": {"url": "images/2.png"}},
    ]
    assert "image = pipe('a snq bear').images[0]" in body
    assert "pipe.load_lora_weights('me/bear', weight_name='my-bear.safetensors')" in body
    assert f"--dialect kohya-original --base-model {SDXL}" in body


def test_public_is_asked_for_and_a_public_repository_takes_nothing_by_accident(tmp_path, hub):
    file = lora(tmp_path / "a.safetensors")
    hub.add("me/bear", private=False)
    refused(lambda: push(config(file)), "me/bear", "everybody", "--public")
    assert not hub.repos["me/bear"]["files"]
    assert push(config(file, public=True)) == f"{hub.url}/me/bear"
    push(config(file, public=True, repo="me/other"))
    assert not hub.repos["me/other"]["private"]


def test_what_the_hub_refuses_is_one_line_without_the_token(tmp_path, hub, monkeypatch, capsys):
    file = lora(tmp_path / "a.safetensors")
    given = ["push", file, "--repo", "me/bear", "--license", "other"]
    for word, status in (("create", 403), ("validate", 400), ("commit", 413)):
        hub.fails = {word: (status, f"no such\nthing, {TOKEN}")}
        assert main(given) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and "me/bear" in error and TOKEN not in error
    assert not hub.repos["me/bear"]["files"]
    monkeypatch.setenv(
        "HF_TOKEN", "hf_wr\x01ong"
    )  # no header may hold it: the HTTP library shows it in its error
    assert main(given) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "hf_wr" not in error
    hub.fails = {}
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(given) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_nothing_is_made_for_a_card_that_the_hub_refuses(tmp_path, hub):
    hub.fails = {"validate": (400, "license must be one of these")}
    refused(
        lambda: push(config(lora(tmp_path / "a.safetensors"), license="cc-by-9")),
        "me/bear",
        "license must be one",
    )
    assert not hub.repos and not any("create" in call for call in hub.calls)


def test_a_dry_run_and_a_missing_token_touch_no_network(tmp_path, no_hub, capsys):
    file = lora(tmp_path / "a.safetensors")
    given = ["push", file, "--repo", "me/bear", "--license", "other"]
    assert main([*given, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "license: other" in shown and "to me/bear (private)" in shown and "  a.safetensors  " in shown
    assert main(given) == 2
    assert capsys.readouterr().err == f"b4m: error: {to_hub.NO_TOKEN}\n"


def test_a_strangers_metadata_is_text_on_the_card(tmp_path):
    said = {"base_model": "../../etc) <b>", "content_trigger": HOSTILE, "steps": HOSTILE, "x<y>": "1"}
    facts, body = front(plan(config(lora(tmp_path / "a.safetensors", **said))).card)
    assert "base_model" not in facts and facts["instance_prompt"].startswith("snq\\n---")
    shown = HOSTILE.replace("\n", "\\n")
    assert f"- ```{shown}```" in body and f"- `steps`: ```{shown}```" in body and "x<y>" not in body
    outside = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", re.sub(r"```\w+\n.+?\n```", "", body, flags=re.DOTALL))
    assert "script" not in outside and "evil" not in outside and "![" not in outside
    (python,) = re.findall(r"```python\n(.+?)\n```", body, re.DOTALL)
    assert compile(python, "card", "exec") and repr(shown) in python
    (bash,) = [line for line in body.splitlines() if line.startswith("b4m generate")]
    assert bash.endswith(f"--prompts '{shown}'")


@pytest.mark.parametrize("text", ["a", "`a", "a``b`", " a ", "`", ""])
def test_a_code_span_shows_any_text(text):
    span = code(text)
    fence = re.match("`+", span)[0]
    assert span.endswith(fence) and not re.search(f"(?<!`){fence}(?!`)", span[len(fence) : -len(fence)])
    assert text in span


def test_a_concept_says_that_only_b4m_loads_it(tmp_path):
    file = concept(
        tmp_path / "content.safetensors", base_model=SDXL, trigger="snq", prompt="a snq bear", steps="9"
    )
    facts, body = front(plan(config(file)).card)
    assert "diffusers" not in facts["tags"] and "library_name" not in facts and facts["base_model"] == SDXL
    assert "load_lora_weights" not in body and "b4m export --content-file content.safetensors" in body
    assert "- `steps`: `9`" in body and "- `a snq bear`" in body


def test_the_embedded_base_is_told_by_its_hash_and_named_as_such(tmp_path):
    from b4m.backbones.latent_diffusion import denoiser_hash
    from b4m.backbones.registry import family_of

    known = denoiser_hash(family_of(EMBEDDED).empty_denoiser(EMBEDDED))
    file = lora(tmp_path / "a.safetensors", base_model="/moved/base", unet_hash=known, **_spec())
    facts, body = front(plan(config(file)).card)
    assert "base_model" not in facts and "works with that one alone" in body and "/moved" not in body
    assert "Not with ComfyUI" in body and "kohya" not in body and "--preset" not in body
    refused(lambda: plan(config(file, base_model=SDXL)), "embedded base", "--base-model")


def _spec():
    return {key.removeprefix("b4m."): value for key, value in spec_metadata(SPEC).items()}


def test_scores_stand_with_their_intervals(tmp_path):
    file, results = lora(tmp_path / "a.safetensors"), tmp_path / "results.json"
    score = {
        "content": {"mean": 0.5218, "low": 0.4574, "high": 0.5850},
        "both_right": {"mean": 0.25, "low": None, "high": None},
    }
    row = {"pairs": 16, "pictures": 384, "scores": score}
    results.write_text(json.dumps({"summary": {"rows": {"<b>": row}}}))
    card = plan(config(file, scores=str(results))).card
    assert "- `<b>`: content alignment 0.522 [0.457, 0.585]; both right 25%; 16 pairs, 384 images" in card
    for wrong in ("[1]", "{", '{"summary": {"rows": {"a": {"scores": {"content": {"mean": "<b>"}}}}}}'):
        results.write_text(wrong)
        refused(lambda: plan(config(file, scores=str(results))), "results.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"repo": "bear"},
        {"repo": "me/../bear"},
        {"repo": "me/be ar"},
        {"license": "All rights reserved"},
        {"base_model": "a/b](x)"},
    ],
)
def test_names_that_the_hub_has_not_are_refused(changes):
    refused(lambda: config("a.safetensors", **changes), *map(str, changes.values()))


def test_a_licence_is_never_chosen_for_anybody(tmp_path, capsys):
    assert main(["push", lora(tmp_path / "a.safetensors"), "--repo", "me/bear", "--dry-run"]) == 2
    assert "--license is missing" in capsys.readouterr().err
