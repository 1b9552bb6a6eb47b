"""`--best` without an extractor: the one that goes with the base model, however that is spelled."""

from pathlib import Path

import pytest

from b4m.apps import best
from b4m.config.presets import EMBEDDED, PRESETS
from b4m.config.sampling import GenerateConfig

ROOT = Path(__file__).parents[2]


class Blind:
    """An extractor that looks at nothing."""

    def images(self, pictures):
        return None


@pytest.mark.parametrize(
    "base", [EMBEDDED, f"./{EMBEDDED}", f"{EMBEDDED}/", str(ROOT / EMBEDDED), "owner/name"]
)
def test_the_extractor_is_the_base_models(base, folders, monkeypatch):
    asked = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(best, "load_extractor", lambda spec, device: asked.append(spec) or Blind())
    best.Best(GenerateConfig(base_model=base, prompts=("x",), best=1, style_dir=folders["style"]))
    preset = "sdxl" if base == "owner/name" else "embedded"
    assert asked == [PRESETS[preset]["evaluate"]["style_extractor"]]


def test_an_extractor_that_is_given_is_taken(folders, monkeypatch):
    asked = []
    monkeypatch.setattr(best, "load_extractor", lambda spec, device: asked.append(spec) or Blind())
    given = {"content_dir": folders["content"], "content_extractor": "mine"}
    best.Best(GenerateConfig(base_model=str(ROOT / EMBEDDED), prompts=("x",), best=1, **given))
    assert asked == ["mine"]
