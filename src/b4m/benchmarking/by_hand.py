"""An ordinary LoRA as one writes it from Diffusers' documentation, with peft and accelerate: a rival of `b4m bench`.

    python -m b4m.benchmarking.by_hand --base-model DIR --images DIR --prompt TEXT --output DIR

The autoencoder and the text encoders run in every step, as in the documented loop, or once before it (--cached).
Nothing of b4m is imported: what a user would start from, seconds of imports included, is what is measured.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from diffusers.optimization import get_scheduler
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]
ENDINGS = {".png", ".jpg", ".jpeg", ".webp"}


class Images(Dataset):
    """The images of a folder, `samples` of them over and over, (3, size, size) in [-1, 1]."""

    def __init__(self, folder: Path, size: int, samples: int) -> None:
        self.paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
        self.size, self.samples = size, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        number = index % len(self.paths)
        with Image.open(self.paths[number]) as image:
            fitted = ImageOps.fit(image.convert("RGB"), (self.size, self.size), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(fitted) / 127.5 - 1).permute(2, 0, 1).float(), number


class Encoded:
    """What a step needs of the frozen parts: encoded anew each time, or once and kept."""

    def __init__(self, pipe: StableDiffusionXLPipeline, prompt: str, cached: bool) -> None:
        self.pipe, self.prompt, self.cached = pipe, prompt, cached
        self.latents: dict[int, Tensor] = {}
        self.texts: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def images(self, pixels: Tensor, numbers: Tensor) -> Tensor:
        if not self.cached:
            return self._encode(pixels)
        for row, number in enumerate(numbers.tolist()):
            if number not in self.latents:
                self.latents[number] = self._encode(pixels[row : row + 1])[0]
        return torch.stack([self.latents[number] for number in numbers.tolist()])

    def _encode(self, pixels: Tensor) -> Tensor:
        return self.pipe.vae.encode(pixels).latent_dist.sample() * self.pipe.vae.config.scaling_factor

    @torch.no_grad()
    def prompts(self, samples: int) -> tuple[Tensor, Tensor]:
        if self.texts is None or not self.cached:
            hidden, _, pooled, _ = self.pipe.encode_prompt(
                self.prompt, device=self.pipe.unet.device, do_classifier_free_guidance=False
            )
            self.texts = hidden, pooled
        hidden, pooled = self.texts
        return hidden.expand(samples, -1, -1), pooled.expand(samples, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("base-model", "images", "prompt", "output"):
        parser.add_argument(f"--{name}", required=True)
    for name, default in (("steps", 500), ("batch", 4), ("rank", 64), ("resolution", 512), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--mixed-precision", default="no", choices=("no", "bf16", "fp16"))
    parser.add_argument("--cached", action="store_true")
    train(parser.parse_args())


def train(options: argparse.Namespace) -> None:
    """The documented loop."""
    torch.manual_seed(options.seed)
    accelerator = Accelerator(mixed_precision=options.mixed_precision)
    pipe = StableDiffusionXLPipeline.from_pretrained(
        options.base_model, dtype=torch.float32, add_watermarker=False
    )
    noise_scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    weights = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[options.mixed_precision]
    for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        part.requires_grad_(False)
        part.to(accelerator.device, torch.float32 if part is pipe.vae else weights)
    unet = pipe.unet
    unet.add_adapter(LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=LAYERS))
    learnable = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in learnable:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(learnable, lr=options.lr)
    loader = DataLoader(
        Images(Path(options.images), options.resolution, options.steps * options.batch), options.batch
    )
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=options.steps)
    unet, optimizer, loader, schedule = accelerator.prepare(unet, optimizer, loader, schedule)
    encoded = Encoded(pipe, options.prompt, options.cached)
    side = options.resolution
    for pixels, numbers in loader:
        latents = encoded.images(pixels, numbers)
        hidden, pooled = encoded.prompts(len(latents))
        noise = torch.randn_like(latents)
        timesteps = torch.randint(1000, (len(latents),), device=latents.device)
        noisy = noise_scheduler.add_noise(latents, noise, timesteps)
        sizes = torch.tensor([[side, side, 0, 0, side, side]], device=latents.device, dtype=weights)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(latents), -1)}
        with accelerator.autocast():
            answer = unet(noisy.to(weights), timesteps, hidden, added_cond_kwargs=added).sample
        velocity = noise_scheduler.config.prediction_type == "v_prediction"
        target = noise_scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
        accelerator.backward(F.mse_loss(answer.float(), target.float()))
        accelerator.clip_grad_norm_(learnable, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(accelerator.unwrap_model(unet)))
    StableDiffusionXLPipeline.save_lora_weights(options.output, unet_lora_layers=state)


if __name__ == "__main__":
    main()
