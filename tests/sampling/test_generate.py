"""Sampling: seeds, dials, composition, stock Diffusers on the fused file, PNG facts and the labelled grid."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import SIZE, refused
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from b4m.backbones.protocol import Backbone
from b4m.backbones.registry import open_backbone
from b4m.config.resolve import resolve
from b4m.config.sampling import GenerateConfig
from b4m.core.errors import UserError
from b4m.files.concept import load_concept, save_concept
from b4m.files.export import export
from b4m.files.lora import load_lora, save_lora
from b4m.files.settings import ExportConfig
from b4m.sampling import generate as generating
from b4m.sampling.attach import attach, detach
from b4m.sampling.generate import generate
from b4m.sampling.grid import grid
from b4m.sampling.prompts import notes
from b4m.sampling.sample import sample

PROMPT = "a photo of snq bear in w@z yarn style"


@pytest.fixture
def backbone(tiny_base) -> Backbone:
    return open_backbone(tiny_base)


def draw(backbone, seeds=(1,), **options) -> np.ndarray:
    pictures = sample(backbone, [PROMPT] * len(seeds), seeds, steps=3, **options)
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


def difference(one: np.ndarray, two: np.ndarray) -> int:
    return int(np.abs(one - two).max())


def test_a_picture_depends_on_its_seed_and_not_on_its_batch(backbone):
    together = draw(backbone, (1, 2, 3))
    assert together.shape == (3, SIZE, SIZE, 3)
    for index, seed in enumerate((1, 2, 3)):
        assert difference(together[index : index + 1], draw(backbone, (seed,))) <= 1
    assert difference(together[0], together[1]) > 20


def test_sampling_is_the_stock_pipeline(backbone, tiny_base):
    stock = StableDiffusionXLPipeline.from_pretrained(tiny_base, add_watermarker=False)
    stock.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(4)
    theirs = stock(PROMPT, num_inference_steps=3, generator=generator, height=SIZE, width=SIZE).images[0]
    assert difference(draw(backbone, (4,))[0], np.asarray(theirs).astype(int)) <= 1


def test_the_fused_file_in_stock_diffusers_gives_the_adapters_picture(backbone, tiny_base, trained):
    attach(backbone, lora_file=trained["lora_file"])
    ours, base = draw(backbone, (4,)), draw(open_backbone(tiny_base), (4,))
    stock = StableDiffusionXLPipeline.from_pretrained(tiny_base, add_watermarker=False)
    stock.set_progress_bar_config(disable=True)
    stock.load_lora_weights(trained["lora_file"])
    generator = torch.Generator().manual_seed(4)
    theirs = stock(PROMPT, num_inference_steps=3, generator=generator, height=SIZE, width=SIZE).images[0]
    assert difference(ours[0], np.asarray(theirs).astype(int)) <= 1
    assert difference(ours, base) > 4  # so that the agreement means something


def test_both_dials_at_zero_are_the_base_model(backbone, trained):
    base = draw(backbone)
    attach(backbone, trained["content_file"], trained["style_file"])
    assert difference(draw(backbone, content_strength=0.0, style_strength=0.0), base) == 0
    assert difference(draw(backbone), base) > 4


@pytest.mark.parametrize("source", ["files", "fused"])
def test_each_dial_turns_its_own_half(source, backbone, tiny_base, trained, tmp_path):
    export(
        resolve(
            ExportConfig,
            base_model=tiny_base,
            output=str(tmp_path / "f.safetensors"),
            dtype="fp32",
            content_file=trained["content_file"],
            style_file=trained["style_file"],
        )
    )
    files = {k: trained[k] for k in ("content_file", "style_file")}
    attach(backbone, **files if source == "files" else {"lora_file": str(tmp_path / "f.safetensors")})
    only_content, only_style = draw(backbone, style_strength=0.0), draw(backbone, content_strength=0.0)
    attach(backbone, content_file=trained["content_file"])
    assert difference(draw(backbone), only_content) == 0
    attach(backbone, style_file=trained["style_file"])
    assert difference(draw(backbone), only_style) == 0
    assert difference(only_content, only_style) > 2


def test_a_fused_file_can_be_told_apart_only_with_its_basis(backbone, trained, tmp_path):
    layers, _ = load_lora(trained["lora_file"])
    save_lora(tmp_path / "plain.safetensors", layers, {})
    attach(backbone, lora_file=trained["lora_file"])
    ours, half = draw(backbone), draw(backbone, content_strength=0.5, style_strength=0.5)
    assert difference(draw(backbone, content_strength=0.5), half) > 0, "the dials turn apart"
    attach(backbone, lora_file=str(tmp_path / "plain.safetensors"))
    assert difference(draw(backbone), ours) <= 1
    with pytest.raises(UserError, match="cannot be split"):
        draw(backbone, content_strength=0.5)
    weaker = draw(backbone, content_strength=0.5, style_strength=0.5)
    assert difference(weaker, ours) > 2 and difference(half, ours) > 2


def test_detaching_gives_the_base_model_back(backbone, trained, tmp_path):
    base = draw(backbone)
    layers, _ = load_lora(trained["lora_file"])
    save_lora(tmp_path / "plain.safetensors", layers, {})
    for files in ({"lora_file": trained["lora_file"]}, {"lora_file": str(tmp_path / "plain.safetensors")}):
        attach(backbone, **files)
        assert difference(draw(backbone), base) > 4
        detach(backbone)
        assert difference(draw(backbone), base) == 0


def test_files_that_do_not_fit_are_refused(backbone, trained, tmp_path):
    concept = load_concept(trained["style_file"])
    other = dataclasses.replace(concept, spec=dataclasses.replace(concept.spec, seed=9))
    save_concept(tmp_path / "seed.safetensors", other)
    save_concept(tmp_path / "unet.safetensors", dataclasses.replace(concept, unet_hash="0" * 64))
    save_lora(
        tmp_path / "layer.safetensors", {"down_blocks.7.attn1.to_q": (torch.ones(8, 2), torch.ones(2, 8))}, {}
    )
    for files, message in (
        ({"content_file": trained["style_file"]}, "holds a style"),
        (
            {"content_file": trained["content_file"], "style_file": str(tmp_path / "seed.safetensors")},
            "seed 0 against 9",
        ),
        ({"style_file": str(tmp_path / "unet.safetensors")}, "another UNet"),
        ({"lora_file": str(tmp_path / "layer.safetensors")}, "do not fit"),
        ({"lora_file": str(tmp_path / "none.safetensors")}, "none.safetensors"),
    ):
        with pytest.raises(UserError, match=message):
            attach(backbone, **files)
        assert backbone.attached is None


def test_embeddings_stand_in_for_text_encoders(backbone):
    expected = draw(backbone)
    embeddings = backbone.encode_guided([PROMPT], None)
    backbone.pipe.text_encoder = backbone.pipe.text_encoder_2 = None
    assert difference(draw(backbone, embeddings=embeddings), expected) == 0


def test_prompt_guidance_steps_and_negative_prompt_matter(backbone):
    plain = draw(backbone)
    assert difference(draw(backbone, guidance=1.0), plain) > 0
    assert difference(draw(backbone, negative_prompt="chalk house"), plain) > 0
    assert difference(np.asarray(sample(backbone, ["chalk"], [1], steps=3)[0]).astype(int)[None], plain) > 0
    assert difference(np.asarray(sample(backbone, [PROMPT], [1], steps=5)[0]).astype(int)[None], plain) > 0


def test_sizes_that_cannot_be_drawn_are_refused(backbone):
    with pytest.raises(UserError, match="--size 18"):
        draw(backbone, size=18)
    assert draw(backbone, size=24).shape == (1, 24, 24, 3)


def options(tiny_base, tmp_path, **changes) -> GenerateConfig:
    base = {"base_model": tiny_base, "size": SIZE, "steps": 2, "output_dir": tmp_path / "out"}
    return resolve(GenerateConfig, "embedded", **{**base, **changes})


def test_pngs_carry_what_they_were_made_with(tiny_base, trained, tmp_path):
    config = options(
        tiny_base,
        tmp_path,
        prompts=["a bear", "ein Bär 熊"],
        seeds=[5, 6],
        lora_file=trained["lora_file"],
        style_strength=0.5,
        grid=True,
    )
    paths = generate(config)
    assert [path.name for path in paths] == [
        "000_seed5.png",
        "001_seed6.png",
        "002_seed5.png",
        "003_seed6.png",
        "grid.png",
    ]
    facts = Image.open(paths[3]).text
    assert (facts["prompt"], facts["seed"], facts["steps"], facts["guidance"]) == (
        "ein Bär 熊",
        "6",
        "2",
        str(config.guidance),
    )
    assert (facts["content_strength"], facts["style_strength"]) == ("1.0", "0.5")
    assert facts["lora_file"] == trained["lora_file"] and facts["base_model"] == tiny_base
    again = generate(config)
    assert [path.name for path in again] == [
        "004_seed5.png",
        "005_seed6.png",
        "006_seed5.png",
        "007_seed6.png",
        "grid_004.png",
    ]
    for old, new in zip(paths, again, strict=True):
        assert np.array_equal(*(np.asarray(Image.open(path)) for path in (old, new)))


def bytes_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_images_of_another_run_are_never_replaced(tiny_base, tmp_path):
    out = tmp_path / "out"
    generate(options(tiny_base, tmp_path, prompts=["a", "b", "c"], grid=True))
    before = bytes_of(out)
    (out / "holiday.png").write_bytes(b"not ours")
    assert [path.name for path in generate(options(tiny_base, tmp_path, prompts="d"))] == ["003_seed77.png"]
    assert before.items() <= bytes_of(out).items()
    (out / "001_seed77.png").unlink()  # a gap is not filled: the numbers say what came later
    assert generate(options(tiny_base, tmp_path, prompts="e"))[0].name == "004_seed77.png"
    again = generate(options(tiny_base, tmp_path, prompts="f", overwrite=True))
    assert again[0].name == "000_seed77.png" and Image.open(again[0]).text["prompt"] == "f"
    assert (out / "holiday.png").read_bytes() == b"not ours"


def test_two_runs_at_once_take_different_names(tiny_base, tmp_path, monkeypatch):
    """The other one writes between our look at the folder and our first image."""
    config = options(tiny_base, tmp_path, prompts=["a"], grid=True)
    generate(config)
    before = bytes_of(tmp_path / "out")
    monkeypatch.setattr(generating, "_next_number", lambda folder: 0)
    paths = generate(options(tiny_base, tmp_path, prompts=["b"], grid=True))
    assert [path.name for path in paths] == ["001_seed77.png", "grid_001.png"]
    assert before.items() <= bytes_of(tmp_path / "out").items()


@pytest.mark.parametrize("size", ["24x16", "16X24", (24, 16)])
def test_images_need_not_be_square(tiny_base, tmp_path, size, backbone):
    path = generate(options(tiny_base, tmp_path, prompts=["a bear"], size=size))[0]
    wide, high = (16, 24) if size == "16X24" else (24, 16)
    image = Image.open(path)
    assert image.size == (wide, high) and image.text["size"] == f"{wide}x{high}"
    stock = StableDiffusionXLPipeline.from_pretrained(tiny_base, add_watermarker=False)
    stock.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(77)
    theirs = stock(
        "a bear", num_inference_steps=2, guidance_scale=2.5, generator=generator, height=high, width=wide
    ).images[0]
    assert difference(np.asarray(image).astype(int), np.asarray(theirs).astype(int)) <= 1
    with pytest.raises(UserError, match="--size 18: .* multiple of 4"):
        draw(backbone, size="16x18")


def test_what_is_written_for_another_tool_gets_a_line(tiny_base, tmp_path, capsys):
    prompts = ["(red:1.4)", "<lora:b:1>", "a bear"]
    generate(options(tiny_base, tmp_path, prompts=prompts, negative_prompt="((ugly))"))
    out, err = capsys.readouterr()
    notes = [line for line in err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 3 and "(red:1.4): no word has a weight" in notes[0]
    assert "<lora:b:1>: files are given with --lora-file" in notes[1] and "((ugly))" in notes[2]
    assert "note" not in out


@pytest.mark.parametrize(
    "prompt",
    ["(red:1.4)", "[red:blue:0.5]", "((red))", "(red)++", "(red)1.2", "{red|blue}", "__colour__", "a BREAK b",
     "<lora:x:1>", "<lyco:x>", "embedding:bad", "(a, b:.8) c"],
)  # fmt: skip
def test_the_syntax_of_other_tools_is_known(prompt):
    assert len(notes(["a bear", prompt, None])) == 1


@pytest.mark.parametrize(
    "prompt",
    [
        "a photo of snq bear in w@z style",
        "a bear (toy) [blue]",
        "at 10:30",
        "C++ code",
        "a {b}",
        "break and bend",
    ],
)
def test_plain_words_get_none(prompt):
    assert notes([prompt]) == []


@pytest.mark.parametrize("place", ["prompts", "negative_prompt"])
def test_a_prompt_that_would_be_cut_off_is_refused_with_the_words(tiny_base, tmp_path, place):
    long = "a photo of a bear in a house of chalk in a style of yarn in chalk style"
    given = {"prompts": ("a photo",), place: (long,) if place == "prompts" else long}
    made = options(tiny_base, tmp_path / "out", **given)
    refused(lambda: generate(made), "a photo of a bear", "16 tokens", tiny_base, '"yarn in chalk style"')
    assert not (tmp_path / "out").exists()


def test_bad_input_writes_no_picture(tiny_base, trained, tmp_path):
    for changes in (
        {"size": 18},
        {"content_file": trained["style_file"]},
        {"base_model": "/nowhere/base"},
        {"style_strength": 0.5},
    ):
        with pytest.raises(UserError):
            generate(options(tiny_base, tmp_path, prompts="x", **changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [16, 64, 100, 256])
def test_the_grid_places_every_picture_and_labels_them_to_be_read(size):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]
    images = [Image.new("RGB", (size, size), colour) for colour in colours]
    labelled = grid(
        images, 3, ["first row", "second row"], ["references", "base model", "fused after the second stage"]
    )
    pixels = np.asarray(labelled).astype(int)
    centres = []
    for colour in colours:
        ys, xs = np.nonzero((np.abs(pixels - np.array(colour)) < 3).all(-1))
        assert len(ys) >= max(128, size) ** 2
        centres.append((ys.mean(), xs.mean()))
    (y0, x0), (y1, x1), (y3, x3) = centres[0], centres[1], centres[3]
    assert abs(y0 - y1) < 2 and x1 > x0 and y3 > y0 and abs(x3 - x0) < 2
    cell = max(128, size)
    ink = (pixels == 0).all(-1)
    assert ink[: int(y0 - cell / 2)].any(0).nonzero()[0].min() >= cell  # column labels above their columns
    assert ink[:, :cell].any()  # row labels left
    rows = ink[:, :cell].any(1).nonzero()[0]
    assert rows.max() - rows.min() > 8
    assert grid(images, 3).size == (3 * (cell + 4), 2 * (cell + 4))


def test_an_uneven_grid_is_a_programming_error():
    with pytest.raises(ValueError, match="do not fill"):
        grid([Image.new("RGB", (8, 8))] * 3, 2)
