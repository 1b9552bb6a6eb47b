"""One .safetensors file of a whole Stable Diffusion checkpoint, in the original names, as Civitai has them.

It is told by its tensors' names and shapes. Its settings are those in `configs`, which come with the package: nothing
is downloaded.
"""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ModelMixin, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import CLIPTokenizer

from ..core.errors import UserError
from ..core.storage import read_header, reason

CONFIGS = Path(__file__).parent / "configs"
UNET = "model.diffusion_model."
PARTS = (UNET, "first_stage_model.", "conditioner.", "cond_stage_model.")
POSITIONS = ("I64", "I32")  # of tokens, in a text encoder
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
FOLDER = (
    "make a folder of it with Diffusers, StableDiffusionXLPipeline.from_single_file(file).save_pretrained(folder) "
    "(for 1.x and 2.x StableDiffusionPipeline)"
)
EDM = (
    "a model of continuous noise levels (EDM), which is neither trained nor drawn with here; give another one"
)
WHOLE = "give a whole Stable Diffusion XL or 1.x checkpoint"

# The start of a tensor's name that one kind of checkpoint alone has -> its settings in CONFIGS.
LAYOUTS = {"conditioner.embedders.1.": "sdxl", "cond_stage_model.transformer.": "sd15"}
# A pattern in the names -> what rules out even a whole checkpoint.
NEVER = {
    "^edm_mean$": f"Playground v2.5 or made from it: {EDM}",
    r"^edm_vpred\.": f"CosXL or made from it: {EDM}",
    r"\.(scale_weight|weight_scale)$|^scaled_fp8$|quant_state": "quantized; give it in float16 or float32",
}
# A pattern in the names -> what a file is that is no whole checkpoint.
OTHERS = {
    r"\.lora_|lora_unet_|lora_te|\.hada_|\.lokr_": "a LoRA and no base model; give it with --lora-file",
    r"^conditioner\.embedders\.0\.model\.": f"the refiner of SDXL; {WHOLE}",
    r"^cond_stage_model\.model\.": f"Stable Diffusion 2.x, which is read from a folder; {FOLDER}",
    r"joint_blocks\.": f"Stable Diffusion 3; {WHOLE}",
    r"double_blocks\.|double_stream|single_stream": f"of the FLUX family; {WHOLE}",
    r"^control_model\.|^controlnet_": f"a ControlNet; {WHOLE}",
    r"^(model\.diffusion_model\.)?input_blocks\.|^(unet\.)?(down_blocks|conv_in)\.": (
        f"a UNet without text encoders and autoencoder; {WHOLE}, or the folder with its model_index.json"
    ),
    r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.": "an autoencoder alone; give it with --vae",
}


