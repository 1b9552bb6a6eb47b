"""What the nodes need of ComfyUI, as small as it can be; test_comfyui.py compares it with the real one where that is.

Names and arithmetic are those of ComfyUI 0.3.64 (commit a125cd8): `comfy.utils.unet_to_diffusers`,
`comfy.sd.load_lora_for_models`, `comfy_api.latest.io`, `folder_paths`.
"""

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from bases import original_unet
from torch import Tensor

NODES = Path(__file__).parents[2] / "integrations" / "comfyui"
PREFIX = "diffusion_model."


@dataclass
class Model:
    """A ModelPatcher: weights under their original names, and LoRAs that wait to be added."""

    weights: dict[str, Tensor]
    unet_config: dict
    patches: list[dict[str, Tensor]] = field(default_factory=list)

    @property
    def model(self):
        return SimpleNamespace(
            state_dict=lambda: self.weights, model_config=SimpleNamespace(unet_config=self.unet_config)
        )

    def patched(self) -> dict[str, Tensor]:
        """The weights with all that waits."""
        found = {name: weight.clone() for name, weight in self.weights.items()}
        originals = {
            f"lora_unet_{layer.removesuffix('.weight').replace('.', '_')}": f"{PREFIX}{name}"
            for layer, name in self.unet_config["names"].items()
        }
        for lora in self.patches:
            for name in {name.split(".")[0] for name in lora}:
                up, down = lora[f"{name}.lora_up.weight"], lora[f"{name}.lora_down.weight"]
                scale = lora[f"{name}.alpha"].item() / len(down)
                found[originals[name]] += (scale * torch.mm(up.float(), down.float())).type(
                    found[originals[name]].dtype
                )
        return found


def model_of(unet) -> Model:
    """A diffusers UNet as ComfyUI has it loaded."""
    state, depth = unet.state_dict(), unet.config.layers_per_block
    weights = {name.removeprefix("model."): tensor for name, tensor in original_unet(state, depth).items()}
    theirs = original_unet({name: name for name in state}, depth)
    names = {ours: original.removeprefix(f"model.{PREFIX}") for original, ours in theirs.items()}
    return Model(weights, {"names": names})


def load_lora_for_models(model, clip, lora, strength_model, strength_clip):
    assert clip is None and strength_model == 1
    return Model(model.weights, model.unet_config, [*model.patches, lora]), None


def _io() -> SimpleNamespace:
    def kind(name):
        return SimpleNamespace(
            Input=lambda id, **more: SimpleNamespace(id=id, type=name, **more),
            Output=lambda **more: SimpleNamespace(type=name, **more),
        )

    class ComfyNode:
        pass

    return SimpleNamespace(
        ComfyNode=ComfyNode,
        Schema=SimpleNamespace,
        NodeOutput=lambda *results: SimpleNamespace(result=results),
        **{name: kind(name) for name in ("Model", "Combo", "Float", "String")},
    )


def load_nodes(folder: Path):
    """The nodes as ComfyUI loads them, on this stand-in. folder: where its LoRAs lie."""

    def module(name: str, **attributes) -> ModuleType:
        made = ModuleType(name)
        made.__dict__.update(attributes)
        return made

    utils = module("comfy.utils", unet_to_diffusers=lambda config: config["names"])
    sd = module("comfy.sd", load_lora_for_models=load_lora_for_models)
    latest = module("comfy_api.latest", io=_io(), ComfyExtension=object)
    stand_ins = {
        "comfy": module("comfy", utils=utils, sd=sd),
        "comfy.utils": utils,
        "comfy.sd": sd,
        "comfy_api": module("comfy_api", latest=latest),
        "comfy_api.latest": latest,
        "folder_paths": module(
            "folder_paths",
            get_filename_list=lambda kind: sorted(path.name for path in folder.iterdir()),
            get_full_path_or_raise=lambda kind, name: str(folder / name),
        ),
    }
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        spec = importlib.util.spec_from_file_location(
            "b4m_nodes", NODES / "__init__.py", submodule_search_locations=[str(NODES)]
        )
        loaded = importlib.util.module_from_spec(spec)
        sys.modules["b4m_nodes"] = loaded
        spec.loader.exec_module(loaded)
        return loaded
    finally:
        for name, was in before.items():
            if was is None:
                del sys.modules[name]
            else:
                sys.modules[name] = was
