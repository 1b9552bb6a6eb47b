"""A vision-language model that is shown references and an image and asked yes or no: for real images, without labels.

Any `image-text-to-text` model of transformers. What it is asked and how its answers are read stands here and nowhere
else; change either, and scores before and after cannot be compared.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image

from ..core.errors import UserError
from ..core.storage import fingerprint, reason
from ..core.where import locate
from ..data.images import open_pictures
from .answers import Answers
from .extractors import digest

SHOWN = 3  # references of a content or a style, the first ones: each costs hundreds of tokens
LONGEST = 16  # tokens of an answer: one word is asked for
QUESTIONS = {
    "vlm_content": (
        "All images but the last show one particular subject. Is the subject of the last image that very same one, "
        "with the same shape, parts, colours and marks? Do not mind in which style or where it is shown. "
        "Answer with one word, yes or no."
    ),
    "vlm_style": (
        "All images but the last are in one particular style. Is the last image in that very same style, with the same "
        "lines, colours, textures and material? Do not mind what it shows. Answer with one word, yes or no."
    ),
    "vlm_prompt": (
        "The image was drawn for this description: {prompt}. Does it show everything that is described? "
        "Answer with one word, yes or no."
    ),
}
# The first word, but not "yes and no" or "yes/no", which repeats the question.
_VERDICT = re.compile(r"\W*(?:answer\W+)?(yes|no)\b(?!(?:\W|\band\b|\bor\b)*\b(?:yes|no)\b)", re.IGNORECASE)

Ask = Callable[[Sequence[Image.Image], str], str]  # images and a question -> the words of the answer


def verdict(answer: str) -> int | None:
    """1 for yes, 0 for no, None for an answer that does not begin with either: it counts as neither."""
    found = _VERDICT.match(answer)
    return None if found is None else int(found[1].lower() == "yes")


class Vlm:
    """Verdicts of a vision-language model on images. An answer is computed once; `cache`: a folder that keeps answers
    for later runs, apart for each model by `fingerprint`, a hash of all that decides them.
    """

    def __init__(self, name: str, ask: Ask, fingerprint: str, cache: Path | str | None = None):
        self.name, self.fingerprint, self._ask = name, fingerprint, ask
        self._answers = Answers(None if cache is None else Path(cache) / fingerprint[:16])
        self._references: dict[Path, tuple[Image.Image, ...]] = {}

    def scores(self, picture: Image.Image, content: Path, style: Path, prompt: str) -> dict[str, float]:
        """vlm_content, vlm_style, vlm_prompt of one image: 1 yes, 0 no, absent without a verdict; vlm_both, their
        product for content and style; and vlm_silent, the share of the three that are absent.

        content, style: folders or files of references. Raises UserError.
        """
        shown = {
            "vlm_content": (*self._shown(content), picture),
            "vlm_style": (*self._shown(style), picture),
            "vlm_prompt": (picture,),
        }
        found = {name: self.says(name, pictures, prompt) for name, pictures in shown.items()}
        spoken: dict[str, float] = {name: each for name, each in found.items() if each is not None}
        if "vlm_content" in spoken and "vlm_style" in spoken:
            spoken["vlm_both"] = spoken["vlm_content"] * spoken["vlm_style"]
        return {**spoken, "vlm_silent": fmean(each is None for each in found.values())}

    def says(self, score: str, pictures: Sequence[Image.Image], prompt: str = "") -> int | None:
        """Its verdict (`verdict`) on one of QUESTIONS, the references coming first and the image last."""
        return verdict(self.answer(pictures, QUESTIONS[score].format(prompt=prompt)))

    def answer(self, pictures: Sequence[Image.Image], question: str) -> str:
        """What the model says. Raises UserError where it cannot."""
        key = hashlib.sha256("\n".join([*map(digest, pictures), question]).encode()).hexdigest()
        if key not in self._answers:
            try:
                said = self._ask([picture.convert("RGB") for picture in pictures], question)
            # Of somebody else's model: no chat template, one image only, no memory.
            except Exception as error:
                raise UserError(f"{_where(self.name)}: cannot be asked: {reason(error)[:300]}") from error
            self._answers.add({key: said})
        return self._answers[key]

    def _shown(self, place: Path) -> tuple[Image.Image, ...]:
        if place not in self._references:
            self._references[place] = tuple(open_pictures(place)[:SHOWN])
        return self._references[place]


def _where(name: str) -> str:
    return f"vision-language model {name}"


def load_vlm(name: str, device: torch.device | str = "cpu", cache: Path | str | None = None) -> Vlm:
    """The model in a folder or of a Hugging Face name, frozen on `device`: float32 on a CPU, as saved elsewhere.

    It is asked once about two white images, so that one that cannot be is refused at once. Raises UserError: not
    there, not loadable, weights missing or pickled, no chat template, one image only.
    """
    vlm = Vlm(name, *_loaded(name, torch.device(device)), cache)
    vlm.answer([Image.new("RGB", (32, 32), "white")] * 2, "Are both images white? Answer yes or no.")
    return vlm


def _loaded(name: str, device: torch.device) -> tuple[Ask, str]:
    """How the model is asked, and a hash of all that decides its answers."""
    # Here, because reading their modules takes seconds that whoever has no such model need not wait for.
    from transformers import AutoModelForImageTextToText, AutoProcessor

    place, dtype = locate(name), torch.float32 if device.type == "cpu" else "auto"
    try:
        processor = AutoProcessor.from_pretrained(place, trust_remote_code=False)
        network, loaded = AutoModelForImageTextToText.from_pretrained(
            place, use_safetensors=True, trust_remote_code=False, dtype=dtype, output_loading_info=True
        )
    except Exception as error:  # any failure here is about files that are somebody else's
        raise UserError(f"{_where(name)}: cannot be loaded: {reason(error)[:300]}") from error
    if loaded["missing_keys"]:  # transformers would fill them with random numbers
        names = ", ".join(sorted(loaded["missing_keys"])[:3])
        raise UserError(f"{_where(name)}: its files lack {names}; give a whole model")
    network.requires_grad_(False).to(device).eval()
    settings = {
        "processor": processor.to_json_string(),
        "template": str(processor.chat_template),
        "dtype": str(network.dtype),
        "longest": str(LONGEST),
    }
    return _asker(network, processor, device), fingerprint(network.state_dict(), settings)


def _asker(network: Any, processor: Any, device: torch.device) -> Ask:
    @torch.no_grad()
    def ask(pictures: Sequence[Image.Image], question: str) -> str:
        shown = [{"type": "image", "image": picture} for picture in pictures]
        talk = [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}]
        inputs = processor.apply_chat_template(
            talk, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(device, network.dtype)
        # Greedy: the same answer every time, whatever the model's own settings for sampling are.
        said = network.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=LONGEST)
        return processor.decode(said[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    return ask
