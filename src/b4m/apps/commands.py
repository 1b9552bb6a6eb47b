"""What the command line can do: of each subcommand its purpose, an example, and the settings behind its flags."""

import dataclasses
from collections.abc import Mapping

from ..benchmarking.settings import BenchConfig
from ..config.sampling import GenerateConfig
from ..config.stages import ContentConfig, JointConfig, SecondConfig, StyleConfig
from ..evaluation.settings import BalanceConfig, EvaluateConfig, InspectConfig
from ..files.settings import ExportConfig, SplitConfig
from ..studies.settings import LibraryConfig, StudyConfig
from .doctor import DoctorConfig
from .push.settings import PushConfig
from .studio.settings import StudioConfig
from .vote.settings import MakeConfig, ReportConfig, ServeConfig, SimulateConfig


@dataclasses.dataclass(frozen=True)
class Command:
    """One subcommand: what it is for, an example, and the settings behind its flags, or those of its actions."""

    help: str
    example: str
    settings: type | None = None
    arguments: tuple[str, ...] = ()  # the fields that are given without a flag
    actions: Mapping[str, "Command"] = dataclasses.field(default_factory=dict)  # words that may follow


VOTE = {
    "make": Command(
        "Make a study from the results of a b4m study, or from folders of images.",
        "b4m vote make outputs/studies/results/table1-ablations --output-dir outputs/vote",
        MakeConfig,
        arguments=("source",),
    ),
    "serve": Command(
        "Let people vote in their browsers, on this machine or, by links or a password, from others.",
        "b4m vote serve outputs/vote --host 0.0.0.0 --links 60",
        ServeConfig,
        arguments=("study",),
    ),
    "report": Command(
        "What the votes say: bars, shares and strengths with intervals, agreement, power, as tables and plot.",
        "b4m vote report outputs/vote",
        ReportConfig,
        arguments=("study",),
    ),
    "simulate": Command(
        "A report of simulated voters with known preferences, kept apart from real votes: is the study large enough?",
        "b4m vote simulate outputs/vote --voters 60 --strengths b4m=3 joint=1",
        SimulateConfig,
        arguments=("study",),
    ),
}

COMMANDS = {
    "train-content": Command(
        "Learn what a thing looks like from 3 to 5 pictures of it; writes content.safetensors.",
        "b4m train-content --content-dir my_bear/ --content-class teddybear --partner-dirs styles/*.png "
        "--output-dir outputs/bear",
        ContentConfig,
    ),
    "train-style": Command(
        "Learn how a style looks from 1 to 3 pictures in it; writes style.safetensors.",
        "b4m train-style --style-dir yarn/ --style-class yarn --partner-dirs things/*.png "
        "--output-dir outputs/yarn",
        StyleConfig,
    ),
    "second-stage": Command(
        "Bring a content and a style together; writes pytorch_lora_weights.safetensors, a LoRA for any tool.",
        "b4m second-stage --content-file outputs/bear/content.safetensors "
        "--style-file outputs/yarn/style.safetensors --content-dir my_bear/ --style-dir yarn/ "
        "--output-dir outputs/fused",
        SecondConfig,
    ),
    "train-joint": Command(
        "Learn one content and one style in one run: what the paper compares with (JTtrain at --ratio 0 "
        "--no-routing).",
        "b4m train-joint --content-dir my_bear/ --style-dir yarn/ --ratio 0 --no-routing --output-dir outputs/joint",
        JointConfig,
    ),
    "train": Command(
        "Train another registered method: b4m train METHOD, or METHOD:JOB; its flags come after its name.",
        "b4m train joint --content-dir my_bear/ --style-dir yarn/ --output-dir outputs/joint",
        arguments=("method",),
    ),
    "generate": Command(
        "Draw pictures, with a dial for the content and a dial for the style.",
        "b4m generate --lora-file outputs/fused/pytorch_lora_weights.safetensors "
        "--prompts 'snq teddybear in w@z yarn style' --seeds 1 2 3 --style-strength 0.8 --grid",
        GenerateConfig,
    ),
    "export": Command(
        "Write content and style files, or a LoRA file, as one LoRA file for any tool, or merged into the UNet.",
        "b4m export --content-file outputs/bear/content.safetensors "
        "--style-file outputs/yarn/style.safetensors "
        "--output bear_yarn.safetensors --dialect kohya-original",
        ExportConfig,
    ),
    "split": Command(
        "Take a fused LoRA file apart again; writes content.safetensors and style.safetensors.",
        "b4m split --lora-file outputs/fused/pytorch_lora_weights.safetensors --output-dir outputs/apart",
        SplitConfig,
    ),
    "push": Command(
        "Put a trained file on the Hugging Face hub, private unless told otherwise, with a model card of what it says.",
        "b4m push outputs/fused/pytorch_lora_weights.safetensors --repo me/bear-yarn --license cc-by-4.0 "
        "--images outputs/pictures --dry-run",
        PushConfig,
        arguments=("file",),
    ),
    "evaluate": Command(
        "Score pictures: content, style and prompt alignment with intervals, as tables, plot and contact sheet.",
        "b4m evaluate --lora-file outputs/fused/pytorch_lora_weights.safetensors --content-dir my_bear/ "
        "--style-dir yarn/ --prompts 'a snq bear in w@z yarn style' --preset sdxl",
        EvaluateConfig,
    ),
    "study": Command(
        "Run a table of the paper, or one of your own: trainings, pictures, scores; on all devices.",
        "b4m study table1-ablations --dry-run",
        StudyConfig,
        arguments=("study",),
    ),
    "library": Command(
        "Learn every content and style of a library once, draw all pairs, score them; a gallery and an index.",
        "b4m library examples/configs/library/world.yaml --dry-run",
        LibraryConfig,
        arguments=("build",),
    ),
    "inspect": Command(
        "Look inside a content, a style or a LoRA: size and rank of each block of each layer, as a picture; with "
        "--interference at what a content and a style do to each other's predictions.",
        "b4m inspect --interference outputs/bear/content.safetensors outputs/yarn/style.safetensors",
        InspectConfig,
        arguments=("file", "style_file"),
    ),
    "balance": Command(
        "Find the two strengths at which a content and a style move their base model's predictions equally far.",
        "b4m balance outputs/bear/content.safetensors outputs/yarn/style.safetensors --output bear_yarn.yaml",
        BalanceConfig,
        arguments=("content_file", "style_file"),
    ),
    "vote": Command(
        "Ask people: the paper's user studies in a browser, and what they said.",
        "b4m vote make outputs/studies/results/table1-ablations",
        actions=VOTE,
    ),
    "bench": Command(
        "Measure a step: seconds, arithmetic, memory, ours beside the published flow, a LoRA, other optimizers.",
        "b4m bench --device cpu --size small",
        BenchConfig,
    ),
    "studio": Command(
        "Open the page: teach, mix with two dials, compare and export, without typing commands.",
        "b4m studio --project my_project/",
        StudioConfig,
    ),
    "doctor": Command(
        "Check this machine: versions, device, memory, disk, base model; says what would fail before it does.",
        "b4m doctor --base-model stabilityai/stable-diffusion-xl-base-1.0 --mixed-precision bf16",
        DoctorConfig,
    ),
    "info": Command("Say what a file holds.", "b4m info outputs/bear/content.safetensors"),
}
