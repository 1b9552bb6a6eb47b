"""LoRA files: stock Diffusers loads what is written; every dialect reads to the same tensors."""

import json
import logging

import pytest
import torch
from conftest import refused, tiny_pipeline
from safetensors.torch import load_file, save_file

from b4m.backbones.sdxl import SDXL
from b4m.core.storage import read_tensors
from b4m.files import dialects
from b4m.files.contents import DEPTH
from b4m.files.fused import dialled, fuse, inputs_in, read_spec, spec_metadata, split_lora
from b4m.files.lora import load_lora, save_lora
from b4m.maths.plp import KINDS, BasisSpec, basis, compose

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn"
LAYERS = {f"{ATTENTION}1.to_q": (12, 12), f"{ATTENTION}2.to_v": (12, 10), f"{ATTENTION}1.to_out.0": (12, 12)}
RANK = 4


def pairs(rank=RANK, seed=0):
    """layer -> (up (m, r), down (r, n)), random."""
    generator = torch.Generator().manual_seed(seed)
    return {
        layer: (torch.randn(m, rank, generator=generator), torch.randn(rank, n, generator=generator))
        for layer, (m, n) in LAYERS.items()
    }


def peft(prefix, ending=".weight"):
    return lambda layer, half: f"{prefix}{layer}.lora_{'A' if half == 'down' else 'B'}{ending}"


def older(prefix):
    return lambda layer, half: f"{prefix}{layer}.lora.{half}.weight"


def kohya(block):
    def name(layer, half):
        _, tail = layer.split("attentions.0.")
        return f"lora_unet_{block}_{tail.replace('.', '_')}.lora_{half}.weight"

    return name


def processor(prefix, marker="processor."):
    def name(layer, half):
        module, projection = layer.removesuffix(".0").rsplit(".", 1)
        return f"{prefix}{module}.{marker}{projection}_lora.{half}.weight"

    return name


DIALECTS = {
    "peft": peft("unet."),
    "peft bare": peft(""),
    "peft own": peft("base_model.model."),
    "peft named": peft("base_model.model.", ".default.weight"),
    "older": older("unet."),
    "older bare": older(""),
    "published": older("unet.unet."),
    "processor": processor("unet."),
    "processor bare": processor(""),
    "published processor": processor("unet.unet."),
    "kohya": kohya("down_blocks_1_attentions_0"),
    "kohya original": kohya("input_blocks_4_1"),
    "out before it was a list": lambda layer, half: older("unet.")(layer.removesuffix(".0"), half),
}


def write(path, name, layers=None, metadata=None, **extra):
    tensors = {}
    for layer, (up, down) in (layers or pairs()).items():
        tensors[name(layer, "up")], tensors[name(layer, "down")] = up.contiguous(), down.contiguous()
    save_file({**tensors, **extra}, path, metadata=metadata)


def same(found, wanted, scale=1.0):
    assert found.keys() == wanted.keys()
    for layer, (up, down) in wanted.items():
        assert found[layer][0].dtype == found[layer][1].dtype == torch.float32
        assert torch.equal(found[layer][0], up * scale) and torch.equal(found[layer][1], down), layer


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a b ö.safetensors"


# writing


def test_round_trip_is_bit_for_bit(path):
    metadata = {**spec_metadata(BasisSpec(3, RANK)), "b4m.prompt": "größer", "modelspec.title": "teddy"}
    save_lora(path, pairs(), metadata)
    found, header = load_lora(path)
    same(found, pairs())
    assert metadata.items() <= header.items()
    assert read_spec("x", header) == BasisSpec(3, RANK)


def test_keys_and_header_are_those_that_other_tools_read(path):
    save_lora(path, pairs(), {})
    tensors, header = read_tensors(path)
    assert sorted(tensors) == sorted(f"unet.{layer}.lora_{x}.weight" for layer in LAYERS for x in "AB")
    assert tensors[f"unet.{ATTENTION}2.to_v.lora_A.weight"].shape == (RANK, 10)
    assert tensors[f"unet.{ATTENTION}2.to_v.lora_B.weight"].shape == (12, RANK)
    assert header["format"] == "pt" and header["modelspec.title"] == path.stem
    assert header["modelspec.sai_model_spec"] == "1.0.0"
    assert not any(
        "stable-diffusion" in text or "sdxl" in text for text in header.values()
    )  # nobody has said so


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_smaller_dtype_rounds_once(path, dtype):
    save_lora(path, pairs(), {}, dtype=dtype)
    assert {tensor.dtype for tensor in load_file(path).values()} == {dtype}
    same(load_lora(path)[0], {layer: (up.to(dtype).float(), down.to(dtype).float())
                              for layer, (up, down) in pairs().items()})  # fmt: skip


