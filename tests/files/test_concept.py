"""Concept files: back bit for bit or refused; factors that do not compose: refused with both values."""

import dataclasses
import os

import pytest
import torch
from conftest import refused
from safetensors.torch import load_file, save_file

from b4m.apps.info import describe
from b4m.core.errors import UserError
from b4m.core.storage import fingerprint, read_tensors, write_tensors
from b4m.files import concept as module
from b4m.files.concept import Concept, check_pair, load_concept, save_concept
from b4m.files.fused import spec_metadata
from b4m.files.lora import save_lora
from b4m.maths.plp import BasisSpec
from b4m.training.state import save_state

HASH = "0123456789abcdef" * 4
LAYERS = ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attn1.to_out.0")
METADATA = {"prompt": "a photo of snq teddybear, größer\n", "trigger": "snq", "base_model": "x/y"}


def concept(kind="content", **changes) -> Concept:
    spec = changes.pop("spec", BasisSpec(seed=7, rank=4, ratio=0.1 + 0.2))
    generator = torch.Generator().manual_seed(1)
    shape = (6, spec.rank) if kind == "content" else (spec.rank, 6)
    tensors = {layer: torch.randn(shape, generator=generator) for layer in LAYERS}
    return dataclasses.replace(Concept(kind, tensors, spec, "square", HASH, METADATA), **changes)


def equal(ours: Concept, theirs: Concept) -> bool:
    plain = [(c.kind, c.spec, c.layers, c.unet_hash, c.metadata, sorted(c.tensors)) for c in (ours, theirs)]
    return plain[0] == plain[1] and all(
        torch.equal(ours.tensors[layer].view(torch.int32), theirs.tensors[layer].view(torch.int32))
        for layer in LAYERS
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a b ö.safetensors"


@pytest.mark.parametrize("kind", ["content", "style"])
def test_round_trip_is_bit_for_bit(path, kind):
    wanted = concept(kind)
    wanted.tensors[LAYERS[0]][0, 0] = -0.0
    wanted.tensors[LAYERS[0]][1, 1] = 1e-42  # subnormal
    save_concept(path, wanted)
    assert equal(load_concept(str(path)), wanted)
    assert os.listdir(path.parent) == [path.name]


def test_layers_without_learnable_rows_round_trip(path):
    empty = concept(spec=BasisSpec(rank=4, ratio=1.0), tensors={layer: torch.zeros(0, 4) for layer in LAYERS})
    save_concept(path, empty)
    assert equal(load_concept(path), empty)


def test_the_file_holds_one_factor_and_says_so(path):
    save_concept(path, concept("style"))
    tensors, metadata = read_tensors(path)
    assert sorted(tensors) == sorted(f"{layer}.D" for layer in LAYERS)
    assert load_file(path).keys() == tensors.keys()
    wanted = {
        "kind": "style",
        "seed": "7",
        "rank": "4",
        "basis": "exact",
        "layers": "square",
        "unet_hash": HASH,
    }
    assert all(metadata[f"b4m.{key}"] == value for key, value in {**wanted, **METADATA}.items())
    assert float(metadata["b4m.ratio"]) == 0.1 + 0.2


def test_same_concept_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_concept(tmp_path / name, concept())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_flipped_bit_is_refused_or_changes_nothing(path):
    """Nothing but the foreign entry "format" and the padding may change unnoticed."""
    wanted = concept(tensors={layer: torch.ones(2, 4) for layer in LAYERS}, metadata={"prompt": "p"})
    save_concept(path, wanted)
    data = path.read_bytes()
    unnoticed = []
    for bit in range(0, 8 * len(data), 7):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(changed)
        try:
            found = load_concept(path)
        except UserError as error:
            assert str(error).isprintable()
        else:
            assert equal(found, wanted), bit
            unnoticed.append(bit // 8)
    start = data.index(b'"format":"pt"')
    header = 8 + int.from_bytes(data[:8], "little")
    assert all(start < byte < start + 13 or data[byte:header].isspace() for byte in unnoticed), unnoticed


def test_a_truncated_file_is_refused(path):
    save_concept(path, concept())
    data = path.read_bytes()
    for length in (0, 7, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        refused(lambda: load_concept(path), path)


def test_changed_metadata_is_refused(path):
    save_concept(path, concept())
    tensors, metadata = read_tensors(path)
    for key, value in {
        "b4m.seed": "8",
        "b4m.prompt": "other",
        "b4m.unet_hash": "f" * 64,
        "b4m.new": "",
    }.items():
        write_tensors(path, tensors, {**metadata, key: value})
        refused(lambda: load_concept(path), path, "changed since it was written")
    write_tensors(path, tensors, {**metadata, "title": "another tool's"})
    assert equal(load_concept(path), concept())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"b4m.rank": "5"}, "rank 5"),
        ({"b4m.rank": "many"}, "basis"),
        ({"b4m.ratio": "nan"}, "basis"),
        ({"b4m.basis": "odd"}, "basis"),
        ({"b4m.layers": "some"}, "some"),
        ({"b4m.unet_hash": ""}, "hash"),
        ({"b4m.kind": "style"}, "more than D"),
        ({"b4m.kind": "both"}, "not a concept file"),
        ({"b4m.format": "2"}, "update b4m"),
    ],
)
def test_a_consistent_file_with_wrong_contents_is_refused(path, change, word):
    """Somebody else's writer, with a right sha256."""
    save_concept(path, concept())
    tensors, metadata = read_tensors(path)
    metadata = {
        key: value for key, value in {**metadata, **change}.items() if key not in ("b4m.sha256", "format")
    }
    write_tensors(path, tensors, {**metadata, "b4m.sha256": fingerprint(tensors, metadata)})
    refused(lambda: load_concept(path), path, word)


