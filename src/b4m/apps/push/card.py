"""The model card: Markdown with the front matter that the hub reads.

What a file says of itself may come from a stranger: it stands in code spans, where nothing is markup, in Python and
shell literals of the examples, and in YAML that a library has written.
"""

import re
import shlex
from collections.abc import Iterable, Sequence

import yaml

from ...config.presets import EMBEDDED, SDXL
from .about import About
from .pictures import Picture

METHOD = "[B4M](https://arxiv.org/abs/2403.19456)"
WHAT = {
    "content": f"A content: what one thing looks like, as a concept file of {METHOD}.",
    "style": f"A style: how one style looks, as a concept file of {METHOD}.",
    "fused": f"An ordinary LoRA with a content and a style in a basis of {METHOD}.",
    "LoRA": "A LoRA of the UNet.",
}
NO_BASE = "BASE_MODEL"  # in an example, where nothing is known


def card(
    file: About,
    repo: str,
    license: str,
    images: Sequence[Picture] = (),
    scores: Sequence[tuple[str, Sequence[str]]] = (),
) -> str:
    """The whole of README.md."""
    parts = [
        front(file, license, images, file.triggers, not file.concept),
        f"# {code(repo.partition('/')[2])}",
        "<Gallery />" if images else "",
        WHAT[file.kind],
        base(file),
        _words(file),
        scored(scores),
        listed("## Settings", [f"{code(key)}: {code(value)}" for key, value in file.settings.items()]),
        _loading(file, repo),
        f"## Licence\n\n{code(license)}, chosen by who published this file.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def code(text: str) -> str:
    """A code span that shows `text`, whatever it holds: its fence is longer than any row of backticks inside."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if text[:1] in "` " or text[-1:] in "` " else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def front(
    file: About, license: str, images: Iterable[Picture], triggers: Iterable[str], diffusers: bool
) -> str:
    """What the hub reads. file: any of the repository's; diffusers: whether Diffusers loads them as they stand."""
    tags = ["text-to-image", "lora", *(["diffusers", "template:sd-lora"] if diffusers else []), "b4m"]
    facts = {
        "license": license,
        "base_model": file.base,
        "base_model_relation": "adapter" if file.base else None,
        "library_name": "diffusers" if diffusers else None,
        "pipeline_tag": "text-to-image",
        "tags": tags,
        "instance_prompt": ", ".join(triggers) or None,
        "widget": [{"text": one.prompt or "-", "output": {"url": one.name}} for one in images] or None,
    }
    kept = {key: value for key, value in facts.items() if value is not None}
    return f"---\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)}---"


def base(file: About) -> str:
    """The section on the base model."""
    if file.embedded:
        told = (
            "**The small base model that comes with the project's code** (its embedded base). What is here works "
            "with that one alone: not with Stable Diffusion XL, and not with any other model on the hub."
        )
    elif file.base:
        told = f"[{file.base}](https://huggingface.co/{file.base})"
    elif file.made_for:
        told = f"The file names none. Its layers are those of {' or '.join(file.made_for)}."
    else:
        told = "The file names none that is on the hub."
    return f"## Base model\n\n{told}"


def _words(file: About) -> str:
    words = listed("## Trigger words", map(code, file.triggers)) or (
        "## Trigger words\n\nThe file names none."
    )
    prompts = listed("## Prompts of the training", map(code, file.prompts))
    return f"{words}\n\n{prompts}" if prompts else words


def scored(scores: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The section of the scores; nothing without any."""
    rows = [f"{code(row)}: {'; '.join(texts)}" for row, texts in scores]
    told = "From `b4m evaluate`, with 95 % intervals where there are several pairs, given by who published this file."
    return listed(f"## Scores\n\n{told}", rows)


def listed(head: str, lines: Iterable[str]) -> str:
    """Nothing, where there is no line."""
    body = "\n".join(f"- {line}" for line in lines)
    return f"{head}\n\n{body}" if body else ""


def _loading(file: About, repo: str) -> str:
    get = f"hf download {repo} {file.name} --local-dir ."
    draw = f"b4m generate --{'lora' if not file.concept else file.kind}-file {file.name}{model_flags(file)}"
    draw += f" --prompts {shlex.quote(_prompt(file))}"
    parts = [f"## How to load it\n\nWith b4m:\n\n```bash\n{get}\n{draw}\n```"]
    if file.concept:
        return "\n\n".join([*parts, _as_lora(file)])
    return "\n\n".join([*parts, _diffusers(file, repo), _comfy(file)])


def _as_lora(file: About) -> str:
    export = f"b4m export --{file.kind}-file {file.name} --output lora.safetensors --dialect"
    other = "style" if file.kind == "content" else "content"
    usable = "Diffusers" if file.embedded else "Diffusers (`diffusers`), ComfyUI and A1111 (`kohya-original`)"
    return (
        f"A concept file holds half of a LoRA, which {usable} cannot load as it stands. Written as a whole LoRA, alone "
        f"or with `--{other}-file` and a file of the same settings, it loads there:\n\n```bash\n"
        f"{export} {'diffusers' if file.embedded else 'kohya-original'}{based_flags(file)}\n```"
        + no_comfy(file)
    )


def _diffusers(file: About, repo: str) -> str:
    lines = ["import torch", "from diffusers import DiffusionPipeline"]
    if file.embedded:
        lines += ["from b4m.core.where import locate", "", f'base = locate("{EMBEDDED}")  # comes with b4m']
        precision, device = "torch.float32", ""
    else:
        name = file.base or file.example_base or NO_BASE
        lines += ["", f"base = {name!r}" + ("" if file.base else "  # or another that it fits")]
        precision, device = "torch.float16", '.to("cuda")'
    lines += [
        f"pipe = DiffusionPipeline.from_pretrained(base, torch_dtype={precision}){device}",
        f"pipe.load_lora_weights({repo!r}, weight_name={file.name!r})",
        f"image = pipe({_prompt(file)!r}).images[0]",
    ]
    return "With Diffusers:\n\n```python\n" + "\n".join(lines) + "\n```"


def _comfy(file: About) -> str:
    if file.embedded:
        return no_comfy(file).strip()
    place = "in `ComfyUI/models/loras`, and choose it in the node *Load LoRA* behind a checkpoint of its base model"
    if file.kohya:
        return f"With ComfyUI: put {code(file.name)} {place}."
    return (
        "With ComfyUI: write it with the keys of ComfyUI first,\n\n```bash\n"
        f"b4m export --lora-file {file.name} --output comfyui.safetensors --dialect kohya-original{based_flags(file)}\n"
        "```\n\n"
        f"put `comfyui.safetensors` {place}."
    )


def no_comfy(file: About) -> str:
    return "\n\nNot with ComfyUI: it has no checkpoint of the embedded base." if file.embedded else ""


def _prompt(file: About) -> str:
    """What the examples draw: where there is a content's prompt and a style's, the content's in the style."""
    if len(file.prompts) == 2 and " in " in file.prompts[1]:
        return f"{file.prompts[0]} in {file.prompts[1].partition(' in ')[2]}"
    return next(iter(file.prompts + file.triggers), "a photo")


def model_flags(file: About) -> str:
    """Flags of `b4m generate`."""
    if file.embedded:
        return ""
    base = file.base or file.example_base or NO_BASE
    return " --preset sdxl" + ("" if base == SDXL else f" --base-model {base}")


def based_flags(file: About) -> str:
    """Flags of `b4m export`."""
    return "" if file.embedded else f" --base-model {file.base or file.example_base or NO_BASE}"
