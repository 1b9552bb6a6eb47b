"""What files of other tools change: the scale where they put it, convolutions, what is left out and said."""

import pytest
import torch
from conftest import refused
from safetensors.torch import save_file

from b4m.files.contents import read_contents
from b4m.files.lora import in_dtype, load_lora, save_lora
from b4m.files.opening import open_any, open_role

Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "mid_block.resnets.0.conv1"
RANK, WIDTH = 4, 6


def kohya(layer: str) -> str:
    return "lora_unet_" + layer.replace(".", "_")


def matrices(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(WIDTH, RANK, generator=generator), torch.randn(RANK, WIDTH, generator=generator)


def keys(layer=Q, up=None, down=None, **more) -> dict[str, torch.Tensor]:
    """As kohya writes them."""
    plain = matrices()
    parts = {
        "lora_up.weight": plain[0] if up is None else up,
        "lora_down.weight": plain[1] if down is None else down,
    }
    return {f"{kohya(layer)}.{end}": tensor for end, tensor in {**parts, **more}.items()}


def change(tensors, layer=Q) -> torch.Tensor:
    found = read_contents("x", tensors, {})
    up, down = found.layers[layer]
    return up @ down.flatten(1)


# scale


@pytest.mark.parametrize(
    ("alpha", "scale"),
    [
        (torch.tensor(2.0), 0.5),
        (torch.tensor([2.0]), 0.5),
        (torch.tensor([[2.0]]).half(), 0.5),
        (torch.tensor(2), 0.5),
        (torch.tensor(2.0, dtype=torch.float64), 0.5),
        (torch.tensor(-4.0).bfloat16(), -1.0),
        (None, 1.0),
    ],
)
def test_alpha_is_over_the_rank_however_it_is_stored(alpha, scale):
    up, down = matrices()
    more = {} if alpha is None else {"alpha": alpha}
    assert torch.equal(change(keys(**more)), up * scale @ down)


def test_ranks_may_differ_each_with_its_own_scale():
    up, down = matrices()
    other = Q.replace("to_q", "to_k")
    tensors = keys(alpha=torch.tensor(2.0)) | keys(other, up[:, :1], down[:1], alpha=torch.tensor(2.0))
    assert torch.equal(change(tensors), up * 0.5 @ down)
    assert torch.equal(change(tensors, other), up[:, :1] * 2.0 @ down[:1])


def test_an_alpha_of_zero_is_read_differently_by_tools_and_refused():
    refused(lambda: change(keys(alpha=torch.tensor(0.0))), Q, "alpha", "is 0")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64, torch.bfloat16])
def test_every_float_is_read_as_the_number_it_is(dtype):
    up, down = (matrix.to(dtype) for matrix in matrices())
    assert torch.equal(change(keys(up=up, down=down)), up.float() @ down.float())


def test_a_small_scale_keeps_its_digits_in_half_precision(tmp_path):
    """alpha 1 at rank 128: of a small `up` so scaled, float16 holds a handful of values."""
    up, down = 1e-4 * torch.randn(64, 128), torch.randn(128, 64)
    path = tmp_path / "x.safetensors"
    save_lora(path, {Q: (up / 128, down)}, {}, torch.float16)
    found = torch.matmul(*load_lora(path)[0][Q])
    wanted = up / 128 @ down
    assert (found - wanted).norm() < 1e-3 * wanted.norm()
    assert ((up / 128).half().float() @ down - wanted).norm() > 1e-2 * wanted.norm()  # what it would be


def test_a_pair_that_half_precision_holds_is_not_touched():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        up, down = matrices()
        assert all(
            torch.equal(a, b.to(dtype)) for a, b in zip(in_dtype(up, down, dtype), (up, down), strict=True)
        )
    assert not in_dtype(torch.zeros(2, 1), torch.ones(1, 2), torch.float16)[0].any()


# shapes


def test_a_convolution_is_an_ordinary_product():
    up, down = torch.randn(WIDTH, RANK, 1, 1), torch.randn(RANK, WIDTH, 3, 3)
    found = read_contents("x", keys(CONV, up, down, alpha=torch.tensor(2.0)), {}).layers[CONV]
    assert found[0].shape == (WIDTH, RANK) and found[1].shape == (RANK, WIDTH, 3, 3)
    assert torch.equal(found[0] @ found[1].flatten(1), up.flatten(1) * 0.5 @ down.flatten(1))


def test_a_convolution_between_two_small_ones_is_folded():
    """LoCon's CP decomposition, as lycoris rebuilds it."""
    up, mid, down = (
        torch.randn(WIDTH, RANK, 1, 1),
        torch.randn(RANK, RANK, 3, 3),
        torch.randn(RANK, WIDTH, 1, 1),
    )
    found = change(keys(CONV, up, down, **{"lora_mid.weight": mid}), CONV)
    wanted = torch.einsum("mnhw,im,nj->ijhw", mid, up.flatten(1), down.flatten(1))
    assert torch.allclose(found, wanted.flatten(1), atol=1e-5)
    for odd in (mid[:2], mid.flatten(1)):
        refused(lambda odd=odd: change(keys(CONV, up, down, **{"lora_mid.weight": odd}), CONV), CONV, "mid")


