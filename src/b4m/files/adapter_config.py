"""What peft says of a LoRA beside its tensors: in adapter_config.json, or in the header that Diffusers writes.

dW = up @ down * lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora; rank_pattern and alpha_pattern name layers
that differ, by regular expressions. Settings that change more than that are refused by name.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.storage import reason

FILE, TENSORS = "adapter_config.json", "adapter_model.safetensors"  # what peft calls them in its folder
IN_HEADER = "lora_adapter_metadata"
MAX_BYTES = 8 * 2**20
KINDS = ("LORA", "LOHA", "LOKR")
# Settings that change nothing of a trained file's weights, whatever their value.
_HARMLESS = {
    "alpha",
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "decompose_both",
    "decompose_factor",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",  # of layers that no UNet has
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "module_dropout",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_dropout",
    "rank_dropout_scale",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_dora",
    "use_effective_conv2d",
    "use_rslora",
    "velora_config",
}
# How a LoRA may have begun. Other ways (pissa, olora, corda, loftq, lora_ga) change the base model's own weights, too.
_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal", "mica")
# Patterns are a stranger's: only such as cannot be made to take forever. Groups and quantifiers are counted besides.
_PATTERN = re.compile(r"\^?(?:[\w|()-]|(?:\\?\.|\\d)[*+]?)+\$?", re.ASCII)
_AT_MOST = 2
_LONGEST = 300


@dataclass(frozen=True)
class AdapterConfig:
    """How a file's layers are scaled."""

    where: str  # the file that says so, for an error line
    kind: str  # one of KINDS
    rank: int | None
    alpha: float
    ranks: Mapping[str, int]  # rank_pattern
    alphas: Mapping[str, float]  # alpha_pattern
    root: bool  # use_rslora
    dora: bool  # use_dora

    def scale(self, name: str, rank: int | None) -> float:
        """Of a layer that peft calls `name` and whose tensors have `rank`; None: they have none.

        Raises UserError where the settings name another rank.
        """
        wanted = _first(self.ranks, name, self.rank)
        rank = rank or wanted or 1
        if wanted is not None and wanted != rank:
            raise UserError(
                f"{self.where}: says rank {wanted} for {name}, whose tensors have {rank}; "
                "give the settings and the tensors of one training"
            )
        return _first(self.alphas, name, self.alpha) / (math.sqrt(rank) if self.root else rank)


def path_beside(file: Path) -> Path | None:
    """Where the settings of a file with peft's own name are, or of a renamed one: the only one in the folder."""
    path = file.parent / FILE
    if not path.is_file():
        return None
    return path if file.name == TENSORS or [*file.parent.glob("*.safetensors")] == [file] else None


def beside(file: Path) -> AdapterConfig | None:
    """The settings in the folder of a file that peft wrote. Raises UserError for what cannot be read."""
    path = path_beside(file)
    if path is None:
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}); get the folder again") from error
    return _read(str(path), found)


def in_header(where: str, metadata: Mapping[str, str]) -> AdapterConfig | None:
    """The UNet's part of the settings that Diffusers writes into a header. Raises UserError for what cannot be read."""
    what = f"{where}: its {IN_HEADER}"
    try:
        found = json.loads(metadata.get(IN_HEADER, "{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} cannot be read ({reason(error)}); get the file again") from error
    if isinstance(found, dict):
        parts = ("text_encoder.", "text_encoder_2.")
        found = {key.removeprefix("unet."): found[key] for key in found if not key.startswith(parts)}
    return None if found == {} else _read(what, found)


def _read(where: str, found: Any) -> AdapterConfig:
    try:
        config = _config(where, found)
        for pattern in (*config.ranks, *config.alphas):
            _matcher(pattern)
        return config
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{where} cannot be read ({reason(error)}); get the file again") from error


def _config(where: str, found: dict[str, Any]) -> AdapterConfig:
    kind = str(found.get("peft_type") or "LORA").upper()
    if kind not in KINDS:
        raise UserError(f"{where}: an adapter of peft's type {kind[:40]}; b4m reads {', '.join(KINDS)}")
    beginning = found.get("init_lora_weights", True)
    if beginning not in _BEGINNINGS:
        raise UserError(
            f"{where}: init_lora_weights {str(beginning)[:40]} changes the base model's own weights, too; "
            "convert it to a plain LoRA in peft (path_initial_model_for_weight_conversion)"
        )
    known = _HARMLESS | {"init_lora_weights", *(("bias",) if found.get("bias") == "none" else ())}
    if odd := sorted(name for name, value in found.items() if value and name not in known):
        raise UserError(
            f"{where}: sets {odd[0][:40]}, which b4m does not follow; export a plain LoRA where it was made"
        )
    alpha = found.get("lora_alpha", found.get("alpha"))
    if alpha is None:
        raise UserError(
            f"{where}: names no lora_alpha, so its scale is unknown; add it as it was in training"
        )
    rank = found.get("r")
    config = AdapterConfig(
        where=where,
        kind=kind,
        rank=None if rank is None else int(rank),
        alpha=float(alpha),
        ranks={pattern: int(value) for pattern, value in (found.get("rank_pattern") or {}).items()},
        alphas={pattern: float(value) for pattern, value in (found.get("alpha_pattern") or {}).items()},
        root=bool(found.get("use_rslora")),
        dora=bool(found.get("use_dora")),
    )
    if not all(map(math.isfinite, (config.alpha, *config.alphas.values()))):
        raise ValueError("an alpha is not finite")
    return config


def _first(patterns: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """The value of the first pattern that matches, as peft's get_pattern_key finds it."""
    return next((value for pattern, value in patterns.items() if _matcher(pattern).match(name)), otherwise)


@lru_cache(10_000)
def _matcher(pattern: str) -> re.Pattern[str]:
    """The end of a name, from a dot on. Raises ValueError for a pattern that is not followed."""
    counted = len(re.findall(r"[*+]", pattern)), pattern.count("(")
    try:
        if not _PATTERN.fullmatch(pattern) or len(pattern) > _LONGEST or max(counted) > _AT_MOST:
            raise ValueError("it has more than names, dots and two wildcards")
        return re.compile(rf"(.*\.)?({pattern})$")
    except (ValueError, re.error) as error:
        raise ValueError(f"pattern {pattern[:60]!r}: {error}") from error
