"""What a voter can do through the server, and what nobody can."""

import hashlib
import os
import sqlite3

import pytest
from conftest import refused
from voting import METHODS, PAIRS, Voter, a_study, folders, images_of, question_of, serving

from b4m.apps.vote.access import Access, access, invite
from b4m.apps.vote.ballot import ballot, sides
from b4m.apps.vote.limits import Limit
from b4m.apps.vote.questions import CHECK, IMAGES, LINKS
from b4m.apps.vote.settings import ServeConfig
from b4m.apps.vote.store import Store

PASSWORD = hashlib.sha256(b"correct horse").digest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return a_study(tmp_path_factory.mktemp("study"), items=4)


@pytest.fixture
def booth(folder):
    for old in folder.glob("votes.sqlite*"):
        old.unlink()
    with serving(folder) as booth:
        booth.votes = Limit(rate=1000, burst=1000)
        yield booth


@pytest.fixture
def voter(booth):
    voter = Voter(booth.port)
    assert voter.join(age="18 to 29", expertise="nobody I know") == 303
    return voter


def test_a_voter_joins_answers_everything_stops_and_goes_on(booth, voter):
    assert "Welcome" in Voter(booth.port).get("/")[1]
    for number in range(booth.study.length):
        if number == 3:
            status, page, _ = voter.get("/pause")
            assert status == 200 and "/in/" in page
            link = page.split(f"http://{voter.host}")[1].split("<")[0]
            voter = Voter(booth.port)  # another device
            assert voter.get(link)[0] == 303
        status, page, _ = voter.get("/")
        assert f"Question {number + 1} of {booth.study.length}" in page
        assert voter.vote(voter.question(), 1) == 303
    assert voter.question() is None and "Thank you" in voter.get("/")[1]
    votes = booth.store.votes()
    questions = {question.id: question for question in booth.study.questions}
    assert len({vote.question for vote in votes}) == len(votes) == booth.study.length
    for vote in votes:
        shown = [option.method for option in sides(booth.study, 0, questions[vote.question])]
        assert list(vote.shown) == shown and vote.chosen == shown[1]
    assert [(v.age, v.expertise) for v in booth.store.voters()] == [("18 to 29", "")]  # only what is offered


def test_the_page_names_no_method_and_shows_what_is_asked(booth, voter):
    """In no page, address, header or image that a voter gets, whatever the question."""
    for _ in range(booth.study.length):
        question = question_of(booth.study, voter)
        status, page, headers = voter.get("/")
        assert question.prompt in page and set(images_of(page)) == set(question.images)
        for word in (*METHODS, *PAIRS, "the reference itself", booth.study.key):
            assert word not in page and word not in str(headers), word
        voter.vote(question.id)
    for name in booth.study.images:
        status, data, headers = voter.get(f"/image/{name}")
        assert status == 200 and headers["content-type"] == "image/webp"
        assert not any(method in data or method in str(headers) for method in METHODS)


def test_sides_are_those_of_the_ballot(booth, voter):
    question = question_of(booth.study, voter)
    page = voter.get("/")[1]
    shown = [name for option in sides(booth.study, 0, question) for name in option.images]
    references = len(question.content) + len(question.style)
    assert images_of(page)[references:] == shown


def test_a_vote_for_an_unknown_question_or_choice_is_refused(booth, voter):
    question = voter.question()
    for form in (
        {"question": "unknown", "choice": "0"},
        {"question": question, "choice": "9"},
        {"question": question, "choice": "-1"},
        {"question": question, "choice": "²"},
        {"question": question, "choice": "9" * 1000},
        {"question": question, "choice": "00009"},
        {"question": question, "choice": METHODS[0]},
        {"question": question},
        {"choice": "0"},
        {},
    ):
        assert voter.post("/vote", **form)[0] == 400, form
    assert booth.store.votes() == [] and voter.question() == question


