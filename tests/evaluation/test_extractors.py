"""Extractors on tiny random models: the models' own outputs, preprocessing, caches, and what is refused."""

import builtins
import json
import shutil
import sys
import types

import numpy as np
import pytest
import torch
from conftest import picture, tiny_tokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

import b4m.evaluation.extractors
from b4m.core.errors import UserError
from b4m.evaluation.extractors import _preprocessor, load_extractor

CLIP_LIKE = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 20},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 16, "width": 16},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48, 0.45, 0.40],
    "image_std": [0.27, 0.26, 0.28],
}


def save(folder, model, values=CLIP_LIKE) -> str:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return str(folder)


def make_judge(folder, labels, seed=0) -> str:
    """A random ResNet that names `labels`."""
    torch.manual_seed(seed)
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 12],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(labels)),
    )
    return save(folder, ResNetForImageClassification(config))


def make_dino(folder) -> str:
    torch.manual_seed(1)
    return save(
        folder,
        Dinov2Model(
            Dinov2Config(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=4
            )
        ),
    )


def make_clip(folder) -> str:
    torch.manual_seed(2)
    tokenizer = tiny_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    vision = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
    )
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision.to_dict(), projection_dim=10))
    tokenizer.save_pretrained(folder)
    return save(folder, model)


@pytest.fixture(scope="module")
def dino(tmp_path_factory) -> str:
    return make_dino(tmp_path_factory.mktemp("dino"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return make_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> str:
    return make_judge(tmp_path_factory.mktemp("judge"), ["bear", "car", "a fish"])


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [picture(0), picture(1, (40, 17)), picture(2, (9, 30))]


def by_hand(picture: Image.Image) -> torch.Tensor:
    """What CLIP_LIKE says, with Pillow and numpy: the short side to 20, 16 x 16 out of the middle, normalized."""
    short = min(picture.size)
    picture = picture.resize([20 * side // short for side in picture.size], Image.Resampling.BICUBIC)
    left, top = ((side - 16) // 2 for side in picture.size)
    levels = np.asarray(picture.crop((left, top, left + 16, top + 16))) / 255
    scaled = (levels - CLIP_LIKE["image_mean"]) / CLIP_LIKE["image_std"]
    return torch.from_numpy(scaled.transpose(2, 0, 1)).float()


def pixels(pictures) -> torch.Tensor:
    return torch.stack([by_hand(each) for each in pictures])


def same(features, expected) -> bool:
    return torch.allclose(features, torch.nn.functional.normalize(expected, dim=1), atol=1e-5)


@torch.no_grad()
def test_dino_gives_its_class_token(dino, pictures):
    features = load_extractor(dino, "cpu").images(pictures)
    model = Dinov2Model.from_pretrained(dino).eval()
    assert same(features, model(pixels(pictures)).last_hidden_state[:, 0])
    assert features.dtype == torch.float32 and torch.allclose(features.norm(dim=1), torch.ones(3))


@torch.no_grad()
def test_clip_gives_its_projections(clip, pictures):
    extractor, model = load_extractor(clip, "cpu"), CLIPModel.from_pretrained(clip).eval()
    texts = ["a photo of snq bear", "a house"]
    tokens = tiny_tokenizer()(texts, padding=True, return_tensors="pt")
    assert same(extractor.images(pictures), model(**tokens, pixel_values=pixels(pictures)).image_embeds)
    assert same(extractor.texts(texts), model(**tokens, pixel_values=pixels(pictures)).text_embeds)
    assert extractor.texts(["a " * 50]).shape == (1, 10)  # cut, not refused
    assert torch.allclose(extractor.texts(texts)[1], load_extractor(clip).texts(texts[1:])[0], atol=1e-5)


@torch.no_grad()
def test_a_judge_gives_trunk_features_and_names(judge, pictures):
    extractor, model = (
        load_extractor(judge, "cpu"),
        ResNetForImageClassification.from_pretrained(judge).eval(),
    )
    assert same(extractor.images(pictures), model.resnet(pixels(pictures)).pooler_output.flatten(1))
    names = [model.config.id2label[index] for index in model(pixels(pictures)).logits.argmax(1).tolist()]
    assert extractor.classify(pictures) == names
    assert extractor.labels == ("bear", "car", "a fish")


def test_many_classes_keep_their_order(tmp_path, pictures):
    names = [f"class {index}" for index in range(12)]  # as text, 10 sorts before 2
    assert load_extractor(make_judge(tmp_path, names)).labels == tuple(names)


def prepared(folder, values):
    (folder / "preprocessor_config.json").write_text(
        values if isinstance(values, str) else json.dumps(values)
    )
    return _preprocessor("here", str(folder))[0]


@pytest.mark.parametrize("size", [(16, 16), (40, 17), (9, 30), (33, 64)])
def test_preprocessing_is_what_the_file_says(tmp_path, size):
    """Also where an old file names a feature extractor, a number is a size, or torchvision's class was saved."""
    old = {**CLIP_LIKE, "image_processor_type": None, "feature_extractor_type": "CLIPFeatureExtractor"}
    for values in (
        CLIP_LIKE,
        {**CLIP_LIKE, "image_processor_type": "CLIPImageProcessorFast"},
        {key: value for key, value in {**old, "size": 20, "crop_size": 16}.items() if value is not None},
    ):
        ours = prepared(tmp_path, values)(picture(5, size))
        assert ours.dtype == torch.float32 and torch.allclose(ours, by_hand(picture(5, size)), atol=1e-5)


def test_preprocessing_is_the_same_where_torchvision_is_installed(tmp_path, monkeypatch):
    """Its processors round otherwise; they would be the default there."""
    asked = []
    original = AutoImageProcessor.from_pretrained
    monkeypatch.setattr(
        AutoImageProcessor,
        "from_pretrained",
        lambda *a, **k: (asked.append(k["backend"]), original(*a, **k))[1],
    )
    prepared(tmp_path, CLIP_LIKE)
    assert asked == ["pil"]


def test_preprocessing_takes_pictures_of_any_mode(tmp_path):
    prepare = prepared(tmp_path, {**CLIP_LIKE, "image_processor_type": "ViTImageProcessor"})
    gray = picture(5).convert("L")
    assert torch.equal(prepare(gray), prepare(gray.convert("RGB")))
    assert torch.equal(prepare(picture(5).convert("RGBA")), prepare(picture(5)))


def test_preprocessing_follows_convnexts_rule(tmp_path):
    """224 of 256 pixels are seen; from 384 on, all."""
    values = {name: CLIP_LIKE[name] for name in ("image_mean", "image_std", "resample")}
    values |= {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.8}
    seen = {}
    for edge in (16, 384):
        prepare = prepared(tmp_path, {**values, "size": {"shortest_edge": edge}})
        framed = Image.new("RGB", (200, 200), "white")
        framed.paste("black", (12, 12, 188, 188))
        shown = prepare(framed)
        assert shown.shape == (3, edge, edge)
        seen[edge] = bool(shown[0, 0, 0] > 0)
    assert seen == {16: False, 384: True}


@pytest.mark.parametrize(
    "values, line",
    [
        ({**CLIP_LIKE, "size": {"longest_edge": 4}}, "cannot be followed"),
        ({**CLIP_LIKE, "image_mean": [0.5]}, "cannot be followed"),
        ({**CLIP_LIKE, "image_processor_type": "NoSuchProcessor"}, "cannot be followed"),
        ({**CLIP_LIKE, "do_center_crop": False}, "images in many sizes"),
        ("[", "cannot be followed"),
    ],
)
def test_preprocessing_that_cannot_be_followed_is_refused(tmp_path, values, line):
    with pytest.raises(UserError, match=f"here: its preprocessor_config.json .*{line}") as caught:
        prepared(tmp_path, values)
    assert "\n" not in str(caught.value)


def test_code_that_comes_with_a_processor_is_not_run(tmp_path):
    (tmp_path / "brought.py").write_text("raise SystemExit('run')")
    values = {"auto_map": {"AutoImageProcessor": "brought.Processor"}, "image_processor_type": "Processor"}
    with pytest.raises(UserError, match="cannot be followed"):
        prepared(tmp_path, values)


def counted(extractor) -> list[int]:
    """Sizes of the batches that go through the extractor's network from now on."""
    sizes: list[int] = []
    extractor._model.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def test_a_picture_is_computed_once(dino, pictures, monkeypatch):
    monkeypatch.setattr(b4m.evaluation.extractors, "BATCH", 2)
    extractor = load_extractor(dino)
    sizes = counted(extractor)
    first = extractor.images([*pictures, pictures[0].copy()])
    assert sizes == [2, 1] and torch.equal(first[0], first[3])
    assert torch.equal(extractor.images(pictures[::-1]), first[:3].flip(0)) and sizes == [2, 1]
    assert torch.allclose(first[1], load_extractor(dino).images(pictures[1:2])[0], atol=1e-5)
    # Equal bytes in another shape are another picture.
    gray = Image.new("RGB", (16, 8)), Image.new("RGB", (8, 16))
    extractor.images(gray)
    assert sum(sizes) == 5


def test_a_verdict_is_computed_once(judge, pictures):
    extractor = load_extractor(judge)
    sizes = counted(extractor)
    assert extractor.classify(pictures) == extractor.classify(pictures)
    assert sizes == [3]


def test_a_cache_folder_serves_the_next_run_and_no_other_model(dino, judge, pictures, tmp_path):
    first = load_extractor(dino, cache=tmp_path).images(pictures)
    again = load_extractor(dino, cache=tmp_path)
    sizes = counted(again)
    assert torch.equal(again.images(pictures), first) and not sizes
    other = load_extractor(judge, cache=tmp_path)
    assert other.images(pictures).shape == (3, 12)


def test_verdicts_are_kept_for_the_next_run_and_follow_the_names(judge, pictures, tmp_path):
    first = load_extractor(judge, cache=tmp_path / "cache").classify(pictures)
    # The same weights, whose classes are called otherwise.
    folder = shutil.copytree(judge, tmp_path / "renamed")
    told = json.loads((folder / "config.json").read_text())
    told["id2label"] = {key: name.upper() for key, name in told["id2label"].items()}
    told["label2id"] = {name: int(key) for key, name in told["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(told))
    again = load_extractor(str(folder), cache=tmp_path / "cache")
    sizes = counted(again)
    assert again.classify(pictures) == [name.upper() for name in first] and not sizes


@pytest.mark.parametrize("damage", ['{"a', "[1]"])
def test_a_damaged_file_of_verdicts_is_named(judge, pictures, tmp_path, damage):
    load_extractor(judge, cache=tmp_path).classify(pictures)
    (file,) = tmp_path.rglob("*.json")
    file.write_text(damage)
    with pytest.raises(UserError, match=f"{file.name}.*delete it"):
        load_extractor(judge, cache=tmp_path)


def test_a_cache_knows_changed_weights_and_preprocessing(dino, pictures, tmp_path):
    for number, change in enumerate(("weights", "preprocessing")):
        load_extractor(dino, cache=tmp_path / "cache").images(pictures)
        folder = tmp_path / str(number)
        shutil.copytree(dino, folder)
        if change == "weights":
            tensors = load_file(folder / "model.safetensors")
            name = sorted(tensors)[0]
            save_file({**tensors, name: tensors[name] + 1}, folder / "model.safetensors", {"format": "pt"})
        else:
            (folder / "preprocessor_config.json").write_text(json.dumps({**CLIP_LIKE, "resample": 2}))
        changed = load_extractor(str(folder), cache=tmp_path / "cache")
        sizes = counted(changed)
        changed.images(pictures)
        assert sizes == [3], change


def test_what_a_model_cannot_do_is_said(dino, clip, pictures):
    with pytest.raises(UserError, match="reads images only"):
        load_extractor(dino).texts(["a bear"])
    with pytest.raises(UserError, match="names no classes"):
        load_extractor(clip).classify(pictures)


@pytest.mark.parametrize(
    "spec, line",
    [
        ("no/such/folder", "no such folder"),
        ("./nothing", "no such folder"),
        ("nothing", "no such folder"),
        ("owner/absent", "cannot be loaded"),  # offline
        ("open_clip:ViT-B-32", "open_clip:ARCHITECTURE:WEIGHTS"),
        ("open_clip:ViT-B-32:/no/such.safetensors", "no such .safetensors file"),
    ],
)
def test_an_extractor_that_is_not_there(spec, line):
    with pytest.raises(UserError, match=line) as caught:
        load_extractor(spec)
    assert "\n" not in str(caught.value) and spec in str(caught.value)


def test_a_pickled_open_clip_checkpoint_is_refused(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"pickle")
    with pytest.raises(UserError, match="no such .safetensors file"):
        load_extractor(f"open_clip:ViT-B-32:{tmp_path / 'weights.pt'}")


def test_a_folder_without_safetensors_is_refused(dino, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(dino, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_extractor(str(folder))


def test_missing_weights_are_never_made_up(tmp_path):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=4
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CLIP_LIKE))
    with pytest.raises(UserError, match="lacks .*pooler"):
        load_extractor(str(tmp_path))


def test_models_of_another_kind_are_refused(tmp_path, pictures):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = save(tmp_path / "text", BertModel(BertConfig(vocab_size=20, **small)))
    with pytest.raises(UserError, match="BertModel reads no images"):
        load_extractor(text)
    vit = ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, **small))
    with pytest.raises(UserError, match="pools no features"):
        load_extractor(save(tmp_path / "vit", vit)).images(pictures)


def test_features_that_are_not_finite_are_refused(dino, pictures, tmp_path):
    shutil.copytree(dino, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    save_file({k: torch.full_like(v, torch.nan) for k, v in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(UserError, match="not finite"):
        load_extractor(str(tmp_path / "model")).images(pictures)


def test_a_model_lacking_its_side_files_is_refused(clip, tmp_path):
    for number, (names, line) in enumerate(
        [
            (["preprocessor_config.json"], "preprocessor_config.json cannot be followed"),
            (["tokenizer"], "tokenizer"),
        ]
    ):
        folder = tmp_path / str(number)
        shutil.copytree(clip, folder)
        for file in folder.iterdir():
            if file.name.startswith(tuple(names)):
                file.unlink()
        with pytest.raises(UserError, match=line):
            load_extractor(str(folder))


def test_a_tokenizer_of_another_model_is_refused(clip, tmp_path):
    shutil.copytree(clip, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="disagree on the end token"):
        load_extractor(str(tmp_path / "model"))


@pytest.mark.parametrize(
    "error", [ImportError("No module named 'open_clip'"), RuntimeError("torchvision::nms")]
)
def test_without_open_clip_the_extra_is_named(monkeypatch, error):
    original = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "open_clip":
            raise error
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(UserError, match=r'pip install "b4m\[eval\]"'):
        load_extractor("open_clip:ViT-B-32:openai")


def test_open_clip_is_asked_for_the_activation_of_the_weights(monkeypatch, pictures):
    """A stand-in: the real library only warns when the activation is not the one of training."""
    asked = {}

    class Network(torch.nn.Module):
        def encode_image(self, pixels):
            return pixels.mean((2, 3))

        def encode_text(self, tokens):
            return tokens.float()

    def create(architecture, **options):
        asked.update(options, architecture=architecture)
        return Network(), None, by_hand

    fake = types.ModuleType("open_clip")
    fake.get_pretrained_cfg = lambda architecture, tag: {"quick_gelu": True} if tag == "openai" else {}
    fake.create_model_and_transforms = create
    fake.get_tokenizer = lambda architecture: lambda texts: torch.ones(len(texts), 3)
    monkeypatch.setitem(sys.modules, "open_clip", fake)
    extractor = load_extractor("open_clip:ViT-B-32:openai")
    assert asked["force_quick_gelu"] and asked["weights_only"] and asked["pretrained"] == "openai"
    assert extractor.images(pictures).shape == extractor.texts(["a", "b", "c"]).shape == (3, 3)
    load_extractor("open_clip:ViT-B-32:laion2b_s34b_b79k")
    assert not asked["force_quick_gelu"]


def test_open_clip_itself_agrees(tmp_path, pictures):
    try:
        import open_clip
    except Exception as error:  # a broken torchvision fails in many ways
        pytest.skip(f"open_clip cannot be imported: {error}")
    network, _, prepare = open_clip.create_model_and_transforms("RN50", pretrained=None)
    file = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, file)
    extractor = load_extractor(f"open_clip:RN50:{file}")
    with torch.no_grad():
        expected = network.eval().encode_image(torch.stack([prepare(each) for each in pictures]))
    assert same(extractor.images(pictures), expected)
    assert np.isfinite(extractor.texts(["a bear"]).numpy()).all()
