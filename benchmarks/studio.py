"""What the studio's page takes: its first image, a turned dial, a large project. In Chromium, on this machine.

pip install -e ".[browser]" && apt-get install chromium
OMP_NUM_THREADS=1 python benchmarks/studio.py --output benchmarks/studio.json
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from safetensors.numpy import save_file

from b4m.apps.studio import example, jobs, library
from b4m.apps.studio.project import Base, Project, opened
from b4m.apps.studio.runner import Runner

CONCEPTS, CELLS, TURNS = 200, 5000, 9
LONG = 120_000  # milliseconds


@contextmanager
def served(folder: Path):
    """(address, when it was started) of a studio on `folder`."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "b4m", "studio", "--project", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield re.search(r"http://\S+", process.stdout.readline())[0], started
    finally:
        process.terminate()
        process.wait(30)


def first_image(page: Page, folder: Path) -> dict[str, float]:
    """Seconds from the command to the first image that is seen, and to the page with all its tabs."""
    with served(folder) as (address, started):
        page.goto(address)
        page.wait_for_function(
            "[...document.images].some(one => one.complete && one.naturalWidth)", timeout=LONG
        )
        image = time.perf_counter() - started
        page.wait_for_selector("#kind", timeout=LONG)
        return {"first image": image, "all tabs": time.perf_counter() - started}


def turned_dials(page: Page, folder: Path) -> dict[str, float]:
    """Seconds from a key on the style's dial to the image that it asked for: median and largest of TURNS."""
    with served(folder) as (address, _):
        page.goto(address)
        page.wait_for_selector("#kind", timeout=LONG)
        page.get_by_role("tab", name="Mix", exact=True).click()
        page.wait_for_function("document.querySelector('#styles').innerText.includes('Chalk')", timeout=LONG)
        page.locator("#style-dial input[type=range]").focus()
        taken = []
        for _turn in range(TURNS + 1):
            before = page.evaluate("document.querySelector('#one img')?.getAttribute('src')")
            began = time.perf_counter()
            page.keyboard.press("ArrowLeft")
            page.wait_for_function(
                "src => { const one = document.querySelector('#one img');"
                " return one && one.getAttribute('src') != src && one.complete; }",
                arg=before,
                timeout=LONG,
            )
            taken.append(time.perf_counter() - began)
    return {"first turn": taken[0], "median": statistics.median(taken[1:]), "largest": max(taken[1:])}


def teach_example(project: Project) -> None:
    """The example, trained."""
    example.begin(project)
    runner = Runner(project)
    while any(not jobs.look(project, job).ended for job in jobs.jobs(project)):
        runner.turn()
        time.sleep(0.5)


def make_large(project: Project) -> None:
    """CONCEPTS cards with an image and a file, CELLS drawn images."""
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    for number in range(CONCEPTS):
        kind = ("content", "style")[number % 2]
        concept = library.create(project, kind, f"{kind} {number}", class_word="thing", trigger="snq")
        folder = project.concept(concept.ident)
        (folder / "images").mkdir()
        image.save(folder / "images" / "0001.png")
        path = library.file_of(project, concept)
        path.parent.mkdir()
        save_file({"x": numpy.zeros(4)}, path, {"b4m.steps": "250", "b4m.kind": kind})
    (project.folder / "cells").mkdir()
    first = project.cell("0" * 40)
    image.save(first)
    for number in range(1, CELLS):
        shutil.copyfile(first, project.cell(f"{number:040x}"))


def open_large(page: Page, folder: Path) -> dict[str, float]:
    """Seconds to read the cards and their facts, and to have them on the page from a click on Library."""
    with opened(folder, Base()) as project:
        began = time.perf_counter()
        found = library.concepts(project)
        for concept in found:
            library.facts(project, concept)
        reading = time.perf_counter() - began
    shown = first_image(page, folder)
    with served(folder) as (address, _):
        page.goto(address)
        page.wait_for_selector("#kind", timeout=LONG)
        page.wait_for_timeout(3000)
        began = time.perf_counter()
        page.get_by_role("tab", name="Library", exact=True).click()
        page.wait_for_function(
            f"document.querySelectorAll('#shelf .card').length == {CONCEPTS}", timeout=LONG
        )
        clicked = time.perf_counter() - began
    return {"read": reading, "first image": shown["first image"], "library": clicked, "concepts": len(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser's program")
    given = parser.parse_args()
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as root, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        page = browser.new_page()
        with opened(Path(root, "example"), Base()) as project:
            teach_example(project)
        found["start"] = first_image(page, Path(root, "example"))
        found["dial"] = turned_dials(page, Path(root, "example"))
        with opened(Path(root, "large"), Base()) as project:
            make_large(project)
        found["large"] = open_large(page, Path(root, "large"))
        browser.close()
    given.output.write_text(json.dumps(found, indent=1) + "\n")
    print(given.output.read_text())


if __name__ == "__main__":
    main()
