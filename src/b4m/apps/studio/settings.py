"""Settings of `b4m studio`: which project, on which address, on which base model."""

from dataclasses import dataclass

from ...config.fields import ModelName, OutputPath, check, setting
from ...config.presets import PRESETS

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class StudioConfig:
    """Settings of one studio. Raises UserError for a value that cannot work."""

    project: OutputPath = setting("folder of the project; a new one is made", "b4m-project")
    host: str = setting(
        "address to listen on; any other than the default lets others on your network use the page", LOOPBACK
    )
    port: int = setting("port to listen on (0: any free one)", 7860, low=0, high=65535)
    base: str = setting(
        "which settings a new project begins with, and whose base model", "embedded", choices=tuple(PRESETS)
    )
    base_model: ModelName | None = setting(
        "folder or Hugging Face name of another base model for a new project", None
    )
    vae: ModelName | None = setting("folder or name of an autoencoder that replaces the base model's", None)
    mixed_precision: str = setting(
        "precision of the model in a new project", "no", choices=("no", "bf16", "fp16")
    )

    def __post_init__(self) -> None:
        check(self)