def test_what_no_reader_could_use_is_not_written(path):
    layer = f"{ATTENTION}1.to_q"
    up, down = pairs()[layer]
    refused(lambda: save_lora(path, {layer: (up * float("nan"), down)}, {}), path, layer, "NaN")
    refused(lambda: save_lora(path, {layer: (up * 1e6, down)}, {}, dtype=torch.float16), path, "infinite")
    refused(lambda: save_lora(path, {layer: (up, down[:2])}, {}), path, layer, "(2, 12)")
    refused(lambda: save_lora(path, {}, {}), path)
    assert not path.exists()


def test_stock_diffusers_loads_it_as_the_same_change_of_the_weights(path, caplog):
    pipe = tiny_pipeline()
    generator = torch.Generator().manual_seed(0)
    wanted, layers = {}, {}
    for name, module in pipe.unet.named_modules():
        if name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")) and "transformer_blocks" in name:
            m, n = module.weight.shape
            up, down = (torch.randn(size, generator=generator) / 8 for size in ((m, RANK), (RANK, n)))
            layers[name], wanted[name] = (up, down), module.weight.detach() + up @ down
    assert len(layers) >= 32
    save_lora(path, layers, spec_metadata(BasisSpec(rank=RANK)))
    logger = logging.getLogger("diffusers")
    logger.addHandler(
        caplog.handler
    )  # diffusers keeps its messages from the root logger, where caplog listens
    try:
        pipe.load_lora_weights(path.parent, weight_name=path.name)
    finally:
        logger.removeHandler(caplog.handler)
    messages = [record.getMessage() for record in caplog.records]
    # A key that does not fit is a warning there, no error. It also mentions that no text encoder is adapted.
    assert all("text_encoder" in message for message in messages), messages
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    found = dict(pipe.unet.named_parameters())
    for name, weight in wanted.items():
        assert torch.allclose(found[f"{name}.weight"], weight, atol=1e-5), name


