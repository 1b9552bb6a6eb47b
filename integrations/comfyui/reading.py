"""Files of b4m -> LoRAs by Diffusers' layer names, turned by two dials. Runs b4m's own code, as copy.sh brings it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .b4m.core.errors import UserError
from .b4m.core.storage import check_floats, read_tensors
from .b4m.files.concept import check_pair, load_concept
from .b4m.files.fused import Layers, dialled, fuse, read_spec

DOWN = (".lora_A.weight", ".lora_down.weight")  # as Diffusers and as kohya write it
UP = (".lora_B.weight", ".lora_up.weight")
ALPHA = ".alpha"


@dataclass(frozen=True)
class Place:
    """A layer of the model that is loaded."""

    original: str  # its name there
    size: tuple[int, int]  # m, n


Places = Mapping[str, Place]  # by Diffusers' names, which a basis goes by


@dataclass(frozen=True)
class Turned:
    """A content and a style at their strengths, as an ordinary LoRA: the bits that `b4m export --dtype fp32` writes."""

    layers: Layers
    prompt: str  # what calls both; "" where the files do not say


def composed(content_file: str, style_file: str, strength: Mapping[str, float], places: Places) -> Turned:
    """Two concept files. Raises UserError for any that are damaged, of two bases, or of another base model."""
    content, style = load_concept(content_file), load_concept(style_file)
    check_pair(content, style)
    _check_there(content_file, [*content.tensors], places)
    layers = {}
    for layer in content.tensors:
        factors = {
            "content": strength["content"] * content.tensors[layer],
            "style": strength["style"] * style.tensors[layer],
        }
        layers[layer] = fuse(content.spec, layer, places[layer].size, factors, content.inputs.get(layer))
    _check_sizes(content_file, layers, places)
    return Turned(layers, _prompt(content.metadata.get("prompt"), style.metadata.get("prompt")))


def turned(lora_file: str, strength: Mapping[str, float], places: Places) -> Turned:
    """A fused file in Diffusers' or kohya's names. Raises UserError for any other file, or for another base model."""
    tensors, metadata = read_tensors(lora_file)
    spec = read_spec(lora_file, metadata)
    if spec is None or "b4m.kind" in metadata:
        raise UserError(
            f"{lora_file}: not a fused file of b4m, whose content and style can be told apart; concept files go into "
            "the node for two files, and any other LoRA into ComfyUI's own loader"
        )
    layers = _layers(lora_file, tensors, places)
    _check_sizes(lora_file, layers, places)
    prompt = _prompt(metadata.get("b4m.content_prompt"), metadata.get("b4m.style_prompt"))
    if set(strength.values()) != {1.0}:  # else a file in half precision would be made anew, with other bits
        layers = dialled(layers, spec, strength)
    return Turned(layers, prompt)


def _layers(where: str, tensors: Mapping[str, Tensor], places: Places) -> Layers:
    """The projections of each layer, by whichever of its names the file uses."""
    called = {}
    for layer, place in places.items():
        called[f"unet.{layer}"] = layer
        called |= {f"lora_unet_{name.replace('.', '_')}": layer for name in (layer, place.original)}
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        ending = next((ending for ending in (*DOWN, *UP, ALPHA) if name.endswith(ending)), "")
        part = "down" if ending in DOWN else "up" if ending in UP else "alpha"
        found.setdefault(name.removesuffix(ending), {})[part] = tensor
    _check_there(where, [called.get(name, name) for name in found], places)
    layers = {}
    for name, parts in found.items():
        if not {"up", "down"} <= parts.keys() or float(parts.get("alpha", len(parts["down"]))) != len(
            parts["down"]
        ):
            raise UserError(f"{where}: {name} is not as b4m has written it; get the file again")
        check_floats(where, {name: parts["up"], f"{name} (down)": parts["down"]})
        layers[called[name]] = parts["up"].float(), parts["down"].float()
    return layers


def _check_there(where: str, layers: list[str], places: Places) -> None:
    if missing := [layer for layer in layers if layer not in places]:
        raise UserError(
            f"{where}: this model lacks {len(missing)} of its {len(layers)} layers ({missing[0]}); load the base model "
            "that it was trained with"
        )


def _check_sizes(where: str, layers: Layers, places: Places) -> None:
    for layer, (up, down) in layers.items():
        found, wanted = (len(up), down.shape[1]), places[layer].size
        if found != wanted:
            raise UserError(
                f"{where}: {layer} is {found}, in this model {wanted}; load the base model that it was trained with"
            )


def _prompt(content: str | None, style: str | None) -> str:
    """ "a photo of snq bear" and "a picture in w@z chalk style" as one."""
    return f"{content} {style.removeprefix('a picture ')}" if content and style else ""
