"""Sample images while training: drawn when due, and without a trace in what is trained."""

import pytest
from loops import loaded, same_files
from PIL import Image

from b4m.training.loop import Loop, train


def test_previews_are_drawn_and_leave_the_training_as_it_is(settings, tmp_path):
    plain = train(settings("content", tmp_path / "plain"))
    drawn = train(settings("content", tmp_path / "drawn", preview_every=2))
    assert same_files(plain.path, drawn.path)
    assert [path.name for path in (tmp_path / "drawn/previews").iterdir()] == ["step-000002.png"]


def test_a_preview_shows_the_concept_under_its_own_prompt_or_another(settings, folders, tmp_path):
    changes = {"steps": 1, "preview_every": 1}
    train(settings("content", tmp_path / "own", content_class="bear", **changes))
    train(settings("content", tmp_path / "other", preview_prompts=("a house",), **changes))
    said = [
        Image.open(tmp_path / name / "previews/step-000001.png").info["prompt"] for name in ("own", "other")
    ]
    assert said == ["a photo of snq bear", "a house"]


def test_a_preview_prompt_for_another_tool_gets_a_line(settings, tmp_path, capsys):
    for name, every in (("drawn", 2), ("never", 0)):
        train(
            settings(
                "content",
                tmp_path / name,
                steps=1,
                preview_every=every,
                preview_prompts=("a (red:1.4) bear",),
            )
        )
        said = "".join(capsys.readouterr())
        assert ("(red:1.4): no word has a weight" in said) == (name == "drawn")


def test_several_preview_prompts_stand_side_by_side(settings, tmp_path):
    changes = {"steps": 1, "preview_every": 1}
    prompts = ("a house", "a bear")
    train(settings("content", tmp_path / "both", preview_prompts=prompts, **changes))
    train(settings("content", tmp_path / "one", preview_prompts=prompts[:1], **changes))
    both, one = (Image.open(tmp_path / name / "previews/step-000001.png") for name in ("both", "one"))
    assert both.info["prompt"] == "a house\na bear" and both.width == 2 * one.width
    assert (
        both.crop((0, both.height - one.height, one.width, both.height)).tobytes()
        == one.convert(both.mode).tobytes()
    )


def test_a_preview_that_a_kill_prevented_is_drawn_by_the_next_run(settings, tmp_path, monkeypatch):
    changes = {"steps": 2, "preview_every": 2}
    train(settings("content", tmp_path / "whole", **changes))
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Loop, "preview", lambda self, taken: 1 / 0)
        train(settings("content", tmp_path / "run", **changes))
    train(settings("content", tmp_path / "run", **changes))
    whole, parts = (list((tmp_path / name / "previews").iterdir()) for name in ("whole", "run"))
    assert [path.name for path in parts] == ["step-000002.png"] and same_files(whole[0], parts[0])


def test_a_preview_prompt_that_is_cut_off_is_said(settings, tmp_path, capsys):
    loaded(
        settings(
            "content",
            tmp_path,
            preview_every=1,
            preview_prompts=("a photo of a house " * 3 + "in chalk style",),
        )
    )
    assert (
        'preview prompt longer than the 16 tokens that are read, cut off: "house in chalk style"'
        in capsys.readouterr().out
    )
