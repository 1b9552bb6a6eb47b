"""Damaged and hostile files, by the thousand: a result or one line, no traceback, no hang, no leak."""

import gc
import io
import json
import os
import signal
import struct
import zlib
from pathlib import Path

import psutil
import pytest
import torch
from bases import original
from conftest import picture, tiny_sd15_pipeline
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import ImageCms
from safetensors.torch import save, save_file

from b4m.apps.info import describe
from b4m.backbones import single_file
from b4m.backbones.registry import family_of, open_backbone
from b4m.core.errors import UserError, printable
from b4m.core.storage import fingerprint, read_tensors, write_tensors
from b4m.data.colour import D50, LINEAR, TRANSFERS, _profile, _xyz, coded
from b4m.data.findings import lines
from b4m.data.images import load_folder, read_folder
from b4m.files.concept import Concept, load_concept, save_concept
from b4m.files.dialects import DIALECTS
from b4m.files.lora import load_lora, save_lora
from b4m.files.opening import METHOD, open_any
from b4m.maths.plp import BasisSpec

SECONDS = 60  # a case that takes longer hangs
GROWTH = 200 * 2**20  # bytes that all cases together may leave behind


def tier(number: int, few: int):
    """So many cases in the slow tier, a few in the default one."""
    return pytest.mark.parametrize("cases", [few, pytest.param(number, marks=pytest.mark.slow)])


def hammer(cases: int, strategy: st.SearchStrategy, attempt) -> None:
    """`attempt` may return or raise a UserError of one printable line; files and memory must be given back."""

    def hang(*_):
        raise AssertionError(f"still at work after {SECONDS} s")

    @seed(7)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def one(case):
        signal.alarm(SECONDS)
        try:
            attempt(case)
            counts["read"] += 1
        except UserError as error:
            assert str(error).isprintable(), str(error)
            counts["refused"] += 1
        finally:
            signal.alarm(0)

    counts, process = {"read": 0, "refused": 0}, psutil.Process()
    before = signal.signal(signal.SIGALRM, hang)
    try:
        attempt_quietly(attempt, strategy)
        gc.collect()
        memory, files = process.memory_info().rss, process.num_fds()
        one()
        gc.collect()
        assert process.memory_info().rss - memory < GROWTH and process.num_fds() == files
    finally:
        signal.signal(signal.SIGALRM, before)
    print(counts)
    assert sum(counts.values()) >= cases and min(counts.values()) > cases / 200, counts


