"""The two nodes: a content and a style file, or a fused one, with two strengths on a model."""

import os

import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io

from .reading import Place, Places, Turned, composed, turned

FOLDER = "loras"  # of ComfyUI's models
CATEGORY = "loaders/B4M"


def places_of(model) -> Places:
    """Every layer of a Stable Diffusion UNet that ComfyUI has loaded, by Diffusers' names."""
    shapes = {name: tensor.shape for name, tensor in model.model.state_dict().items()}
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    return {
        layer.removesuffix(".weight"): Place(original.removesuffix(".weight"), tuple(shape))
        for layer, original in names.items()
        if layer.endswith(".weight") and len(shape := shapes.get(f"diffusion_model.{original}", ())) == 2
    }


def patched(model, put: Turned):
    """The model with a LoRA on it, through the door by which ComfyUI's own loader comes."""
    tensors = {}
    for layer, (up, down) in put.layers.items():
        name = f"lora_unet_{layer.replace('.', '_')}"
        tensors |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
        tensors[f"{name}.alpha"] = torch.tensor(float(len(down)))
    return comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)[0]


def _file(name: str) -> str:
    return folder_paths.get_full_path_or_raise(FOLDER, name)


def _state(*names: str) -> tuple:
    """Another one once a file has changed: ComfyUI runs a node again only then."""
    files = [os.stat(_file(name)) for name in names]
    return tuple((file.st_size, file.st_mtime_ns) for file in files)


def _files(name: str, shown: str, tooltip: str):
    return io.Combo.Input(
        name, options=folder_paths.get_filename_list(FOLDER), display_name=shown, tooltip=tooltip
    )


def _strengths() -> list:
    limits = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.05}
    return [
        io.Float.Input("content_strength", tooltip="0: without the content; 1: as trained", **limits),
        io.Float.Input("style_strength", tooltip="0: without the style; 1: as trained", **limits),
    ]


def _outputs() -> list:
    return [
        io.Model.Output(),
        io.String.Output(
            display_name="prompt", tooltip="what calls the content and the style, as they were trained"
        ),
    ]


class ContentInStyle(io.ComfyNode):
    """A content file and a style file."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="B4MContentInStyle",
            display_name="B4M: content in style",
            category=CATEGORY,
            description="Composes a content file and a style file of b4m that share a basis, with a strength for each.",
            inputs=[
                io.Model.Input("model"),
                _files("content_file", "content", "a content file: models/loras/.../content.safetensors"),
                _files("style_file", "style", "a style file: models/loras/.../style.safetensors"),
                *_strengths(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, content_file, style_file, **given):
        return _state(content_file, style_file)

    @classmethod
    def execute(cls, model, content_file, style_file, content_strength, style_strength):
        strength = {"content": content_strength, "style": style_strength}
        put = composed(_file(content_file), _file(style_file), strength, places_of(model))
        return io.NodeOutput(patched(model, put), put.prompt)


class FusedFile(io.ComfyNode):
    """A file of the second stage, or one that `b4m export` made of two concepts."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="B4MFusedFile",
            display_name="B4M: fused file",
            category=CATEGORY,
            description="Puts a fused file of b4m on a model, its content and its style each at a strength.",
            inputs=[
                io.Model.Input("model"),
                _files(
                    "lora_file", "fused file", "a file of the second stage, in Diffusers' or kohya's names"
                ),
                *_strengths(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, lora_file, **given):
        return _state(lora_file)

    @classmethod
    def execute(cls, model, lora_file, content_strength, style_strength):
        strength = {"content": content_strength, "style": style_strength}
        put = turned(_file(lora_file), strength, places_of(model))
        return io.NodeOutput(patched(model, put), put.prompt)


class Extension(ComfyExtension):
    async def get_node_list(self):
        return [ContentInStyle, FusedFile]


async def comfy_entrypoint():
    return Extension()
