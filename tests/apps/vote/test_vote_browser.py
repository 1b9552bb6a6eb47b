"""The page in a real browser: the whole way by keyboard alone, on a narrow screen, without scripts."""

import shutil

import pytest
from voting import a_study, serving

from b4m.apps.vote.limits import Limit

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium"),
]
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install 'b4m[dev]'")


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def booth(tmp_path):
    with serving(a_study(tmp_path, items=2)) as booth:
        booth.votes = Limit(1000, 1000)
        yield booth


@pytest.fixture
def page(chromium, booth):
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on(
        "request",
        lambda request: page.problems.append(request.url) if booth_of(request) != booth.port else None,
    )
    page.goto(f"http://127.0.0.1:{booth.port}/")
    yield page
    assert page.problems == []  # no error of a script, nothing asked of anybody else
    context.close()


def booth_of(request) -> int:
    return int(request.url.split("/")[2].split(":")[1])


def tab_to(page, selector: str) -> None:
    for _ in range(30):
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no way to {selector} by keyboard")


def test_the_whole_study_by_keyboard_alone(page, booth):
    tab_to(page, "input[name=consent]")
    page.keyboard.press("Space")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    for number in range(booth.study.length):
        if number % 2:  # with the letters, or as any form
            page.keyboard.press("b")
        else:
            tab_to(page, "input[name=choice]")
            page.keyboard.press("Space")
            page.keyboard.press("ArrowDown")
        assert page.locator("input[name=choice]").nth(1).is_checked()
        page.wait_for_load_state()
        assert page.evaluate(
            "[...document.querySelectorAll('main img')].every(image => image.complete && image.naturalWidth)"
        )
        with page.expect_navigation():
            page.keyboard.press("Enter")
    assert page.text_content("h1") == "Thank you!"
    votes = booth.store.votes()
    assert len(votes) == booth.study.length and all(vote.chosen == vote.shown[1] for vote in votes)


def begin(page) -> None:
    page.check("input[name=consent]")
    send(page)


def send(page) -> None:
    with page.expect_navigation():
        page.click("button")


def test_nothing_chosen_is_not_sent_and_two_windows_do_not_vote_twice(page, booth):
    begin(page)
    page.keyboard.press("Enter")
    page.click("button")  # the browser itself asks for a choice
    assert booth.store.votes() == []
    other = page.context.new_page()
    other.goto(page.url)
    for window in (page, other):
        window.locator(".option").first.click()
        send(window)
    assert "answered this before" in other.text_content("h1") and len(booth.store.votes()) == 1
    other.click("text=Go on")
    assert "Question 2" in other.text_content(".progress") and "Question 2" in page.text_content(".progress")


def test_images_can_be_enlarged_and_leafed_through(page, booth):
    begin(page)
    page.keyboard.press("b")
    page.keyboard.press("z")
    shown = page.locator("dialog.large")
    assert shown.is_visible() and shown.locator("p").text_content().split(",")[0].endswith(" B")
    first = shown.locator("img").get_attribute("src")
    page.keyboard.press("ArrowRight")
    assert shown.locator("img").get_attribute("src") != first
    page.keyboard.press("Enter")  # sends nothing while an image is open
    assert booth.store.votes() == []
    page.keyboard.press("Escape")
    assert not shown.is_visible()
    page.locator(".option img").first.dblclick()
    assert shown.is_visible()
    page.keyboard.press("Escape")


def test_a_narrow_screen_needs_no_sideways_scrolling(page, booth):
    page.set_viewport_size({"width": 320, "height": 640})
    begin(page)
    for _ in range(booth.study.length):
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.locator(".option").last.click()
        send(page)
    assert page.text_content("h1") == "Thank you!"


def test_without_scripts_it_works_too(chromium, booth):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{booth.port}/")
    begin(page)
    page.locator(".option").first.click()
    send(page)
    assert "Question 2" in page.text_content(".progress")
    context.close()
