"""Feature extractors by name or folder: images and texts to unit vectors, images to the names of classes.

Apart from the arithmetic (`metrics`). Safetensors only, no code that comes with a model, and never a fallback.
"""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..core.errors import UserError
from ..core.storage import fingerprint, read_tensors, reason, write_tensors
from ..core.where import locate
from .answers import Answers
from .csd import load_csd
from .model import Model
from .settings import CSD

OPEN_CLIP = "open_clip:"
BATCH = 32  # images or texts at a time


class Extractor:
    """A frozen model that turns images, and texts where it can, into vectors of length 1 on the CPU.

    An image (its sha256 of size and pixels) and a text are computed once; `cache`: a folder that keeps vectors and
    classes for later runs, apart for each model by a hash of its weights. `labels`: the classes it knows.
    """

    def __init__(self, name: str, model: Model, device: torch.device | str, cache: Path | str | None = None):
        self.name = name
        self.labels = model.labels
        self._model, self._device = model, torch.device(device)
        self._folder = None if cache is None else Path(cache) / self.fingerprint[:16]
        self._known: dict[str, Tensor] = {}
        self._classes = Answers(self._folder)  # places in `labels`, whose names are no part of the weights
        if self._folder is not None and self._folder.is_dir():
            for file in sorted(self._folder.glob("*.safetensors")):
                self._known |= read_tensors(file)[0]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the weights and of the settings around them."""
        return fingerprint(self._model.network.state_dict(), {"settings": self._model.settings})

    def images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Images (k) of any size -> features (k, d) float32, each of length 1."""
        return self._features([f"image {digest(picture)}" for picture in pictures], pictures, self._encode)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts (k), cut at the model's own length -> (k, d) float32, length 1. UserError without a text tower."""
        if self._model.texts is None:
            raise UserError(f"{self.name}: it reads images only; give a CLIP model where texts are compared")
        keys = [f"text {hashlib.sha256(text.encode()).hexdigest()}" for text in texts]
        return self._features(keys, texts, self._model.texts)

    @torch.no_grad()
    def classify(self, pictures: Sequence[Image.Image]) -> list[str]:
        """The class that each image is taken for. Raises UserError where the model has no classes."""
        if self._model.logits is None:
            raise UserError(
                f"{self.name}: it names no classes; give the folder of an image classifier as a judge"
            )
        keys = [digest(picture) for picture in pictures]
        for batch in _batches([i for i, key in enumerate(keys) if key not in self._classes]):
            winners = self._model.logits(self._pixels([pictures[i] for i in batch])).argmax(1).tolist()
            self._classes.add({keys[i]: j for i, j in zip(batch, winners, strict=True)})
        return [self.labels[self._classes[key]] for key in keys]

    def _encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        return self._model.images(self._pixels(pictures))

    def _pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        return torch.stack([self._model.prepare(picture) for picture in pictures]).to(self._device)

    @torch.no_grad()
    def _features(self, keys: list[str], items: Sequence[Any], encode: Callable[[list], Tensor]) -> Tensor:
        new = {key: item for key, item in zip(keys, items, strict=True) if key not in self._known}
        found: dict[str, Tensor] = {}
        for batch in _batches(list(new)):
            rows = F.normalize(encode([new[key] for key in batch]).float(), dim=1).cpu()
            if not torch.isfinite(rows).all():
                raise UserError(f"{self.name}: its features are not finite; get its files again")
            found |= dict(zip(batch, rows, strict=True))
        self._known |= found
        if found and self._folder is not None:  # a file for each call: nothing is ever rewritten
            write_tensors(self._folder / f"{uuid.uuid4().hex}.safetensors", found, {"model": self.name})
        return torch.stack([self._known[key] for key in keys])


def _batches(items: list) -> list[list]:
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]


def digest(picture: Image.Image) -> str:
    rgb = picture.convert("RGB")
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()


def load_extractor(
    spec: str, device: torch.device | str = "cpu", cache: Path | str | None = None
) -> Extractor:
    """The extractor that `spec` names, float32 and frozen on `device`.

    spec: a folder or Hugging Face name of a transformers model (DINOv2 and other vision models: their pooled
    output, for DINOv2 the class token; CLIP: image and text features; image classifiers: the trunk's pooled
    output, and classes), "open_clip:ARCHITECTURE:TAG" or "open_clip:ARCHITECTURE:FILE.safetensors", or "csd:PLACE",
    the file, folder or Hugging Face name of a checkpoint of Contrastive Style Descriptors (`csd`).
    Raises UserError: not there, not loadable, weights missing, a model of another kind, no open_clip.
    """
    if spec.startswith(CSD):
        load = load_csd
    else:
        load = _open_clip if spec.startswith(OPEN_CLIP) else _transformers
    model = load(locate(spec), torch.device(device))
    model.network.requires_grad_(False).eval()
    return Extractor(spec, model, device, cache)


