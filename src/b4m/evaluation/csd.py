"""Contrastive Style Descriptors (Somepalli et al. 2024, arXiv 2404.01292): a CLIP image tower trained to know styles.

The published weights have the names of OpenAI's CLIP, and two projections: `last_layer_style`, which is used, and
`last_layer_content`, which is not. They are a training checkpoint in a pickle, which is read with torch's loader for
weights and nothing allowed beyond what that file is known to hold.
"""

import argparse
import re
import zipfile
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..backbones.source import HUB_NAME
from ..core.errors import UserError
from ..core.storage import read_tensors, reason
from ..core.where import locate
from .model import Model
from .settings import CSD

FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder or a name, the first that is there
HEAD = 64  # channels of an attention head: CLIP's rule
# What stands beside the weights: the arguments of the training, and learning rates that numpy computed.
_SCALAR = np.float64(0).__reduce__()[0]
KNOWN: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.dtypes.Float64DType,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # numpy 1
    (_SCALAR, "numpy._core.multiarray.scalar"),  # numpy 2
]
_PARTS = {  # of OpenAI's CLIP: what transformers calls them
    "conv1.weight": "embeddings.patch_embedding.weight",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")


def load_csd(spec: str, device: torch.device) -> Model:
    """csd:PLACE, a file, a folder or a Hugging Face name, float32 on `device`. images: the style's descriptors (k, d).

    Raises UserError: not there, not readable, a pickle that holds anything else, tensors missing or besides.
    """
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    where = f"extractor {spec}"
    file = _file(where, spec.removeprefix(CSD))
    tensors = _tensors(where, file)
    config = _config(where, tensors)
    network = CLIPVisionModelWithProjection(config)
    _fill(where, network, _named(tensors))
    network.to(device)
    # CLIP's own mean, deviation and bicubic resizing are this processor's defaults.
    processor = CLIPImageProcessorPil(size={"shortest_edge": config.image_size}, crop_size=config.image_size)

    def prepare(picture: Image.Image) -> Tensor:
        return processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"][0].float()

    return Model(
        network=network,
        prepare=prepare,
        images=lambda pixels: network(pixel_values=pixels).image_embeds,
        settings=f"{CSD} {processor.to_json_string()}",
    )


def _file(where: str, place: str) -> Path:
    path = Path(locate(place)).expanduser()
    if path.is_file():
        return path
    if place and path.is_dir():
        for name in FILES:
            if (path / name).is_file():
                return path / name
        raise UserError(f"{where}: the folder holds neither {' nor '.join(FILES)}")
    if not HUB_NAME.fullmatch(place):
        raise UserError(f"{where}: no such file or folder; give one, or a Hugging Face name (owner/name)")
    return _download(where, place)


def _download(where: str, place: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    repository, _, revision = place.partition("@")
    missing = EntryNotFoundError("")
    for name in FILES:
        try:
            return Path(hf_hub_download(repository, name, revision=revision or None))
        except EntryNotFoundError as error:
            missing = error
        except Exception as error:  # no network, no such name: errors of whatever library fetches
            raise UserError(f"{where}: cannot be had from Hugging Face: {reason(error)}") from error
    raise UserError(
        f"{where}: {' or '.join(FILES)} cannot be had from Hugging Face ({reason(missing)})"
    ) from missing


def _tensors(where: str, file: Path) -> dict[str, Tensor]:
    """Name -> tensor, without what wrappers put before the names. Raises UserError."""
    found: Any = read_tensors(file)[0] if file.suffix == ".safetensors" else _unpickled(where, file)
    plain = {name.removeprefix("module.").removeprefix("backbone."): each for name, each in found.items()}
    if odd := [name for name, each in plain.items() if not isinstance(each, Tensor)]:
        raise UserError(f"{where}: {odd[0]} is no tensor; give the published checkpoint of CSD")
    return plain


def _unpickled(where: str, file: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals(KNOWN):
            # Mapped, so that the optimizers' states, half of the file, are not read.
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        state = found["model_state_dict"]
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise TypeError("model_state_dict holds no tensors by name")
    except Exception as error:  # a damaged or hostile pickle fails in any way
        raise UserError(
            f"{where}: {file.name} is no checkpoint of CSD ({_first(error)}); nothing of it was run"
        ) from error
    return state


def _first(error: Exception) -> str:
    """What went wrong, without torch's paragraphs of advice on how to load it all the same."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f"it asks for {found[1]}" if found else reason(error)[:120]


def _config(where: str, tensors: Mapping[str, Tensor]) -> Any:
    """The sizes of the network, from the shapes of its tensors."""
    from transformers import CLIPVisionConfig

    try:
        width, _, patch, _ = tensors["conv1.weight"].shape
        if width % HEAD:
            raise ValueError(f"{width} channels are no heads of {HEAD}")
        tokens, _ = tensors["positional_embedding"].shape
        inner, _ = tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape
        _, projected = tensors["last_layer_style"].shape
        return CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=inner,
            projection_dim=projected,
            num_hidden_layers=len({block[1] for name in tensors if (block := _BLOCK.match(name))}),
            num_attention_heads=width // HEAD,
            image_size=patch * isqrt(tokens - 1),
            patch_size=patch,
            hidden_act="quick_gelu",
        )
    except (KeyError, ValueError) as error:
        raise UserError(f"{where}: no CLIP image tower with last_layer_style ({reason(error)})") from error


def _fill(where: str, network: Any, state: Mapping[str, Tensor]) -> None:
    """Every tensor into the network, and none left out on either side. Raises UserError."""
    try:
        missing, besides = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"{where}: its tensors do not fit together ({reason(error)[:200]})") from error
    if missing:
        raise UserError(f"{where}: it lacks {', '.join(missing[:3])}; get the whole checkpoint")
    if besides:
        raise UserError(f"{where}: it has {', '.join(besides[:3])}, which are not CSD's; give its checkpoint")


def _named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of transformers' CLIPVisionModelWithProjection."""
    state = {}
    for name, tensor in tensors.items():
        if name == "last_layer_style":
            state["visual_projection.weight"] = tensor.T
        elif name.split(".")[0] != "last_layer_content":
            block = _BLOCK.fullmatch(name)
            place, part = (f"encoder.layers.{block[1]}.", block[2]) if block else ("", name)
            for key, each in _renamed(part, tensor):
                state[f"vision_model.{place}{key}"] = each
    return {key: tensor.float() for key, tensor in state.items()}


def _renamed(part: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """A part of the tower or of a block under transformers' names; query, key and value, in one tensor there, apart."""
    if part.startswith("attn.in_proj_"):
        kind = part.removeprefix("attn.in_proj_")
        return [(f"self_attn.{q}_proj.{kind}", each) for q, each in zip("qkv", tensor.chunk(3), strict=True)]
    module, _, kind = part.rpartition(".")
    if part in _PARTS:
        return [(_PARTS[part], tensor)]
    return [(f"{_PARTS[module]}.{kind}" if module in _PARTS else part, tensor)]
