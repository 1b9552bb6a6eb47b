"""Base models as people have them: a folder with one thing changed, and the original names of one file."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from conftest import TINY_UNET, tiny_text_config, tiny_tokenizer, tiny_vae
from diffusers import (
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SCHEDULER = "scheduler/scheduler_config.json"


def changed(base: str, folder: Path, **files: dict | None) -> str:
    """A copy of `base` with entries of its JSON files changed (unet__config: dots and slashes as __), or removed."""
    shutil.copytree(base, folder)
    for name, values in files.items():
        path = folder / (name.replace("__", "/") + ".json")
        if values is None:
            path.unlink()
        else:
            path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return str(folder)


def rescheduled(base: str, folder: Path, **scheduler) -> str:
    """A copy of `base` with another scheduler, nothing of the old one left."""
    name = scheduler["_class_name"]
    copied = changed(base, folder, model_index={"scheduler": ["diffusers", name]})
    (folder / SCHEDULER).write_text(json.dumps(scheduler))
    return copied


def two_widths_pipeline(seed: int = 0, **scheduler) -> StableDiffusionXLPipeline:
    """A tiny SDXL whose text encoders differ in width, as the real ones do: by it the library tells them apart."""
    torch.manual_seed(seed)
    text = tiny_text_config(tiny_tokenizer())
    wide = CLIPTextConfig(**{**text.to_dict(), "hidden_size": 32, "projection_dim": 32, "hidden_act": "gelu"})
    unet = UNet2DConditionModel(
        **TINY_UNET,
        block_out_channels=(32, 64),
        cross_attention_dim=24 + 32,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    return StableDiffusionXLPipeline(
        tiny_vae(),
        CLIPTextModel(text),
        CLIPTextModelWithProjection(wide),
        tiny_tokenizer(),
        tiny_tokenizer(),
        unet,
        EulerDiscreteScheduler(beta_schedule="scaled_linear", **scheduler),
        add_watermarker=False,
    )


# Diffusers' names -> those of the original checkpoints, written from what such files hold.

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def original_unet(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """layers: layers_per_block."""
    attended = {name.split(".attentions.")[0] for name in state if ".attentions." in name}

    def rename(name: str) -> str:
        for ours, theirs in UNET_ENDS.items():
            if name.startswith(f"{ours}."):
                return theirs + name.removeprefix(ours)
        where, kind, number, rest = re.fullmatch(
            r"(mid_block|\w+_blocks\.\d+)\.(\w+)\.(\d+)\.(.+)", name
        ).groups()
        block, layer = int(where.rpartition(".")[2]) if "." in where else 0, int(number)
        if kind == "resnets":
            part, _, tail = rest.partition(".")
            rest = f"{RESNET[part]}.{tail}"
        if where == "mid_block":
            return f"middle_block.{1 if kind == 'attentions' else 2 * layer}.{rest}"
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            return f"output_blocks.{block * (layers + 1) + layers}.{2 if where in attended else 1}.{rest}"
        place = 0 if kind == "resnets" else 1
        if where.startswith("down"):
            return f"input_blocks.{1 + block * (layers + 1) + layer}.{place}.{rest}"
        return f"output_blocks.{block * (layers + 1) + layer}.{place}.{rest}"

    return {f"model.diffusion_model.{rename(name)}": tensor for name, tensor in state.items()}


def original_vae(state: Mapping[str, Tensor], prefix: str = "first_stage_model.") -> dict[str, Tensor]:
    blocks = 1 + max(
        int(found[1]) for name in state if (found := re.match(r"decoder\.up_blocks\.(\d+)", name))
    )
    found = {}
    for name, tensor in state.items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", new)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", new)
        new = re.sub(
            r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", new
        )
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        if "mid_block.attentions.0." in new:
            start, part = new.split("mid_block.attentions.0.")
            part, _, kind = part.rpartition(".")
            new = f"{start}mid.attn_1.{VAE_ATTENTION[part]}.{kind}"
            if kind == "weight" and part != "group_norm":
                tensor = tensor[:, :, None, None]  # a convolution there
        found[prefix + new] = tensor
    return found


def original_clip(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Transformers' own names, which have a text_model in them wherever its releases have put it."""
    return {
        f"{prefix}transformer.text_model.{name.removeprefix('text_model.')}": t for name, t in state.items()
    }


def original_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    found = {
        "positional_embedding": plain["embeddings.position_embedding.weight"],
        "token_embedding.weight": plain["embeddings.token_embedding.weight"],
        "text_projection": plain["text_projection.weight"].T,
        "ln_final.weight": plain["final_layer_norm.weight"],
        "ln_final.bias": plain["final_layer_norm.bias"],
    }
    for name, tensor in plain.items():
        if not (match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)):
            continue
        block, part, kind = f"transformer.resblocks.{match[1]}", match[2], match[3]
        if part == "self_attn.q_proj":
            three = [plain[name.replace("q_proj", f"{each}_proj")] for each in "qkv"]
            found[f"{block}.attn.in_proj_{kind}"] = torch.cat(three)
        elif part in OPEN_CLIP:
            found[f"{block}.{OPEN_CLIP[part]}.{kind}"] = tensor
    return {f"conditioner.embedders.1.model.{name}": tensor for name, tensor in found.items()}


def original(pipe: DiffusionPipeline) -> dict[str, Tensor]:
    """A whole checkpoint in one dictionary, with the odds and ends that real files hold."""
    found = original_unet(pipe.unet.state_dict(), pipe.unet.config.layers_per_block)
    found |= original_vae(pipe.vae.state_dict())
    if hasattr(pipe, "text_encoder_2"):
        prefix = "conditioner.embedders.0."
        found |= original_open_clip(pipe.text_encoder_2.state_dict())
        found["conditioner.embedders.1.model.logit_scale"] = torch.zeros(())
    else:
        prefix = "cond_stage_model."
        found["alphas_cumprod"] = torch.zeros(1000)
    found |= original_clip(pipe.text_encoder.state_dict(), prefix)
    found[f"{prefix}transformer.text_model.embeddings.position_ids"] = torch.arange(16)[None]
    return found


def save_original(tensors: Mapping[str, Tensor], path: Path, **metadata: str) -> str:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, metadata or None)
    return str(path)