def tensors_of(path):
    return {key: (tensor.dtype, tensor.tolist()) for key, tensor in load_file(path).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("end", dialects.DIALECTS)
@pytest.mark.parametrize("start", dialects.DIALECTS)
def test_round_trips_between_all_pairs_of_dialects_lose_nothing(tmp_path, start, end, dtype):
    one, two, three = (tmp_path / f"{name}.safetensors" for name in "abc")
    metadata = {**spec_metadata(BasisSpec(3, RANK)), "modelspec.title": "teddy", "other": "größer"}
    save_lora(one, pairs(), metadata, dtype, start)
    layers, header = load_lora(one)
    same(
        layers,
        {layer: (up.to(dtype).float(), down.to(dtype).float()) for layer, (up, down) in pairs().items()},
    )
    save_lora(two, layers, header, dtype, end)
    again, header = load_lora(two)
    same(again, layers)
    assert metadata.items() <= header.items()
    assert dialects.detect(load_file(two)) == [end]
    save_lora(three, again, header, dtype, start)
    assert tensors_of(three) == tensors_of(one) and read_tensors(three)[1] == read_tensors(one)[1]


def test_kohya_files_hold_the_rank_as_alpha(path):
    save_lora(path, pairs(), {}, torch.float16, "kohya")
    alphas = {key: tensor for key, tensor in load_file(path).items() if key.endswith(".alpha")}
    assert len(alphas) == len(LAYERS) and all(alpha == RANK and alpha.dim() == 0 for alpha in alphas.values())


@pytest.mark.parametrize("dialect", dialects.DIALECTS)
def test_ranks_may_differ_from_layer_to_layer(path, dialect):
    mixed = {
        layer: (up[:, : index + 1], down[: index + 1])
        for index, (layer, (up, down)) in enumerate(pairs().items())
    }
    save_lora(path, mixed, {}, dialect=dialect)
    same(load_lora(path)[0], mixed)
    if dialects.DIALECTS[dialect].alpha:  # which Diffusers would give to the wrong layers
        assert not any(key.endswith(".alpha") for key in load_file(path))


def test_block_numbers_follow_the_depth_in_the_header(path):
    save_lora(path, pairs(), {DEPTH: "1"}, dialect="kohya-original")
    assert all("input_blocks_3_1_" in key for key in load_file(path))
    same(load_lora(path)[0], pairs())
    for depth in ("0", "x", "[1, 2]", "²", "9" * 5000):
        refused(lambda depth=depth: save_lora(path, pairs(), {DEPTH: depth}, dialect="kohya-original"), path)


@pytest.mark.parametrize("dialect", ["kohya", "kohya-original", "diffusers-processor"])
def test_layers_that_a_dialect_cannot_name_are_refused_and_listed(path, dialect):
    layers = {**pairs(), "time_embedding.cond_proj": (torch.ones(4, 2), torch.ones(2, 4))}
    refused(lambda: save_lora(path, layers, {}, dialect=dialect), path, "1 of 4", "time_embedding", dialect)
    assert not path.exists()


# the header


def test_other_tools_see_the_trigger_words_and_that_it_is_sdxl(path):
    words = {"b4m.content_trigger": "snq", "b4m.style_trigger": "w@z"}
    save_lora(path, pairs(), SDXL.stamp(None, "epsilon") | words)
    _, header = read_tensors(path)
    assert header["modelspec.trigger_phrase"] == "snq, w@z"
    assert json.loads(header["ss_tag_frequency"]) == {"1_snq": {"snq": 1}, "1_w@z": {"w@z": 1}}
    assert header["ss_base_model_version"].startswith("sdxl_")  # how A1111 tells it from SD 1
    assert header["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert header["modelspec.implementation"] == "diffusers"
    save_lora(path, pairs(), {})
    assert not {"modelspec.trigger_phrase", "ss_tag_frequency"} & read_tensors(path)[1].keys()


def test_what_the_file_itself_says_goes_over_the_defaults(path):
    theirs = {
        "modelspec.trigger_phrase": "mycat",
        "ss_base_model_version": "sdxl_v2",
        "modelspec.title": "Cat",
    }
    save_lora(path, pairs(), {**theirs, "modelspec.implementation": "diffusers"}, dialect="kohya-original")
    _, header = read_tensors(path)
    assert theirs.items() <= header.items()
    assert header["modelspec.implementation"].endswith("generative-models")  # that is about this file's keys
    assert json.loads(header["ss_tag_frequency"]) == {"1_mycat": {"mycat": 1}}


@pytest.mark.parametrize("end", dialects.DIALECTS)
def test_a_scale_is_not_folded_in_twice(path, tmp_path, end):
    config = {"unet.r": RANK, "unet.lora_alpha": 8}
    stale = {"ss_network_alpha": "8", "sshs_model_hash": "0", "modelspec.hash_sha256": "0x0"}
    write(path, DIALECTS["peft"], metadata={"lora_adapter_metadata": json.dumps(config), **stale})
    layers, header = load_lora(path)
    save_lora(tmp_path / "again.safetensors", layers, header, dialect=end)
    again, header = load_lora(tmp_path / "again.safetensors")
    same(again, pairs(), scale=2.0)
    assert not {"lora_adapter_metadata", *stale} & header.keys()


# reading


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_spelling_reads_to_the_same_tensors(path, dialect):
    write(path, DIALECTS[dialect])
    same(load_lora(path)[0], pairs())


@pytest.mark.parametrize("dialect", ["peft", "older", "published", "kohya", "kohya original"])
def test_alpha_is_folded_in(path, dialect):
    name = DIALECTS[dialect]
    alphas = {name(layer, "up").split(".lora")[0] + ".alpha": torch.tensor(1.0) for layer in LAYERS}
    write(path, name, **alphas)
    same(load_lora(path)[0], pairs(), scale=1.0 / RANK)


def test_alpha_counts_for_its_own_layer_only(path):
    layer = f"{ATTENTION}1.to_q"
    write(path, DIALECTS["peft"], **{f"unet.{layer}.alpha": torch.tensor([8.0], dtype=torch.float16)})
    wanted = pairs()
    wanted[layer] = (wanted[layer][0] * 2, wanted[layer][1])
    same(load_lora(path)[0], wanted)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"unet.r": RANK, "unet.lora_alpha": 8}, 2.0),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 4.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_q": 2, "to_v": 2, "to_out.0": 2}}, 0.5),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"o_q": 2}}, 2.0),
        ({}, 1.0),
    ],
)
def test_the_scale_in_diffusers_adapter_metadata_is_folded_in(path, config, scale):
    write(path, DIALECTS["peft"], metadata={"lora_adapter_metadata": json.dumps(config)})
    same(load_lora(path)[0], pairs(), scale=scale)


