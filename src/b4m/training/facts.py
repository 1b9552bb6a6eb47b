"""What every result says of where it comes from, whichever job made it."""

from ..config.training import JobConfig, TrainConfig
from ..core.process import package_version


def facts_of(config: JobConfig) -> dict[str, str]:
    """Metadata of a result: base model, settings that tell runs apart, versions."""
    facts = {"base_model": config.base_model}
    if isinstance(config, TrainConfig):
        facts |= {
            "steps": str(config.steps),
            "training_seed": str(config.seed),
            "resolution": str(config.resolution),
        }
    return facts | {f"{name}_version": package_version(name) for name in ("b4m", "torch", "diffusers")}
