"""The noise process of a base model: told by what its scheduler can do, never by what the scheduler is called."""

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler, SchedulerMixin

from ..config.sampling import LCM_STEPS
from ..core.errors import UserError
from ..core.storage import reason

PREDICTIONS = ("epsilon", "v_prediction")
MOST_TIMESTEPS = 100_000  # a table that fits any memory
FEW = 8  # steps: what Turbo and Lightning models are drawn with
# Settings that make the noise process. Euler is given them as the model has them: defaults differ between schedulers.
PROCESS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
NEEDED = "a base model with a discrete noise process is needed (DDPM, Euler, DPM++ and the like)"


def check_noise(where: str, config: Mapping[str, Any]) -> None:
    """Raises UserError, led by `where`, unless a model with these scheduler settings can be trained and drawn with.

    It can if its noise levels are a table over discrete timesteps, its prediction is a known one, and Euler steps
    follow that very table.
    """
    name = str(config.get("_class_name"))
    cls = getattr(diffusers, name, None)
    if backends := getattr(cls, "_backends", None):  # Diffusers' stand-in for what it cannot import
        raise UserError(f"{where}: its scheduler, a {name}, needs packages: pip install {' '.join(backends)}")
    if not (isinstance(cls, type) and issubclass(cls, SchedulerMixin)):
        raise UserError(f"{where}: its scheduler is a {name}, which this Diffusers does not have; {NEEDED}")
    prediction = config.get("prediction_type", PREDICTIONS[0])
    try:
        if config.get("num_train_timesteps", 1000) > MOST_TIMESTEPS:
            raise ValueError(f"more than {MOST_TIMESTEPS:,} timesteps")
        scheduler = cls.from_config(config)
        table = getattr(scheduler, "alphas_cumprod", None)
        same = table is not None and torch.allclose(
            table.float(), euler(scheduler, FEW + 1).alphas_cumprod.float(), atol=1e-5
        )
    except Exception as error:  # settings that the library does not understand
        raise UserError(f"{where}: its scheduler cannot be used ({reason(error)}); {NEEDED}") from error
    if "flow" in f"{name} {prediction}".lower() or config.get("use_flow_sigmas"):
        raise UserError(f"{where}: a flow-matching model ({name}), which is not supported; {NEEDED}")
    if table is None or config.get("timestep_type") == "continuous":
        raise UserError(
            f"{where}: its scheduler, a {name}, has no noise levels over discrete timesteps; models of that kind, EDM "
            f"for one, are not supported; {NEEDED}"
        )
    if not same:
        raise UserError(
            f"{where}: its scheduler, a {name}, has noise levels that Euler steps cannot follow; {NEEDED}"
        )
    if config.get("rescale_betas_zero_snr") and prediction == PREDICTIONS[0]:
        raise UserError(
            f"{where}: its scheduler says zero terminal SNR and predictions of epsilon, which say nothing of the image "
            "at the last timestep; set prediction_type to v_prediction or rescale_betas_zero_snr to false there, "
            "whichever the model was trained with"
        )
    if prediction not in PREDICTIONS:
        raise UserError(
            f"{where}: prediction type {prediction!r} is not supported; {' and '.join(PREDICTIONS)} are"
        )


def euler(scheduler: SchedulerMixin, steps: int) -> EulerDiscreteScheduler:
    """Euler steps (as in the paper) on the noise process of `scheduler`.

    Steps that are "leading" never see the last timestep. A model of zero terminal SNR must begin there (Lin et al.
    2023), and so must a few steps, at which the first would be far from pure noise: these are "trailing".
    """
    made = EulerDiscreteScheduler.from_config(scheduler.config, **_process(scheduler))
    first = steps <= FEW or made.config.rescale_betas_zero_snr
    if first and made.config.timestep_spacing == "leading":
        return EulerDiscreteScheduler.from_config(made.config, timestep_spacing="trailing")
    return made


def lcm(scheduler: SchedulerMixin, steps: int) -> LCMScheduler:
    """Steps of latent consistency models (Luo et al. 2023) on the same process: to the image, and noised again."""
    return LCMScheduler.from_config(
        scheduler.config, **_process(scheduler), original_inference_steps=LCM_STEPS
    )


def _process(scheduler: SchedulerMixin) -> dict[str, Any]:
    return {name: scheduler.config[name] for name in PROCESS if name in scheduler.config}


SAMPLERS = {"euler": euler, "lcm": lcm}  # by --scheduler
