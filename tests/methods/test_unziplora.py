"""UnZipLoRA: three prompts, columns that content and style share out, blocks left to one kind, one LoRA kept."""

import json
import shutil
from importlib.resources import files
from types import SimpleNamespace

import pytest
import torch
from conftest import SIZE, picture, refused, tiny_sd15_pipeline
from contract import question
from diffusers import UNet2DConditionModel
from loras import ask, batch, job, product

from b4m.backbones.registry import open_backbone
from b4m.backbones.sd15 import SD15
from b4m.data.inputs import KINDS
from b4m.files.lora import load_lora, save_lora
from b4m.maths.columns import best, column_scores
from b4m.methods.low_rank import side_by_side
from b4m.methods.unziplora import (
    CHOSEN,
    MERGER,
    SCORE,
    Periods,
    UnZipContentConfig,
    UnZipLora,
    UnZipped,
    UnZipStyleConfig,
    apart,
    install,
    periods_of,
)
from b4m.sampling.attach import attach
from b4m.training.loop import train

SDXL_UNET = files("b4m.backbones") / "configs/sdxl/unet/config.json"
LOW, CONTENTS, STYLES = "down_blocks.0.", "up_blocks.0.attentions.0.", "up_blocks.1."


@pytest.fixture
def config(tiny_base, folders, tmp_path):
    def make(kind="content", **changes):
        cls = UnZipContentConfig if kind == "content" else UnZipStyleConfig
        return job(cls, tiny_base, tmp_path / kind, **{f"{kind}_dir": folders[kind], **changes})

    return make


# Periods of three steps, windows of two.
SHORT = dict(steps=6, period=3, gradient_accumulation=1, target_rows=3, checkpoint_every=4, column_share=0.2)


@pytest.fixture(scope="module")
def done(tiny_base, folders, tmp_path_factory):
    """A training of a content that was run to its end."""
    folder = tmp_path_factory.mktemp("done")
    return train(job(UnZipContentConfig, tiny_base, folder, content_dir=folders["content"], **SHORT))


def begun(config, tiny_base):
    task = UnZipLora().task(config)
    learner = task.start(open_backbone(tiny_base))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in learner.loras.items():
            if "_up/" in name:
                parameter.normal_(std=0.1, generator=generator)
    return learner, learner.encode(torch.device("cpu"))


def layer(m=4, n=3, sparse=KINDS) -> UnZipped:
    generator = torch.Generator().manual_seed(2)
    shapes = (m, 2), (2, n)
    return UnZipped(
        {kind: tuple(torch.randn(shape, generator=generator) for shape in shapes) for kind in KINDS}, sparse
    )


def set_rows(module, row, **values):
    with torch.no_grad():
        for kind, numbers in values.items():
            module.columns[kind][row] = torch.tensor(numbers, dtype=torch.float32)


@pytest.mark.parametrize(
    ("caption", "content", "style"),
    [
        ("a photo of a snq car on a beach", "a snq car on a beach", "a photo of a car on a beach"),
        ("a snq car", "a snq car", "a car"),
    ],
)
def test_a_photograph_is_a_content_and_a_photograph(config, caption, content, style):
    assert apart(caption, config()) == {"content": content, "style": style}


@pytest.mark.parametrize(
    ("caption", "content"),
    [
        ("a red cup in w@z yarn art style", "a red cup"),
        ("a red cup in w@z style at night", "a red cup at night"),
        ("w@z yarn of a cup", "yarn of a cup"),
    ],
)
def test_a_drawing_is_a_style_and_what_it_shows(config, caption, content):
    assert apart(caption, config("style")) == {"content": content, "style": caption}


