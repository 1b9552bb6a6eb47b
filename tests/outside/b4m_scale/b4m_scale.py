"""A method from another package, in one file: what each cross-attention adds is scaled, channel by channel."""

from dataclasses import dataclass

import torch

from b4m.config.training import ShowsContent, TrainConfig
from b4m.files.opening import save_method_file
from b4m.methods.denoising import DenoisingLearner, DenoisingTask, one_dial


@dataclass(frozen=True, kw_only=True)
class ScaleConfig(ShowsContent, TrainConfig):
    """Settings of its one training: those of every training, and the content's."""

    stage, result, needs = "scale", "scale.safetensors", ("content_dir",)


class Scales:
    """What is on a denoiser, in training as in sampling."""

    def __init__(self, denoiser):
        self.strength = 1.0
        self.layers = {name: m for name, m in denoiser.named_modules() if name.endswith("attn2.to_out.0")}
        for layer in self.layers.values():
            layer.scale = torch.nn.Parameter(torch.zeros(layer.out_features, device=layer.weight.device))
        self.hooks = [layer.register_forward_hook(self.scaled) for layer in self.layers.values()]

    def scaled(self, layer, given, y):
        return y * (1 + self.strength * layer.scale).to(y.dtype)

    def arguments(self, content, style):
        self.strength = one_dial(content, style)

    def remove(self):
        for hook, layer in zip(self.hooks, self.layers.values(), strict=True):
            hook.remove()
            del layer.scale


class ScaleLearner(DenoisingLearner):
    """Learns the scales."""

    def __init__(self, backbone, inputs, config):
        super().__init__(backbone, inputs, config)
        backbone.attached = Scales(backbone.denoiser)
        self.named = {f"content/{name}": layer.scale for name, layer in backbone.attached.layers.items()}

    def save(self, folder, facts):
        save_method_file(folder / self.config.result, "scale", self.named, self.backbone.denoiser, facts)


class ScaleTask(DenoisingTask):
    """On the content's images."""

    def start(self, backbone):
        return ScaleLearner(backbone, self.inputs, self.config)


class Scale:
    """The method, as the entry point names it."""

    name, doc, jobs = "scale", "scaled cross-attention", (ScaleConfig,)
    triggers, by_sample, two_dials = True, False, True

    def task(self, config):
        return ScaleTask(config, {"content": config.content_prompt}, config.content_prompt)

    def files(self, pair):
        return {"lora_file": pair.train(ScaleConfig)}

    def attach(self, backbone, files):
        attached = Scales(backbone.denoiser)
        for name, layer in attached.layers.items():
            layer.scale.data.copy_(files["lora"].tensors[f"content/{name}"])
        return attached
