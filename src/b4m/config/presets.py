"""The presets: what each changes of the settings' defaults, by job."""

from typing import Any

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
MODEL = "a folder, a .safetensors file, or a Hugging Face name (owner/name@revision)"
# Names, not places: results carry them, and must not depend on where b4m lies. What opens them asks core.where.locate.
EMBEDDED = "examples/world/base"
_ENCODERS = "examples/world/encoders"

DEFAULT = "embedded"

# One entry per preset: what it changes of the dataclass defaults. A settings class names the rows that fill it
# (`preset_rows`); what a class does not know of its rows is left out.
# "sdxl" holds the published settings (paper, Sec. 5).
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "sdxl": {
        "train": dict(
            base_model=SDXL,
            rank=64,
            resolution=512,
            target_rows=1,
            gradient_accumulation=4,
            steps=1000,
            lr=1e-4,
            partner_lr=1e-5,
        ),
        "second": dict(steps=60, lr=1e-4),
        "generate": dict(base_model=SDXL, size=1024),
        "evaluate": dict(  # the paper's models, Sec. 5
            content_extractor="facebook/dinov2-base",
            style_extractor="open_clip:ViT-B-32:openai",
            prompt_extractor="open_clip:ViT-B-32:openai",
        ),
    },
    # Found by eye and by score on the drawn world's tuning set (`b4m study tuning`, `preset-check`, `gentle`); a
    # minute on a CPU. Apart from the paper's: all attention layers, since cross-attention k and v are where a small
    # model reads its words; factors of half the rank, since widths here are a fifth of SDXL's, of which a quarter
    # is frozen, not a half; contents that read the principal inputs of their layers, which so few directions cover
    # (`b4m study inputs`); partners that learn at a third of the rate, not a tenth, one of them a step; few steps:
    # guidance makes large what was learned (docs/method.md). The basis scale of 8 is from the first edition: here
    # it is but another rate.
    "embedded": {
        "train": dict(
            base_model=EMBEDDED,
            rank=64,
            layers="all",
            basis_scale=8.0,
            resolution=128,
            target_rows=4,
            gradient_accumulation=1,
            steps=100,
            lr=6e-4,
            lr_schedule="cosine",
            prior_guidance=2.5,
        ),
        "factors": dict(rank=32, ratio=0.25, lr=4.5e-4, partner_lr=1.5e-4),
        "content": dict(partner_samples=1, inputs="principal"),
        "style": dict(partner_samples=1),
        # Plain AdamW brings more together here than the precondition, each at its best (`b4m study second-stage`).
        "second": dict(optimizer="adamw", steps=40, lr=1.2e-3),
        # Against the base both are right in 43 % of unseen pairs' images, as any tool draws in 23 % (`together`).
        # Eight steps draw what 25 do (`few-steps`).
        "generate": dict(base_model=EMBEDDED, size=128, steps=8, guidance=2.5, negative="base"),
        "evaluate": dict(
            content_extractor=f"{_ENCODERS}/content",
            style_extractor=f"{_ENCODERS}/style",
            prompt_extractor=f"{_ENCODERS}/prompt",
            content_judge=f"{_ENCODERS}/content",
            style_judge=f"{_ENCODERS}/style",
            background_judge=f"{_ENCODERS}/background",
            colour_judge=f"{_ENCODERS}/colour",
        ),
    },
}