def test_equal_prompts_and_all_columns_are_the_sum_of_two_loras(config, tiny_base, folders, tmp_path):
    learner, cache = begun(config(), tiny_base)
    both = batch(cache, [0, 1], [100, 800])
    loras = [{name: module.lora(kind) for name, module in learner.unzipped.modules.items()} for kind in KINDS]
    path = str(tmp_path / "sum.safetensors")
    with torch.no_grad():
        save_lora(path, side_by_side([(1.0, layers) for layers in loras]), {})
    summed = open_backbone(tiny_base)
    attach(summed, lora_file=path)
    asked = both.latents, both.timesteps, both.conditions
    expected, bare = ask(summed, asked), ask(open_backbone(tiny_base), asked)
    same = cache.conditions(both.images)["hidden"]
    learner.unzipped.teach(dict.fromkeys(KINDS, same), is_open=True)
    assert (ask(learner.backbone, asked) - expected).abs().max() < 1e-4
    assert (bare - expected).abs().max() > 1e-2
    learner.loss(both)  # each its own prompt again
    assert (ask(learner.backbone, asked) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_reaches_its_own_lora_alone_through_keys_and_values(config, tiny_base, kind):
    learner, cache = begun(config(), tiny_base)
    shown = batch(cache, [0], [100])
    asked = shown.latents, shown.timesteps, shown.conditions
    other = KINDS[kind == "content"]
    told = {each: rows[prompts[shown.images]] for each, (rows, prompts) in learner.told.items()}

    def answer(**changed):
        learner.unzipped.teach({**told, **changed}, is_open=True)
        return ask(learner.backbone, asked)

    with torch.no_grad():
        for name, parameter in learner.loras.items():
            if name.startswith(f"{kind}_up/"):
                parameter.zero_()
    assert torch.equal(answer(), answer(**{kind: told[kind] + 1}))
    assert not torch.equal(answer(), answer(**{other: told[other] + 1}))
    with torch.no_grad():
        for name, parameter in learner.loras.items():
            if name.endswith(("attn2.to_k", "attn2.to_v")) and "_up/" in name:
                parameter.zero_()
    assert torch.equal(answer(), answer(**{other: told[other] + 1}))


def test_a_layer_weighs_the_columns_that_are_chosen():
    module = layer()
    set_rows(module, MERGER, content=[1, 0.5, 0.25, 0], style=[1, 1, 1, 0.5])
    set_rows(module, CHOSEN, content=[1, 1, 0, 0], style=[0, 1, 0, 1])
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(3))
    weights = {"content": torch.tensor([1, 0.5, 0, 0]), "style": torch.tensor([0, 1, 0, 0.5])}
    dW = {kind: weights[kind][:, None] * product((module.up[kind], module.down[kind])) for kind in KINDS}
    assert torch.allclose(module(x), x @ (dW["content"] + dW["style"]).T, atol=1e-5)
    for kind in KINDS:
        assert torch.allclose(product(module.lora(kind)), dW[kind], atol=1e-6)
    assert module.overlap().item() == pytest.approx(0.5 / 4) and module.shared().tolist() == [0, 1, 0, 0]
    module.open = True
    assert module.overlap().item() == pytest.approx((1 + 0.5 + 0.25 + 0) / 4)


def test_scores_are_weights_times_how_they_change():
    generator = torch.Generator().manual_seed(4)
    up, grad_up = (torch.randn(4, 2, generator=generator) for _ in range(2))
    down, grad_down = (torch.randn(2, 3, generator=generator) for _ in range(2))
    change = torch.func.jvp(torch.matmul, (up, down), (grad_up, grad_down))[1]
    by_hand = [sum(abs(a * b) for a, b in zip(*rows, strict=True)) for rows in zip(up @ down, change)]  # noqa: B905
    assert torch.allclose(column_scores(up, down, grad_up, grad_down), torch.stack(by_hand), atol=1e-5)


def test_the_best_columns():
    scores = torch.tensor([0.0, 5.0, 3.0, 3.0, 1.0])
    assert best(scores, 0.4).tolist() == [False, True, True, False, False]  # of equal ones the first
    assert best(scores, 0.01).sum() == 1, "never none"
    taken = torch.tensor([False, True, True, False, False])
    assert best(scores, 0.4, taken).tolist() == [False, False, False, True, True]
    assert not best(scores, 0.4, torch.ones(5, dtype=torch.bool)).any(), "nothing is free"


def test_the_style_avoids_what_the_content_has_chosen_and_choices_add_up():
    module = layer(m=10)
    scores = {"content": list(range(10)), "style": list(range(10))}
    set_rows(module, SCORE, **scores)
    module.choose(0.2, first=True)
    chosen = {kind: module.columns[kind][CHOSEN].nonzero().flatten().tolist() for kind in KINDS}
    assert chosen == {"content": [8, 9], "style": [6, 7]}
    set_rows(module, SCORE, content=scores["content"][::-1], style=scores["style"][::-1])
    module.choose(0.2, first=False)
    chosen = {kind: module.columns[kind][CHOSEN].nonzero().flatten().tolist() for kind in KINDS}
    assert chosen == {"content": [0, 1, 8, 9], "style": [2, 3, 6, 7]}


