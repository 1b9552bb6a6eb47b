"""Inspection: every number against a dense float64 SVD of dW; every kind of file; a picture that stands alone."""

import ast
import dataclasses
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline
from PIL import Image
from safetensors.torch import save_file

from b4m.core.errors import UserError
from b4m.evaluation import inspection, inspection_report
from b4m.evaluation.inspection import inspect, measure
from b4m.evaluation.inspection_report import figure_of, groups, order, shares, table
from b4m.evaluation.settings import InspectConfig
from b4m.files.concept import load_concept, save_concept
from b4m.files.fused import spec_metadata
from b4m.files.lora import load_lora, save_lora
from b4m.files.opening import save_method_file
from b4m.maths.adapter import Adapter
from b4m.maths.plp import KINDS, BasisSpec, basis, compose, frozen_sizes, split, start

BLOCKS = ("dW", "frozen", "style", "content", "interaction")


@pytest.fixture(autouse=True)
def without_pyplot(monkeypatch):
    """pyplot holds the state that a program around us may use; here its import fails."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)


def factors(spec, m, n, seed=0):
    """W_up (m, r) and W_down (r, n) of one layer with random halves whose singular values fall off."""
    generator = torch.Generator().manual_seed(seed)
    A, C = basis(spec, "layer", m, n)
    fall = 0.7 ** torch.arange(spec.rank)
    B, D = start(spec, "layer", m, n)
    B = torch.randn(B.shape, generator=generator) * fall.flip(0)
    D = torch.randn(D.shape, generator=generator) * fall[:, None]
    return compose(A, B, C, D)


def dense(W_up, W_down, sizes):
    """What `measure` gives, from the whole dW and its blocks, and from projectors on the leading directions."""
    up, down = W_up.numpy().astype(np.float64), W_down.numpy().astype(np.float64)
    whole = {"dW": up @ down}
    if sizes is not None:
        d_out, d_in = sizes
        whole["frozen"], whole["style"] = whole["dW"][:d_out, :d_in], whole["dW"][:d_out, d_in:]
        whole["content"], whole["interaction"] = whole["dW"][d_out:, :d_in], whole["dW"][d_out:, d_in:]
    sigma = {name: np.linalg.svd(m, compute_uv=False) if m.size else np.zeros(0) for name, m in whole.items()}
    norm = {name: np.linalg.norm(m) for name, m in whole.items()}
    rank = {}
    for name, values in sigma.items():
        p = values / values.sum() if norm[name] > 1e-12 * norm["dW"] else np.zeros(0)
        p = p[p > 1e-14]
        rank[name] = math.exp(-(p * np.log(p)).sum()) if len(p) else 0.0
    total = norm["dW"] ** 2 or 1.0
    result = {
        "norm": norm,
        "effective_rank": rank,
        "share": {k: v**2 / total for k, v in norm.items() if k != "dW"},
    }
    return {
        **result,
        "overlap": None if sizes is None else dense_overlap(up[sizes[0] :], down[:, sizes[1] :]),
    }


def dense_overlap(B, D):
    r = B.shape[1]
    if not B.any() or not D.any():
        return None
    spaces = []
    for gram in (B.T @ B, D @ D.T):  # (r, r); its eigenvalues are the squared singular values
        values, vectors = np.linalg.eigh(gram)
        values, vectors = values[::-1], vectors[:, ::-1]
        k = next(k for k in range(1, r + 1) if values[:k].sum() >= 0.9 * values.sum())
        spaces.append(vectors[:, :k])
    U, V = spaces
    k = min(U.shape[1], V.shape[1])
    squared = np.linalg.eigvalsh(U @ U.T @ V @ V.T @ U @ U.T)[::-1][:k]
    return {
        "r_B": U.shape[1],
        "r_D": V.shape[1],
        "mean_squared_cosine": squared.mean(),
        "chance": U.shape[1] * V.shape[1] / r / k,
        "angles": np.degrees(np.arccos(np.sqrt(squared.clip(0, 1)))),
    }


def agree(found, wanted):
    assert found["norm"].keys() == wanted["norm"].keys()
    largest = wanted["norm"]["dW"]
    for name in wanted["norm"]:
        assert found["norm"][name] == pytest.approx(wanted["norm"][name], rel=1e-9, abs=1e-12 * largest)
        assert found["effective_rank"][name] == pytest.approx(wanted["effective_rank"][name], rel=1e-8)
    assert found["share"] == pytest.approx(wanted["share"], rel=1e-8, abs=1e-14)
    assert (found["overlap"] is None) == (wanted["overlap"] is None)
    if wanted["overlap"]:
        plain = {key: value for key, value in wanted["overlap"].items() if key != "angles"}
        assert {key: found["overlap"][key] for key in plain} == pytest.approx(plain, rel=1e-8, abs=1e-10)
        assert found["overlap"]["angles"] == pytest.approx(wanted["overlap"]["angles"], abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0, 0.3, 0.5, 1])
@pytest.mark.parametrize("m, n", [(24, 24), (33, 18), (5, 40), (7, 3)])
def test_numbers_are_those_of_the_dense_matrix(kind, ratio, m, n):
    spec = BasisSpec(rank=6, ratio=ratio, kind=kind, scale=3.0)
    W_up, W_down = factors(spec, m, n)
    sizes = frozen_sizes(m, n, ratio)
    agree(measure(W_up, W_down, sizes), dense(W_up, W_down, sizes))
    agree(measure(W_up, W_down, None), dense(W_up, W_down, None))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", ["content", "style", None])
def test_one_factor_alone(kind, given):
    spec = BasisSpec(rank=6, kind=kind)
    A, B, C, D = split(*factors(spec, 20, 14), 10, 7)
    W_up, W_down = compose(A, B if given == "content" else 0 * B, C, D if given == "style" else 0 * D)
    found = measure(W_up, W_down, (10, 7))
    agree(found, dense(W_up, W_down, (10, 7)))
    assert found["overlap"] is None
    drawn = {name for name in BLOCKS[1:] if found["norm"][name]}
    assert drawn == ({given} - {None}) | (set() if kind == "exact" else {"frozen"})  # A C = 0 exactly


def test_shares_add_up_and_a_zero_has_none():
    spec = BasisSpec(rank=6, kind="random")
    assert sum(measure(*factors(spec, 30, 20), (15, 10))["share"].values()) == pytest.approx(1)
    empty = measure(torch.zeros(8, 4), torch.zeros(4, 8), (4, 4))
    assert set(empty["share"].values()) == set(empty["norm"].values()) == {0.0}
    assert set(empty["effective_rank"].values()) == {0.0}


@pytest.mark.parametrize("k", [1, 3, 8])
def test_effective_rank_counts_equal_singular_values(k):
    found = measure(5 * torch.eye(12)[:, :8], torch.eye(8, 9) * (torch.arange(8) < k)[:, None], None)
    assert found["effective_rank"]["dW"] == pytest.approx(k)


def test_overlap_is_one_for_one_space_zero_for_orthogonal_ones_and_chance_for_random_ones():
    r = 32
    Q, _ = torch.linalg.qr(torch.randn(r, r, generator=torch.Generator().manual_seed(0)).double())

    def overlap(B, D):
        up, down = torch.cat([torch.zeros(4, r), B]), torch.cat([torch.zeros(r, 4), D], dim=1)
        return measure(up, down, (4, 4))["overlap"]

    same = overlap(Q[:, :5].T, Q[:, :9])  # one inside the other
    assert same["mean_squared_cosine"] == pytest.approx(1) and len(same["angles"]) == 5
    apart = overlap(Q[:, :5].T, Q[:, 5:14])
    assert apart["mean_squared_cosine"] == pytest.approx(0, abs=1e-12)
    assert apart["angles"] == pytest.approx([90] * 5)
    assert apart["chance"] == 9 / r
    generator = torch.Generator().manual_seed(1)
    random = [
        overlap(torch.randn(4, r, generator=generator), torch.randn(r, 8, generator=generator))
        for _ in range(200)
    ]
    mean, chance = (np.mean([one[key] for one in random]) for key in ("mean_squared_cosine", "chance"))
    assert mean == pytest.approx(chance, rel=0.05)


def test_no_decomposition_of_a_matrix_as_large_as_dW(monkeypatch):
    shapes = []
    for name in ("svd", "svdvals", "qr"):
        original = getattr(torch.linalg, name)

        def watched(matrix, *args, original=original, **options):
            shapes.append(tuple(matrix.shape))
            return original(matrix, *args, **options)

        monkeypatch.setattr(torch.linalg, name, watched)
    measure(*factors(BasisSpec(rank=4), 1280, 2048), (640, 1024))
    assert shapes and all(min(shape) <= 4 for shape in shapes)


# Files


@pytest.fixture(scope="module")
def fused(trained):
    """layer -> (W_up, W_down) that sampling attaches for each choice of the trained concept files."""
    found = {}
    for kinds in (("content",), ("style",), ("content", "style")):
        unet = tiny_pipeline().unet
        concepts = [load_concept(trained[f"{kind}_file"]) for kind in kinds]
        adapter = Adapter.install(unet, concepts[0].spec, concepts[0].layers)
        for concept in concepts:
            adapter.load_factor(concept.kind, concept.tensors)
        if concepts[0].inputs:
            adapter.load_inputs(concepts[0].inputs)
        found["pair" if len(kinds) == 2 else kinds[0]] = adapter.lora()
    return found


@pytest.mark.parametrize("kind", ["content", "style", "pair"])
def test_concept_files(trained, fused, tmp_path, kind):
    file = trained["style_file" if kind == "style" else "content_file"]
    style = trained["style_file"] if kind == "pair" else None
    report = inspect(InspectConfig(file=file, style_file=style, output=str(tmp_path / "new" / "out")))
    assert report["type"] == kind
    assert report["files"] == [file, style][: 2 if style else 1]
    assert report["basis"] == dataclasses.asdict(load_concept(file).spec)
    assert report["layers"].keys() == fused[kind].keys()
    for layer, (up, down) in fused[kind].items():
        found = report["layers"][layer]
        assert (found["m"], found["n"], found["r"]) == (up.shape[0], down.shape[1], down.shape[0])
        agree(found, dense(up, down, frozen_sizes(len(up), down.shape[1], load_concept(file).spec.ratio)))
    folder = tmp_path / "new" / "out"
    assert json.loads((folder / "inspection.json").read_text(encoding="utf-8")) == report
    with Image.open(folder / "inspection.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 300
    assert sorted(path.name for path in folder.iterdir()) == ["inspection.json", "inspection.png"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_fused_file_and_any_other_lora(fused, tmp_path, trained, dtype):
    spec = load_concept(trained["content_file"]).spec
    for name, metadata in (("ours", spec_metadata(spec)), ("other", {})):
        file = tmp_path / f"{name}.safetensors"
        save_lora(file, fused["pair"], metadata, dtype)
        report = inspect(InspectConfig(file=str(file), output=str(tmp_path / name)))
        assert (report["type"], report["basis"]) == (
            ("fused", dataclasses.asdict(spec)) if metadata else ("LoRA", None)
        )
        for layer, (up, down) in load_lora(file)[0].items():
            sizes = frozen_sizes(len(up), down.shape[1], spec.ratio) if metadata else None
            agree(report["layers"][layer], dense(up, down, sizes))


def test_a_convolution_is_measured_as_the_matrix_that_it_is(tmp_path):
    up, down = torch.randn(8, 3), torch.randn(3, 4, 3, 3)
    save_lora(tmp_path / "x.safetensors", {"mid_block.resnets.0.conv1": (up, down)}, {})
    report = inspect(InspectConfig(file=str(tmp_path / "x.safetensors"), output=str(tmp_path)))
    agree(report["layers"]["mid_block.resnets.0.conv1"], dense(up, down.flatten(1), None))


def test_the_scale_of_a_folder_of_peft_counts(tmp_path):
    up, down = torch.randn(8, 2), torch.randn(2, 6)
    name = "base_model.model.mid_block.attentions.0.proj_in"
    tensors = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 6}')
    report = inspect(InspectConfig(file=str(tmp_path), output=str(tmp_path / "out")))
    agree(report["layers"]["mid_block.attentions.0.proj_in"], dense(3 * up, down, None))


def test_what_is_no_plain_lora_is_refused_by_name(tmp_path):
    name = "unet.mid_block.attentions.0.proj_in"
    tensors = {f"{name}.lokr_w1": torch.ones(2, 2), f"{name}.lokr_w2": torch.ones(3, 3)}
    save_file(tensors, tmp_path / "x.safetensors")
    refused(tmp_path, ["a LoKr", "plain LoRAs"], file=str(tmp_path / "x.safetensors"))


# --- files of methods that are no LoRA ---


def method_file(path, tensors, method="k-lora", **facts):
    save_method_file(path, method, tensors, tiny_pipeline().unet, {"trained_parameters": "0", **facts})
    return str(path)


def test_a_methods_file_is_measured_by_its_matrices(tmp_path):
    """Two LoRAs and scores, as k-lora keeps them; a table of vectors and changes of weights; the same layout."""
    layer, other = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "down_blocks.1.odd"
    up, down, table, change = torch.randn(6, 2), torch.randn(2, 5), torch.randn(3, 8), torch.randn(7, 4)
    tensors = {
        f"content/{layer}/up": up,
        f"content/{layer}/down": down,
        f"style/{layer}/up": 2 * up,
        f"style/{layer}/down": down,
        f"score/{layer}": torch.tensor(0.5),
        f"score/{other}": torch.tensor(0.25),
        "words/clip_l": table,
        f"kv/{layer}": change.half(),
        "noise": torch.zeros(1, 4, 2, 2),
    }
    file = method_file(tmp_path / "k.safetensors", tensors, content_trigger="snq")
    report = inspect(InspectConfig(file=file, output=str(tmp_path / "out")))
    assert (report["type"], report["basis"], report["files"]) == ("file of the method k-lora", None, [file])
    eye = torch.eye(7, dtype=torch.float64)
    expected = {
        f"content/{layer}": (up, down),
        f"style/{layer}": (2 * up, down),
        f"kv/{layer}": (eye, change.half()),
        "words/clip_l": (torch.eye(3), table),
    }
    assert report["layers"].keys() == expected.keys()
    for name, pair in expected.items():
        agree(report["layers"][name], dense(*(each.double() for each in pair), None))
    sizes = {name: tuple(found[key] for key in "mnr") for name, found in report["layers"].items()}
    assert sizes[f"style/{layer}"] == (6, 5, 2) and sizes["words/clip_l"] == (3, 8, 3)
    parts = {name: group["layers"] for name, group in report["groups"].items() if name.startswith("part ")}
    assert parts == {f"part {part}": 1 for part in ("content", "style", "kv", "words")}
    assert report["groups"]["block mid"]["layers"] == report["groups"]["attention cross"]["layers"] == 3
    facts = report["facts"]
    assert facts["besides"] == "noise: 1 of shape (1, 4, 2, 2); score: 2 of shape ()"
    assert facts["numbers"] == 2 * (12 + 10) + 24 + 28 + 2 + 16
    assert (facts["bytes"], facts["content_trigger"]) == (Path(file).stat().st_size, "snq")
    lines = inspection_report.table(report).splitlines()
    assert "content_trigger: snq" in lines and not any(" other " in line for line in lines)
    own = next(line for line in lines if line.startswith("words/clip_l (3, 8) "))
    assert own.split()[3:5] == ["1", f"{table.norm():.3g}"]
    assert json.loads((tmp_path / "out" / "inspection.json").read_text()) == report
    assert (tmp_path / "out" / "inspection.png").exists()


def test_a_methods_file_of_many_layers_keeps_its_parts_apart_in_the_picture():
    layers = {
        f"{part}/mid_block.attentions.{i}.transformer_blocks.0.attn2.to_k": {}
        for part in ("content", "style")
        for i in range(40)
    }
    rows = inspection_report._rows(layers)
    assert [(label, len(members)) for _, label, members in rows] == [
        ("content mid cross k", 40),
        ("style mid cross k", 40),
    ]


def test_a_methods_file_that_cannot_be_measured_is_refused(tmp_path, trained):
    file = method_file(tmp_path / "a.safetensors", {"latents": torch.zeros(2, 4, 1, 1)}, "class-images")
    refused(tmp_path, ["holds no matrices, only latents (2, 4, 1, 1)"], file=file)
    file = method_file(tmp_path / "b.safetensors", {"clip_l": torch.full((1, 4), torch.nan)})
    refused(tmp_path, ["clip_l holds NaN"], file=file)
    file = method_file(tmp_path / "c.safetensors", {"x/up": torch.ones(3, 2), "x/down": torch.ones(3, 2)})
    refused(tmp_path, ["x has up (3, 2) and down (3, 2)"], file=file)
    refused(tmp_path, ["not a concept file"], file=file, style_file=trained["style_file"])
    odd = method_file(tmp_path / "d.safetensors", {"clip_l": torch.ones(1, 4)}, note="a\nb" + 300 * "x")
    assert "note: a\\nb" in inspection_report.table(
        inspect(InspectConfig(file=odd, output=str(tmp_path / "d")))
    )


def test_a_factor_that_is_not_given_is_untrained(trained, tiny_base, tmp_path):
    """At ratio 0 an untrained D is not zero: what a content alone does follows from it."""
    concept = load_concept(trained["content_file"])
    spec = dataclasses.replace(concept.spec, ratio=0.0, inputs="cosine")
    unet = tiny_pipeline().unet
    tensors = {
        layer: torch.ones(unet.get_submodule(layer).weight.shape[0], spec.rank) for layer in concept.tensors
    }
    file = tmp_path / "c.safetensors"
    save_concept(file, dataclasses.replace(concept, spec=spec, tensors=tensors, inputs={}))
    report = inspect(InspectConfig(file=str(file), base_model=tiny_base, output=str(tmp_path)))
    for layer, B in tensors.items():
        m, n = unet.get_submodule(layer).weight.shape
        expected = torch.linalg.norm(B @ start(spec, layer, m, n)[1]).item()
        assert report["layers"][layer]["norm"]["interaction"] == pytest.approx(expected, rel=1e-6) != 0


def refused(tmp_path, words, **settings):
    with pytest.raises(UserError) as caught:
        inspect(InspectConfig(**{"output": str(tmp_path / "out"), **settings}))
    message = str(caught.value)
    assert message.isprintable() and "\n" not in message
    for word in words:
        assert word in message, message
    assert not (tmp_path / "out").exists()


def test_refusals_are_one_line_and_write_nothing(trained, tmp_path, fused):
    content, style, lora = trained["content_file"], trained["style_file"], trained["lora_file"]
    refused(tmp_path, ["does not exist"], file=str(tmp_path / "no.safetensors"))
    refused(tmp_path, [lora, "--style-file"], file=lora, style_file=style)
    refused(tmp_path, ["a style was given as the content"], file=style, style_file=style)
    refused(tmp_path, ["no such folder"], file=content, base_model="./elsewhere")
    wrong = tmp_path / "wrong.safetensors"
    save_lora(wrong, fused["pair"], spec_metadata(dataclasses.replace(load_concept(content).spec, seed=9)))
    refused(tmp_path, ["frozen block"], file=str(wrong))
    (tmp_path / "taken").write_text("")
    refused(tmp_path, ["taken", "cannot be written"], file=lora, output=str(tmp_path / "taken"))


def test_concepts_that_do_not_fit_their_base_are_refused(trained, tmp_path):
    concept = load_concept(trained["content_file"])
    file = tmp_path / "c.safetensors"
    nameless = {key: value for key, value in concept.metadata.items() if key != "base_model"}
    save_concept(file, dataclasses.replace(concept, metadata=nameless))
    refused(tmp_path, ["--base-model"], file=str(file))
    save_concept(file, dataclasses.replace(concept, unet_hash="f" * 64))
    refused(tmp_path, ["another UNet"], file=str(file))
    layer, B = next(iter(concept.tensors.items()))
    C = concept.inputs[layer]
    for tensors, inputs in (
        ({**concept.tensors, layer: B[1:]}, concept.inputs),
        ({**concept.tensors, "no.such": B}, {**concept.inputs, "no.such": C}),
        (concept.tensors, {**concept.inputs, layer: C[:, 1:]}),
    ):
        save_concept(file, dataclasses.replace(concept, tensors=tensors, inputs=inputs))
        refused(tmp_path, ["misfits"], file=str(file))


# Table and picture

BASE = {"down_blocks.1": (2, 2), "down_blocks.2": (2, 10), "mid_block": (1, 10)}
SDXL = {**BASE, "up_blocks.0": (3, 10), "up_blocks.1": (3, 2)}  # attentions, transformer blocks in each
LAYERS = [
    f"{block}.attentions.{i}.transformer_blocks.{k}.attn{a}.{projection}"
    for block, (attentions, depth) in SDXL.items()
    for i in range(attentions)
    for k in range(depth)
    for a in (1, 2)
    for projection in ("to_q", "to_k", "to_v", "to_out.0")
]


def report_of(names, **changes):
    """A report of these layers: norms and ranks rise from layer to layer."""
    one = measure(*factors(BasisSpec(rank=6, kind="random"), 12, 12), (6, 6))
    layers = {}
    for index, name in enumerate(names):
        norm = {block: value * (1 + index) for block, value in one["norm"].items()}
        layers[name] = {**one, "norm": norm, **changes}
    return {
        "files": ["a.safetensors"],
        "type": "fused",
        "basis": {},
        "groups": groups(layers),
        "layers": layers,
    }


def test_layers_come_in_the_order_of_the_forward_pass():
    assert len(LAYERS) == 560
    assert sorted(sorted(LAYERS), key=order) == LAYERS


def test_groups():
    report = report_of(LAYERS)
    counts = {label: group["layers"] for label, group in report["groups"].items()}
    assert list(counts.items()) == [
        ("all", 560), ("block down 1", 32), ("block down 2", 160), ("block mid", 80), ("block up 0", 240),
        ("block up 1", 48), ("attention self", 280), ("attention cross", 280), ("projection q", 140),
        ("projection k", 140), ("projection v", 140), ("projection out", 140),
    ]  # fmt: skip
    mid = [layer for name, layer in report["layers"].items() if name.startswith("mid")]
    found = report["groups"]["block mid"]
    squares = {block: np.mean([layer["norm"][block] ** 2 for layer in mid]) for block in BLOCKS}
    assert found["norm"] == pytest.approx({block: math.sqrt(square) for block, square in squares.items()})
    assert found["share"] == pytest.approx(shares(squares))
    assert groups({"conv_in": mid[0]})["projection other"]["layers"] == 1


def test_means_leave_out_layers_without_overlap():
    report = report_of(LAYERS[:2])
    lone = {**report["layers"][LAYERS[0]], "overlap": None}
    found = groups({**report["layers"], LAYERS[0]: lone})["all"]["overlap"]
    assert found["chance"] == report["layers"][LAYERS[1]]["overlap"]["chance"]


def test_table():
    report = report_of(LAYERS)
    lines = table(report).splitlines()
    assert len(lines) == 1 + len(report["groups"]) and len({len(line) for line in lines}) == 1
    assert lines[0].split()[:3] == ["layers", "|dW|", "rank"]
    group = report["groups"]["all"]
    cells = lines[1].split()
    assert cells[:3] == ["all", "560", f"{group['norm']['dW']:.3g}"]
    assert cells[-1] == f"{group['overlap']['chance']:.2f}"
    assert table(report_of(LAYERS[:3], overlap=None)).split()[-1] == "-"


@pytest.mark.parametrize(
    "share, text", [(1, "100.0%"), (0.1234, "12.3%"), (0.0004, "0.04%"), (2e-9, "<0.001%"), (0, "0%")]
)
def test_small_shares_are_not_shown_as_zero(share, text):
    assert inspection_report._percent(share) == text


@pytest.mark.parametrize("count, rows", [(64, 64), (560, 40)])
def test_the_picture_stays_readable(count, rows):
    figure = figure_of(report_of(LAYERS[:count]))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == len(set(labels)) == rows and max(map(len, labels)) < 26
    assert labels[0] == ("down 1 self q" if count > 64 else "down 1 / 0.0 self q")
    assert len(figure.axes) == 4  # norms, ranks, overlap, colour bar
    height = figure.get_size_inches()[1] * 72
    assert height / rows > 12  # points: the labels have 7


def test_what_is_not_there_is_not_drawn():
    half = report_of(LAYERS[:3], overlap=None)
    assert len(figure_of(half).axes) == 3
    only = {"norm": {"dW": 2.0}, "share": {}, "effective_rank": {"dW": 1.5}, "overlap": None}
    layers = {"conv_in": only, "down_blocks.0.resnets.0.conv1": only}
    figure = figure_of({**half, "groups": groups(layers), "layers": layers})
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["dW\n"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [*layers]


def test_a_file_of_zeros_and_an_odd_name_are_drawn(tmp_path):
    zero = measure(torch.zeros(8, 4), torch.zeros(4, 8), (4, 4))
    report = report_of(LAYERS[:2], **zero)
    report["groups"] = groups(report["layers"])
    with warnings.catch_warnings(action="error"):
        figure_of({**report, "files": ["a$_{^$\n.safetensors"]}).savefig(tmp_path / "x.png")


def test_the_picture_leaves_matplotlib_as_it_was():
    import matplotlib

    names = set(matplotlib.rcParams) - {"backend"}  # reading that one imports pyplot
    settings = {name: matplotlib.rcParams[name] for name in names}
    figure_of(report_of(LAYERS[:8]))
    assert {name: matplotlib.rcParams[name] for name in names} == settings


def test_matplotlib_is_not_waited_for_by_other_commands():
    for module in (inspection, inspection_report):
        top = ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
        names = {getattr(node, "module", None) for node in top} | {
            alias.name for node in top if isinstance(node, ast.Import) for alias in node.names
        }
        assert not any(name and name.startswith("matplotlib") for name in names)