class Checkpoint:
    """A `Source` of one file; no more than its header is read before something is loaded."""

    def __init__(self, what: str, name: str, path: Path) -> None:
        self.what, self.name, self.path = what, name, path

    @cached_property
    def header(self) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, str]]:
        """Name -> (dtype, shape), and the metadata. Raises UserError."""
        return read_header(self.path)

    @cached_property
    def marked(self) -> str | None:
        """Which of LAYOUTS it looks like."""
        return next(
            (LAYOUTS[mark] for mark in LAYOUTS for name in self.header[0] if name.startswith(mark)), None
        )

    @cached_property
    def layout(self) -> str:
        """Which of CONFIGS holds its settings. Raises UserError, saying what the file is instead."""
        names, found = self.header[0], self.marked
        for pattern, text in (NEVER if found else NEVER | OTHERS).items():
            if any(re.search(pattern, name) for name in names):
                raise self._wrong(f"it is {text}")
        dtypes = {dtype for name, (dtype, _) in names.items() if name.startswith(PARTS)}
        if odd := sorted(dtypes - {*FLOATS, *POSITIONS}):
            raise self._wrong(f"it is quantized ({', '.join(odd)}); give it in float16 or float32")
        if not found or not any(name.startswith(UNET) for name in names):
            raise self._wrong(
                f"it is no Stable Diffusion checkpoint (its first tensor is {next(iter(names), 'none')})"
            )
        return found

    def read(self, file: str, needed: bool = True) -> dict[str, Any]:
        found = json.loads((CONFIGS / self.layout / file).read_text(encoding="utf-8"))
        told = {"unet/config.json": self._channels, "scheduler/scheduler_config.json": self._noise}
        return {**found, **(told[file]() if file in told else {})}

    def check(self) -> None:
        """Its UNet by name and shape, in the library's own translation of the names."""
        names = self.header[0]
        config = self.read("unet/config.json")
        with loading(self._wrong), torch.device("meta"):
            wanted = UNet2DConditionModel.from_config(config)
            tensors = {name: torch.empty(names[name][1]) for name in names if name.startswith(UNET)}
            there = convert_ldm_unet_checkpoint(tensors, config)
        shapes = wanted.state_dict()
        odd = [name for name in {**shapes, **there} if _shape(there.get(name)) != _shape(shapes.get(name))]
        if odd:
            raise self._wrong(
                f"its UNet is not the published one ({len(odd)} tensors differ, {odd[0]} for one); {FOLDER}"
            )

    def pipeline(
        self, cls: type[DiffusionPipeline], weights: Sequence[str], dtype: torch.dtype, **parts: Any
    ) -> DiffusionPipeline:
        index = self.read("model_index.json")
        names = [name for name in index if name.startswith("tokenizer")]
        given = dict(zip(names, self.tokenizers(names), strict=True))
        given["scheduler"] = getattr(diffusers, index["scheduler"][1]).from_config(
            self.read("scheduler/scheduler_config.json")
        )
        if "vae" in weights:
            given["vae"] = self.autoencoder(self.layout)
        with loading(self._wrong):
            pipe = cls.from_single_file(
                str(self.path), config=str(CONFIGS / self.layout), torch_dtype=dtype, **given, **parts
            )
        for name in weights:
            self._check_whole(name, getattr(pipe, name))
        return pipe

    def part(self, cls: type[ModelMixin], folder: str, dtype: torch.dtype) -> ModelMixin:
        return self._part(cls, self.layout, folder, dtype)

    def at_hand(self) -> "Checkpoint":
        return self

    def tokenizers(self, folders: Sequence[str]) -> list[CLIPTokenizer]:
        return [_tokenizer(CONFIGS / self.layout / folder) for folder in folders]

    def autoencoder(self, like: str) -> AutoencoderKL:
        names = self.header[0]
        if self.marked not in (None, like):
            raise self._wrong(f"its autoencoder is of {self.marked} models, one of {like} is needed")
        if not (CONFIGS / like).is_dir():
            raise self._wrong(f"the settings of an autoencoder of {like} models are not known; give a folder")
        if not any(re.match(r"(first_stage_model\.|vae\.)?decoder\.", name) for name in names):
            raise self._wrong("it has no autoencoder in it; give one with --vae")
        return self._part(AutoencoderKL, like, "vae", torch.float32)

    def _part(self, cls: type[ModelMixin], layout: str, folder: str, dtype: torch.dtype) -> ModelMixin:
        with loading(self._wrong):
            model = cls.from_single_file(
                str(self.path), config=str(CONFIGS / layout), subfolder=folder, torch_dtype=dtype
            )
        self._check_whole(folder, model)
        return model

    def _channels(self) -> dict[str, Any]:
        """Those of an inpainting model are more."""
        _, shape = self.header[0].get(f"{UNET}input_blocks.0.0.weight", ("", ()))
        return {"in_channels": shape[1]} if len(shape) == 4 else {}

    def _noise(self) -> dict[str, Any]:
        """What the file says of how it was trained: the marks and metadata of ComfyUI's and kohya's files.

        Raises UserError where its name alone says so: such a file is drawn and trained wrongly everywhere.
        """
        names, metadata = self.header
        told = metadata.get("modelspec.predict_key") or metadata.get("modelspec.prediction_type") or ""
        v, zero = "v_pred" in names or told.startswith("v"), "ztsnr" in names
        for term, pattern, known in (
            ("v-prediction", r"v[-_ .]?pred", v or told),
            ("zero terminal SNR", r"z(?:t|ero)?[-_ .]?snr", v and zero),
        ):
            if not known and re.search(pattern, self.path.stem, re.IGNORECASE):
                raise self._wrong(
                    f"its name speaks of {term}, which nothing in it does; {FOLDER}, and set prediction_type (and "
                    "rescale_betas_zero_snr) in its scheduler/scheduler_config.json"
                )
        settings = {"prediction_type": "v_prediction"} if v else {}
        return {**settings, **({"rescale_betas_zero_snr": True} if v and zero else {})}

    def _check_whole(self, part: str, model: nn.Module) -> None:
        """What the file lacks is left without numbers, without a word."""
        missing = [name for name, tensor in model.named_parameters() if tensor.is_meta]
        if missing:
            raise self._wrong(
                f"its {part} is not whole: {len(missing)} tensors are missing, {missing[0]} for one"
            )

    def _wrong(self, text: str) -> UserError:
        return UserError(f"{self.what} {self.name}: {text}")


@contextmanager
def loading(wrong: Callable[[str], UserError]) -> Iterator[None]:
    """Any failure as one line: it is about the files, which are somebody else's."""
    try:
        with warnings.catch_warnings():
            # Of torch_dtype, which is `dtype` in later releases of Diffusers; earlier ones pass over that.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    except NotImplementedError as error:  # torch's, for tensors without numbers: the file lacks them
        raise wrong("it is not whole, tensors are missing; download or copy it again") from error
    except Exception as error:
        raise wrong(f"cannot be loaded: {reason(error)}") from error


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


@cache
def _words() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary: bytes, bytes that end a word, merges in their order, and two marks."""
    lines = (CONFIGS / "clip/merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    merges = [(first, second) for first, second in map(str.split, lines)]
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    return {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}, merges


def _tokenizer(folder: Path) -> CLIPTokenizer:
    vocabulary, merges = _words()
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return CLIPTokenizer(vocabulary, merges, **settings)
