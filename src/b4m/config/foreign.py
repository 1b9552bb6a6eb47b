"""What other tools (Diffusers' scripts, kohya, A1111, ComfyUI) call our settings, with underscores."""

import difflib
from collections.abc import Collection

from .fields import flag

# Ours -> theirs.
RENAMED = {
    "base_model": "pretrained_model_name_or_path pretrained_model model model_id model_path ckpt checkpoint",
    "vae": "pretrained_vae_model_name_or_path vae_path",
    "content_dir": "instance_data_dir train_data_dir images_dir dataset_config",
    "style_dir": "instance_data_dir train_data_dir images_dir dataset_config",
    "output_dir": "output outdir output_path output_name",
    "lora_file": "lora lora_path lora_weights network_weights",
    "base_lora": "lcm_lora distilled_lora lightning_lora",
    "scheduler": "sampler sampler_name",
    "target_rows": "train_batch_size batch_size",
    "gradient_accumulation": "gradient_accumulation_steps",
    "steps": "max_train_steps num_steps num_inference_steps sampling_steps",
    "lr": "learning_rate unet_lr",
    "lr_schedule": "lr_scheduler",
    "rank": "network_dim lora_rank dim",
    "snr_gamma": "min_snr_gamma",
    "checkpoint_every": "checkpointing_steps save_every_n_steps",
    "preview_every": "validation_steps sample_every_n_steps",
    "preview_prompts": "validation_prompt sample_prompts",
    "prompt": "instance_prompt",
    "content_trigger": "trigger_word",
    "style_trigger": "trigger_word",
    "tracker": "report_to log_with",
    "prompts": "prompt",
    "negative_prompt": "negative negative_prompts",
    "seeds": "seed",
    "guidance": "guidance_scale cfg cfg_scale",
    "content_strength": "lora_scale lora_strength network_mul",
    "style_strength": "lora_scale lora_strength network_mul",
    "mixed_precision": "dtype precision fp16 bf16",
}
# What to say -> theirs that have no like here.
ANSWERS = {
    "a run that was stopped goes on by itself: give the same command again": "resume resume_from_checkpoint",
    "a run saves its state by itself, every --checkpoint-every steps": "save_state",
    "there are no epochs here: --steps counts optimizer steps": "num_train_epochs max_train_epochs epochs",
    "there is no warm-up here; leave it out": "lr_warmup_steps",
    "there is no alpha here: an update is as large as it was learned; leave it out": "network_alpha lora_alpha",
    "the command names the method, as train-content does; leave it out": "network_module",
    "text encoders are never trained here; leave it out": "train_text_encoder text_encoder_lr",
    "images and prompts are always encoded once here; leave it out": "cache_latents cache_text_encoder_outputs",
    "PyTorch's own attention is used here; leave it out": "xformers sdpa enable_xformers_memory_efficient_attention",
    "the base model's own scheduler says this; leave it out": "v_parameterization zero_terminal_snr",
    "both sides are said with --size, as in --size 1216x832": "width height",
    "--seeds says which images to draw, as in --seeds 0..7": "num_images num_images_per_prompt batch_count n_iter",
    "images are drawn with Euler steps here; leave it out": "sampler scheduler sampler_name",
}


def answer(name: str, known: Collection[str]) -> str | None:
    """What to say of a setting that is not among the `known` ones of the job; None: nothing."""
    ours = [flag(our) for our, theirs in RENAMED.items() if our in known and name in theirs.split()]
    if ours:
        return f"it is {' or '.join(ours)} here"
    for said, theirs in ANSWERS.items():
        if name in theirs.split():
            return said
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"not known; is {flag(close[0])} meant?" if close else None
