"""Guidance against the base model and sums of predictions, each beside the passes that it stands for: of concepts, of
LoRAs from anywhere and of their relatives."""

import pytest
import torch
from conftest import SIZE
from methods.test_plain_lora import low_rank
from PIL import Image
from safetensors.torch import save_file
from test_generate import PROMPT, difference, draw, options

from b4m.backbones.registry import open_backbone
from b4m.core.errors import UserError
from b4m.files.lora import NOT_CARRIED, load_lora, save_lora
from b4m.files.opening import open_any
from b4m.sampling.attach import attach, dials
from b4m.sampling.composed import composed
from b4m.sampling.generate import generate
from b4m.sampling.sample import sample

STEPS, GUIDANCE = 3, 4.0


@pytest.fixture
def base(tiny_base):
    return open_backbone(tiny_base)


@pytest.fixture(scope="module")
def files(tiny_base, trained, tmp_path_factory) -> dict[str, tuple[str, str]]:
    """A content's and a style's: concept files, LoRAs of linear layers and convolutions, a LoRA and a LoHa."""
    folder = tmp_path_factory.mktemp("pairs")
    denoiser = open_backbone(tiny_base).denoiser
    content = low_rank(denoiser, ("to_q", "to_v", "time_emb_proj", "conv1"), seed=0)
    style = low_rank(denoiser, ("to_q", "to_out.0", "ff.net.2", "samplers.0.conv"), seed=1)
    loha = {}
    for layer, (up, down) in low_rank(denoiser, ("to_q", "to_out.0"), seed=2).items():
        key = f"lora_unet_{layer.replace('.', '_')}"
        loha |= {f"{key}.hada_w{part}_a": 2 * up for part in (1, 2)}
        loha |= {f"{key}.hada_w{part}_b": down.clone() for part in (1, 2)}
        loha[f"{key}.alpha"] = torch.tensor(float(len(down)))
    named = {name: str(folder / f"{name}.safetensors") for name in ("content", "style", "loha")}
    save_lora(named["content"], content, {})
    save_lora(named["style"], style, {})
    save_file(loha, named["loha"])
    return {
        "concepts": (trained["content_file"], trained["style_file"]),
        "LoRAs": (named["content"], named["style"]),
        "a LoRA and a LoHa": (named["content"], named["loha"]),
    }


@pytest.fixture(params=["concepts", "LoRAs", "a LoRA and a LoHa"])
def pair(request, tiny_base, files):
    backbone = open_backbone(tiny_base)
    attach(backbone, *files[request.param])
    return backbone


@torch.no_grad()
def by_hand(backbone, predict, seed=1):
    """Euler steps on guided predictions: predict(noisy, t, branch) -> (1, c, h, w); branch 0 is the negative one."""
    scheduler = backbone.pipe.scheduler.from_config(backbone.pipe.scheduler.config)
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, 4, SIZE // 2, SIZE // 2, generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        noisy = scheduler.scale_model_input(latents, t)
        negative, positive = predict(noisy, t, 0), predict(noisy, t, 1)
        latents = scheduler.step(negative + GUIDANCE * (positive - negative), t, latents).prev_sample
    return backbone.decode_latents(latents)[0]


def passes(backbone, content, style):
    """predict(noisy, t, branch) at these strengths: the empty prompt, then PROMPT."""
    given = backbone.encode_guided([PROMPT], None)
    size = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]], dtype=torch.float32)

    def predict(noisy, t, branch):
        start = "" if branch else "negative_"
        added = {"text_embeds": given[f"{start}pooled_prompt_embeds"], "time_ids": size}
        kwargs = dials(backbone, content, style) if content or style else None
        return backbone.denoiser(
            noisy, t, given[f"{start}prompt_embeds"], added_cond_kwargs=added, cross_attention_kwargs=kwargs
        ).sample

    return predict


def drawn(backbone, **options):
    return draw(backbone, guidance=GUIDANCE, **options)[0]


def same(ours, theirs: Image.Image) -> bool:
    return difference(ours, torch.tensor(list(theirs.getdata())).reshape(SIZE, SIZE, 3).numpy()) <= 1