def test_a_vote_for_a_question_of_other_voters_is_refused(booth, voter):
    booth.study = type(booth.study)(**{**vars(booth.study), "votes": 1, "checks": 0})
    own = {question.id for question in ballot(booth.study, 0)}
    foreign = next(q.id for q in booth.study.questions if q.id not in own and q.asked != CHECK)
    assert voter.vote(foreign) == 400 and booth.store.votes() == []


def test_a_second_vote_is_refused_and_the_first_counts(booth, voter):
    question = voter.question()
    assert voter.vote(question, 0) == 303
    assert voter.vote(question, 1) == 409
    first = booth.store.votes()
    assert len(first) == 1 and first[0].chosen == first[0].shown[0]


def test_a_forged_or_missing_voter_is_refused(booth, voter):
    question = voter.question()
    name = voter.cookie.split("=")[0]
    digest = booth.store._one("SELECT token FROM voters")
    for forged in ("", f"{name}=0", f"{name}=" + "A" * 32, f"{name}={digest}", f"{name}=' OR 1=1 --"):
        assert Voter(booth.port, forged).vote(question) == 403
        assert "Welcome" in Voter(booth.port, forged).get("/")[1]
    assert Voter(booth.port).get("/in/" + "A" * 32)[0] == 403
    assert booth.store.votes() == []


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "http://evil.example@127.0.0.1"]
)
def test_what_another_page_sends_is_refused(booth, voter, origin):
    question = voter.question()
    assert voter.vote(question, headers={"Origin": origin}) == 403
    assert voter.post("/join", {"Origin": origin}, consent="yes")[0] == 403
    assert booth.store.votes() == [] and len(booth.store.voters()) == 1


def test_a_cookie_is_for_this_study_and_no_script_and_no_other_page(booth):
    _, _, headers = Voter(booth.port).post("/join", consent="yes")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and cookie.startswith(booth.cookie)


def test_a_get_changes_nothing(booth, voter):
    question = voter.question()
    assert voter.get(f"/vote?question={question}&choice=0")[0] in (404, 405)
    assert Voter(booth.port).get("/join?consent=yes")[0] in (404, 405)
    assert booth.store.votes() == [] and len(booth.store.voters()) == 1
    assert voter.ask("DELETE", "/")[0] == 405 and voter.ask("PUT", "/vote")[0] == 405


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "192.168.0.7"]
)
def test_on_this_machine_only_its_own_names_are_answered(booth, voter, host):
    assert voter.get("/", Host=host)[0] in (400, 421)
    question = voter.question()
    assert voter.vote(question, headers={"Host": host, "Origin": f"http://{host}"}) in (400, 403, 421)
    assert booth.store.votes() == []


def test_no_consent_no_vote(booth):
    newcomer = Voter(booth.port)
    assert newcomer.post("/join")[0] == 400 and newcomer.post("/join", consent="no")[0] == 400
    assert booth.store.voters() == []


def test_long_requests_are_refused(booth, voter):
    assert voter.post("/vote", question="q" * 5000)[0] == 413
    assert voter.ask("POST", "/vote", "a=1", {"Content-Length": "x"})[0] in (400, 413)
    assert voter.ask("POST", "/vote", "&".join(f"a{i}=1" for i in range(50)))[0] == 400
    assert voter.ask("POST", "/vote", "\xff\xfe=1")[0] == 400


