"""From the form to the queue: everything is checked first, and what is started is the public command."""

import pytest
from conftest import refused

from b4m.apps import flags
from b4m.apps.studio import example, jobs, library, references, teach
from b4m.apps.studio.teach import Form
from b4m.config.resolve import resolve


@pytest.fixture
def form(project, folders):
    from pathlib import Path

    files = sorted(Path(folders["content"]).iterdir())
    references.add(teach.desk(project, "content"), [(file, file.name) for file in files], 64)
    return Form("content", "Bear", "teddy bear", "snq", "quick")


def test_a_training_is_the_public_command_in_the_projects_folder(project, form, monkeypatch):
    concept = teach.begin(project, form)
    job = jobs.load(project, concept.ident)
    parsed = vars(flags.parse(job.arguments))
    assert parsed.pop("command") == "train-content"
    monkeypatch.chdir(project.folder)
    del parsed["config"], parsed["dry_run"]
    config = resolve(teach.CONFIGS["content"], parsed.pop("preset"), None, **parsed)
    assert (config.content_class, config.content_trigger) == ("teddy bear", "snq")
    assert config.steps == job.steps == teach.steps(project, form)
    assert config.output_dir == f"concepts/{concept.ident}/training"
    assert len(references.listing(project.concept(concept.ident) / "images")) == 3
    assert references.listing(teach.desk(project, "content")) == []
    assert str(project.folder) not in " ".join(job.arguments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "name is empty"),
        ({"class_word": " "}, "class word is empty"),
        ({"trigger": "a b"}, "one made-up word"),
        ({"partners": ()}, "no partners"),
        ({"partners": ("style-00000000",)}, "no longer"),
        ({"partners": ("/etc",)}, "no concept"),
        ({"typed": {"rank": "0"}}, "--rank"),
        ({"typed": {"output_dir": "/tmp"}}, "--output-dir"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_made(project, form, change, words):
    from dataclasses import replace

    refused(lambda: teach.begin(project, replace(form, **change)), words)
    assert library.concepts(project) == [] and len(references.listing(teach.desk(project, "content"))) == 3


def test_without_images_there_is_no_training(project):
    refused(lambda: teach.begin(project, Form("style", "Chalk", "chalk", "w@z")), "no images")


def test_a_concept_of_the_project_may_be_a_partner(project, form):
    style = library.create(project, "style", "Yarn", class_word="yarn art")
    (project.concept(style.ident) / "images").mkdir()
    given = teach.settings(
        project, Form("content", "B", "bear", "snq", partners=(style.ident, teach.SHIPPED)), "i", "o"
    )
    assert given["partner_dirs"][0] == f"concepts/{style.ident}/images"
    assert given["partner_prompts"][0] == "a picture in yarn art style"
    assert len(given["partner_prompts"]) == len(given["partner_dirs"]) == 6


def test_the_shown_command_says_what_is_missing_or_is_the_one_that_is_started(project, form):
    assert teach.shown_command(project, Form()).startswith("# the class word")
    shown = teach.shown_command(project, form)
    assert shown.startswith("b4m train-content") and "--content-class 'teddy bear'" in shown


def test_what_was_saved_of_the_form_comes_back_and_damage_is_left_out(form):
    assert Form.of(form.saved()) == form
    damaged = {"kind": "x", "length": 3, "name": "a", "more": 1, "typed": [], "partners": 5, "trigger": {}}
    assert Form.of(damaged) == Form(name="a")


def test_a_second_stage_is_a_job_of_the_pair(project, taught, monkeypatch):
    for kind in ("content", "style"):
        (project.concept(taught[kind].ident) / "images").mkdir()
    monkeypatch.chdir(project.folder)
    fused = teach.begin_second(project, taught["content"].ident, taught["style"].ident, 3)
    job = jobs.load(project, fused.ident)
    assert job.arguments[0] == "second-stage" and fused.pair == (
        taught["content"].ident,
        taught["style"].ident,
    )
    assert vars(flags.parse(job.arguments))["content_file"].endswith("content.safetensors")


def test_the_example_puts_one_of_each_into_the_queue(project):
    assert example.is_empty(project)
    made = example.begin(project)
    assert [concept.kind for concept in made] == ["content", "style"] and len(jobs.jobs(project)) == 2
    assert not example.is_empty(project)