def _transformers(spec: str, device: torch.device) -> Model:
    # Here, because reading their modules takes seconds that a table of known features need not wait for.
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

    where = f"extractor {spec}"
    if not Path(spec).is_dir() and (spec.startswith(("/", ".", "~")) or spec.count("/") != 1):
        raise UserError(
            f"{where}: no such folder; give a folder, a Hugging Face name (owner/name) or open_clip:..."
        )
    try:
        config = AutoConfig.from_pretrained(spec, trust_remote_code=False)
        judge = (config.architectures or [""])[0].endswith("ForImageClassification")
        network, loaded = (AutoModelForImageClassification if judge else AutoModel).from_pretrained(
            spec, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # any failure here is about files that are somebody else's
        raise UserError(f"{where}: cannot be loaded: {reason(error)}") from error
    if loaded["missing_keys"]:  # transformers would fill them with random numbers
        names = ", ".join(sorted(loaded["missing_keys"])[:3])
        raise UserError(
            f"{where}: its file lacks {names}; give a whole model, saved as it is meant to be used"
        )
    both = hasattr(network, "get_image_features") and hasattr(network, "get_text_features")
    if not both and network.main_input_name != "pixel_values":
        raise UserError(f"{where}: a {type(network).__name__} reads no images; give a vision or a CLIP model")
    network.to(device).eval()
    prepare, settings = _preprocessor(where, spec)
    common = dict(network=network, prepare=prepare, settings=settings)
    if both:
        texts = _text_tower(where, spec, network, device)
        return Model(images=lambda x: _pooled(where, network.get_image_features(x)), texts=texts, **common)
    trunk = network.base_model if judge else network
    names = config.id2label if judge else {}
    return Model(
        images=lambda x: _pooled(where, trunk(x)),
        logits=(lambda x: network(x).logits) if judge else None,
        labels=tuple(names[index] for index in sorted(names)) if judge else (),
        **common,
    )


def _pooled(where: str, output: Any) -> Tensor:
    """The pooled features of a model's output (k, d); some releases of CLIP give them bare."""
    pooled = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
    if pooled is None:
        raise UserError(f"{where}: it pools no features; give DINOv2, CLIP or a model with a pooled output")
    return pooled.flatten(1)


def _preprocessor(where: str, spec: str) -> tuple[Callable[[Image.Image], Tensor], str]:
    """An image -> the model's pixels (3, H, W), by its own processor without torchvision; and its settings."""
    from transformers import AutoImageProcessor

    def prepare(picture: Image.Image) -> Tensor:
        return processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"][0].float()

    try:
        processor = AutoImageProcessor.from_pretrained(spec, backend="pil", trust_remote_code=False)
        shapes = {prepare(Image.new("RGB", size)).shape for size in ((8, 8), (16, 8))}
    except Exception as error:  # as above
        raise UserError(
            f"{where}: its preprocessor_config.json cannot be followed: {reason(error)}"
        ) from error
    if len(shapes) > 1:
        raise UserError(
            f"{where}: its preprocessor_config.json leaves images in many sizes; let it crop them"
        )
    return prepare, processor.to_json_string()


def _text_tower(where: str, spec: str, network: Any, device: torch.device) -> Callable[[list[str]], Tensor]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(spec, trust_remote_code=False)
    except Exception as error:  # as above
        raise UserError(f"{where}: its tokenizer cannot be loaded: {reason(error)}") from error
    config = network.config.text_config
    longest = min(tokenizer.model_max_length, config.max_position_embeddings)
    # CLIP reads a text's meaning at its end token; 2 is how old files say "the highest number of the vocabulary".
    end = len(tokenizer) - 1 if config.eos_token_id == 2 else config.eos_token_id
    if config.model_type == "clip_text_model" and tokenizer.eos_token_id != end:
        raise UserError(f"{where}: tokenizer and model disagree on the end token; take both from one model")

    def texts(items: list[str]) -> Tensor:
        tokens = tokenizer(items, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        return _pooled(where, network.get_text_features(**tokens.to(device)))

    return texts


def _open_clip(spec: str, device: torch.device) -> Model:
    where = f"extractor {spec}"
    parts = spec.removeprefix(OPEN_CLIP).split(":", 1)  # a path may hold further colons
    if len(parts) != 2 or not all(parts):
        raise UserError(
            f"{where}: write open_clip:ARCHITECTURE:WEIGHTS, for example open_clip:ViT-B-32:openai"
        )
    architecture, weights = parts
    if ("/" in weights or "." in weights) and not (
        weights.endswith(".safetensors") and Path(weights).is_file()
    ):
        raise UserError(f"{where}: no such .safetensors file; give one, or a tag that open_clip knows")
    try:
        import open_clip
    except Exception as error:  # a torchvision of another torch fails in many ways
        raise UserError(f'{where}: needs open_clip ({reason(error)}): pip install "b4m[eval]"') from error
    try:
        # open_clip only warns when a tag's weights were trained with another activation than the architecture's.
        quick = bool((open_clip.get_pretrained_cfg(architecture, weights) or {}).get("quick_gelu"))
        network, _, prepare = open_clip.create_model_and_transforms(
            architecture, pretrained=weights, force_quick_gelu=quick, weights_only=True, device=device
        )
        tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:  # as above
        raise UserError(f"{where}: cannot be loaded: {reason(error)}") from error
    return Model(
        network=network,
        prepare=prepare,
        images=network.encode_image,
        texts=lambda items: network.encode_text(tokenizer(items).to(device)),
        settings=f"{architecture} {quick} {prepare}",
    )
