"""Trigger words are looked at, settings become flags and back, and no path of the machine is shown."""

import subprocess
from dataclasses import fields
from types import SimpleNamespace
from typing import cast

import pytest
from conftest import refused

from b4m.apps import flags
from b4m.apps.studio import advanced, command
from b4m.apps.studio.library import Concept
from b4m.apps.studio.plain import without_paths
from b4m.apps.studio.sheet import pair_prompt
from b4m.apps.studio.words import look
from b4m.config.stages import ContentConfig, StyleConfig


@pytest.mark.parametrize(
    ("trigger", "good", "words"),
    [
        ("snq", True, "3 tokens"),
        ("chalk", None, "knows already"),
        ("abcdefgh", None, "8 tokens"),
        ("bear", False, "class word itself"),
        ("two words", False, "One word"),
        ("<x>", False, "Letters"),
        ("", False, "needed"),
        ("w@z", None, "Yarn has the same trigger"),
    ],
)
def test_a_trigger_word_is_looked_at(trigger, good, words):
    def tokens(word: str) -> list[str]:
        return [word] if word == "chalk" else list(word)

    found = look(trigger, "bear", tokens, [("w@z", "Yarn")])
    assert found.good is good and words in found.text


def test_the_command_line_reads_back_what_is_shown():
    settings = {
        "content_dir": "a b/",
        "partner_dirs": ["x", "y"],
        "routing": False,
        "snr_gamma": None,
        "lr": 1e-4,
    }
    given = command.arguments("train-content", settings)
    parsed = vars(flags.parse(given))
    assert (
        parsed["partner_dirs"] == ["x", "y"]
        and parsed["routing"] is False
        and parsed["content_dir"] == ["a b/"]
    )
    assert "snr_gamma" not in parsed
    shown = command.shown(given)
    assert shown.startswith("b4m train-content \\\n    --content-dir 'a b/'") and "--no-routing" in shown


@pytest.mark.parametrize("job", [ContentConfig, StyleConfig])
def test_advanced_has_every_setting_that_the_form_does_not_decide(job):
    names = {row.name for row in advanced.rows(job, "embedded")}
    assert names | advanced.DECIDED >= {field.name for field in fields(job)}
    assert not names & advanced.DECIDED
    rank = next(row for row in advanced.rows(job, "sdxl") if row.name == "rank")
    assert rank.default == "64"


def test_content_and_style_have_the_same_advanced_settings():
    """The form is built once for both."""
    of_content, of_style = (advanced.rows(job, "embedded") for job in (ContentConfig, StyleConfig))
    assert [(row.name, row.choices) for row in of_content] == [(row.name, row.choices) for row in of_style]


def test_only_what_was_changed_is_read_and_bad_values_are_refused_by_flag():
    typed = {"rank": "32", "lr": "5e-4", "routing": "no", "snr_gamma": ""}
    assert advanced.read(ContentConfig, "embedded", typed) == {"lr": 5e-4, "routing": False}
    several = advanced.read(ContentConfig, "embedded", {"preview_prompts": "a snq bear; a bear in w@z style"})
    assert several == {"preview_prompts": ("a snq bear", "a bear in w@z style")}
    refused(lambda: advanced.read(ContentConfig, "embedded", {"rank": "many"}), "--rank", "whole number")
    refused(lambda: advanced.read(ContentConfig, "embedded", {"routing": "x"}), "--routing")
    for name in ("output_dir", "base_model", "content_dir", "__class__"):
        refused(lambda name=name: advanced.read(ContentConfig, "embedded", {name: "/etc"}), "no setting")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/home/ann/p/concepts/x/a.png: damaged", "concepts/x/a.png: damaged"),
        ("/usr/lib/python3/x.py: no", "x.py: no"),
        ("see https://huggingface.co/a/b", "see https://huggingface.co/a/b"),
        ("--output-dir /root/.cache/q cannot", "--output-dir q cannot"),
        ("C:\\Users\\ann\\a.png: bad", "a.png: bad"),
        ("1/2 of a/b stay", "1/2 of a/b stay"),
    ],
)
def test_paths_of_the_machine_are_cut(text, wanted):
    assert without_paths(text, "/home/ann/p") == wanted


def test_nothing_in_the_projects_folder_is_imported(tmp_path):
    """A project may come from a stranger, and trainings run in its folder."""
    for name in ("torch", "yaml", "b4m"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the project')")
    ran = subprocess.run([*command.PROGRAM, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0 and "train-content" in ran.stdout, ran.stderr


def test_a_pair_is_asked_for_in_its_style_and_not_as_a_photo():
    bear, yarn = (cast(Concept, SimpleNamespace(words=words)) for words in ("snq bear", "w@z yarn"))
    assert pair_prompt(bear, yarn) == "snq bear in w@z yarn style"
    assert pair_prompt(bear, None) == "a photo of snq bear"
    assert pair_prompt(None, yarn) == "a picture in w@z yarn style"
