"""Joint training: one run for a content and a style, what the paper compares with (JTtrain, w/o MCP-I)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..backbones.protocol import Backbone
from ..config.stages import JointConfig, SecondConfig
from ..maths.plp import FACTORS
from .b4m import B4M
from .denoising import DenoisingTask
from .factors import StartedLearner, adapter_of, concept_of, save_concepts, save_fused
from .protocol import Pair, Task


class JointTask(DenoisingTask):
    """Both concepts in one run, from nothing and without partners."""

    def __init__(self, config: JointConfig) -> None:
        prompts = {kind: getattr(config, f"{kind}_prompt") for kind in FACTORS}
        super().__init__(config, prompts, config.both_prompt)

    def start(self, backbone: Backbone) -> "JointLearner":
        config = self.config
        adapter = adapter_of(backbone, config)
        lr = dict.fromkeys(FACTORS, config.lr)
        return JointLearner(backbone, self.inputs, config, adapter, config.routing, lr)


class JointLearner(StartedLearner):
    """Writes both factors, apart and fused."""

    def save(self, folder: Path, facts: Mapping[str, str]) -> None:
        config = self.config
        concepts = {
            kind: concept_of(
                kind,
                self.adapter,
                self.backbone,
                facts,
                getattr(config, f"{kind}_prompt"),
                getattr(config, f"{kind}_trigger"),
            )
            for kind in FACTORS
        }
        save_concepts(folder, concepts)
        save_fused(folder, self.adapter, self.backbone, facts, concepts)


class Joint(B4M):
    """JTtrain at ratio 0 without routing; at other settings training one to one, w/o MCP-I."""

    name, doc = "joint", "one run on the pair"
    jobs = (JointConfig,)

    def task(self, config: Any) -> Task:
        return JointTask(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        return {"lora_file": pair.train(JointConfig)}


class JointThenSecond(Joint):
    """JTtrain-II: the captions beside the images tell the concepts apart."""

    name, doc = (
        "joint-then-second",
        "one run on all contents and styles of the study, then the second stage on the pair",
    )
    jobs = ()

    def files(self, pair: Pair) -> dict[str, Path]:
        folder = pair.train(JointConfig, everything=True).parent
        files: dict[str, Any] = {f"{kind}_file": folder / f"{kind}.safetensors" for kind in FACTORS}
        return {"lora_file": pair.train(SecondConfig, **files)}