def attempt_quietly(attempt, strategy) -> None:
    """Once before memory is measured: first calls fill caches."""

    @settings(
        max_examples=5,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(strategy)
    def few(case):
        try:
            attempt(case)
        except UserError:
            pass

    few()


def damaged(files: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of the files with up to six bytes changed, pieces doubled or dropped, and its end cut off or prolonged."""
    places = st.integers(0, 2**16)

    @st.composite
    def draw(choose):
        data = bytearray(choose(st.sampled_from(files)))
        for place, value in choose(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
            # Half of them early in the file: headers are where the decisions are.
            data[place % (min(len(data), 80) if place & 1 else len(data))] = value
        kind, start, length = choose(st.tuples(st.integers(0, 9), places, st.integers(0, 64)))
        start %= len(data)
        if kind == 0:
            del data[start:]
        elif kind == 1:
            data[start:start] = data[start : start + length]
        elif kind == 2:
            del data[start : start + length]
        elif kind == 3:
            data += bytes(length)
        return bytes(data)

    return draw()


# pictures


def right_sums(data: bytes) -> bytes:
    """A PNG with the checksum of every chunk made right, so that damage reaches the decoder."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + length]
        if at + 12 + length > len(data):
            break
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + data[at:])


def pictures() -> list[bytes]:
    files = []
    for mode, kind, options in (
        ("RGB", "JPEG", {"quality": 80}),
        ("L", "JPEG", {"progressive": True}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("P", "PNG", {"transparency": 0}),
        ("LA", "PNG", {}),
        ("I;16", "PNG", {}),
        ("RGB", "WEBP", {"quality": 50}),
        ("RGBA", "WEBP", {"lossless": True}),
    ):
        image = picture(len(files), (13, 9))
        image = image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
        exif = image.getexif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        image.save(buffer, kind, exif=exif, **options)
        files.append(buffer.getvalue())
    return files


@tier(9000, 120)
def test_picture_reader(cases, tmp_path):
    def attempt(case: tuple[bytes, str, bool]):
        data, fit, repair = case
        path = tmp_path / "a.png"  # content decides, not the suffix
        path.write_bytes(right_sums(data) if repair and data[1:4] == b"PNG" else data)
        (found,) = load_folder(path, 16, fit)
        assert found.pixels.shape == (3, 16, 16) and found.pixels.isfinite().all()
        assert found.pixels.abs().max() <= 1

    cases_of = st.tuples(damaged(pictures()), st.sampled_from(["crop", "pad"]), st.booleans())
    hammer(cases, cases_of, attempt)


def scans() -> list[bytes]:
    """The formats of scanners, screens and telephones."""
    files = []
    kinds: list[tuple[str, str, dict]] = [
        ("RGB", "BMP", {}),
        ("P", "GIF", {"transparency": 0}),
        ("RGB", "AVIF", {}),
    ]
    kinds += [(mode, "TIFF", {}) for mode in ("RGB", "CMYK", "I;16", "LAB", "RGBA", "1")]
    kinds += [
        ("RGB", "TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")
    ]
    for mode, kind, options in kinds:
        image = picture(len(files), (13, 9))
        image = (
            image.convert("I").convert("I;16")
            if mode == "I;16"
            else image.convert(mode)
            if mode != "LAB"
            else None
        )
        image = image or ImageCms.profileToProfile(
            picture(0, (13, 9)),
            ImageCms.createProfile("sRGB"),
            ImageCms.createProfile("LAB"),
            outputMode="LAB",
        )
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


@tier(5000, 100)
def test_reader_of_scans_and_telephones(cases, tmp_path):
    def attempt(data: bytes):
        path = tmp_path / "a.png"
        path.write_bytes(data)
        (found,) = read_folder(path, 16, "crop", "mask").pictures
        assert found.pixels.isfinite().all() and found.pixels.abs().max() <= 1
        assert found.mask is None or 0 <= found.mask.min() < 1

    hammer(cases, damaged(scans()), attempt)


def profiles() -> list[bytes]:
    gray = {b"kTRC": LINEAR}
    formula = TRANSFERS[13]
    table = b"curv" + struct.pack(">4xI", 8) + struct.pack(">8H", *range(0, 65536, 9000))
    colours = [
        coded(12, 13),
        coded(9, 4),
        _profile(b"RGB ", {b"rXYZ": _xyz(D50), b"rTRC": table, b"gTRC": formula}),
    ]
    return [
        _profile(b"GRAY", gray),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        *filter(None, colours),
    ]


@tier(5000, 60)
def test_reader_of_profiles(cases, tmp_path):
    """In images of eight and of sixteen bits: an image comes out, whatever its profile says."""

    def png(deep: bool, icc: bytes) -> bytes:
        depth = 16 if deep else 8
        rows = (b"\0" + bytes(range(6 * depth))) * 4
        chunks = (
            (b"IHDR", struct.pack(">IIBBBBB", 16, 4, depth, 2, 0, 0, 0)),
            (b"iCCP", b"p\0\0" + zlib.compress(icc)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        )
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )

    def attempt(case: tuple[bool, bytes]):
        path = tmp_path / "a.png"
        path.write_bytes(png(*case))
        loaded = read_folder(path, 16)
        (found,) = loaded.pictures
        assert found.pixels.isfinite().all() and found.pixels.abs().max() <= 1
        if loaded.findings:
            raise UserError("the profile was of no use")  # counted apart

    hammer(cases, st.tuples(st.booleans(), damaged(profiles())), attempt)


# captions


CELLS = (
    "file_name",
    "text",
    "Caption",
    "a.png",
    "./a.png",
    "b.png",
    "sub/a.png",
    "..",
    "a, b",
    '"',
    "\n",
    "\u0301",
    "",
)
CELLS += ("\\", "a" * 300, "file", "prompt", "C:\\a.png", "/etc/passwd", "a\0b")


@st.composite
def tables(draw) -> tuple[str, bytes]:
    """A file of metadata or a caption as somebody may have written it, in some encoding."""
    rows = draw(st.lists(st.lists(st.sampled_from(CELLS), min_size=1, max_size=3), max_size=4))
    if draw(st.booleans()):
        rows.insert(0, ["file_name", "text"])
    name = draw(st.sampled_from(["metadata.csv", "metadata.jsonl", "a.txt", "Metadata.CSV"]))
    if name.endswith("jsonl"):
        keys = st.sampled_from(["file_name", "text", "caption", "File", "x"])
        values = st.sampled_from([*CELLS, None, 3, ["a"], "\ud800", {"a": 1}])
        lines = draw(st.lists(st.dictionaries(keys, values, max_size=3), max_size=3))
        text = draw(st.sampled_from(["\n", "\r\n", "\r"])).join(map(json.dumps, lines))
    else:
        quote = draw(st.sampled_from(["", '"']))
        text = "\r\n".join(
            draw(st.sampled_from(",;\t")).join(f"{quote}{cell}{quote}" for cell in row) for row in rows
        )
    return name, text.encode(
        draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le"])), "replace"
    )


@tier(5000, 100)
def test_caption_readers(cases, tmp_path):
    picture(1).save(tmp_path / "a.png")
    good = [
        b"file_name,text\n./a.png,a bear\n",
        b'{"file_name": "a.png", "text": "a bear"}\n',
        "ein B\u00e4r".encode("utf-16"),
    ]
    names = st.sampled_from(["metadata.csv", "metadata.jsonl", "a.txt", "a.png.caption"])

    def attempt(case: tuple[str, bytes]):
        name, data = case
        (tmp_path / name).write_bytes(data)
        try:
            loaded = read_folder(tmp_path, 16)
        finally:
            (tmp_path / name).unlink()
        (found,) = loaded.pictures
        assert found.caption is None or found.caption == " ".join(found.caption.split()) != ""
        json.dumps(found.caption, ensure_ascii=False).encode()
        assert all(printable(line).isprintable() for line in lines(loaded.findings))

    hammer(cases, st.one_of(tables(), tables(), st.tuples(names, damaged(good))), attempt)


# LoRA files


LAYERS = (
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k",
)
WORDS = (
    "",
    "4",
    "-1",
    "nan",
    "1e999",
    "9" * 40,
    "{}",
    "[" * 99,
    '{"unet.r": 4, "lora_alpha": "x"}',
    "../../x",
    "\x1b[2J",
    "é",
)
KEYS = ("lora_adapter_metadata", "modelspec.trigger_phrase", "format")
KEYS += tuple(
    f"b4m.{name}" for name in "rank ratio seed basis scale layers_per_block kind format layers".split()
)
KEYS += ("b4m.unet_hash", "b4m.prompt")
SIZES = (0, 1, 2, 4, 2**31, 2**40, 2**62)
TYPES = {
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F64": 8,
    "I64": 8,
    "U8": 1,
    "BOOL": 1,
    "C64": 8,
    "F8_E4M3": 1,
    "F99": 4,
}


def lora_files(folder: Path) -> list[bytes]:
    generator = torch.Generator().manual_seed(1)
    layers = {
        name: (torch.randn(6, 2, generator=generator), torch.randn(2, 6, generator=generator))
        for name in LAYERS
    }
    for dialect in DIALECTS:
        save_lora(folder / dialect, layers, {"b4m.prompt": "x"}, dialect=dialect)
    return [(folder / dialect).read_bytes() for dialect in DIALECTS]


@st.composite
def headers(draw) -> bytes:
    """A file of a hostile writer: names, types, shapes, places and metadata that need not agree with one another."""
    names = [
        f"unet.{layer}.{half}"
        for layer in LAYERS
        for half in ("lora_A.weight", "lora_B.weight", "alpha", "x")
    ]
    entries, end = {}, 0
    for name in draw(st.lists(st.sampled_from(names), unique=True, max_size=6)):
        dtype = draw(st.sampled_from([*["F32"] * 8, *TYPES]))
        shape = draw(st.lists(st.sampled_from([2, 4, *SIZES]), max_size=3))
        if name.endswith("weight") and draw(st.booleans()):
            shape = [2, 4] if "lora_A" in name else [4, 2]
        count = TYPES[dtype]
        for side in shape:
            count *= side
        start = end + draw(st.sampled_from([0] * 9 + [-4, 4]))
        end = start + (count if count < 2**12 else draw(st.sampled_from([8, count])))
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    if draw(st.booleans()):
        entries["__metadata__"] = draw(
            st.dictionaries(st.sampled_from(KEYS), st.sampled_from(WORDS), max_size=4)
        )
    text = json.dumps(entries).encode()
    value = draw(st.sampled_from([0, 0, 0, 63, 127, 255]))  # 127 and 255: NaN in most types
    return struct.pack("<Q", len(text)) + text + bytes([value]) * min(max(end, 0), 2**16)


@tier(8000, 120)
def test_lora_reader(cases, tmp_path):
    path = tmp_path / "x.safetensors"

    def attempt(data: bytes):
        path.write_bytes(data)
        layers, _ = load_lora(path)
        for up, down in layers.values():
            assert up.shape[1] == down.shape[0] > 0 and up.isfinite().all() and down.isfinite().all()
        describe(path)

    hammer(cases, st.one_of(damaged(lora_files(tmp_path)), headers(), headers()), attempt)


# LoRA files of other tools


ENDS = (
    "lora_A.weight",
    "lora_B.weight",
    "lora_down.weight",
    "lora_up.weight",
    "lora_mid.weight",
    "alpha",
    "dora_scale",
)
ENDS += (
    "lora_magnitude_vector",
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "hada_t1",
    "lokr_w1",
    "lokr_w2",
)
ENDS += ("lokr_w2_a", "lokr_w2_b", "lokr_t2", "oft_blocks", "diff", "weight")
STARTS = (
    "unet.mid_block.attentions.0.proj_in",
    "lora_unet_mid_block_resnets_0_conv1",
    "base_model.model.conv_in",
    "diffusion_model.input_blocks.4.1.proj_in",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1",
    "transformer.single_transformer_blocks.0.attn.to_k",
    "x" * 400,
)


def elsewhere() -> st.SearchStrategy[dict[str, torch.Tensor]]:
    """Tensors under the names of other tools, in shapes that need not go together."""
    shapes = st.sampled_from(
        [(4, 2), (2, 4), (4, 2, 1, 1), (2, 4, 3, 3), (2, 2), (4, 1), (1, 4), (4,), (), (0, 4), (2, 0)]
    )
    dtypes = st.sampled_from(
        [torch.float32] * 4 + [torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool]
    )
    tensor = st.builds(lambda shape, dtype: torch.ones(shape).to(dtype), shapes, dtypes)
    few = st.lists(st.sampled_from(STARTS), min_size=1, max_size=3, unique=True)
    fitting = {"lora_down.weight": (2, 4), "lora_up.weight": (4, 2), "hada_w1_a": (4, 2), "hada_w2_a": (4, 2),
               "hada_w1_b": (2, 4), "hada_w2_b": (2, 4), "lokr_w1": (2, 2), "lokr_w2": (2, 2)}  # fmt: skip

    @st.composite
    def draw(choose):
        whole = choose(st.sampled_from(["", "lora_", "hada_", "lokr_"]))
        ends = choose(
            st.lists(st.sampled_from(ENDS), min_size=not whole, max_size=1 if whole else 5, unique=True)
        )
        loose = {f"{start}.{end}": choose(tensor) for start in choose(few) for end in ends}
        start = choose(st.sampled_from(STARTS[:4]))
        return loose | {
            f"{start}.{end}": torch.ones(shape)
            for end, shape in fitting.items()
            if whole and end.startswith(whole)
        }

    return draw()


@tier(5000, 150)
def test_reader_of_what_other_tools_write(cases, tmp_path):
    path = tmp_path / "x.safetensors"

    def attempt(tensors: dict[str, torch.Tensor]):
        save_file(tensors, path)
        try:
            describe(path)
        finally:
            opened = open_any(path)
            for up, down in opened.layers.values():
                assert up.shape[1] == down.shape[0] > 0 and up.isfinite().all() and down.isfinite().all()
            assert opened.contents.sizes and opened.kind == opened.contents.kind

    hammer(cases, elsewhere(), attempt)


# peft's settings


VALUES = st.sampled_from(
    [None, 4, 8, 0, -1, 0.5, 1e999, "4", "x", True, [], ["to_q"], {}, {"to_q": 2}, {"(a+)+": 2}, {"": "x"}]
)
SETTINGS = "r lora_alpha alpha rank_pattern alpha_pattern use_rslora use_dora peft_type bias init_lora_weights".split()
SETTINGS += ["target_modules", "modules_to_save", "lora_bias", "something_new", "unet.r", "unet.lora_alpha"]


def configs() -> st.SearchStrategy[bytes]:
    """adapter_config.json: of a writer who knows its names, or damaged."""
    loose = st.dictionaries(st.sampled_from(SETTINGS), VALUES, max_size=6)
    near = st.tuples(loose, st.sampled_from([{}, {"r": 4, "lora_alpha": 8, "peft_type": "LORA"}]))
    written = near.map(lambda pair: json.dumps({**pair[1], **pair[0]}).encode())
    good = json.dumps({"r": 4, "lora_alpha": 8, "rank_pattern": {}, "alpha_pattern": {"conv_in": 2}}).encode()
    return st.one_of(
        written, written, damaged([good]), st.sampled_from([b"", b"[" * 10**5, b"null", b"\xff\xfe{"])
    )


@tier(5000, 150)
def test_adapter_config_reader(cases, tmp_path):
    path = tmp_path / "adapter_model.safetensors"
    name = f"base_model.model.{LAYERS[0]}"
    save_file({f"{name}.lora_A.weight": torch.ones(4, 6), f"{name}.lora_B.weight": torch.ones(6, 4)}, path)

    def attempt(data: bytes):
        (tmp_path / "adapter_config.json").write_bytes(data)
        ((up, down),) = load_lora(path)[0].values()
        assert up.isfinite().all() and (up == up[0, 0]).all() and (down == 1).all()
        describe(tmp_path)

    hammer(cases, configs(), attempt)


# concept files


@st.composite
def concepts(draw) -> tuple[dict, dict]:
    """Tensors and metadata of a writer whose checksum is right and whose contents need not be."""
    tensors = {}
    for layer in draw(st.lists(st.sampled_from(LAYERS), unique=True, max_size=2)):
        shape = draw(st.sampled_from([(6, 4), (6, 4), (6, 4), (4, 6), (0, 4), (6,), (2, 3, 4), ()]))
        dtype = draw(st.sampled_from([torch.float32] * 4 + [torch.float16, torch.int64, torch.bool]))
        fill = draw(st.sampled_from([1.0] * 5 + [float("nan"), float("inf")]))
        half = draw(st.sampled_from(["B", "B", "B", "D", "x"]))
        tensors[f"{layer}.{half}"] = torch.full(shape, fill).nan_to_num(0).to(dtype) if dtype in (
            torch.int64, torch.bool) else torch.full(shape, fill, dtype=dtype)  # fmt: skip
    return tensors, draw(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(WORDS), max_size=2))


def concept_file(path: Path) -> Path:
    layers = {name: torch.ones(6, 4) for name in LAYERS}
    save_concept(path, Concept("content", layers, BasisSpec(rank=4), "square", "f" * 64, {}))
    return path


def write(path: Path, case: bytes | tuple[dict, dict], header: dict[str, str]) -> None:
    """The bytes; or tensors and changed entries of `header`, with the checksum that belongs to them."""
    if isinstance(case, bytes):
        path.write_bytes(case)
        return
    tensors, change = case
    metadata = {
        key: value for key, value in {**header, **change}.items() if key not in ("format", "b4m.sha256")
    }
    signed = {key: value for key, value in metadata.items() if key.startswith("b4m.")}
    write_tensors(path, tensors, {**metadata, "b4m.sha256": fingerprint(tensors, signed)})


@tier(4000, 60)
def test_concept_reader(cases, tmp_path):
    path, good = tmp_path / "x.safetensors", concept_file(tmp_path / "good.safetensors")
    header = read_tensors(good)[1]

    def attempt(case):
        write(path, case, header)
        found = load_concept(path)
        assert all(
            tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in found.tensors.values()
        )

    hammer(cases, st.one_of(damaged([good.read_bytes()]), concepts(), concepts()), attempt)
    assert sorted(os.listdir(tmp_path)) == ["good.safetensors", "x.safetensors"]


# whatever it is


@tier(4000, 60)
def test_the_one_door_to_every_file(cases, tmp_path):
    path, good = tmp_path / "x.safetensors", concept_file(tmp_path / "good.safetensors")
    headers_of = (
        read_tensors(good)[1],
        {METHOD: "scale", "b4m.unet_hash": "f" * 64},
        {METHOD: "b4m", "b4m.kind": ""},
    )

    def attempt(case):
        data, header = case
        write(path, data, header)
        opened = open_any(path)
        assert opened.kind in ("content", "style", "fused", "LoRA", "method") and opened.where == str(path)
        assert (opened.kind in ("content", "style")) == (opened.concept is not None)
        assert (opened.kind in ("fused", "LoRA")) == bool(opened.layers)
        assert (opened.kind == "method") == (METHOD in opened.metadata and not opened.concept)
        describe(path)

    (tmp_path / "lora").mkdir()
    files = [good.read_bytes(), *lora_files(tmp_path / "lora")]
    hammer(
        cases,
        st.tuples(st.one_of(damaged(files), headers(), concepts()), st.sampled_from(headers_of)),
        attempt,
    )


# base models


MARKS = (
    "v_pred",
    "ztsnr",
    "edm_mean",
    "scaled_fp8",
    "lora_unet_x.lora_down.weight",
    "conditioner.embedders.1.x",
    "",
)


# Bytes of its header to change, and where to cut it off; or tensors to change, a mark to add, and metadata.
BRUISES = st.tuples(
    st.lists(st.tuples(st.integers(0, 2**15), st.integers(0, 255)), max_size=4),
    st.none() | st.integers(0, 2**20),
)
CHANGES = st.tuples(
    st.lists(
        st.tuples(
            st.integers(0, 300), st.sampled_from(["drop", "type", "rename", [], [0], [4, 4], [32, 9, 3, 3]])
        ),
        max_size=3,
    ),
    st.sampled_from([None, *MARKS]),
    st.dictionaries(
        st.sampled_from(["modelspec.predict_key", "modelspec.prediction_type"]),
        st.sampled_from([*WORDS, "v", "epsilon"]),
        max_size=2,
    ),
)


def bruised(data: bytes, places: list[tuple[int, int]], cut: int | None) -> bytes:
    out = bytearray(data)
    for place, value in places:
        out[place] = value
    return bytes(out[:cut])


def altered(
    good: dict, changes: list[tuple[int, object]], mark: str | None, metadata: dict[str, str]
) -> bytes:
    tensors, names = dict(good), sorted(good)
    for number, change in changes:
        name = names[number % len(names)]
        if change == "drop":
            tensors.pop(name, None)
        elif change == "type":
            tensors[name] = good[name].to([torch.int8, torch.float8_e4m3fn, torch.complex64][number % 3])
        elif change == "rename":
            tensors[f"{name}.x"] = good[name].clone()
        else:
            tensors[name] = torch.zeros(change)
    if mark is not None:
        tensors[mark] = torch.zeros(0)
    return save(tensors, metadata)


@tier(5000, 30)
def test_one_file_of_a_base_model(cases, tmp_path, monkeypatch):
    pipe = tiny_sd15_pipeline()
    for layout in ("sd15", "sdxl"):
        pipe.save_pretrained(tmp_path / layout)
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path)
    monkeypatch.setattr(single_file, "_tokenizer", lambda folder: pipe.tokenizer)
    good = {name: tensor.contiguous() for name, tensor in original(pipe).items()}
    whole, path = save(good), tmp_path / "x.safetensors"

    def attempt(case: tuple):
        path.write_bytes(bruised(whole, *case) if len(case) == 2 else altered(good, *case))
        family = family_of(str(path))
        family.read_prediction_type(str(path))
        denoiser = open_backbone(str(path)).denoiser
        assert denoiser.state_dict().keys() == family.empty_denoiser(str(path)).state_dict().keys()

    hammer(cases, st.one_of(BRUISES, CHANGES, CHANGES), attempt)


ODD = st.sampled_from([None, True, 0, -1, 9, 2**70, 0.5, 1e400, "", "x", "v_prediction", "EDMEulerScheduler",
                       "sigmoid", "continuous", [], [0], ["x"], [4, 4], {}, {"a": 1}])  # fmt: skip


@tier(5000, 40)
def test_settings_of_a_base_model(cases, tmp_path):
    base = tmp_path / "base"
    tiny_sd15_pipeline().save_pretrained(base)
    files = ("model_index.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
    whole = {file: json.loads((base / file).read_text()) for file in files}
    keys = {file: sorted({*values, "_class_name", "use_flow_sigmas"}) for file, values in whole.items()}
    change = st.sampled_from(files).flatmap(
        lambda file: st.tuples(st.just(file), st.sampled_from(keys[file]), ODD)
    )

    def attempt(changes):
        for file in files:
            altered = {key: value for where, key, value in changes if where == file}
            (base / file).write_text(json.dumps({**whole[file], **altered}))
        family = family_of(str(base))
        family.read_prediction_type(str(base))
        family.empty_denoiser(str(base))

    hammer(cases, st.lists(change, max_size=3), attempt)