@pytest.mark.parametrize("config", ["{", "[1]", '{"unet.lora_alpha": "x"}', '{"unet.use_dora": true}'])
def test_adapter_metadata_of_another_kind_is_refused(path, config):
    write(path, DIALECTS["peft"], metadata={"lora_adapter_metadata": config})
    refused(lambda: load_lora(path), path)


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_down_blocks_1_resnets_0_norm1.lora_up.weight",
        "unet.mid_block.attn1.to_q.weight",
        "unet.mid_block.attn1.to_q.lora_C.weight",
        "evil\nname.lora_A.weight",
        "emb_params",
    ],
)
def test_unknown_keys_are_refused_and_listed(path, key):
    write(path, DIALECTS["peft"], **{key: torch.zeros(4, 4)})
    refused(lambda: load_lora(path), path, "1 of 7 keys", ascii(key).strip("'"))


def test_of_many_unknown_keys_the_first_are_listed(path):
    save_file({f"x.{i:03}": torch.zeros(1) for i in range(500)}, path)
    refused(lambda: load_lora(path), path, "500 of 500", "x.000, x.001, x.002")


def test_incomplete_or_doubled_layers_are_refused(path):
    layer = f"{ATTENTION}1.to_q"
    save_file({f"unet.{layer}.lora_A.weight": torch.zeros(4, 4)}, path)
    refused(lambda: load_lora(path), path, layer, "no up half")
    save_file({f"unet.{layer}.alpha": torch.tensor(1.0)}, path)
    refused(lambda: load_lora(path), path, layer, "half")
    write(path, DIALECTS["peft"], **{f"unet.{layer}.lora.down.weight": torch.zeros(4, 12)})
    refused(lambda: load_lora(path), path, layer, "two tensors")
    save_file({}, path)
    refused(lambda: load_lora(path), path, "no LoRA weights")


@pytest.mark.parametrize(
    ("up", "down", "word"),
    [
        (torch.full((12, 4), float("nan")), torch.zeros(4, 12), "NaN"),
        (torch.zeros(12, 4), torch.full((4, 12), float("inf")), "infinite"),
        (torch.zeros(12, 4), torch.zeros(5, 12), "(5, 12)"),
        (torch.zeros(12, 0), torch.zeros(0, 12), "(12, 0)"),
        (torch.zeros(12), torch.zeros(4, 12), "matrix"),
        (torch.zeros(12, 4, dtype=torch.int8), torch.zeros(4, 12), "int8"),
    ],
)
def test_wrong_tensors_are_refused(path, up, down, word):
    write(path, DIALECTS["peft"], {"mid_block.attn1.to_q": (up, down)})
    refused(lambda: load_lora(path), path, "mid_block.attn1.to_q", word)


@pytest.mark.parametrize("alpha", [torch.tensor(float("nan")), torch.zeros(2)])
def test_a_wrong_alpha_is_refused(path, alpha):
    write(path, DIALECTS["peft"], **{f"unet.{ATTENTION}1.to_q.alpha": alpha})
    refused(lambda: load_lora(path), path, "alpha")


def test_truncated_files_are_refused(path):
    save_lora(path, pairs(), {})
    data = path.read_bytes()
    for length in (0, 8, 200, len(data) - 1):
        path.write_bytes(data[:length])
        refused(lambda: load_lora(path), path)


# splitting a fused file


