"""The server: pages for voters, images by name, votes into the store; nothing else can be reached through it."""

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from . import pages
from .access import Access
from .ballot import ballot, sides
from .guard import MAX_BODY, Guard
from .limits import Limit
from .questions import IMAGES, Question, Study
from .store import SecondVote, Store

COOKIE_DAYS = 30
T = TypeVar("T")
UNKNOWN = "There is nothing here."


class Booth:
    """One study being voted on."""

    def __init__(self, study: Study, folder: Path, store: Store, access: Access, loopback: bool) -> None:
        self.study, self.folder, self.store, self.access = study, folder, store, access
        self.cookie = (
            f"vote_{hashlib.sha256(study.key.encode()).hexdigest()[:8]}"  # two studies may share a machine
        )
        self._writer = ThreadPoolExecutor(1)
        # A voter needs seconds for a vote. An address may be a whole room behind one router.
        self.votes = Limit(rate=2, burst=10)
        self.joins = Limit(rate=2, burst=300)
        self.passwords = Limit(rate=0.2, burst=20)  # wrong ones
        self.requests = Limit(rate=500, burst=5000)
        routes = [
            Route("/", self.home),
            Route("/in/{token}", self.enter),
            Route("/join", self.join, methods=["POST"]),
            Route("/vote", self.vote, methods=["POST"]),
            Route("/pause", self.pause),
            Route("/image/{name}", self.image),
            Route("/static/{name}", self.static),
        ]
        handlers: dict = {404: self.unknown, 405: self.unknown, 500: self.failed}
        self.app = Guard(Starlette(routes=routes, exception_handlers=handlers), loopback)

    async def home(self, request: Request) -> Response:
        if not self._within(self.requests, request):
            return self._slow()
        return await run_in_threadpool(self._home, request.cookies.get(self.cookie))

    def _home(self, token: str | None) -> Response:
        voter = self.store.voter(token) if token else None
        if voter is None:
            return self._welcome(token)
        answered = self.store.answered(voter)
        left = [question for question in ballot(self.study, voter) if question.id not in answered]
        if not left:
            return self._say(200, "Thank you!", "That was the last question; every answer is stored.")
        options = sides(self.study, voter, left[0])
        return HTMLResponse(pages.question(self.study, left[0], options, len(answered)))

    def _welcome(self, token: str | None, problem: str = "", status: int = 200) -> Response:
        known = token is not None and self.store.invited(token)
        if self.access.links_only and not known:
            return self._say(403, "This study is by invitation", "Please open the link that you were sent.")
        asks = self.access.password is not None and not known
        return HTMLResponse(pages.welcome(self.study, asks, problem), status)

    async def enter(self, request: Request) -> Response:
        """By a link of one's own. Stores nothing: whatever looks at links before people do changes nothing."""
        token = request.path_params["token"]
        if not self._within(self.joins, request):
            return self._slow()
        if not await run_in_threadpool(self.store.invited, token):
            return self._say(403, "This link is not known here", "Please ask who sent it for another one.")
        return self._with_cookie(RedirectResponse("/", 303), token)

    async def join(self, request: Request) -> Response:
        form = await _form(request)
        if not self._within(self.joins, request):
            return self._slow()
        token = request.cookies.get(self.cookie)
        if not (token and await run_in_threadpool(self.store.invited, token)):
            token = None
            if self.passwords.spent(self._address(request)):
                return self._slow()
            if not self.access.admits(form.get("password", "")):
                self._within(self.passwords, request)
                return await run_in_threadpool(self._welcome, token, "That is not the password.", 403)
        if form.get("consent") != "yes":
            return await run_in_threadpool(
                self._welcome, token, "Please agree first, or close this page.", 400
            )
        age = form.get("age", "") if form.get("age") in pages.AGES else ""
        expertise = form.get("expertise", "") if form.get("expertise") in pages.EXPERTISE else ""
        token = await self._in_turn(self.store.join, token, age, expertise)
        return self._with_cookie(RedirectResponse("/", 303), token)

    async def vote(self, request: Request) -> Response:
        form = await _form(request)
        token = request.cookies.get(self.cookie, "")
        voter = await run_in_threadpool(self.store.voter, token)
        if voter is None:
            return self._say(
                403, "Who are you?", "This vote came without a voter's cookie and was not stored."
            )
        if not self.votes.allows(str(voter)):
            return self._slow()
        asked = {question.id: question for question in ballot(self.study, voter)}
        question = asked.get(form.get("question", ""))
        choice = _number(form.get("choice", ""))
        if question is None or not 0 <= choice < len(question.options):
            return self._say(
                400, "This vote was not stored", "It fits no question that you were asked.", go_on=True
            )
        return await self._in_turn(self._store, voter, question, choice)

    def _store(self, voter: int, question: Question, choice: int) -> Response:
        options = [option.method for option in sides(self.study, voter, question)]
        try:
            self.store.add(voter, question.id, options[choice], options)
        except SecondVote:
            return self._say(409, "You have answered this before", "The first answer counts.", go_on=True)
        except sqlite3.Error:
            return self._say(
                503,
                "Your answer could not be stored",
                "Please tell who runs this study, then go on.",
                go_on=True,
            )
        return RedirectResponse("/", 303)

    async def pause(self, request: Request) -> Response:
        token = request.cookies.get(self.cookie, "")
        if await run_in_threadpool(self.store.voter, token) is None:
            return RedirectResponse("/", 303)
        link = str(request.url.replace(path=f"/in/{token}", query=""))
        return self._say(
            200,
            "See you later",
            "Your answers are stored. Close this page; on this device the study goes on where you stopped.",
            "To go on elsewhere, keep this link. It is yours alone:",
            go_on=True,
            link=link,
        )

    async def image(self, request: Request) -> Response:
        """An image of this study, looked up by name; a file that is no longer what was published is not shown."""
        if not self._within(self.requests, request):
            return self._slow()
        name = request.path_params["name"]
        if name not in self.study.images:
            return self.unknown(request, None)
        data = await run_in_threadpool(self._read, name)
        if data is None:
            return self.unknown(request, None)
        headers = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(data, media_type="image/webp", headers=headers)

    def _read(self, name: str) -> bytes | None:
        try:
            data = (self.folder / IMAGES / name).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == self.study.images[name] else None

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in pages.STATIC:
            return self.unknown(request, None)
        return Response(
            pages.static(name), headers={"Content-Type": pages.STATIC[name], "Cache-Control": "max-age=3600"}
        )

    def unknown(self, request: Request, error: Exception | None) -> Response:
        return PlainTextResponse(UNKNOWN, 404)

    def failed(self, request: Request, error: Exception) -> Response:
        return PlainTextResponse("Something went wrong here; nothing was stored.", 500)

    async def _in_turn(self, write: Callable[..., T], *values: object) -> T:
        """Do a write in the one thread for writes: those who wait for the disk keep no thread from those who read."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, write, *values)

    def _within(self, limit: Limit, request: Request) -> bool:
        return limit.allows(self._address(request))

    def _address(self, request: Request) -> str:
        return request.client.host if request.client else ""

    def _slow(self) -> Response:
        answer = self._say(429, "That was very quick", "Please wait a moment, then go on.", go_on=True)
        answer.headers["Retry-After"] = "5"
        return answer

    def _say(
        self, status: int, title: str, *paragraphs: str, go_on: bool = False, link: str = ""
    ) -> Response:
        return HTMLResponse(pages.message(self.study, title, *paragraphs, go_on=go_on, link=link), status)

    def _with_cookie(self, answer: Response, token: str) -> Response:
        # Lax, not strict: a link in a mail would else arrive without it. Posts from elsewhere do not carry it.
        answer.set_cookie(
            self.cookie, token, max_age=COOKIE_DAYS * 86400, httponly=True, samesite="lax", path="/"
        )
        return answer


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form, each once; empty for what is none."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            return {}
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=20)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}


def _number(text: str) -> int:
    """A whole number from a form; -1 for anything else."""
    return int(text) if text.isascii() and text.isdecimal() else -1