def test_guidance_against_the_base_is_two_separate_passes(pair, base):
    unadapted, adapted = passes(base, 0, 0), passes(pair, 1.5, 0.5)
    turned = {"content_strength": 1.5, "style_strength": 0.5}
    ours = drawn(pair, negative="base", **turned)
    assert same(ours, by_hand(pair, lambda noisy, t, branch: (unadapted, adapted)[branch](noisy, t, branch)))
    assert same(drawn(pair, **turned), by_hand(pair, adapted))
    assert difference(ours, drawn(pair, **turned)) > 4, "so that the agreement means something"


def test_composed_predictions_are_three_separate_passes(pair, base):
    unadapted = passes(base, 0, 0)
    content, style = passes(pair, 1, 0), passes(pair, 0, 1)

    def summed(noisy, t, branch):
        v = unadapted(noisy, t, branch)
        return v + 1.5 * (content(noisy, t, branch) - v) + 0.7 * (style(noisy, t, branch) - v)

    def against_the_base(noisy, t, branch):
        return (summed if branch else unadapted)(noisy, t, branch)

    turned = {"content_strength": 1.5, "style_strength": 0.7}
    assert same(drawn(pair, compose="predictions", **turned), by_hand(pair, summed))
    ours = drawn(pair, compose="predictions", negative="base", **turned)
    assert same(ours, by_hand(pair, against_the_base))
    assert difference(ours, drawn(pair, negative="base", **turned)) > 2


def test_a_batch_of_several_is_as_each_alone(pair):
    ways = {"negative": "base", "compose": "predictions", "style_strength": 0.4}
    together = draw(pair, (1, 2, 3), **ways)
    for index, seed in enumerate((1, 2, 3)):
        assert difference(together[index], draw(pair, (seed,), **ways)[0]) <= 1


def test_nothing_of_it_stays_behind(pair):
    before = drawn(pair)
    drawn(pair, negative="base", compose="predictions")
    assert difference(drawn(pair), before) == 0
    with pytest.raises(RuntimeError), composed(pair, [((0.5, 1, 0), (0.5, 0, 1))]):
        raise RuntimeError
    assert difference(drawn(pair), before) == 0


def test_where_there_is_nothing_to_compose_it_is_as_ever(base, trained):
    ways = {"negative": "base", "compose": "predictions"}
    assert difference(drawn(base), drawn(base, **ways)) == 0
    attach(base, content_file=trained["content_file"])
    assert difference(drawn(base), drawn(base, compose="predictions")) <= 1
    unguided = draw(base, guidance=1.0)
    assert difference(draw(base, guidance=1.0, negative="base"), unguided) == 0  # no such branch


def test_a_lora_of_both_is_guided_against_the_base_and_has_nothing_to_compose(
    tiny_base, base, trained, tmp_path
):
    """One fused file, once with its basis and once as any LoRA."""
    save_lora(tmp_path / "plain.safetensors", load_lora(trained["lora_file"])[0], {})
    attach(base, lora_file=str(tmp_path / "plain.safetensors"))
    fused = open_backbone(tiny_base)
    attach(fused, lora_file=trained["lora_file"])
    assert difference(drawn(base, negative="base"), drawn(fused, negative="base")) <= 1
    with pytest.raises(UserError, match="cannot be split .*, and --compose stays weights"):
        drawn(base, compose="predictions")
    assert len(sample(base, [PROMPT], [1], steps=1)) == 1


def test_a_file_with_one_strength_for_a_batch_is_refused(base):
    class Attached:
        def arguments(self, content: float, style: float) -> None: ...

    base.attached = Attached()
    for ways in ({"negative": "base"}, {"compose": "predictions"}):
        with pytest.raises(UserError, match="leave them out"):
            drawn(base, **ways)


def test_images_and_files_say_it(tiny_base, trained, tmp_path):
    made = options(tiny_base, tmp_path, prompts=PROMPT, lora_file=trained["lora_file"], negative="base")
    facts = Image.open(generate(made)[0]).text
    assert (facts["negative"], facts["compose"]) == ("base", "weights")
    assert open_any(trained["lora_file"]).metadata["modelspec.usage_hint"] == NOT_CARRIED
    with pytest.raises(UserError, match="--negative 'none': choose one of adapted, base"):
        options(tiny_base, tmp_path, prompts=PROMPT, negative="none")