def fused(spec, layers=LAYERS):
    """layer -> pair of the basis with random B and D; and these."""
    generator = torch.Generator().manual_seed(5)
    content, style, whole = {}, {}, {}
    for layer, (m, n) in layers.items():
        A, C = basis(spec, layer, m, n)
        content[layer] = torch.randn(m - len(A), spec.rank, generator=generator)
        style[layer] = torch.randn(spec.rank, n - C.shape[1], generator=generator)
        whole[layer] = compose(A, content[layer], C, style[layer])
    return whole, content, style


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_fused_file_splits_into_its_halves(path, kind, ratio, dtype):
    spec = BasisSpec(3, RANK, ratio, kind)
    whole, content, style = fused(spec)
    save_lora(path, whole, spec_metadata(spec), dtype=dtype)
    layers, metadata = load_lora(path)
    found = split_lora(layers, read_spec("x", metadata))
    for halves, wanted in zip(found, (content, style), strict=True):
        assert halves.keys() == wanted.keys()
        for layer in wanted:
            assert torch.equal(halves[layer], wanted[layer].to(dtype).float())


@pytest.mark.parametrize(
    "spec",
    [BasisSpec(4, RANK), BasisSpec(3, RANK, 0.4), BasisSpec(3, RANK, kind="random"), BasisSpec(3, 6)],
)
def test_another_basis_is_refused(spec):
    whole, _, _ = fused(BasisSpec(3, RANK))
    refused(lambda: split_lora(whole, spec), "to_q")


@pytest.mark.parametrize("half", [0, 1])
def test_a_frozen_block_that_moved_is_refused(half):
    whole, _, _ = fused(BasisSpec(3, RANK))
    whole[f"{ATTENTION}2.to_v"][half][0, 0] += 1e-6
    refused(lambda: split_lora(whole, BasisSpec(3, RANK)), f"{ATTENTION}2.to_v", "AC"[half])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_fused_file_says_what_its_content_reads(path, dtype):
    spec = BasisSpec(3, RANK, inputs="principal")
    generator = torch.Generator().manual_seed(6)
    whole, factors, inputs = {}, {}, {}
    for layer, (m, n) in LAYERS.items():
        A, C = basis(spec, layer, m, n)
        factors[layer] = {
            "content": torch.randn(m - len(A), RANK, generator=generator),
            "style": torch.randn(RANK, n - C.shape[1], generator=generator),
        }
        inputs[layer] = torch.randn(RANK // 2, C.shape[1], generator=generator)
        whole[layer] = fuse(spec, layer, (m, n), factors[layer], inputs[layer])
    save_lora(path, whole, spec_metadata(spec), dtype=dtype)
    layers, metadata = load_lora(path)
    assert (found := read_spec("x", metadata)) == spec
    content, style = split_lora(layers, found)
    read = inputs_in(layers, found)
    turned = dialled(layers, found, {"content": 0.5, "style": 2.0})
    for layer, (m, n) in LAYERS.items():
        rounded = {kind: factor.to(dtype).float() for kind, factor in factors[layer].items()}
        assert torch.equal(content[layer], rounded["content"]) and torch.equal(style[layer], rounded["style"])
        assert torch.equal(read[layer], inputs[layer].to(dtype).float())
        halved = {"content": 0.5 * rounded["content"], "style": 2.0 * rounded["style"]}
        wanted = fuse(spec, layer, (m, n), halved, read[layer])
        assert all(torch.equal(*pair) for pair in zip(turned[layer], wanted, strict=True))
    down = layers[next(iter(LAYERS))][1]
    down[0, 0] = 1e-3  # where A C would no longer be zero
    refused(lambda: split_lora(layers, found), next(iter(LAYERS)), "C")


def test_a_lora_from_elsewhere_does_not_split():
    refused(lambda: split_lora(pairs(), BasisSpec(3, RANK)), "to_q")
    assert read_spec("x", {"format": "pt"}) is None


@pytest.mark.parametrize(
    "change", [{"b4m.seed": "x"}, {"b4m.rank": "-1"}, {"b4m.ratio": "7"}, {"b4m.basis": None}]
)
def test_damaged_basis_metadata_is_refused(change):
    metadata = {**spec_metadata(BasisSpec()), **change}
    refused(
        lambda: read_spec("the file", {k: v for k, v in metadata.items() if v is not None}),
        "the file",
        "basis",
    )
