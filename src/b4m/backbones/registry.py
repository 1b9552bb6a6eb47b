"""Which model families there are, and the one that a base model belongs to."""

from collections.abc import Sequence

from ..core.errors import UserError
from ..core.registry import Registry
from ..data.summary import Cut
from .latent_diffusion import DTYPES
from .prompts import UNKNOWN, cut_off
from .protocol import Backbone
from .source import INDEX, find

FAMILIES = Registry(
    "model family",
    "b4m.backbones",
    {"sdxl": "b4m.backbones.sdxl:SDXL", "sd15": "b4m.backbones.sd15:SD15"},
)


def family_of(base_model: str) -> type[Backbone]:
    """By its model_index.json; a clear word before anything big is downloaded or loaded. Raises UserError."""
    index = find("base model", base_model).read(INDEX)
    for family in FAMILIES:
        if family.reads(index):
            return family
    raise UserError(
        f"base model {base_model}: it is a {index['_class_name']}, and none of the known families "
        f"({', '.join(FAMILIES.names())}); give a base model of one of them"
    )


def open_backbone(base_model: str, vae: str | None = None, mixed_precision: str = "no") -> Backbone:
    """The base model in a folder, in one file or under a Hugging Face name, frozen. Raises UserError."""
    return family_of(base_model).load(base_model, vae, DTYPES[mixed_precision])


def cut_off_at_hand(base_model: str, prompts: Sequence[str]) -> Cut | None:
    """`Backbone.cut_off` without loading or fetching anything big; None where the base model is not on this machine."""
    try:
        index = find("base model", base_model).at_hand().read(INDEX)
        family = next(family for family in FAMILIES if family.reads(index))
        cut = cut_off(family.read_tokenizers(base_model), prompts)
        return cut if cut.limit < UNKNOWN else None
    except Exception:  # whatever is wrong with it, the run itself says it
        return None
