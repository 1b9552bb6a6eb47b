"""Which noise processes are followed: by what a scheduler can do; the rest is refused in one line by every command."""

import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from bases import changed, rescheduled
from conftest import SIZE, refused
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionXLPipeline,
)

from b4m.apps.cli import main
from b4m.backbones.noise import check_noise, euler
from b4m.backbones.registry import open_backbone
from b4m.backbones.sdxl import SDXL
from b4m.sampling.sample import sample

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FOLLOWED = (
    "DDIM DDPM PNDM EulerDiscrete EulerAncestralDiscrete DPMSolverMultistep DPMSolverSinglestep UniPCMultistep "
    "HeunDiscrete KDPM2Discrete DEISMultistep LCM TCD SASolver"
).split()
NOT_FOLLOWED = {
    "EDMDPMSolverMultistepScheduler": "EDM",
    "EDMEulerScheduler": "EDM",
    "FlowMatchEulerDiscreteScheduler": "flow-matching",
    "FlowMatchHeunDiscreteScheduler": "flow-matching",
    "ScoreSdeVeScheduler": "no noise levels over discrete timesteps",
    "KarrasVeScheduler": "no noise levels over discrete timesteps",
    "CogVideoXDDIMScheduler": "noise levels that Euler steps cannot follow",  # shifted ones
    "SchedulerOfALaterRelease": "this Diffusers does not have",
    "AutoencoderKL": "this Diffusers does not have",
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_discrete_noise_process_is_followed_whatever_its_scheduler(name):
    config = {"_class_name": f"{name}Scheduler", **BETAS}
    check_noise("x", config)
    made = getattr(diffusers, f"{name}Scheduler").from_config(config)
    torch.testing.assert_close(euler(made, 25).alphas_cumprod, made.alphas_cumprod)


@pytest.mark.parametrize("name", NOT_FOLLOWED)
def test_another_noise_process_is_refused_by_name(name):
    refused(
        lambda: check_noise("base model x", {"_class_name": name}), "base model x: ", name, NOT_FOLLOWED[name]
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prediction_type": "sample"}, "prediction type 'sample'"),
        ({"rescale_betas_zero_snr": True}, "zero terminal SNR and predictions of epsilon"),
        ({"prediction_type": "flow_prediction"}, "flow-matching"),
        ({"use_flow_sigmas": True}, "flow-matching"),
        ({"timestep_type": "continuous", "prediction_type": "v_prediction"}, "EDM"),
        ({"beta_schedule": "sigmoid"}, "cannot be used"),
        ({"beta_schedule": ["x"]}, "cannot be used"),
        ({"num_train_timesteps": "many"}, "cannot be used"),
        ({"num_train_timesteps": -1}, "cannot be used"),
        ({"num_train_timesteps": 10**9}, "more than 100,000 timesteps"),
    ],
)
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_settings_that_cannot_be_followed_are_refused(values, words, name):
    if "timestep_type" in values and name != "EulerDiscreteScheduler":
        return
    refused(lambda: check_noise("x", {"_class_name": name, **BETAS, **values}), "x: ", words)


def test_a_scheduler_without_its_packages_says_which():
    stand_in = next(
        (
            name
            for name in dir(diffusers)
            if name.endswith("Scheduler") and hasattr(getattr(diffusers, name), "_backends")
        ),
        None,
    )
    if stand_in is None:
        pytest.skip("every package that Diffusers knows is installed")
    refused(lambda: check_noise("x", {"_class_name": stand_in}), stand_in, "pip install")