def test_other_files_are_refused(path):
    save_file({"x": torch.zeros(2)}, path)
    refused(lambda: load_concept(path), path, "not a concept file")
    save_lora(path, {LAYERS[0]: (torch.ones(6, 4), torch.ones(4, 6))}, spec_metadata(BasisSpec(rank=4)))
    refused(lambda: load_concept(path), path, "not a concept file")
    refused(lambda: load_concept(path.parent), path.parent, "folder")
    refused(lambda: load_concept(path.parent / "missing"), "missing", "does not exist")


@pytest.mark.parametrize(
    ("tensor", "word"),
    [
        (torch.full((6, 4), float("nan")), "NaN"),
        (torch.full((6, 4), float("inf")), "infinite"),
        (torch.zeros(6, 4).half(), "float16"),
        (torch.zeros(6, 5), "rank 4"),
        (torch.zeros(24), "matrix"),
    ],
)
def test_wrong_values_are_neither_saved_nor_loaded(path, tensor, word, monkeypatch):
    bad = concept(tensors={**concept().tensors, LAYERS[1]: tensor})
    refused(lambda: save_concept(path, bad), path, LAYERS[1], word)
    assert not path.exists()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_check", lambda *_: None)
        save_concept(path, bad)
    refused(lambda: load_concept(path), path, LAYERS[1], word)


def test_what_cannot_be_a_concept_is_not_saved(path):
    for wrong in ({"layers": "some"}, {"tensors": {}}, {"unet_hash": ""}):
        refused(lambda wrong=wrong: save_concept(path, concept(**wrong)), path)
    with pytest.raises(ValueError, match="seed"):
        save_concept(path, concept(metadata={"seed": "8"}))
    assert not path.exists()


