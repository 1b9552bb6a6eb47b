"""The page in Chromium, on the embedded base: the whole path, and what must hold on the way. (`-m browser`)

    bash code/test.sh -m browser

B4M_SCREENSHOTS names a folder for an image of each tab.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

import b4m
from b4m.files.opening import open_any

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")

CHROMIUM = os.environ.get("B4M_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
REFERENCES = Path(b4m.__file__).parents[2] / "examples" / "references"
SHOTS = os.environ.get("B4M_SCREENSHOTS")
STEPS = "24" if SHOTS is None else "120"
SCREEN = {"width": 1360, "height": 900}
LEFT = ("AbortError", "errored out")  # what Gradio says of its streams when a page is left
SLOW = 180_000  # milliseconds: a training of few steps on a busy core


class Served:
    """A studio as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "b4m", "studio", "--project", str(self.folder), "--port", "0"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self.address = re.search(r"http://\S+", self.process.stdout.readline())[0]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def get(self, path: str, **headers: str) -> int:
        request = urllib.request.Request(self.address + path, headers=headers)
        try:
            return urllib.request.urlopen(request, timeout=20).status
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    made = Served(tmp_path_factory.mktemp("studio") / "My project")
    yield made
    made.process.send_signal(signal.SIGINT)
    made.process.wait(30)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(served, browser):
    """The page, opened. In the end: nothing was asked of elsewhere, and no script failed."""
    made = browser.new_page(viewport=SCREEN)
    asked, errors = [], []
    made.on("request", lambda request: asked.append(request.url))
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    open_page(made, served)
    yield made
    made.close()
    elsewhere = [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
    assert elsewhere == []
    assert [error for error in errors if not any(words in error for words in LEFT)] == []


def open_page(page, served) -> None:
    page.goto(served.address)
    page.wait_for_selector("#restored", state="attached", timeout=SLOW)
    page.wait_for_function("document.querySelector('#trainings')?.innerText?.length > 0", timeout=SLOW)


def tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def shoot(page, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(1500)
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=f"{SHOTS}/{name}.png")


def fill(page, where: str, text: str) -> None:
    page.locator(f"{where} input, {where} textarea").first.fill(text)


def wait_for_state(page, name: str, wanted: str) -> None:
    page.wait_for_function(
        "([name, wanted]) => { const at = document.querySelector(`section[aria-label='training of ${name}']`);"
        " return at && at.classList.contains(wanted); }",
        arg=[name, wanted],
        timeout=SLOW,
    )


def upload(page, files: list[Path], count: int) -> None:
    page.locator("#upload input[type=file]").set_input_files(files)
    page.wait_for_function(
        f"document.querySelectorAll('#desk .tile:not(.refused)').length == {count}", timeout=SLOW
    )


def teach(page, kind: str, name: str, class_word: str, trigger: str) -> None:
    fill(page, "#name", name)
    fill(page, "#class-word", class_word)
    fill(page, "#trigger", trigger)
    page.wait_for_function("document.querySelector('#advice')?.innerText?.includes('token')", timeout=SLOW)


def set_steps(page) -> None:
    """Under Advanced, by the flag's name."""
    if not page.locator("#search").is_visible():
        page.get_by_role("button", name=re.compile("Advanced")).click()
    page.wait_for_selector("#search", timeout=SLOW)
    page.locator("#search").fill("--steps")
    seen = page.locator(".setting:visible")
    page.wait_for_function("document.querySelectorAll('.setting:not(.hidden)').length == 1")
    seen.first.locator("input, textarea").first.fill(STEPS)


# The tests of this file are one path, in this order.


def test_a_content_is_taught_from_images_dropped_on_the_page(page, tmp_path):
    images = sorted((REFERENCES / "content" / "car").glob("*"))
    broken = tmp_path / "<b>cut<b>.png"
    broken.write_bytes(images[0].read_bytes()[:300])
    upload(page, [*images, broken], 5)
    refused = page.locator("#desk .refused")
    assert "damaged or cut off" in refused.inner_text() and refused.locator("b b").count() == 0
    teach(page, "content", "Star car", "car", "snq")
    set_steps(page)
    page.get_by_role("button", name=re.compile("The command that does")).click()
    page.wait_for_function(
        f"document.querySelector('#command textarea')?.value?.includes('--steps {STEPS}')", timeout=SLOW
    )
    shoot(page, "teach-form")
    page.click("#start")
    page.wait_for_function(
        "document.querySelector('#teach-status')?.innerText?.includes('in the queue')", timeout=SLOW
    )


def test_a_reload_neither_stops_nor_loses_it_and_it_is_stopped_and_continued(page):
    wait_for_state(page, "Star car", "running")
    page.reload()
    wait_for_state(page, "Star car", "running")
    page.get_by_role("button", name="stop the training of Star car").click()
    wait_for_state(page, "Star car", "stopped")
    page.get_by_role("button", name="continue the training of Star car").click()
    wait_for_state(page, "Star car", "running")


def test_a_style_is_taught_next_and_what_was_typed_outlives_the_studio(page, browser, served):
    page.get_by_label("A style: a look").check()
    page.wait_for_function(
        "document.querySelector('#trigger input, #trigger textarea')?.value == 'w@z'", timeout=SLOW
    )
    upload(page, sorted((REFERENCES / "style" / "watercolour").glob("*")), 3)
    teach(page, "style", "Watercolour on cream", "watercolour", "w@z")
    set_steps(page)
    page.wait_for_timeout(700)  # the last key is saved
    page.goto("about:blank")
    served.kill()
    served.start()
    with browser.new_context(viewport=SCREEN) as context:
        other = context.new_page()
        open_page(other, served)
        other.wait_for_function(
            "document.querySelector('#name input, #name textarea')?.value == 'Watercolour on cream'",
            timeout=SLOW,
        )
        assert other.locator("#desk .tile").count() == 3
        other.click("#start")
        other.wait_for_function(
            "document.querySelector('#teach-status')?.innerText?.includes('in the queue')", timeout=SLOW
        )
        wait_for_state(other, "Star car", "done")
        wait_for_state(other, "Watercolour on cream", "done")
        shoot(other, "teach")


def test_the_library_has_cards_that_are_renamed_deleted_and_brought_back(page):
    tab(page, "Library")
    page.locator("#shelf .card", has_text="Star car").click()
    page.wait_for_function("document.querySelector('#about')?.innerText?.includes('snq')", timeout=SLOW)
    shoot(page, "library")
    fill(page, "#rename", "<img src=x onerror=document.title='hacked'>")
    page.get_by_role("button", name="Rename", exact=True).click()
    page.wait_for_selector("#shelf .card:has-text('<img src=x')", timeout=SLOW)
    fill(page, "#rename", "Star car")
    page.get_by_role("button", name="Rename", exact=True).click()
    page.wait_for_selector("#shelf .card:has-text('Star car')", timeout=SLOW)
    assert "hacked" not in page.title()
    page.click("#delete")
    page.wait_for_function("document.querySelectorAll('#shelf .card').length == 1", timeout=SLOW)
    page.click("#undo")
    page.wait_for_function("document.querySelectorAll('#shelf .card').length == 2", timeout=SLOW)


def test_a_hostile_file_is_refused_in_one_line(page):
    tab(page, "Library")
    page.get_by_role("button", name=re.compile("Take in a file")).click()
    bad = {
        "name": "bad.safetensors",
        "mimeType": "application/octet-stream",
        "buffer": b"\x80\x04cposix\nsystem\n",
    }
    page.locator("#import input[type=file]").set_input_files([bad])
    page.wait_for_function(
        "document.querySelector('#library-status')?.innerText?.includes('bad.safetensors')", timeout=SLOW
    )
    told = page.locator("#library-status").inner_text()
    assert "/tmp" not in told and page.locator("#shelf .card").count() == 2


def test_every_pair_the_strengths_and_the_dials_are_drawn(page):
    tab(page, "Mix")
    page.wait_for_function(
        "document.querySelector('#styles')?.innerText?.includes('Watercolour')", timeout=SLOW
    )
    page.click("#draw-pairs")
    page.wait_for_function("document.querySelectorAll('#sheet .cell').length == 4", timeout=SLOW)
    page.click("#draw-strengths")
    page.wait_for_function("document.querySelectorAll('#sheet .cell').length == 17", timeout=SLOW)
    heads = page.locator("#sheet tbody th").all_inner_texts()
    assert heads == ["no adapter", "0", "0.5", "1", "1.5"]
    page.locator("#sheet .cell").nth(11).click()
    page.wait_for_selector("#one img", timeout=SLOW)
    shoot(page, "mix")
    before = page.locator("#one img").get_attribute("src")
    page.locator("#style-dial input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "src => document.querySelector('#one img').getAttribute('src') != src", arg=before, timeout=SLOW
    )
    page.get_by_role("button", name="Settings and command").click()
    page.wait_for_function(
        "document.querySelector('#redraw textarea')?.value?.includes('b4m generate')", timeout=SLOW
    )
    page.click("#pin")


def test_two_ways_are_compared_also_by_keyboard(page):
    tab(page, "Compare")
    page.click("#do-compare")
    page.wait_for_selector("#compared .beside img", timeout=SLOW)
    shoot(page, "compare")
    page.get_by_label("under a slider").check()
    page.wait_for_selector("#compared .wipe", timeout=SLOW)
    page.locator("#compared input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#compared .wipe").evaluate("one => one.style.getPropertyValue('--cut')") == "49%"


def test_what_is_exported_is_a_lora_and_a_workflow_that_names_it(page, tmp_path):
    tab(page, "Export")
    page.wait_for_function(
        "document.querySelector('#export-style input')?.value?.includes('Watercolour')", timeout=SLOW
    )
    page.click("#do-export")
    page.wait_for_selector("#exports a", timeout=SLOW)
    shoot(page, "export")
    for link in page.locator("#exports a").all():
        with page.expect_download() as waited:
            link.click()
        waited.value.save_as(tmp_path / waited.value.suggested_filename)
    (lora,), (flow,) = tmp_path.glob("*.safetensors"), tmp_path.glob("*.json")
    assert open_any(lora).role == "lora"
    assert lora.name in {node["inputs"].get("lora_name") for node in json.loads(flow.read_text()).values()}


def vote_on(folder: Path, project: Path) -> None:
    """Folders of images for `b4m vote make`: what the page drew with both files at full strength, and without any."""
    references = folder / "references" / "car-watercolour"
    references.mkdir(parents=True)
    for about in project.glob("concepts/*/concept.json"):
        kind = json.loads(about.read_text())["kind"]
        shutil.copytree(about.parent / "images", references / kind)
    for cell in (project / "cells").glob("*.png"):
        drawn = Image.open(cell).text
        if not all(word in drawn["prompt"] for word in ("snq", "w@z")):
            continue  # not the prompt of the pair
        strengths = {drawn.get(f"{kind}_strength") for kind in ("content", "style")}
        if strengths != {"1.0"} or ("content_file" in drawn) != ("style_file" in drawn):
            continue
        method = folder / ("both" if "content_file" in drawn else "neither") / "car-watercolour"
        method.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(cell, method / f"{drawn['seed']}.png")


def test_what_was_drawn_is_voted_on(served, browser, tmp_path):
    vote_on(tmp_path / "mine", served.folder)
    study = tmp_path / "study"
    make = f"--output-dir {study} --ours both --studies alignment --items 1 --votes 1 --checks 0"
    b4m_vote = [sys.executable, "-m", "b4m", "vote"]
    subprocess.run([*b4m_vote, "make", str(tmp_path / "mine"), *make.split()], check=True, timeout=120)
    serve = subprocess.Popen(
        [*b4m_vote, "serve", str(study), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = serve.stdout.readline()
        with browser.new_context(viewport=SCREEN) as context:
            page = context.new_page()
            page.goto(re.search(r"http://\S+", said)[0])
            page.check("input[name=consent]")
            page.click("button")
            page.wait_for_selector(".option", timeout=SLOW)
            page.wait_for_load_state("load")  # of images too
            assert page.evaluate("[...document.querySelectorAll('main img')].every(one => one.naturalWidth)")
            assert "neither" not in page.content()  # no method's name
            page.locator(".option").first.click()
            shoot(page, "vote")
            page.click("button")
            page.wait_for_selector("text=Thank you!", timeout=SLOW)
    finally:
        serve.send_signal(signal.SIGINT)
        told = serve.communicate(timeout=60)[1]
    assert "1 votes of 1 voters" in told


def test_a_keyboard_is_enough(page):
    page.locator("#kind input").first.focus()
    for _ in range(40):  # to the name, and on to the start
        page.keyboard.press("Tab")
        if page.evaluate("!!document.activeElement.closest('#name')"):
            break
    page.keyboard.type("Typed")
    assert page.locator("#name input, #name textarea").first.input_value() == "Typed"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id == 'start'"):
            break
    assert page.evaluate("document.activeElement.id") == "start"
    page.keyboard.press("Enter")
    page.wait_for_function(
        "document.querySelector('#teach-status .bad, #teach-status .busy') != null", timeout=SLOW
    )
    page.wait_for_function(
        "document.querySelector('#teach-status')?.innerText?.includes('no images yet')", timeout=SLOW
    )
    assert (
        page.locator("#name input, #name textarea").first.input_value() == "Typed"
    )  # the error took nothing
    page.get_by_role("tab", name="Teach", exact=True).focus()
    page.keyboard.press("Tab")
    tab(page, "Library")
    page.locator("#shelf .card").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#shelf .card[aria-pressed=true]", timeout=SLOW)


@pytest.mark.parametrize("name", ["Teach", "Library", "Mix", "Compare", "Export"])
def test_a_narrow_screen_is_wide_enough(page, name):
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(400)
    if not page.get_by_role("tab", name=name, exact=True).is_visible():
        page.get_by_role("button", name="More tabs").click()
        page.locator(".overflow-dropdown").get_by_text(name, exact=True).click()
    else:
        tab(page, name)
    page.wait_for_timeout(600)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
    if name == "Mix":
        shoot(page, "narrow")


@pytest.mark.parametrize("name", ["Teach", "Library", "Mix", "Compare", "Export"])
def test_nothing_serious_stands_in_anyones_way(page, name):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tab(page, name)
    page.wait_for_timeout(1000)
    found = axe.Axe().run(page).response["violations"]
    # Gradio's own: the label of a dropdown's list, and of an upload, are in its components.
    serious = [
        (one["id"], one["nodes"][0]["html"][:200])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_nothing_outside_the_project_is_sent(served):
    own = {"Host": served.address.removeprefix("http://")}
    assert served.get("/", **own) == 200
    for path in (
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../etc/passwd",
        f"/gradio_api/file={quote(str(served.folder))}/project.json",
        "/gradio_api/file/etc/passwd",
        "/studio/../project.json",
        "/studio/export/..%2f..%2fproject.json",
        "/gradio_api/info",
        "/docs",
    ):
        assert served.get(path, **own) in (403, 404), path
    assert served.get("/", Host="evil.example") == 403
    assert served.get("/", Origin="http://evil.example", **own) == 403


def test_a_second_studio_on_the_project_is_refused(served):
    ran = subprocess.run(
        [sys.executable, "-m", "b4m", "studio", "--project", str(served.folder), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2 and "open in another studio" in ran.stderr and ran.stderr.count("\n") == 1


def test_the_first_page_shows_the_cards_before_gradio_is_there(served, browser):
    """Its first answer, as it stands."""
    served.process.send_signal(signal.SIGINT)
    served.process.wait(30)
    served.start()
    text = urllib.request.urlopen(served.address, timeout=20).read().decode()
    assert "Star car" in text and "/studio/concept/content-" in text and "gradio_config" not in text
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if urllib.request.urlopen(served.address + "/studio/ready", timeout=20).read() == b"ready":
            break
        time.sleep(0.3)
    assert "gradio_config" in urllib.request.urlopen(served.address, timeout=20).read().decode()
