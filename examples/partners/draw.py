"""Draw neutral partners with your own base model: styles to learn a content beside, contents to learn a style beside.

    python examples/partners/draw.py styles --base-model models/pony.safetensors --preset sdxl

Five images with their captions, drawn once: the same command finds them again. Prints their paths, one a line, so that
PARTNER_DIRS="$(python examples/partners/draw.py styles ...)" hands them to a script of code/. Flags are those of
`b4m generate` that say how to draw. For real work choose images of your own: what a base model draws, it knows already.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from b4m.apps.flags import parse
from b4m.apps.quiet import quiet
from b4m.config.fields import flag
from b4m.config.resolve import resolve
from b4m.config.sampling import GenerateConfig
from b4m.core.errors import UserError
from b4m.core.storage import write_text
from b4m.sampling.generate import draw
from b4m.sampling.sample import drawn_with, save_png

SEED = 77
OWN = (
    "config",
    "prompts",
    "seeds",
    "best",
    "grid",
    "overwrite",
    "dry_run",
)  # flags of `b4m generate` that are not taken
KINDS = {  # file name -> what is drawn, which is its caption too
    "styles": {
        "watercolour": "a lighthouse by the sea in watercolour style",
        "pencil": "an old bicycle in pencil sketch style",
        "mosaic": "a bird on a branch in mosaic style",
        "neon": "a street at night in neon light style",
        "paper": "a hill with trees in paper cut style",
    },
    "contents": {
        "teapot": "a photo of a teapot",
        "dog": "a photo of a dog",
        "boat": "a photo of a boat",
        "chair": "a photo of a chair",
        "tree": "a photo of a tree",
    },
}


def partners(kind: str, config: GenerateConfig) -> list[Path]:
    """The images of one of KINDS, drawn unless they are there. config: how, and where those of every base model lie."""
    facts = {**drawn_with(config), "seed": str(SEED), **KINDS[kind]}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(config.output_dir) / f"{Path(config.base_model).stem}-{key}" / kind
    paths = [folder / f"{name}.png" for name in KINDS[kind]]
    if not all(path.exists() for path in paths):
        for path, drawn in zip(paths, draw(config), strict=True):
            write_text(path.with_suffix(".txt"), drawn.prompt)
            save_png(path, drawn.image, {"prompt": drawn.prompt, **facts})
    return paths


def settings(kind: str, flags: Sequence[str]) -> GenerateConfig:
    """How they are drawn. Raises UserError."""
    given = vars(parse(["generate", *flags]))
    if taken := [name for name in OWN if given.get(name)]:
        raise UserError(f"{flag(taken[0])} is not taken here: what is drawn is written in {__file__}")
    given = {name: value for name, value in given.items() if name not in ("command", "config", "dry_run")}
    given = {
        "output_dir": "outputs/partners",
        **given,
        "prompts": tuple(KINDS[kind].values()),
        "seeds": (SEED,),
    }
    return resolve(GenerateConfig, given.pop("preset", None), **given)


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] not in KINDS:
        print(__doc__, file=sys.stderr)
        return 2
    kind, *flags = arguments
    try:
        config = settings(kind, flags)
        quiet()
        print(*partners(kind, config), sep="\n")
    except UserError as error:
        print(f"b4m: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
