"""Settings of `b4m vote`: make, serve, report, simulate."""

import ipaddress
from dataclasses import dataclass

from ...config.fields import InputPath, ModelName, OutputPath, check, setting
from ...core.errors import UserError

STUDIES = ("alignment", "success", "consistency")  # user studies I, II and III of the paper
STUDY = "folder of a study that `b4m vote make` has written"


@dataclass(frozen=True)
class MakeConfig:
    """Settings of one new study. Raises UserError for a value that cannot work."""

    source: InputPath = setting(
        "results of a `b4m study` or `b4m evaluate` (a folder with manifest.jsonl), or a folder with references/PAIR/ "
        "and METHOD/PAIR/ in it"
    )
    output_dir: OutputPath = setting("folder for the study; it must be new", "outputs/vote")
    title: str = setting("what voters see above every question", "Which image do you prefer?")
    studies: tuple[str, ...] = setting(
        "alignment preference (I), success rate (II), consistency (III)", STUDIES, choices=STUDIES
    )
    ours: str | None = setting(
        "method that II and III compare with each of the others (default: the first)", None
    )
    methods: tuple[str, ...] = setting("compare these only (default: all there are)", ())
    set_size: int = setting("images in a set of II and III (paper: nine seeds)", 9, low=2, high=16)
    items: int = setting(
        "comparisons of each study at most, spread over pairs and methods", 20, low=1, high=1000
    )
    votes: int = setting("questions of each study that one voter is asked (paper: 60 in all)", 20, low=1)
    checks: int = setting("attention checks of each study for one voter", 1, low=0, high=5)
    consent: InputPath | None = setting(
        "text file with your own consent text (default: a plain one that comes with b4m)", None
    )
    seed: int = setting("chooses which images are compared", 0, low=0)

    def __post_init__(self) -> None:
        check(self)
        if not self.studies or len(set(self.studies)) < len(self.studies):
            raise UserError(
                f"--studies {' '.join(self.studies)}: name one or more of {', '.join(STUDIES)}, once"
            )
        if not self.title.strip():
            raise UserError("--title is empty: voters see it above every question")


@dataclass(frozen=True)
class ServeConfig:
    """Settings of one server. Raises UserError for an open door to a network."""

    study: InputPath = setting(STUDY)
    host: str = setting(
        "address to listen on; any but this machine's own needs --password-file or --links (0.0.0.0: all networks)",
        "127.0.0.1",
    )
    port: int = setting("port to listen on; 0 for any that is free", 8765, low=0, high=65535)
    password_file: InputPath | None = setting("file with the password that every voter has to know", None)
    links: int | None = setting(
        "let in only who has a link, and make so many of them (links.txt)", None, low=1, high=10_000
    )

    def __post_init__(self) -> None:
        check(self)
        if self.password_file and self.links:
            raise UserError("--password-file and --links: choose one way in")
        if not self.loopback and not (self.password_file or self.links):
            raise UserError(
                f"--host {self.host}: others could reach it; add --links N (a link for each voter) or --password-file"
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True)
class ReportConfig:
    """Settings of one report."""

    study: InputPath = setting(STUDY)
    vlm: ModelName | None = setting(
        "vision-language model that is held against the votes of study I: folder or Hugging Face name", None
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class SimulateConfig:
    """Settings of simulated voters, whose votes never mix with real ones. Raises UserError."""

    study: InputPath = setting(STUDY)
    strengths: tuple[str, ...] = setting(
        "how strongly simulated voters prefer each method: METHOD=NUMBER, any positive number (default: all alike)",
        (),
    )
    voters: int = setting("how many simulated voters (paper: 60)", 60, low=1, high=10_000)
    seed: int = setting("another seed, other simulated voters", 0, low=0)

    def __post_init__(self) -> None:
        check(self)
        self.known()

    def known(self) -> dict[str, float]:
        """The strengths by method. Raises UserError for one that is no positive number."""
        found = {}
        for text in self.strengths:
            name, _, number = text.rpartition("=")
            try:
                found[name] = float(number)
            except ValueError:
                found[name] = 0.0
            if not name or not 0 < found[name] < float("inf"):
                raise UserError(f"--strengths {text!r}: write METHOD=NUMBER, for instance b4m=3")
        return found
