"""A base model of SDXL's size with random weights, as a folder: what a GPU is measured with without any weights.

    python benchmarks/random_base.py outputs/random-sdxl

Nothing is downloaded; words are those of the embedded base. --size small: everything a hundredth of it, to try it out.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from b4m.benchmarking.models import TOKENS, UNETS, VAES, random_model
from b4m.config.presets import EMBEDDED
from b4m.core.where import locate

TEXTS = {  # widths of the two text encoders, which the UNet's add up to
    "sdxl": (
        dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12),
        dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20),
    ),
    "small": (
        dict(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4),
        dict(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4),
    ),
}
ACTIVATIONS = "quick_gelu", "gelu"
LATENTS = {"sdxl": 0.13025, "small": 1.0}  # the scale of each autoencoder's latents


def write(folder: Path, size: str) -> None:
    """The whole pipeline, its UNet and text encoders in float16."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizers = [_tokenizer(folder / name, name) for name in ("tokenizer", "tokenizer_2")]
    texts = [
        _text(cls, tokenizer, dict(widths, hidden_act=activation), device)
        for cls, tokenizer, widths, activation in zip(
            (CLIPTextModel, CLIPTextModelWithProjection), tokenizers, TEXTS[size], ACTIVATIONS, strict=True
        )
    ]
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    vae = dict(VAES[size], scaling_factor=LATENTS[size])
    StableDiffusionXLPipeline(
        random_model(AutoencoderKL, vae, torch.float32, device),
        *texts,
        *tokenizers,
        random_model(UNet2DConditionModel, UNETS[size], torch.float16, device),
        scheduler,
        add_watermarker=False,
    ).save_pretrained(folder)


def _tokenizer(folder: Path, name: str) -> CLIPTokenizer:
    """The embedded base's, which reads as many tokens as SDXL's."""
    tokenizer = CLIPTokenizer.from_pretrained(locate(EMBEDDED), subfolder=name)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": TOKENS}))
    return CLIPTokenizer.from_pretrained(folder)


def _text(cls: type, tokenizer: CLIPTokenizer, widths: dict, device: torch.device) -> torch.nn.Module:
    config = CLIPTextConfig(
        **widths,
        vocab_size=len(tokenizer),
        max_position_embeddings=TOKENS,
        projection_dim=widths["hidden_size"],
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with device:
        return cls(config).half().eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default="sdxl", choices=TEXTS)
    options = parser.parse_args()
    write(options.folder, options.size)
