"""LoRAs made elsewhere, drawn: as their merged weights draw, two of them added with a dial each, and off again."""

import numpy as np
import pytest
import torch
from conftest import SIZE, refused
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from b4m.backbones.registry import family_of, open_backbone
from b4m.backbones.sdxl import SDXL
from b4m.config.sampling import GenerateConfig
from b4m.evaluation.drawing import draw_missing
from b4m.evaluation.manifest import Shot
from b4m.evaluation.settings import EvaluateConfig
from b4m.files.export import export
from b4m.files.lora import load_lora, save_lora
from b4m.files.settings import ExportConfig
from b4m.sampling.attach import attach, detach
from b4m.sampling.generate import generate
from b4m.sampling.sample import drawn_with, sample

PROMPT = "a photo of snq bear in w@z yarn style"
Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def draw(backbone, **dials) -> np.ndarray:
    return np.asarray(sample(backbone, [PROMPT], [7], steps=3, size=SIZE, **dials)[0], dtype=int)


def apart(one: np.ndarray, two: np.ndarray) -> int:
    """Levels of 255."""
    return int(np.abs(one - two).max())


def low_rank(denoiser: nn.Module, names: tuple[str, ...], seed: int, ranks=(3, 1, 2)) -> dict:
    """A LoRA of the layers whose names end so, of mixed ranks."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name, module in denoiser.named_modules():
        if name.endswith(names) and isinstance(module, nn.Linear | nn.Conv2d):
            rank, (m, n, *kernel) = ranks[len(layers) % len(ranks)], module.weight.shape
            up, down = (
                torch.randn(m, rank, generator=generator),
                torch.randn(rank, n, *kernel, generator=generator),
            )
            layers[name] = (0.1 * up, 0.3 * down)
    return layers


@pytest.fixture(scope="module")
def backbone(tiny_base):
    return open_backbone(tiny_base)


@pytest.fixture(scope="module")
def files(tiny_base, tmp_path_factory) -> dict[str, str]:
    """One of attention layers, one of what else is in blocks, one of that and of layers outside of them."""
    folder = tmp_path_factory.mktemp("loras")
    denoiser = family_of(tiny_base).empty_denoiser(tiny_base)
    kinds = {
        "attention": ("to_q", "to_v", "to_out.0"),
        "blocks": (
            "to_v",
            "ff.net.2",
            "proj_in",
            "conv1",
            "conv_shortcut",
            "time_emb_proj",
            "samplers.0.conv",
        ),
    }
    kinds["others"] = (*kinds["blocks"], "linear_1", "conv_in")
    for seed, (name, ends) in enumerate(kinds.items()):
        layers = low_rank(denoiser, ends, seed)
        assert len(layers) > 10
        save_lora(folder / f"{name}.safetensors", layers, {}, dialect="kohya")
    return {name: str(folder / f"{name}.safetensors") for name in kinds}


def merged(files, base, folder, **dials) -> np.ndarray:
    """Drawn by stock Diffusers with the weights changed."""
    config = ExportConfig(output=str(folder), merge=True, dtype="fp32", base_model=base, **files, **dials)
    unet = UNet2DConditionModel.from_pretrained(export(config))
    return draw(SDXL(StableDiffusionXLPipeline.from_pretrained(base, unet=unet, add_watermarker=False)))


@pytest.mark.parametrize("name", ["attention", "others"])
def test_every_kind_of_layer_is_drawn_as_its_merged_weights_are(backbone, files, tiny_base, tmp_path, name):
    detach(backbone)
    bare = draw(backbone)
    attach(backbone, lora_file=files[name])
    ours = draw(backbone)
    assert apart(ours, bare) > 8
    assert apart(ours, merged({"lora_file": files[name]}, tiny_base, tmp_path / "unet")) <= 1
    detach(backbone)
    assert apart(draw(backbone), bare) == 0


def test_its_dial_is_one(backbone, files, tiny_base, tmp_path):
    detach(backbone)
    bare = draw(backbone)
    attach(backbone, lora_file=files["others"])
    half = draw(backbone, content_strength=0.5, style_strength=0.5)
    assert (
        apart(half, draw(backbone)) > 2
        and apart(draw(backbone, content_strength=0, style_strength=0), bare) == 0
    )
    dials = {"content_strength": 0.5, "style_strength": 0.5}
    assert apart(half, merged({"lora_file": files["others"]}, tiny_base, tmp_path / "unet", **dials)) <= 1
    refused(lambda: draw(backbone, content_strength=0.5), "cannot be split")
    refused(
        lambda: export(ExportConfig(output=str(tmp_path / "x.safetensors"), base_model=tiny_base,
                                    lora_file=files["others"], content_strength=0.5)),
        "cannot be told apart",
    )  # fmt: skip


def test_two_are_added_each_with_its_own_dial(backbone, files, tiny_base, tmp_path, capsys, recwarn):
    both = {"content_file": files["attention"], "style_file": files["others"]}
    attach(backbone, **both)
    assert not [warning for warning in recwarn if "peft" in str(warning.message)]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and all(
        word in said[0] for word in (*both.values(), "not trained to go together", "dial")
    )
    together, dials = draw(backbone), {"content_strength": 0.7, "style_strength": -0.4}
    assert apart(together, merged(both, tiny_base, tmp_path / "a")) <= 1
    assert apart(draw(backbone, **dials), merged(both, tiny_base, tmp_path / "b", **dials)) <= 1
    only_content, only_style = draw(backbone, style_strength=0.0), draw(backbone, content_strength=0.0)
    for name, expected in (("attention", only_content), ("others", only_style)):
        attach(backbone, lora_file=files[name])
        assert apart(draw(backbone), expected) == 0
    assert min(apart(together, only_content), apart(together, only_style)) > 4
    detach(backbone)
    bare = draw(backbone)
    attach(backbone, **both)
    detach(backbone)
    assert apart(draw(backbone), bare) == 0 and not hasattr(backbone.denoiser, "peft_config")


def test_one_alone_may_be_the_content_or_the_style(backbone, files):
    attach(backbone, lora_file=files["attention"])
    expected = draw(backbone, content_strength=0.5, style_strength=0.5)
    attach(backbone, content_file=files["attention"])
    assert apart(draw(backbone, content_strength=0.5), expected) == 0
    attach(backbone, style_file=files["attention"])
    assert apart(draw(backbone, style_strength=0.5), expected) == 0


def test_two_exported_are_one_lora_that_stock_diffusers_draws_alike(backbone, files, tiny_base, tmp_path):
    both = {"content_file": files["attention"], "style_file": files["others"]}
    out = tmp_path / "sum.safetensors"
    dials = {"content_strength": 0.7, "style_strength": 1.2}
    export(ExportConfig(output=str(out), base_model=tiny_base, dtype="fp32", **both, **dials))
    attach(backbone, **both)
    pipe = StableDiffusionXLPipeline.from_pretrained(tiny_base, add_watermarker=False)
    pipe.load_lora_weights(out.parent, weight_name=out.name)
    assert apart(draw(SDXL(pipe)), draw(backbone, **dials)) <= 1


@pytest.mark.parametrize("dialect", ["diffusers", "kohya", "diffusers-old"])
def test_mixed_ranks_and_convolutions_are_read_alike_by_stock_diffusers(
    backbone, files, tiny_base, tmp_path, dialect, capsys
):
    out = tmp_path / "x.safetensors"
    export(
        ExportConfig(
            output=str(out), base_model=tiny_base, dtype="fp32", lora_file=files["blocks"], dialect=dialect
        )
    )
    assert "ranks differ" in capsys.readouterr().err
    attach(backbone, lora_file=files["blocks"])
    pipe = StableDiffusionXLPipeline.from_pretrained(tiny_base, add_watermarker=False)
    pipe.load_lora_weights(out.parent, weight_name=out.name)
    assert apart(draw(SDXL(pipe)), draw(backbone)) <= 1


@pytest.mark.parametrize("dialect", ["diffusers", "kohya", "kohya-original"])
def test_layers_that_diffusers_does_not_read_in_a_dialect_are_named(
    files, tiny_base, tmp_path, dialect, capsys
):
    layers, _ = load_lora(files["others"])
    file = tmp_path / "x.safetensors"
    save_lora(file, {layer: pair for layer, pair in layers.items() if "upsamplers" not in layer}, {})
    out = str(tmp_path / "out.safetensors")
    export(ExportConfig(output=out, base_model=tiny_base, lora_file=str(file), dialect=dialect))
    said = capsys.readouterr().err
    assert ("leave out add_embedding.linear_1, conv_in, time_embedding.linear_1" in said) == (
        dialect != "diffusers"
    )


def test_every_rank_and_alpha_is_said_to_peft(backbone, files):
    """Nothing is left for Diffusers to guess: its releases guess differently."""
    attach(backbone, lora_file=files["others"])
    layers, _ = load_lora(files["others"])
    for layer, (_, down) in layers.items():
        module = backbone.denoiser.get_submodule(layer)
        assert module.r["lora"] == len(down) and module.scaling["lora"] == 1.0
    detach(backbone)


def test_a_file_that_misfits_leaves_the_base_model_as_it_was(backbone, files, tmp_path):
    save_file(
        {f"unet.{Q}.lora_A.weight": torch.ones(2, 7), f"unet.{Q}.lora_B.weight": torch.ones(7, 2)},
        tmp_path / "x.safetensors",
    )
    detach(backbone)
    both = {"content_file": files["attention"], "style_file": str(tmp_path / "x.safetensors")}
    refused(lambda: attach(backbone, **both), tmp_path / "x.safetensors", "do not fit")
    assert backbone.attached is None and not hasattr(backbone.denoiser, "peft_config")


def test_a_concept_and_a_lora_go_together_as_the_lora_that_it_is(
    backbone, files, trained, tiny_base, tmp_path
):
    both = {"content_file": trained["content_file"], "style_file": files["others"]}
    attach(backbone, **both)
    together = draw(backbone, content_strength=0.7)
    one = export(
        ExportConfig(
            output=str(tmp_path / "x.safetensors"), base_model=tiny_base, content_strength=0.7, **both
        )
    )
    attach(backbone, lora_file=str(one))
    assert apart(draw(backbone), together) <= 1
    as_told = str(tmp_path / "concept.safetensors")
    export(ExportConfig(output=as_told, base_model=tiny_base, content_file=trained["content_file"]))
    attach(backbone, **{**both, "content_file": as_told})
    assert apart(draw(backbone, content_strength=0.7), together) <= 1
    assert apart(draw(backbone, content_strength=0.0), together) > 2


def test_strict_is_followed_by_every_command_and_changes_no_image(files, tiny_base, tmp_path):
    file, text = (
        tmp_path / "x.safetensors",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
    )
    save_file({**load_file(files["attention"]), text: torch.ones(2, 2)}, file)
    common = {"base_model": tiny_base, "lora_file": str(file)}
    drawn = {"prompts": ("x",), "steps": 1, "size": SIZE, **common}
    drawing = GenerateConfig(strict=True, **drawn)
    exporting = ExportConfig(output=str(tmp_path / "out.safetensors"), strict=True, **common)
    references = {"content_dir": str(tmp_path), "style_dir": str(tmp_path)}
    scoring = EvaluateConfig(seeds=(7,), strict=True, **drawn, **references)
    shot = Shot(tmp_path / "x.png", "x", 7, "a", "b", tmp_path, tmp_path)
    for action in (
        lambda: generate(drawing),
        lambda: export(exporting),
        lambda: draw_missing(scoring, [shot]),
    ):
        refused(action, file, "text encoder", "--strict")
    assert drawn_with(drawing) == drawn_with(GenerateConfig(**drawn))