def test_a_failed_save_leaves_the_old_concept(path, monkeypatch):
    save_concept(path, concept())

    def crash(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", crash)
    refused(lambda: save_concept(path, concept(metadata={})), path, "Input/output error")
    assert equal(load_concept(path), concept()) and os.listdir(path.parent) == [path.name]


def test_a_pair_that_composes_passes():
    check_pair(concept("content"), concept("style", metadata={}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spec": BasisSpec(seed=8, rank=4, ratio=0.1 + 0.2)}, ("seed", "7", "8")),
        ({"spec": BasisSpec(seed=7, rank=6, ratio=0.1 + 0.2)}, ("rank", "4", "6")),
        ({"spec": BasisSpec(seed=7, rank=4, ratio=0.5)}, ("ratio", "0.30000000000000004", "0.5")),
        (
            {"spec": BasisSpec(seed=7, rank=4, ratio=0.1 + 0.2, kind="random")},
            ("basis kind", "exact", "random"),
        ),
        (
            {"spec": BasisSpec(seed=7, rank=4, ratio=0.1 + 0.2, scale=8.0)},
            ("basis scale", "1.0", "8.0"),
        ),
        ({"layers": "all"}, ("layers", "square", "all")),
        ({"unet_hash": "f" * 64}, ("UNet", HASH, "f" * 64)),
    ],
)
def test_a_pair_that_does_not_compose_is_refused_with_both_values(change, words):
    refused(lambda: check_pair(concept("content"), concept("style", **change)), *words)
    refused(lambda: check_pair(concept("content", **change), concept("style")), *words)


def test_swapped_factors_and_different_layers_are_refused():
    refused(lambda: check_pair(concept("style"), concept("content")), "style was given as the content")
    refused(lambda: check_pair(concept("content"), concept("content")), "content was given as the style")
    fewer = concept("style", tensors={LAYERS[0]: torch.zeros(4, 6)})
    refused(lambda: check_pair(concept("content"), fewer), "only the content", LAYERS[1])


def test_describe_knows_every_file(path):
    save_concept(path, concept())
    facts = describe(path)
    assert facts["type"] == "content concept" and facts["values"] == 48 and facts["trigger"] == "snq"
    assert facts["file"] == str(path) and facts["bytes"] == path.stat().st_size and facts["seed"] == "7"
    save_lora(path, {LAYERS[0]: (torch.ones(6, 4), torch.ones(4, 6))}, spec_metadata(BasisSpec(rank=4)))
    facts = describe(path)
    assert (
        facts["type"] == "LoRA"
        and facts["ranks"] == [4]
        and facts["rank"] == "4"
        and facts["adapted layers"] == 1
    )
    save_state(path.parent / "state", 3, {"x": torch.zeros(1)}, {})
    assert describe(path.parent / "state")["step"] == 3
    refused(lambda: describe(path.parent), path.parent, "no training state")
    save_file({"x": torch.zeros(2)}, path)
    refused(lambda: describe(path), path)


def test_describe_verifies(path):
    save_concept(path, concept())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    refused(lambda: describe(path), path, "sha256")


# a content that carries what it reads of its layers' inputs

PRINCIPAL = BasisSpec(seed=7, rank=5, inputs="principal")


def reader(**changes) -> Concept:
    generator = torch.Generator().manual_seed(2)
    inputs = {layer: torch.randn(2, 6, generator=generator) for layer in LAYERS}
    return concept(spec=PRINCIPAL, **{"inputs": inputs, **changes})


def test_what_a_content_reads_round_trips_and_only_then_is_in_the_file(path):
    save_concept(path, reader())
    tensors, metadata = read_tensors(path)
    assert sorted(tensors) == sorted(f"{layer}.{block}" for layer in LAYERS for block in "BC")
    assert metadata["b4m.inputs"] == "principal"
    found = load_concept(path)
    assert equal(found, reader()) and found.spec == PRINCIPAL
    assert all(torch.equal(found.inputs[layer], reader().inputs[layer]) for layer in LAYERS)
    save_concept(path, concept())
    assert "b4m.inputs" not in read_tensors(path)[1] and load_concept(path).inputs == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": {}},
        {"inputs": {LAYERS[0]: torch.ones(2, 6)}},
        {"inputs": {layer: torch.ones(3, 6) for layer in LAYERS}},
        {"spec": BasisSpec(seed=7, rank=5)},
        {"kind": "style", "tensors": {layer: torch.ones(5, 6) for layer in LAYERS}},
    ],
    ids=["none", "of one layer", "too many rows", "not principal", "a style"],
)
def test_inputs_that_do_not_belong_are_refused(path, changes):
    with pytest.raises(UserError, match="blocks C are not"):
        save_concept(path, dataclasses.replace(reader(), **changes))
    assert not path.exists()


def test_a_content_that_reads_its_own_inputs_composes_with_a_style_of_its_basis():
    check_pair(reader(), concept("style", spec=BasisSpec(seed=7, rank=5)))
    with pytest.raises(UserError, match="seed 7 against 8"):
        check_pair(reader(), concept("style", spec=BasisSpec(seed=8, rank=5)))