def test_where_the_content_has_all_columns_the_style_chooses_freely():
    module = layer(m=10, sparse=("style",))
    set_rows(module, SCORE, content=[1] * 10, style=list(range(10)))
    module.choose(0.1, first=True)
    assert module.columns["content"][CHOSEN].all()
    assert module.columns["style"][CHOSEN].nonzero().flatten().tolist() == [9]


def test_periods():
    periods = Periods(length=4, window=2)
    told = [(periods.opens(step), periods.is_open(step), periods.closes(step)) for step in range(8)]
    period = [(True, True, False), (False, True, True), (False, False, False), (False, False, False)]
    assert told == 2 * period


@pytest.mark.parametrize(
    ("period", "images", "rows", "expected"),
    [(200, 1, 1, (200, 2)), (200, 7, 2, (200, 5)), (84, 1, 4, (84, 2)), (1, 5, 1, (1, 1))],
)
def test_a_window_is_a_round_of_the_images_and_a_step(config, period, images, rows, expected):
    inputs = SimpleNamespace(samples=rows, images=[None] * images)
    found = periods_of(config(period=period, gradient_accumulation=1), inputs)
    assert (found.length, found.window) == expected


def history(learner, cache, steps):
    """columns of one layer of each sort after every step: layer -> kind -> (steps, 3, m)."""
    optimizer, seen = learner.optimizer(), []
    names = [
        next(name for name in learner.unzipped.modules if name.startswith(start))
        for start in (LOW, CONTENTS, STYLES)
    ]
    for _ in range(steps):
        learner.zero_grad()
        learner.loss(batch(cache, [0], [100]))[0].backward()
        learner.gather()
        optimizer.step()
        seen.append([learner.unzipped.modules[name].columns for name in names])
        seen[-1] = [{kind: columns[kind].detach().clone() for kind in KINDS} for columns in seen[-1]]
    return [
        {kind: torch.stack([each[place][kind] for each in seen]) for kind in KINDS}
        for place in range(len(names))
    ]


def test_mergers_rest_in_windows_and_learn_where_both_have_a_column(config, tiny_base):
    """A window is of four steps: three images and one."""
    settings = dict(steps=12, period=6, column_share=0.25, merger_lr=0.1, gradient_accumulation=1)
    learner, cache = begun(config(target_rows=1, overlap_weight=50.0, **settings), tiny_base)
    assert (learner.periods.length, learner.periods.window) == (6, 4)
    low, contents, styles = history(learner, cache, 8)
    for layers in (low, contents, styles):
        for columns in layers.values():
            assert (columns[:4, MERGER] == 1).all() and (columns[6:, MERGER] == columns[5, MERGER]).all()
            assert columns[3, SCORE].any() and torch.equal(columns[4, SCORE], columns[3, SCORE])
    assert not (low["content"][4, CHOSEN] * low["style"][4, CHOSEN]).any(), "apart"
    assert (low["content"][-1, MERGER] == 1).all(), "nothing is shared, so nothing learns"
    assert contents["content"][4, CHOSEN].all() and styles["style"][4, CHOSEN].all()
    for layers, sparse in ((contents, "style"), (styles, "content")):
        chosen = layers[sparse][4, CHOSEN].bool()
        assert chosen.float().mean() == 0.25
        for columns in layers.values():
            assert (columns[5, MERGER][chosen] < 1).all() and (columns[5, MERGER][~chosen] == 1).all()


@pytest.mark.parametrize(("before", "after"), [(1.7, 1.0), (-0.7, 0.0)])
def test_mergers_stay_between_0_and_1(config, tiny_base, before, after):
    learner, cache = begun(config(), tiny_base)
    with torch.no_grad():
        for columns in learner.columns.values():
            columns[MERGER] = before
    for layers in history(learner, cache, 1):
        assert all((columns[0, MERGER] == after).all() for columns in layers.values())


def test_the_overlap_counts_outside_windows_alone_and_parts_add_up(config, tiny_base):
    learner, cache = begun(config(overlap_weight=7.0, target_rows=2), tiny_base)
    both = batch(cache, [0, 1], [100, 800])
    for taken in (0, learner.periods.window):
        learner.periods = Periods(length=9, window=1 if taken == 0 else 0)
        loss, losses = learner.loss(both)
        expected = losses.sum() + (7.0 * learner.unzipped.overlap() if taken else 0)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        parts = [learner.loss(both.of([row]))[0].item() for row in (0, 1)]
        assert sum(parts) == pytest.approx(loss.item(), rel=1e-4)