def test_no_other_file_can_be_read(booth, folder, tmp_path):
    """Names are looked up, never used as paths; a link put in an image's place shows nothing."""
    (folder.parent / "secret.txt").write_text("secret")
    voter = Voter(booth.port)
    name = next(iter(booth.study.images))
    paths = [
        "../vote.json", "..%2fvote.json", "%2e%2e/vote.json", "....//vote.json", f"{name}/../../vote.json",
        str(folder / "vote.json"), "/etc/passwd", "%2fetc%2fpasswd", "..%5cvote.json", "vote.json", "votes.sqlite",
        f"{name}%00", "", ".", "..",
    ]  # fmt: skip
    for path in paths:
        for where in (f"/image/{path}", f"/static/{path}", f"/{path}", f"//{path}"):
            status, text, _ = voter.get(where)
            assert status in (400, 404) or "Welcome" in text, where
            assert "secret" not in text and "root:" not in text and "SQLite" not in text, where
    file = folder / IMAGES / name
    data = file.read_bytes()
    file.unlink()
    try:
        assert voter.get(f"/image/{name}")[0] == 404
        file.symlink_to(folder / "vote.json")
        status, text, _ = voter.get(f"/image/{name}")
        assert status == 404 and "secret" not in text
    finally:
        file.unlink()
        file.write_bytes(data)
    assert voter.get(f"/image/{name}")[0] == 200


def test_no_path_of_the_machine_is_shown(booth, voter, folder, monkeypatch):
    for page in ("/", "/pause", "/image/none", "/none", "/static/none"):
        assert str(folder.parent) not in voter.get(page)[1]

    def broken(*_: object) -> None:
        raise RuntimeError(str(folder))

    monkeypatch.setattr(booth, "_home", broken)
    status, text, _ = voter.get("/")
    assert status == 500 and str(folder) not in text and "Traceback" not in text


def test_markup_is_shown_as_text(tmp_path):
    evil = "<script>alert(1)</script>"
    source = folders(tmp_path / "source", methods=("m<b>1", "m<b>2"))
    (tmp_path / "consent.txt").write_text(f"{evil}\n\n{evil}")
    made = a_study(
        tmp_path,
        source=source,
        ours=None,
        title=f"{evil}'\"&",
        consent=tmp_path / "consent.txt",
        studies=("alignment",),
    )
    with serving(made) as booth:
        booth.study = type(booth.study)(
            **{
                **vars(booth.study),
                "questions": tuple(
                    type(q)(**{**vars(q), "prompt": f'{evil}" onload=x'}) for q in booth.study.questions
                ),
            }
        )
        voter = Voter(booth.port)
        pages = [voter.get("/")[1]]
        voter.join()
        pages += [voter.get("/")[1], voter.get("/pause")[1]]
    for page in pages:
        assert evil not in page and "&lt;script&gt;alert(1)" in page
        assert page.count("<script") == 1 and "m<b>" not in page


def test_every_answer_forbids_frames_foreign_code_and_guessing_of_types(booth, voter):
    name = next(iter(booth.study.images))
    for path in ("/", f"/image/{name}", "/static/vote.js", "/none", "/pause"):
        _, _, headers = voter.get(path)
        policy = headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        )
        assert headers["x-content-type-options"] == "nosniff" and "server" not in headers
    assert voter.get("/")[2]["cache-control"] == "no-store"


def test_nothing_is_fetched_from_elsewhere(booth, voter):
    for path in ("/", "/pause", "/static/vote.css", "/static/vote.js"):
        text = voter.get(path)[1].replace(f"http://{voter.host}", "")
        assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text


def test_a_voter_who_is_too_quick_is_told_to_wait_and_nobody_else(folder):
    with serving(folder) as booth:
        quick, other = Voter(booth.port), Voter(booth.port)
        quick.join(), other.join()
        booth.votes = Limit(rate=2, burst=3, clock=lambda: 0.0)
        answers = [quick.vote(quick.question()) for _ in range(5)]
        assert answers == [303, 303, 303, 429, 429]
        assert quick.post("/vote")[2]["retry-after"]
        assert other.vote(other.question()) == 303