def test_a_linear_layer_may_be_stored_as_a_convolution_of_one_pixel():
    up, down = matrices()
    assert torch.equal(change(keys(up=up[..., None, None], down=down[..., None, None])), up @ down)


@pytest.mark.parametrize(
    ("up", "down"),
    [
        ((6, 4, 3, 3), (4, 6)),
        ((6, 4), (4, 6, 3)),
        ((6, 4, 1), (4, 6)),
        ((6, 3, 1, 1), (4, 6, 3, 3)),
        ((6, 0, 1, 1), (0, 6, 3, 3)),
    ],
)
def test_shapes_that_do_not_multiply_are_refused(up, down):
    refused(lambda: change(keys(up=torch.zeros(up), down=torch.zeros(down))), Q)


# what is left out


TEXT = [
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.alpha",
    "lora_te2_text_projection.lora_down.weight",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
    "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
    "base_model.model.text_model.encoder.layers.0.mlp.fc1.lora_B.weight",
    "te2.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
    "bundle_emb.my word.clip_l",
]


@pytest.mark.parametrize("key", TEXT)
def test_the_unets_part_is_used_and_a_line_says_what_is_left_out(key, tmp_path, capsys):
    part = "embedding" if key.startswith("bundle") else "text encoder"
    path = tmp_path / "x.safetensors"
    save_file({**keys(), key: torch.zeros(2, 2)}, path)
    up, down = matrices()
    assert torch.equal(change({**keys(), key: torch.zeros(2, 2)}), up @ down)
    assert open_role(path, "lora").layers.keys() == {Q}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and all(
        word in said[0] for word in ("note", str(path), "1 tensors", part, "left out")
    )
    refused(lambda: open_role(path, "lora", strict=True), path, part, "--strict")


@pytest.mark.parametrize("key", TEXT)
def test_a_file_without_anything_for_the_unet_is_refused(key):
    refused(lambda: read_contents("x", {key: torch.zeros(2, 2)}, {}), "alone", "UNet")


def test_a_plain_file_says_nothing(tmp_path, capsys):
    save_file(keys(alpha=torch.tensor(1.0)), tmp_path / "x.safetensors")
    open_role(tmp_path / "x.safetensors", "lora", strict=True)
    assert not capsys.readouterr().err


# kinds


def lokr(**parts) -> dict[str, torch.Tensor]:
    return {f"{kohya(Q)}.lokr_{name}": tensor for name, tensor in parts.items()}


LOHA = {f"{kohya(Q)}.hada_{name}": torch.ones(6, 4) if name.endswith("a") else torch.ones(4, 6)
        for name in ("w1_a", "w1_b", "w2_a", "w2_b")}  # fmt: skip


@pytest.mark.parametrize(
    ("tensors", "kind"),
    [
        (keys(), "LoRA"),
        (keys(dora_scale=torch.ones(6, 1)), "DoRA"),
        (LOHA, "LoHa"),
        (LOHA | {f"{kohya(Q)}.dora_scale": torch.ones(6, 1)}, "DoRA of a LoHa"),
        (lokr(w1=torch.ones(2, 2), w2=torch.ones(3, 3)), "LoKr"),
        (
            lokr(w1=torch.ones(2, 2), w2_a=torch.ones(3, 1), w2_b=torch.ones(1, 3)) | keys(CONV),
            "LoKr and LoRA",
        ),
    ],
)
def test_relatives_of_a_lora_are_told_by_name(tensors, kind, tmp_path):
    found = read_contents("x", tensors, {})
    assert found.kind == kind and found.sizes[Q] == (6, 6)
    save_file(tensors, tmp_path / "x.safetensors")
    assert open_any(tmp_path / "x.safetensors").kind == kind
    if kind != "LoRA":
        refused(lambda: load_lora(tmp_path / "x.safetensors"), kind)


@pytest.mark.parametrize(
    ("tensors", "part"),
    [
        ({key: tensor for key, tensor in keys(dora_scale=torch.ones(6, 1)).items() if "up" not in key}, "up"),
        ({key: tensor for key, tensor in LOHA.items() if "w2_a" not in key}, "hada_w2_a"),
        (lokr(w1=torch.ones(2, 2)), "lokr_w2"),
        (lokr(w1_a=torch.ones(2, 2), w2=torch.ones(3, 3)), "lokr_w1_b"),
    ],
)
def test_relatives_of_which_a_part_is_missing_are_refused(tensors, part):
    refused(lambda: read_contents("x", tensors, {}), Q, part)