def test_what_it_shows_and_saves_is_the_kept_lora(config, tiny_base, folders):
    asked = question(tiny_base, folders["content"])
    learner, _ = begun(config("style"), tiny_base)
    learner.backbone.attached.arguments(1.0, 1.0)
    before = ask(learner.backbone, asked)
    for kind, equal in (("content", True), ("style", False)):
        with torch.no_grad():
            for name, parameter in learner.loras.items():
                if name.startswith(f"{kind}_up/"):
                    parameter.mul_(2)
        assert torch.equal(ask(learner.backbone, asked), before) == equal


def test_the_file_names_the_count_and_loads_in_stock_diffusers(done, tiny_base, folders):
    layers, metadata = load_lora(done.path)
    learned = sum(2 * (up.numel() + down.numel() + len(up)) for up, down in layers.values())
    assert metadata["b4m.trained_parameters"] == str(learned) and metadata["b4m.made_by"] == "unziplora"
    assert metadata["b4m.content_trigger"] == "snq" and "b4m.style_trigger" not in metadata
    log = [json.loads(line) for line in (done.path.parent / "log.jsonl").read_text().splitlines()]
    assert {"chosen_content", "chosen_style", "merger_content", "merger_style", "overlap"} <= log[0].keys()
    ours, stock = open_backbone(tiny_base), open_backbone(tiny_base)
    asked = question(tiny_base, folders["content"])
    bare = ask(ours, asked)
    attach(ours, lora_file=str(done.path))
    stock.pipe.load_lora_weights(str(done.path.parent), weight_name=done.path.name)
    assert torch.allclose(ask(ours, asked), ask(stock, asked), atol=1e-6)
    assert not torch.equal(ask(ours, asked), bare)


def test_a_run_goes_on_bit_for_bit_within_its_second_window(done, config, tmp_path):
    """Scores, choices and mergers are part of the state."""
    again = tmp_path / "again"
    shutil.copytree(done.path.parent, again)
    shutil.rmtree(again / "state" / "step-000006")
    (again / done.path.name).unlink()
    result = train(config(**SHORT, output_dir=str(again)))
    assert len(result.losses) == 6 and result.seconds
    for name in (done.path.name, "log.jsonl"):
        assert (again / name).read_bytes() == (done.path.parent / name).read_bytes()


def test_what_it_cannot_split_is_refused(config, tiny_base, tmp_path):
    task = UnZipLora().task(config())
    backbone = SD15(
        tiny_sd15_pipeline(unet={"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}), "a-base"
    )
    refused(lambda: task.start(backbone), "a-base", "up_blocks.0.attentions.0", "content")
    assert backbone.attached is None
    picture(0, (SIZE, SIZE)).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a photo of a bear")
    refused(lambda: UnZipLora().task(config(content_dir=str(tmp_path))), "a photo of a bear", "snq")


def test_on_sdxl_it_is_187_million(config, monkeypatch):
    """Of the real architecture, without its weights."""
    shapes = lambda spec, name, m, n: (torch.empty(m, spec.rank), torch.empty(spec.rank, n))  # noqa: E731
    monkeypatch.setattr("b4m.methods.unziplora.start", shapes)
    with torch.device("meta"):
        denoiser = UNet2DConditionModel.from_config(json.loads(SDXL_UNET.read_text()))
        found = install(SimpleNamespace(denoiser=denoiser, name="sdxl", attached=None), config(rank=64))
    modules = found.modules
    assert len(modules) == 560
    learned = sum(
        module.up[kind].numel() + module.down[kind].numel() + module.columns[kind].shape[1]
        for module in modules.values()
        for kind in KINDS
    )
    assert learned == 2 * 92_897_280 + 1_331_200
    sparse = {
        kind: {name.split(".transformer")[0] for name, m in modules.items() if kind in m.sparse}
        for kind in KINDS
    }
    low = {"mid_block.attentions.0", *(f"down_blocks.{i}.attentions.{j}" for i in (1, 2) for j in (0, 1))}
    ups = {f"up_blocks.{i}.attentions.{j}" for i in (0, 1) for j in (0, 1, 2)}
    styles = {"up_blocks.0.attentions.1", *(f"up_blocks.1.attentions.{j}" for j in (0, 1, 2))}
    assert sparse == {"content": low | styles, "style": low | (ups - styles)}
