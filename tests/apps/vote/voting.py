"""Help for the tests of `b4m vote`: a small study, a server in a thread, a voter who speaks HTTP."""

import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from conftest import picture
from PIL import PngImagePlugin

from b4m.apps.vote.access import Access
from b4m.apps.vote.make import make
from b4m.apps.vote.questions import VOTES, Study, read_study
from b4m.apps.vote.serve import web_server
from b4m.apps.vote.server import Booth
from b4m.apps.vote.settings import MakeConfig
from b4m.apps.vote.store import Store

METHODS = ("secretours", "secretjoint", "secretwords")  # names that must not be seen anywhere
PAIRS = ("bear-chalk", "car-yarn")


def folders(root: Path, methods=METHODS, pairs=PAIRS, images: int = 4) -> Path:
    """References and images of every method, as files with their makers' names all over them."""
    seed = 0
    for pair in pairs:
        for kind in ("content", "style"):
            (root / "references" / pair).mkdir(parents=True, exist_ok=True)
            picture(seed := seed + 1).save(root / "references" / pair / f"{kind}.png")
        for method in methods:
            (root / method / pair).mkdir(parents=True)
            for number in range(images):
                seed += 1
                about = PngImagePlugin.PngInfo()
                about.add_text("method", method)
                exif = picture(seed).getexif()
                exif[0x010E] = method  # ImageDescription
                picture(seed).save(
                    root / method / pair / f"{number}.png",
                    pnginfo=about,
                    exif=exif,
                    icc_profile=method.encode(),
                )
    return root


def a_study(root: Path, **settings) -> Path:
    """The folder of a new study on `folders`: sets of four, every question asked of everybody."""
    source = root / "source"
    if not source.exists():
        folders(source)
    given = {
        "source": source,
        "output_dir": root / "study",
        "ours": METHODS[0],
        "set_size": 4,
        "votes": 50,
        **settings,
    }
    return make(MakeConfig(**{k: str(v) if isinstance(v, Path) else v for k, v in given.items()}))


@contextmanager
def serving(folder: Path, access: Access | None = None, loopback: bool = True) -> Iterator[Booth]:
    """The study in `folder`, served by a thread of this process on `booth.port`."""
    study = read_study(folder)
    store = Store(folder / VOTES, study.key)
    booth = Booth(study, folder, store, access or Access(), loopback)
    server = web_server(booth.app)
    listening = socket.create_server(("127.0.0.1", 0))
    booth.port = listening.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield booth
    finally:
        server.should_exit = True
        thread.join()
        store.close()


class Voter:
    """A browser without a screen: keeps its cookie, follows nothing by itself."""

    def __init__(self, port: int, cookie: str = "") -> None:
        self.port, self.cookie = port, cookie
        self.host = f"127.0.0.1:{port}"

    def ask(
        self, method: str, path: str, body: str = "", headers: Mapping[str, str] | None = None
    ) -> tuple[int, str, dict[str, str]]:
        """Status, text and headers (names in small letters) of one answer; the path is sent as it stands."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {"Host": self.host, **({"Cookie": self.cookie} if self.cookie else {})}
        if method == "POST":
            sent |= {"Origin": f"http://{self.host}", "Content-Type": "application/x-www-form-urlencoded"}
        sent |= headers or {}
        try:
            connection.request(method, path, body or None, {k: v for k, v in sent.items() if v is not None})
            answer = connection.getresponse()
            text = answer.read().decode("latin-1")
            found = {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()
        if "set-cookie" in found:
            self.cookie = found["set-cookie"].split(";")[0]
        return answer.status, text, found

    def get(self, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, headers: Mapping[str, str] | None = None, **form: str):
        return self.ask("POST", path, urlencode(form), headers)

    def join(self, **form: str) -> int:
        return self.post("/join", consent="yes", **form)[0]

    def question(self) -> str | None:
        """The id of the question on the page, None when there is none left."""
        found = re.search(r'name="question" value="(\w+)"', self.get("/")[1])
        return found and found[1]

    def vote(self, question: str, choice: int = 0, headers: Mapping[str, str] | None = None) -> int:
        return self.post("/vote", headers, question=question, choice=str(choice))[0]


def images_of(page: str) -> list[str]:
    """The images that a page shows."""
    return re.findall(r'src="/image/(\w+)"', page)


def question_of(study: Study, voter: Voter):
    """The question on the voter's page, as the study knows it."""
    shown = voter.question()
    return next(question for question in study.questions if question.id == shown)
