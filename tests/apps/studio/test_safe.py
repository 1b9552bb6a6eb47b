"""Who may ask the studio for what; and text from outside stays text."""

import asyncio
from pathlib import Path

import pytest

from b4m.apps.studio import guard, html, library, pictures, references, teach
from b4m.apps.studio.jobs import Job, Progress
from b4m.apps.studio.library import Concept
from b4m.apps.studio.sheet import Sheet
from b4m.apps.studio.words import Advice

OWN = {"host": "127.0.0.1:7860"}


def why(method="GET", path="/", host="127.0.0.1", uploads=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return guard.refusal(method, path, {**OWN, **named}, host, 7860, uploads)


def test_the_page_itself_is_answered():
    assert why() is None
    assert (
        why("POST", "/gradio_api/queue/join", origin="http://127.0.0.1:7860", sec_fetch_site="same-origin")
        is None
    )
    assert guard.refusal("GET", "/", {"host": "localhost:7860"}, "127.0.0.1", 7860) is None


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example:7860", "127.0.0.1:9999", ""])
def test_another_name_of_this_machine_is_refused(name):
    """DNS rebinding: a page of theirs whose name points here."""
    assert "another name" in guard.refusal("GET", "/", {"host": name}, "127.0.0.1", 7860)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_page_is_refused(method):
    assert why(method, origin="http://evil.example")
    assert why(method, origin="null")
    assert why(method, sec_fetch_site="cross-site", sec_fetch_mode="cors")
    assert why("POST", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    assert why("GET", sec_fetch_site="cross-site", sec_fetch_mode="navigate") is None  # a link to it


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/info", "/docs", "/openapi.json", "/gradio_api/proxy=http://x", "/gradio_api/call/x", "/monitoring",
     "/gradio_api/vibe-edit", "/gradio_api/run-history/connect", "/gradio_api/file/etc/passwd", "/login", "/token"],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(path):
    assert why("GET", path) == "not here"


def test_gradios_file_route_gives_uploads_and_nothing_else(tmp_path):
    uploads, outside = tmp_path / "up", tmp_path / "secret"
    uploads.mkdir()
    outside.write_text("")
    (uploads / "a.png").write_text("")
    (uploads / "link").symlink_to(outside)
    assert why(path=f"/gradio_api/file={uploads}/a.png", uploads=uploads) is None
    for path in (
        outside,
        "/etc/passwd",
        f"{uploads}/../secret",
        f"{uploads}/link",
        "secret",
        "%2Fetc%2Fpasswd",
        uploads.parent,
    ):
        assert why(path=f"/gradio_api/file={path}", uploads=uploads) == "not here", path


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/docs", 404)])
def test_every_answer_forbids_what_comes_from_elsewhere(tmp_path, path, status):
    async def app(scope, receive, send):
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"X-Content-Type-Options", b"no")]}
        )
        await send({"type": "http.response.body", "body": b""})

    async def send(message):
        sent.append(message)

    sent: list = []
    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"Host", b"127.0.0.1:7860")]}
    asyncio.run(guard.Guard(app, "127.0.0.1", 7860, tmp_path)(scope, None, send))
    headers = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
    assert sent[0]["status"] == status and headers.count(("x-content-type-options", "nosniff")) == 1
    assert len([name for name, _ in headers if name.lower() == "x-content-type-options"]) == 1
    for rule in dict(headers)["content-security-policy"].split("; "):
        assert set(rule.split()[1:]) <= {
            "'self'",
            "'none'",
            "'unsafe-inline'",
            "'unsafe-eval'",
            "data:",
            "blob:",
        }


def test_what_is_too_large_is_refused_before_it_is_read():
    assert "bytes" in why("POST", "/gradio_api/upload", content_length=str(guard.MAX_BODY + 1))
    assert "bytes" in why("POST", "/gradio_api/upload", content_length="x")


@pytest.mark.parametrize(
    "name",
    ["../project.json", "concept/../../x", "desk/content/../../project.json", "cell/../project", "project.json",
     "export/../project.json", "export/.hidden", "/etc/passwd", "concept/content-00000000/x", "export/project.json",
     "preview/content-00000000/..", "desk/content/names.json"],
)  # fmt: skip
def test_pictures_are_found_by_names_that_are_no_paths(project, name):
    assert pictures.answer(project, name) is None


def test_links_out_of_the_project_are_not_followed(project, tmp_path, folders):
    secret = next(Path(folders["content"]).glob("*.png"))
    concept = library.create(project, "content", "Bear")
    images = project.concept(concept.ident) / "images"
    images.mkdir()
    (images / "0001.png").symlink_to(secret)
    project.exports.mkdir()
    (project.exports / "x.png").symlink_to(secret)
    key = "0" * 40
    project.cell(key).parent.mkdir()
    project.cell(key).symlink_to(secret)
    teach.desk(project, "content").mkdir(parents=True)
    (teach.desk(project, "content") / "0001.png").symlink_to(secret)
    for name in (f"concept/{concept.ident}", "export/x.png", f"cell/{key}", "desk/content/0001.png"):
        assert pictures.answer(project, name) is None, name


def test_what_is_there_is_sent_with_its_type(project, folders):
    file = next(Path(folders["content"]).glob("*.png"))
    references.add(teach.desk(project, "content"), [(file, "a.png")], 16)
    sent = pictures.answer(project, "desk/content/0001.png", 16)
    assert sent.type == "image/png" and sent.data.startswith(b"\x89PNG")


EVIL = "<img src=x onerror=alert(1)>\"'&"


def test_markup_is_shown_as_text(project):
    concept = Concept("content-00000000", "content", EVIL, EVIL, EVIL)
    progress = Progress(Job(concept.ident, (), 5, 0.0), "failed", message=EVIL)
    table = Sheet(EVIL, EVIL, EVIL, (EVIL,), (EVIL,), ((EVIL,),))
    pieces = [
        html.note(EVIL),
        html.advice(Advice(None, EVIL)),
        html.desk(
            "content",
            [references.Reference(EVIL, "0001.png", note=EVIL)],
            [references.Reference(EVIL, problem=EVIL)],
        ),
        html.cards(project, [concept], {}, against={concept.ident: EVIL}),
        html.trainings(project, [(concept, progress)]),
        html.sheet_table(project, table),
        html.table({EVIL: EVIL}),
        html.compared("0" * 40, "1" * 40, (EVIL, EVIL), True),
        html.exports([(EVIL, 1)]),
        html.button(EVIL, EVIL, EVIL, EVIL),
        html.empty(EVIL, EVIL),
        html.big("0" * 40, EVIL),
    ]
    for piece in pieces:
        assert "<img src=x" not in piece and "&lt;img src=x" in piece
        assert 'alert(1)>"' not in piece
