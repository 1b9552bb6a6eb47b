"""`python in_comfyui.py COMFYUI NODES LORAS FOLDER`: both nodes beside ComfyUI's own loader, in ComfyUI.

FOLDER/unet.safetensors is the model's weights; on the last line of the output is what was found, as JSON.
"""

# ruff: noqa: E402 (ComfyUI reads its flags before the rest of it is imported)
import asyncio
import json
import shutil
import sys
from pathlib import Path

comfyui, nodes_folder, loras, folder = map(Path, sys.argv[1:])
sys.argv = [sys.argv[0], "--cpu", "--disable-metadata"]
sys.path.insert(0, str(comfyui))

import comfy.options

comfy.options.enable_args_parsing()

import comfy.model_detection
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import folder_paths
import nodes
import torch
from safetensors.torch import load_file

DEVICE = torch.device("cpu")
STRENGTHS = {"content_strength": 0.7, "style_strength": 1.3}


def load_model():
    """A small SDXL as ComfyUI loads a large one: its UNet's shape is told from the weights."""
    weights = load_file(folder / "unet.safetensors")
    found = comfy.model_detection.detect_unet_config(weights, "diffusion_model.")
    config = comfy.supported_models.SDXL(found)
    config.unet_config["num_head_channels"] = 8  # SDXL's 64 are more than there are channels
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(weights, "diffusion_model.", device=DEVICE)
    model.load_model_weights(dict(weights), "diffusion_model.")
    return comfy.model_patcher.ModelPatcher(model, load_device=DEVICE, offload_device=DEVICE)


def weights_of(patcher) -> dict[str, torch.Tensor]:
    """With all that waits to be added."""
    patcher.patch_model(device_to=DEVICE)
    found = {name: tensor.clone() for name, tensor in patcher.model.state_dict().items()}
    patcher.unpatch_model()
    return found


def same(one, other, plain) -> bool:
    ours, theirs = weights_of(one), weights_of(other)
    assert any(not torch.equal(ours[name], plain[name]) for name in plain)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


folder_paths.add_model_folder_path("loras", str(loras), is_default=True)
custom = shutil.copytree(nodes_folder, folder / "custom_nodes" / "b4m-comfyui")
assert asyncio.run(nodes.load_custom_node(str(custom)))
model = load_model()
plain = weights_of(model)
pair, fused = (nodes.NODE_CLASS_MAPPINGS[name] for name in ("B4MContentInStyle", "B4MFusedFile"))
for node in (pair, fused):
    node.GET_SCHEMA()
stock = nodes.LoraLoaderModelOnly()
files = {"content_file": "content_file.safetensors", "style_file": "style_file.safetensors"}
put = {
    "pair": pair.execute(model, **files, **STRENGTHS).result[0],
    "fused": fused.execute(model, "lora_file.safetensors", **STRENGTHS).result[0],
}
beside = {"pair": "pair.safetensors", "fused": "dialled.safetensors"}
told = {
    "same": {
        name: same(put[name], stock.load_lora_model_only(model, file, 1.0)[0], plain)
        for name, file in beside.items()
    },
    "names": comfy.utils.unet_to_diffusers(model.model.model_config.unet_config),
    "imported": [name for name in ("b4m", "diffusers") if name in sys.modules],
}
print(json.dumps(told))
