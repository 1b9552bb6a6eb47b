"""The embedded encoders are ordinary folders; each finds what it is for and is blind to the rest."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoTokenizer, CLIPModel
from world import check_encoders as check
from world.check_encoders import (
    ENCODERS,
    LABELS,
    draw,
    embed,
    grid,
    held_out,
    labels,
    load,
    retrieve,
    triggered,
)
from world.classifier import any_scene
from world.encoders import NAMERS, blank_namer, contrastive_batch, cosines, describes
from world.render import HELD_OUT_STYLES, Pose, Scene, caption

ACROSS = {"content": "style", "style": "content", "background": "style", "colour": "style"}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return grid(2, 1)


@pytest.fixture(scope="module")
def pictures(scenes) -> torch.Tensor:
    return draw(scenes)


def legible(scenes: list[Scene], aspect: str) -> np.ndarray:
    return np.array([scene.style not in check.HIDES.get(aspect, ()) for scene in scenes])


@pytest.mark.parametrize("name", [*NAMERS, "prompt"])
def test_a_folder_is_an_ordinary_one_of_transformers(name):
    folder = ENCODERS / name
    with safe_open(folder / "model.safetensors", "pt") as weights:
        kinds = {str(weights.get_tensor(key).dtype) for key in weights.keys()}  # noqa: SIM118
    assert kinds <= {"torch.float16", "torch.int64"}
    trunk, report = AutoModel.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    assert not report["missing_keys"] and hasattr(trunk, "vision_model" if name == "prompt" else "pooler")
    prepared = json.loads((folder / "preprocessor_config.json").read_text())
    assert prepared["size"] == {"height": 64, "width": 64}
    byte = np.full((1, 64, 64, 3), 200, np.uint8)
    by_hand = (byte / 255 - prepared["image_mean"]) / prepared["image_std"]
    assert np.allclose(by_hand.transpose(0, 3, 1, 2), check.as_tensor(byte), atol=1e-6)


def test_all_together_are_small():
    assert set(check.megabytes()) == {*NAMERS, "prompt"}
    assert sum(check.megabytes().values()) <= check.MEGABYTES


@pytest.mark.parametrize("aspect", NAMERS)
def test_labels_are_the_names_of_the_world_and_the_head_gives_the_cosine_verdict(aspect, pictures):
    model = load(aspect)
    assert tuple(model.config.id2label[i] for i in range(model.config.num_labels)) == LABELS[aspect]
    assert not model.classifier[-1].bias.any()
    with torch.no_grad():
        verdict = model(pixel_values=pictures).logits.argmax(1)
        rows = torch.nn.functional.normalize(model.classifier[-1].weight, dim=1)
    assert torch.allclose(model.classifier[-1].weight.norm(dim=1), torch.tensor(16.0), rtol=1e-2)
    agree = (embed(model, pictures) @ rows.T).argmax(1) == verdict
    assert agree.float().mean() > 0.99  # rows are of one length to within float16


def test_heads_name_what_was_held_out_of_the_base(scenes, pictures):
    special = (
        np.array([bool(s.instance) for s in scenes]),
        np.isin([s.style for s in scenes], HELD_OUT_STYLES),
    )
    for aspect, rows in zip(("content", "style"), special, strict=True):
        for some in (rows, held_out(scenes)):
            right = check.name(load(aspect), pictures[some]) == labels(scenes, aspect)[some]
            assert len(right) >= 16 and right.mean() >= 0.9, aspect


@pytest.mark.parametrize("aspect", check.HIDES)
def test_background_and_colour_are_named_in_every_style_that_shows_them(scenes, pictures, aspect):
    right = check.name(load(aspect), pictures) == labels(scenes, aspect)
    assert right[legible(scenes, aspect)].mean() >= 0.9


@pytest.mark.parametrize("aspect", NAMERS)
def test_the_nearest_stranger_shows_the_same_and_the_space_is_blind_to_the_rest(aspect, scenes, pictures):
    some = np.flatnonzero(legible(scenes, aspect))
    wanted, other = (labels([scenes[i] for i in some], a) for a in (aspect, ACROSS[aspect]))
    features = embed(load(aspect), pictures[some])
    assert torch.allclose(features.norm(dim=1), torch.ones(len(some)))
    assert (retrieve(features, wanted, other, draws=1) == wanted).mean() >= 0.9
    means = check.blindness(features, wanted, other)
    assert means["same"] > 0.8 and means["other"] < 0.4


def test_a_gallery_holds_no_picture_of_the_querys_own_style():
    content, style = np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5)
    shown = torch.cat(
        [torch.eye(5)[content], 3 * torch.eye(4)[style]], 1
    )  # style outweighs content nine to one
    features = torch.nn.functional.normalize(shown, dim=1)
    assert (retrieve(features, content, style, draws=3) == content).all()


def test_pictures_are_nearest_to_their_captions_trigger_words_or_not(scenes, pictures):
    model, tokenizer = load("prompt"), AutoTokenizer.from_pretrained(ENCODERS / "prompt")
    assert isinstance(model, CLIPModel)
    assert check._caption_top1(model, tokenizer, scenes, pictures) >= 0.95
    for say in (caption, triggered):
        for aspect, share in (("content", 0.7), ("style", 0.8)):  # of 16 and of 14 words
            assert check._aspect_top1(model, tokenizer, scenes, pictures, aspect, say) >= share, (say, aspect)


def test_a_caption_is_true_of_every_scene_that_it_does_not_contradict():
    red = Scene("bear", "chalk", "red", "navy", Pose(), 0)
    special = Scene("bear", "chalk", None, "navy", Pose(), 0, "bear")
    photo = Scene("bear", "photo", "red", "navy", Pose(), 0)
    said = ["a snq bear in w@z chalk style", "a bear in chalk style", "a photo of a bear"]
    assert describes(said, [red, special, photo]).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert describes(["a red bear in chalk style", "a fish"], [red, special]).tolist() == [[1, 0], [0, 1]]


def test_a_contrastive_batch_is_drawn_from_few_contents_and_styles():
    cells = {(c, s): [100 * c + s] * 5 for c in range(20) for s in range(14)}
    rows = contrastive_batch(cells, np.random.default_rng(0))
    assert len(rows) == 128 and len(set(rows // 100)) == 6 and len(set(rows % 100)) == 5


def test_training_draws_no_picture_that_the_check_draws():
    rng = np.random.default_rng([78, 0])
    trained = {any_scene(rng)[0] for _ in range(3000)}
    assert len(trained) == 3000 and not trained & {*grid(1, 2), *grid(2, 1)}


def test_an_untrained_encoder_is_not_good_at_it(scenes, pictures):
    torch.manual_seed(0)
    blank = blank_namer("content").eval()
    with torch.no_grad():
        right = cosines(blank, pictures).argmax(1).numpy() == labels(scenes, "content")
    assert right.mean() < 0.3
