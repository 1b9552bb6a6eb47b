"""The drawn world: pictures follow their scenes, captions and tokenizer agree, the encoder is the PCA it claims."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from world import classifier, make_references
from world.autoencoder import principal_components, write_encoder
from world.blank import blank_pipeline
from world.dataset import as_tensor, pictures, scene
from world.render import CONTENTS, HELD_OUT_STYLES, INSTANCES, STYLES, Scene, caption, render, sample_scene
from world.vocabulary import GRAMMAR, MAX_TOKENS, noisy_caption, tokenizer


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    return as_tensor(np.stack([render(scene(0, i)) for i in range(200)]))


@pytest.fixture(scope="module")
def blank():
    return blank_pipeline(0)


def test_the_world_is_as_large_as_promised():
    assert len(set(CONTENTS)) >= 16
    assert len({*STYLES, *HELD_OUT_STYLES}) >= 12
    assert len(INSTANCES) >= 4 and len(HELD_OUT_STYLES) >= 4
    assert not set(STYLES) & set(HELD_OUT_STYLES)


def test_a_scene_is_drawn_the_same_every_time_and_every_part_of_it_shows():
    plain = Scene("teapot", "yarn", "red", "teal", scene(0, 0).pose, 0)
    first = render(plain)
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, render(plain))
    for change in ({"content": "house"}, {"style": "neon"}, {"colour": "blue"}, {"background": "white"}):
        assert not np.array_equal(first, render(replace(plain, **change))), change


@pytest.mark.parametrize("name", INSTANCES)
def test_an_instance_is_marked_unlike_any_plain_colour(name):
    shown = Scene(INSTANCES[name].content, "photo", None, "grey", scene(0, 0).pose, 0, name)
    marked = render(shown).astype(int)
    for colour in ("red", "orange", "green", "purple"):
        assert np.abs(marked - render(replace(shown, instance=None, colour=colour))).mean() > 3


def test_pretraining_never_sees_what_is_held_out():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(500)]
    assert all(s.instance is None and s.style in STYLES for s in scenes)
    words = " ".join(noisy_caption(s, rng) for s in scenes).split()
    assert not set(HELD_OUT_STYLES) & set(words)


def test_the_dataset_is_a_function_of_seed_and_index(tmp_path):
    made = pictures(tmp_path, seed=3, count=300, size=64, workers=1)
    assert np.array_equal(made[299], render(scene(3, 299)))


def test_words_of_the_world_are_one_token_and_anything_else_can_be_spelled():
    words = tokenizer()
    for word in (*GRAMMAR, *CONTENTS, *STYLES):
        assert len(words.tokenize(word)) == 1, word
    for text in ("snq", "w@z", "chalk", "Ünicode", "a?!"):
        ids = words(text).input_ids
        assert ids[0] == words.bos_token_id and ids[-1] == words.eos_token_id
        assert words.unk_token_id not in ids[1:-1], text
    rng = np.random.default_rng(0)
    assert max(len(words(noisy_caption(sample_scene(rng), rng)).input_ids) for _ in range(300)) <= MAX_TOKENS


def test_captions_name_content_and_style():
    assert (
        caption(Scene("fish", "mosaic", "blue", "teal", scene(0, 0).pose, 0))
        == "a blue fish in mosaic style on a teal background"
    )


def test_the_written_encoder_is_the_principal_component_analysis(drawn, blank):
    vae = blank.vae
    write_encoder(vae, drawn)
    latents = vae.encode(drawn[:20]).latent_dist.mode()
    mean, components, deviation = principal_components(drawn, vae.config.latent_channels)
    patches = torch.nn.functional.unfold(drawn[:20], 8, stride=8).transpose(1, 2) - mean
    wanted = (patches @ (components * deviation.rsqrt()[:, None]).T / deviation.mean().sqrt()).transpose(1, 2)
    assert (latents - wanted.reshape(latents.shape)).norm() < 5e-3 * wanted.norm()
    assert vae.encode(drawn[:2]).latent_dist.std.max() < 0.01
    assert not any(p.requires_grad for p in vae.encoder.parameters())


def test_square_attention_layers_have_the_roles_they_have_in_sdxl(blank):
    square = {
        name.split(".transformer_blocks.")[1][2:]
        for name, m in blank.unet.named_modules()
        if "attn" in name
        and isinstance(m, torch.nn.Linear)
        and m.in_features == m.out_features
        and "to_" in name
    }
    assert square == {f"attn1.to_{x}" for x in ("q", "k", "v", "out.0")} | {"attn2.to_q", "attn2.to_out.0"}


def test_the_shipped_references_are_what_the_script_draws(tmp_path, monkeypatch):
    shipped = make_references.FOLDER
    monkeypatch.setattr(make_references, "FOLDER", tmp_path / "references")
    make_references.main()
    for path in sorted((tmp_path / "references").rglob("*.*")):
        other = shipped / path.relative_to(tmp_path / "references")
        if path.suffix == ".png":
            from PIL import Image

            assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(other))), other
        else:
            assert path.read_text() == other.read_text(), other
    assert len(list(shipped.rglob("*.png"))) == len(list((tmp_path / "references").rglob("*.png")))


def test_the_classifier_knows_what_is_drawn():
    rng = np.random.default_rng(11)
    scenes = [classifier.any_scene(rng) for _ in range(200)]
    pixels = as_tensor(np.stack([render(s) for s, _, _ in scenes]))
    with torch.no_grad():
        content, style = (logits.argmax(1) for logits in classifier.load()(pixels))
    assert (content == torch.tensor([c for _, c, _ in scenes])).float().mean() > 0.95
    assert (style == torch.tensor([s for _, _, s in scenes])).float().mean() > 0.95
