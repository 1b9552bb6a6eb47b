"""Push to Hugging Face, from the form to the settings of b4m push."""

from conftest import refused
from huggingface_hub import constants

from b4m.apps.push.settings import PushConfig
from b4m.apps.studio import pushing


def test_the_button_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    text, ready = pushing.state()
    assert not ready and "HF_TOKEN" in text and "hf auth login" in text
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert pushing.state() == (pushing.PUSH, True)


def test_the_form_becomes_settings_and_names_files_of_exports_alone(project):
    project.exports.mkdir()
    (project.exports / "a.safetensors").write_bytes(b"")
    (project.exports / "a.comfyui.json").write_text("{}")
    assert pushing.files(project) == ["a.safetensors"]
    given = pushing.settings(project, "a.safetensors", " me/bear ", "other", False, None)
    assert PushConfig(**given) == PushConfig("exports/a.safetensors", "me/bear", "other")
    assert "token" not in PushConfig.__dataclass_fields__
    for name in ("../project.yaml", "a.comfyui.json", None):
        refused(lambda name=name: pushing.settings(project, name, "me/bear", "other", False, None), "no file")
    refused(lambda: pushing.settings(project, "a.safetensors", "", "other", False, None), "repository")
    refused(lambda: pushing.settings(project, "a.safetensors", "me/bear", " ", False, None), "licence")
