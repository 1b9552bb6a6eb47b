"""What each row costs: which trainings are new in the cases of Tables 3 and 4."""

import json
from dataclasses import replace

import pytest
import yaml

from b4m.config.fields import changed
from b4m.core.process import peak_mb, restart_peak
from b4m.studies.costs import CASES, costs_of, costs_table, seconds_of
from b4m.studies.doing import cost_of
from b4m.studies.file import read_study
from b4m.studies.plan import Plan

STYLE, BOTH, KNOWN = CASES
SECONDS = {  # of each stage, so that every sum says which stages are in it
    "content": 1,
    "style": 2,
    "second": 4,
    "lora-content": 8,
    "cc+cs": 16,
    "joint": 32,
    "lora-style": 64,
    "direct-sum": 128,
    "custom-diffusion-content-classes": 256,
    "custom-diffusion-style-classes": 512,
    "custom-diffusion-joint": 1024,
    "cc+es": 2048,
}


@pytest.fixture
def plan(tmp_path):
    rows = {
        name: {"method": name}
        for name in (
            "joint",
            "direct-sum",
            "cc+cs",
            "joint-then-second",
            "custom-diffusion",
            "cc+es",
            "words",
        )
    }
    values = {
        "title": "try",
        "subjects": "examples/configs/subjects/world.yaml",
        "contents": ["examples/references/content/car", "examples/references/content/bear"],
        "styles": ["examples/references/style/yarn", "examples/references/style/watercolour"],
        "rows": {"ours": {}, **rows},
    }
    path = tmp_path / "try.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return Plan(read_study(path), tmp_path / "out")


def done(plan, seconds=SECONDS) -> None:
    """Every training has taken what its stage takes, and the more memory the longer."""
    for training in plan.trainings.values():
        training.folder.mkdir(parents=True, exist_ok=True)
        if value := seconds.get(training.config.stage):
            facts = {"seconds": value, "peak_mb": 1000 + value}
            (training.folder / "seconds.json").write_text(json.dumps(facts))


def test_each_case_counts_what_is_new_in_it(plan):
    done(plan)
    found = {row: tuple(cost.seconds.values()) for row, cost in costs_of(plan).items()}
    assert found == {  # a new style, both new, another pair of known concepts
        "ours": (2 + 4, 1 + 2 + 4, 4),
        "joint": (32, 32, 32),
        "joint-then-second": (32 + 4, 32 + 4, 32 + 4),  # one run on all, whose two files go on
        "direct-sum": (64 + 128, 8 + 64 + 128, 128),
        "cc+cs": (16, 8 + 16, 16),
        "custom-diffusion": (512 + 1024, 256 + 512 + 1024, 1024),
        "cc+es": (0, 8 + 2048, 0),  # the content's image is inverted once for all styles
        "words": (0, 0, 0),
    }


def test_a_file_from_elsewhere_costs_the_study_nothing(plan, tmp_path):
    done(plan)
    drawing = plan.drawings[0]
    more = changed(drawing.config, more_files=(str(tmp_path / "found.safetensors"),), more_strengths=(1.0,))
    plan.drawings = [replace(drawing, config=more)]
    assert costs_of(plan)["ours"].seconds[BOTH] == 1 + 2 + 4


def test_memory_is_that_of_the_largest_training(plan):
    done(plan)
    costs = costs_of(plan)
    assert costs["ours"].peak_mb == 1004 and costs["cc+cs"].peak_mb == 1016 and costs["words"].peak_mb is None


def test_times_that_are_not_known_leave_their_cases_out(plan):
    done(plan, {"content": 1, "second": 4})  # the styles' trainings were interrupted
    ours = costs_of(plan)["ours"]
    assert ours.seconds == {KNOWN: 4} and seconds_of(plan) == {"content": 1, "second": 4}
    assert "| ours |  |  | 4.0 |  | 1004 |" in costs_table({"ours": ours})


def test_an_image_costs_what_its_row_draws(plan):
    for drawing in plan.drawings:
        cost_of(drawing).parent.mkdir(parents=True, exist_ok=True)
        cost_of(drawing).write_text(json.dumps({"seconds": 3.0 if drawing.row == "ours" else 0.5}))
    assert {row: cost.image for row, cost in costs_of(plan).items() if row in ("ours", "words")} == {
        "ours": 3.0,
        "words": 0.5,
    }


def test_a_job_is_not_charged_with_the_memory_of_the_one_before():
    held = bytearray(400 * 2**20)
    before = peak_mb()
    del held
    restart_peak()
    assert peak_mb() < before - 300
