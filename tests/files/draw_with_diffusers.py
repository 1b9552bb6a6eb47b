"""Draw one picture with a LoRA file through stock Diffusers alone: `python draw_with_diffusers.py BASE LORA OUT`.

Runs in the Diffusers of today and in the 0.22.0 release, so it uses nothing that either lacks, and no text
encoders, whose files the old transformers cannot read. LORA may be "none". OUT: a .npy file, float32.
"""

import sys

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel


def main(base: str, lora: str, out: str) -> None:
    torch.set_num_threads(1)
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    vae = AutoencoderKL.from_pretrained(base, subfolder="vae")
    scheduler = EulerDiscreteScheduler.from_pretrained(base, subfolder="scheduler")
    pipe = StableDiffusionXLPipeline(vae, None, None, None, None, unet, scheduler, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    if lora != "none":
        pipe.load_lora_weights(lora)
    random = np.random.default_rng(0)  # torch's generators may differ between releases

    def noise(*shape):
        return torch.from_numpy(random.standard_normal(shape).astype(np.float32))

    width = unet.config.cross_attention_dim
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    size = unet.config.sample_size
    picture = pipe(
        prompt_embeds=noise(1, 16, width),
        negative_prompt_embeds=noise(1, 16, width),
        pooled_prompt_embeds=noise(1, pooled),
        negative_pooled_prompt_embeds=noise(1, pooled),
        latents=noise(1, unet.config.in_channels, size, size),
        height=size * pipe.vae_scale_factor,
        width=size * pipe.vae_scale_factor,
        num_inference_steps=4,
        output_type="np",
    ).images[0]
    np.save(out, picture.astype(np.float32))


if __name__ == "__main__":
    main(*sys.argv[1:])
