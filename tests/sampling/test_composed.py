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
from b4m.files.opening import open_any, save_method_file
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


def passes(backbone, *strengths):
    """predict(noisy, t, branch) at these strengths: the empty prompt, then PROMPT."""
    given = backbone.encode_guided([PROMPT], None)
    size = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]], dtype=torch.float32)

    def predict(noisy, t, branch):
        start = "" if branch else "negative_"
        added = {"text_embeds": given[f"{start}pooled_prompt_embeds"], "time_ids": size}
        kwargs = dials(backbone, *strengths) if any(strengths) else None
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


def test_more_files_are_a_prediction_each(tiny_base, base, files, trained):
    """A LoRA and a LoHa, and a concept and a LoRA besides."""
    (lora, loha), (_, other) = files["a LoRA and a LoHa"], files["LoRAs"]
    many, concept = open_backbone(tiny_base), open_backbone(tiny_base)
    attach(many, lora, loha, more=[trained["content_file"], other])
    attach(concept, content_file=trained["content_file"])
    unadapted, turned = passes(base, 0, 0), (1.5, 0.7, 1.2, 0.4)
    alone = [passes(many, *(float(on == file) for on in range(4))) for file in range(4)]
    alone[2] = passes(concept, 1, 1)  # goes on as the LoRA that it is

    def against_the_base(noisy, t, branch):
        v = unadapted(noisy, t, branch)
        moves = [s * (one(noisy, t, branch) - v) for s, one in zip(turned, alone, strict=True)]
        return v + sum(moves) if branch else v

    given = {"content_strength": turned[0], "style_strength": turned[1], "more_strengths": turned[2:]}
    ours = drawn(many, compose="predictions", negative="base", **given)
    assert same(ours, by_hand(many, against_the_base))
    added = drawn(many, **given)
    assert same(added, by_hand(many, passes(many, *turned))) and difference(ours, added) > 2
    assert difference(added, drawn(many, **{**given, "more_strengths": (1.2, 0.0)})) > 2


def test_more_files_go_beside_others_each_with_a_dial(tiny_base, trained, files, tmp_path):
    more = {"prompts": PROMPT, "more_files": files["LoRAs"]}
    beside = {**more, "content_file": trained["content_file"]}
    dialled = options(tiny_base, tmp_path, **beside, more_strengths=(0.5, 2.0))
    facts = Image.open(generate(dialled)[0]).text
    as_ever, ones = (
        generate(options(tiny_base, tmp_path, **beside, more_strengths=s))[0] for s in ((), (1.0, 1.0))
    )
    assert (
        Image.open(as_ever).tobytes()
        == Image.open(ones).tobytes()
        != Image.open(tmp_path / "out/000_seed77.png").tobytes()
    )
    assert facts["more_strengths"] == "(0.5, 2.0)" and files["LoRAs"][1] in facts["more_files"]
    plain = options(tiny_base, tmp_path, prompts=PROMPT, content_file=trained["content_file"])
    assert not {"more_files", "more_strengths"} & Image.open(generate(plain)[0]).text.keys()
    for wrong, words in (
        (more, "beside --content-file"),
        ({**more, "lora_file": trained["lora_file"]}, "beside --content-file"),
        ({**beside, "more_strengths": (1.0,)}, "1 for 2 --more-files"),
    ):
        with pytest.raises(UserError, match=words):
            options(tiny_base, tmp_path, **wrong)
    other = str(tmp_path / "other.safetensors")
    save_method_file(other, "k-lora", {"score/x": torch.ones(())}, open_backbone(tiny_base).denoiser, {})
    with pytest.raises(UserError, match="file of the method k-lora; --more-files takes"):
        generate(options(tiny_base, tmp_path, **{**beside, "more_files": (other,)}))


def test_a_fused_file_goes_beside_others_too(tiny_base, base, trained, files):
    attach(base, files["LoRAs"][0], more=[trained["lora_file"]])
    fused = open_backbone(tiny_base)
    attach(fused, lora_file=trained["lora_file"])
    alone = {"content_strength": 0.0, "more_strengths": (1.0,)}
    assert difference(drawn(base, **alone), drawn(fused)) <= 1
    assert difference(drawn(base, **alone), drawn(base, more_strengths=(1.0,))) > 2


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
        with pytest.raises(UserError, match="give --negative adapted"):
            drawn(base, **ways)


def test_images_and_files_say_it(tiny_base, trained, tmp_path):
    made = options(tiny_base, tmp_path, prompts=PROMPT, lora_file=trained["lora_file"], negative="base")
    facts = Image.open(generate(made)[0]).text
    assert (facts["negative"], facts["compose"]) == ("base", "weights")
    assert open_any(trained["lora_file"]).metadata["modelspec.usage_hint"] == NOT_CARRIED
    with pytest.raises(UserError, match="--negative 'none': choose one of adapted, base"):
        options(tiny_base, tmp_path, prompts=PROMPT, negative="none")
