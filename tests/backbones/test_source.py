"""What --base-model may be given: folders with other names of weights, names with a revision, and what is neither."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import refused, tiny_pipeline
from diffusers import StableDiffusionXLPipeline

from b4m.backbones import source
from b4m.backbones.registry import family_of, open_backbone
from b4m.backbones.sdxl import SDXL
from b4m.backbones.source import Saved, find
from b4m.core.errors import UserError


def renamed(base: str, folder: Path, **parts: str) -> str:
    """A copy of `base` in which the weights of each part (`all`: of every one) are of a variant."""
    shutil.copytree(base, folder)
    for path in list(folder.rglob("*.safetensors")):
        variant = parts.get(path.parent.name, parts.get("all"))
        if variant:
            path.rename(path.with_suffix(f".{variant}.safetensors"))
    return str(folder)


@pytest.mark.parametrize(
    "variants",
    [
        {"all": "fp16"},
        {"unet": "fp16"},
        {"all": "bf16"},
        {"unet": "non_ema"},
        {"all": "fp16", "unet": "bf16"},
    ],
)
def test_weights_of_a_variant_alone_are_found(tiny_base, tmp_path, variants):
    folder = renamed(tiny_base, tmp_path / "base", **variants)
    if len(variants) == 2:  # nobody's download
        refused(lambda: open_backbone(folder), folder, "of different variants", "unet bf16", "vae fp16")
        return
    ours, theirs = (open_backbone(base).denoiser.state_dict() for base in (folder, tiny_base))
    assert all((weight == theirs[name]).all() for name, weight in ours.items())
    assert len(SDXL.load_denoiser(folder).state_dict()) == len(theirs)


def test_plain_weights_come_before_a_variant(tiny_base, tmp_path):
    shutil.copytree(tiny_base, tmp_path / "base")
    other = tiny_pipeline(seed=5)
    other.unet.save_pretrained(tmp_path / "base/unet", variant="fp16")
    ours, theirs = (
        open_backbone(str(base)).denoiser.conv_in.weight for base in (tmp_path / "base", tiny_base)
    )
    assert (ours == theirs).all()


def test_weights_in_shards_are_found(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "base", max_shard_size="60KB", variant="fp16")
    names = [path.name for path in (tmp_path / "base/unet").glob("*.safetensors")]
    assert len(names) > 1 and all("fp16-0" in name for name in names)
    assert open_backbone(str(tmp_path / "base")).denoiser is not None


def test_a_vae_of_a_variant_is_found(tiny_base, tmp_path):
    folder = renamed(f"{tiny_base}/vae", tmp_path / "vae", vae="fp16")
    assert open_backbone(tiny_base, folder).pipe.vae is not None


def test_pickled_weights_are_named_and_never_opened(tiny_base, tmp_path):
    shutil.copytree(tiny_base, tmp_path / "base")
    weights = tmp_path / "base/vae/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    refused(lambda: open_backbone(str(tmp_path / "base")), "its vae has pickled weights only", "can run code")
    for name in ("sdxl.ckpt", "x.PT", "y.bin"):
        (tmp_path / name).write_bytes(b"PK\3\4" + bytes(100))
        file = str(tmp_path / name)
        refused(lambda file=file: family_of(file), file, "one file of pickled weights", "from_single_file")
        refused(lambda file=file: open_backbone(tiny_base, file), f"VAE {file}", "pickled")
    (tmp_path / "m.gguf").touch()
    refused(lambda: family_of(str(tmp_path / "m.gguf")), "not a .safetensors file")


@pytest.mark.parametrize(
    "name",
    [
        "/nowhere/base", "./base", "~/nothing/here", "some/where/base", "word", "two words/here", "models/sdxl",
        "models/pony.safetensors", "owner/pony.ckpt", r"C:\models\sdxl", "C:/models", r"models\sdxl", "a/b@",
    ],
)  # fmt: skip
def test_what_can_only_be_a_path_is_not_taken_for_a_name(tmp_path, monkeypatch, name):
    (tmp_path / "models/sdxl-base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(source, "hf_hub_download", None)  # nobody asks Hugging Face
    message = refused(lambda: family_of(name), f"base model {name}")
    assert "no such folder or file" in message and "owner/name" in message
    assert ("there is models/sdxl-base" in message) == (name == "models/sdxl")


def test_a_web_address_is_told_from_a_name():
    refused(lambda: family_of("https://civitai.com/models/1"), "a web address", "download it")


def test_a_name_that_is_not_to_be_had_says_so(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network here")

    monkeypatch.setattr(source, "hf_hub_download", offline)
    refused(
        lambda: family_of("models/sdxl"), "no folder of this name is here", "Hugging Face", "no network here"
    )


class Hub:
    """Hugging Face, with one repository, that remembers what it was asked for."""

    def __init__(self, folder: str, offline: bool = False) -> None:
        self.folder, self.offline, self.asked = folder, offline, []

    def hf_hub_download(self, repository: str, file: str, revision: str | None) -> str:
        self.asked.append((repository, revision))
        path = Path(self.folder, file)
        if not path.exists():
            raise FileNotFoundError(f"404: {file}")
        return str(path)

    def list_repo_files(self, repository: str, revision: str | None) -> list[str]:
        self.asked.append((repository, revision))
        if self.offline:
            raise OSError("no network")
        return [path.relative_to(self.folder).as_posix() for path in Path(self.folder).rglob("*")]

    def snapshot_download(self, repository: str, revision: str | None, local_files_only: bool) -> str:
        assert local_files_only
        self.asked.append((repository, revision))
        return self.folder


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize(
    ("name", "revision"), [("owner/name", None), ("owner/name@v1.0", "v1.0"), ("o/n@refs/pr/2", "refs/pr/2")]
)
def test_a_name_may_have_a_revision(tiny_base, tmp_path, monkeypatch, name, revision, offline):
    folder = renamed(tiny_base, tmp_path / "base", all="fp16")
    hub = Hub(folder, offline)
    for call in ("hf_hub_download", "list_repo_files", "snapshot_download"):
        monkeypatch.setattr(source, call, getattr(hub, call))
    given = {}

    def from_pretrained(place: str, **options):
        given.update(options, place=place)
        return tiny_pipeline()

    monkeypatch.setattr(StableDiffusionXLPipeline, "from_pretrained", from_pretrained)
    assert open_backbone(name).name == name
    repository = name.partition("@")[0]
    assert (given["place"], given["revision"], given["variant"]) == (repository, revision, "fp16")
    assert set(hub.asked) == {(repository, revision)}


def test_a_repository_of_one_file_says_which(tmp_path, monkeypatch):
    (tmp_path / "pony.safetensors").touch()
    hub = Hub(str(tmp_path))
    for call in ("hf_hub_download", "list_repo_files", "snapshot_download"):
        monkeypatch.setattr(source, call, getattr(hub, call))
    refused(
        lambda: family_of("owner/pony"), "no model_index.json, but pony.safetensors", "download that file"
    )


def test_a_revision_says_that_a_name_is_one(tiny_base, tmp_path, monkeypatch):
    """Where a folder is called like the owner, a name alone is taken for a path with a typing error."""
    (tmp_path / "stabilityai").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(source, "hf_hub_download", Hub(tiny_base).hf_hub_download)
    refused(lambda: family_of("stabilityai/sdxl-turbo"), "no such folder or file", "owner/name@revision")
    assert family_of("stabilityai/sdxl-turbo@main") is SDXL


def test_a_folder_here_comes_before_a_name(tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_base, tmp_path / "owner/name@v1")
    assert find("base model", "owner/name@v1") == Saved("base model", "owner/name@v1", "owner/name@v1")
    assert family_of("owner/name@v1") is SDXL


def test_a_folder_that_is_not_quite_it_says_what_to_give(tiny_base, tmp_path):
    nested = tmp_path / "models--owner--name/snapshots/abc"
    shutil.copytree(tiny_base, nested)
    refused(lambda: family_of(str(tmp_path / "models--owner--name")), f"give {nested}")
    refused(lambda: family_of(f"{tiny_base}/unet"), "it is a part of a model", "the folder above it")
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose/pony.safetensors").touch()
    refused(
        lambda: family_of(str(tmp_path / "loose")),
        f"give the file in it, {tmp_path / 'loose/pony.safetensors'}",
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "\xff"])
@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json", "vae/config.json"])
def test_settings_that_are_broken_are_one_line(tiny_base, tmp_path, file, text):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / file).write_text(text, encoding="latin-1")
    for action in (open_backbone, SDXL.empty_denoiser):
        refused(
            lambda action=action: action(str(base)), base, f"{file} is missing or broken", "download or copy"
        )


@pytest.mark.parametrize(
    "values", [{"down_block_types": 3}, {"block_out_channels": ["x"]}, {"in_channels": None}]
)
def test_settings_that_make_no_unet_are_one_line(tiny_base, tmp_path, values):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    config = json.loads((base / "unet/config.json").read_text())
    (base / "unet/config.json").write_text(json.dumps({**config, **values}))
    for action in (open_backbone, SDXL.empty_denoiser, SDXL.load_denoiser):
        with pytest.raises(UserError, match=str(base)):
            action(str(base))