def test_passwords_cannot_be_tried_for_ever(folder):
    with serving(folder, Access(password=PASSWORD)) as booth:
        booth.passwords = Limit(rate=0.2, burst=5, clock=lambda: 0.0)
        before = len(booth.store.voters())
        assert "Password" in Voter(booth.port).get("/")[1]
        answers = [Voter(booth.port).join(password=f"wrong {i}") for i in range(8)]
        assert answers == [403] * 5 + [429] * 3 and len(booth.store.voters()) == before
        assert (
            Voter(booth.port).join(password="correct horse") == 429
        )  # or guessing would go on behind the 429s
        booth.passwords = Limit(rate=0.2, burst=5, clock=lambda: 0.0)
        assert [Voter(booth.port).join(password="correct horse") for _ in range(9)] == [
            303
        ] * 9  # a room may come in


def test_joining_is_limited_too(folder):
    with serving(folder) as booth:
        booth.joins = Limit(rate=1, burst=2, clock=lambda: 0.0)
        assert [Voter(booth.port).join() for _ in range(4)] == [303, 303, 429, 429]


def test_by_invitation_only_a_link_opens(folder):
    with serving(folder, Access(links_only=True), loopback=False) as booth:
        stranger = Voter(booth.port)
        assert stranger.get("/")[0] == 403 and stranger.join() == 403
        (token,) = booth.store.tokens(1)
        booth.store.invite([token])
        before = len(booth.store.voters())
        guest = Voter(booth.port)
        assert guest.get(f"/in/{token}")[0] == 303 and "Welcome" in guest.get("/")[1]
        assert len(booth.store.voters()) == before  # who only looked has not joined
        assert guest.join() == 303 and guest.vote(guest.question()) == 303
        again = Voter(booth.port)
        again.get(f"/in/{token}")
        assert again.join() == 303 and len(booth.store.voters()) == before + 1


def test_a_vote_that_cannot_be_stored_is_not_acknowledged(booth, voter, monkeypatch):
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    question = voter.question()
    monkeypatch.setattr(booth.store, "add", full)
    assert voter.vote(question) == 503
    monkeypatch.undo()
    assert voter.question() == question and voter.vote(question) == 303


def test_links_stay_the_same_and_more_may_be_added(tmp_path):
    store = Store(tmp_path / "votes.sqlite", "key")
    first = invite(tmp_path, store, 3)
    assert len(set(first)) == 3 and invite(tmp_path, store, 3) == first
    assert invite(tmp_path, store, 5)[:3] == first and invite(tmp_path, store, 1)[:3] == first
    assert (tmp_path / LINKS).stat().st_mode & 0o077 == 0
    assert all(store.invited(token) for token in first) and store.voters() == []
    store.close()


def test_an_open_door_to_a_network_is_refused(tmp_path):
    for host in ("0.0.0.0", "192.168.1.5", "::", "lab.example", ""):
        refused(lambda host=host: ServeConfig("study", host=host), "--host", "--links")
    assert ServeConfig("study").loopback and ServeConfig("study", host="localhost").loopback
    assert not ServeConfig("study", host="0.0.0.0", links=3).loopback
    (tmp_path / "password").write_text("short\n")
    asked = ServeConfig("study", password_file=str(tmp_path / "password"))
    refused(lambda: access(asked), "--password-file", "5 letters")
    refused(lambda: ServeConfig("study", links=2, password_file="x"), "one way in")
    (tmp_path / "password").write_text("correct horse\n")
    assert access(asked).admits("correct horse") and not access(asked).admits("correct horsf")
    os.unlink(tmp_path / "password")
    refused(lambda: access(asked), "--password-file")


def test_a_bucket_refills_with_time_and_forgets_who_came_long_ago(monkeypatch):
    now = 0.0
    limit = Limit(rate=2, burst=3, clock=lambda: now)
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False] and limit.allows("b")
    now = 0.5
    assert [limit.allows("a") for _ in range(2)] == [True, False]
    now = 100.0
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False]
    monkeypatch.setattr("b4m.apps.vote.limits.MAX_KEYS", 10)
    for number in range(50):
        limit.allows(str(number))
    assert len(limit._buckets) <= 11