EDM = {"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5, "prediction_type": "epsilon"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}


@pytest.mark.parametrize("scheduler", [EDM, FLOW], ids=["EDM", "flow"])
def test_every_command_refuses_it_in_one_line(scheduler, tiny_base, folders, trained, tmp_path, capsys):
    base = rescheduled(tiny_base, tmp_path / "base", **scheduler)
    files = ["--content-file", trained["content_file"], "--style-file", trained["style_file"]]
    images = ["--content-dir", folders["content"], "--style-dir", folders["style"]]
    common = ["--base-model", base, "--preset", "embedded"]
    drawn = [*common, "--prompts", "x", "--size", str(SIZE), "--output-dir", str(tmp_path / "out")]
    trainings = [*common, "--resolution", str(SIZE), "--output-dir", str(tmp_path / "out")]
    commands = {
        "train-content": [*trainings, *images[:2], "--partner-dirs", *folders["styles"]],
        "train-style": [*trainings, *images[2:], "--partner-dirs", *folders["contents"]],
        "second-stage": [*trainings, *images, *files],
        "train-joint": [*trainings, *images],
        "generate": drawn,
        "evaluate": [*drawn, *images, *files],
        "export": ["--base-model", base, *files, "--output", str(tmp_path / "x.safetensors")],
        "inspect": [trained["content_file"], "--base-model", base, "--output", str(tmp_path / "look")],
        "doctor": ["--base-model", base, "--output-dir", str(tmp_path)],
    }
    for command, flags in commands.items():
        capsys.readouterr()
        assert main([command, *flags]) == 2, command
        out, err = capsys.readouterr()
        told = [line for line in (out + err).splitlines() if base in line and "not supported" in line]
        assert len(told) == 1 and "Traceback" not in out + err, (command, out, err)
    assert {path.name for path in tmp_path.iterdir()} <= {"base", "out"}
    assert not list((tmp_path).rglob("*.png"))


def test_a_scheduler_that_the_index_renames_is_still_looked_at(tiny_base, tmp_path):
    """The pipeline is built with the index's class and the file's settings: either may be a wrong one."""
    index = changed(
        tiny_base, tmp_path / "index", model_index={"scheduler": ["diffusers", "EDMEulerScheduler"]}
    )
    file = changed(tiny_base, tmp_path / "file", scheduler__scheduler_config=EDM)
    for base in (index, file):
        for action in (open_backbone, SDXL.empty_denoiser):
            refused(lambda action=action, base=base: action(base), base, "its scheduler")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"in_channels": 9}, "9 channels, as inpainting models do"),
        ({"in_channels": 8}, "8 channels, as models that edit images do"),
        ({"in_channels": 33}, "33 channels"),
        ({"time_cond_proj_dim": 256}, "latent consistency"),
        ({"addition_embed_type": None}, "no text_time conditioning"),
    ],
)
def test_other_unets_are_named_before_anything_is_loaded(values, words, tiny_base, tmp_path):
    base = changed(tiny_base, tmp_path / "base", unet__config=values)
    for weights in Path(base).rglob("*.safetensors"):
        weights.unlink()
    for action in (open_backbone, SDXL.empty_denoiser, SDXL.load_denoiser, SDXL.read_prediction_type):
        refused(lambda action=action: action(base), base, words)


def test_a_base_without_a_vae_of_its_own_may_have_another(tiny_base, tmp_path):
    base = changed(tiny_base, tmp_path / "base")
    shutil.move(f"{base}/vae", tmp_path / "vae")
    assert SDXL.read_prediction_type(base) == "epsilon"
    assert open_backbone(base, str(tmp_path / "vae")).pipe.vae is not None
    refused(lambda: open_backbone(base), base, "vae")


# drawing


def test_euler_is_given_the_models_own_noise_levels():
    """LCM's defaults are not Euler's: a file that leaves them out means LCM's."""
    made = LCMScheduler.from_config({})
    assert (euler(made, 25).config.beta_start, euler(made, 25).config.beta_schedule) == (
        0.00085,
        "scaled_linear",
    )
    plain = EulerDiscreteScheduler.from_config(made.config)
    assert plain.config.beta_start != 0.00085  # what the library makes of it


def test_a_few_steps_begin_at_pure_noise():
    """Turbo and Lightning: at one "leading" step the model would be shown an image that is nearly done."""
    leading = DDIMScheduler(**BETAS, timestep_spacing="leading", steps_offset=1)
    for steps, first in ((1, 999), (4, 999), (8, 999), (9, 889), (25, 961)):
        made = euler(leading, steps)
        made.set_timesteps(steps)
        assert made.timesteps[0] == first, steps


def zero_snr(name: str, **options) -> dict:
    return {
        "_class_name": name,
        **BETAS,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        **options,
    }


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler"])
def test_a_model_of_zero_terminal_snr_is_drawn_from_pure_noise(tiny_base, tmp_path, name):
    base = rescheduled(
        tiny_base, tmp_path / "base", **zero_snr(name, timestep_spacing="leading", steps_offset=1)
    )
    backbone = open_backbone(base)
    assert backbone.prediction_type == "v_prediction" and backbone.alphas_cumprod[-1] < 1e-6
    ours = np.asarray(sample(backbone, ["a bear"], [4], steps=25, size=SIZE)[0], dtype=int)
    stock = StableDiffusionXLPipeline.from_pretrained(tiny_base, add_watermarker=False)
    stock.set_progress_bar_config(disable=True)
    settings = {**zero_snr(name), "timestep_spacing": "trailing"}
    stock.scheduler = EulerDiscreteScheduler.from_config({k: v for k, v in settings.items() if k[0] != "_"})
    generator = torch.Generator().manual_seed(4)
    theirs = stock("a bear", num_inference_steps=25, generator=generator, height=SIZE, width=SIZE).images[0]
    assert np.abs(ours - np.asarray(theirs, dtype=int)).max() <= 1


def test_a_model_of_zero_terminal_snr_trains(tiny_base, settings, tmp_path):
    """Its last timestep is pure noise, and v is then minus the image: no loss is infinite."""
    from b4m.training.loop import train

    base = rescheduled(tiny_base, tmp_path / "base", **zero_snr("DDPMScheduler"))
    result = train(settings("content", tmp_path / "out", base_model=base, snr_gamma=5.0, steps=2))
    assert all(np.isfinite(result.losses)) and result.path.exists()
