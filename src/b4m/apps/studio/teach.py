"""From what stands in the form to a training in the queue: everything is checked before anything is written."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...config.presets import PRESETS
from ...config.resolve import presets_of, resolve
from ...config.stages import ContentConfig, SecondConfig, StyleConfig
from ...config.training import TrainConfig
from ...core.errors import UserError
from ...core.where import matches
from . import advanced, command, jobs, library, references
from .library import Concept
from .project import Project

CONFIGS: dict[str, type[TrainConfig]] = {"content": ContentConfig, "style": StyleConfig}
OTHER = {"content": "style", "style": "content"}
LENGTHS = {"quick": 0.5, "usual": 1.0, "long": 2.0}  # of the preset's steps
PREVIEWS = 6  # sample images of a training
SHIPPED = "b4m"  # stands for the partners that come with it
STYLE_WORDS, CONTENT_WORDS = "a picture in {} style", "a photo of {}"


@dataclass(frozen=True)
class Form:
    """What stands in the form of Teach."""

    kind: str = "content"
    name: str = ""
    class_word: str = ""
    trigger: str = ""
    length: str = "usual"
    partners: tuple[str, ...] = (SHIPPED,)  # SHIPPED, or concepts of the other kind
    typed: Mapping[str, str] = field(default_factory=dict)  # Advanced

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Form":
        """From what was saved of it; what does not fit is left out."""
        known: dict[str, Any] = {
            name: values[name]
            for name in ("kind", "name", "class_word", "trigger", "length")
            if isinstance(values.get(name), str)
        }
        typed, partners = values.get("typed"), values.get("partners")
        known["typed"] = {str(k): str(v) for k, v in typed.items()} if isinstance(typed, dict) else {}
        known["partners"] = tuple(map(str, partners)) if isinstance(partners, list | tuple) else ()
        if known.get("kind") not in CONFIGS:
            known.pop("kind", None)
        if known.get("length") not in LENGTHS:
            known.pop("length", None)
        known["partners"] = known["partners"] or (SHIPPED,)
        return cls(**known)

    def saved(self) -> dict[str, Any]:
        return asdict(self)


def steps(project: Project, form: Form) -> int:
    usual = {}
    for row in presets_of(CONFIGS[form.kind]):
        usual |= PRESETS[project.base.preset].get(row, {})
    return max(1, round(LENGTHS[form.length] * usual["steps"]))


def desk(project: Project, kind: str) -> Path:
    """Where the images of the form lie until it is sent off."""
    return project.folder / "desk" / ("style" if kind == "style" else "content")


def cut(project: Project, kind: str) -> tuple[str, str]:
    """How the form's images will be cut, and what becomes of transparent parts: --fit and --alpha, as last typed."""
    typed = Form.of(project.drafts().get(f"teach-{kind}") or {}).typed
    return typed.get("fit", "crop"), typed.get("alpha", "white")


def settings(project: Project, form: Form, images: str, output: str) -> dict[str, Any]:
    """Of the training that the form describes. images, output: folders. Raises UserError, by what is wrong."""
    kind, job = form.kind, CONFIGS[form.kind]
    if not form.class_word.strip():
        raise UserError("the class word is empty: say what it is, in plain words")
    if not form.trigger.strip() or " " in form.trigger.strip():
        raise UserError("the trigger word is one made-up word, such as snq or w@z")
    changed = advanced.read(job, project.base.preset, form.typed)
    count = changed.pop("steps", steps(project, form))
    return {
        "preset": project.base.preset,
        **project.base.settings(),
        f"{kind}_dir": images,
        f"{kind}_class": " ".join(form.class_word.split()),
        f"{kind}_trigger": form.trigger.strip(),
        **_partners(project, form),
        "steps": count,
        "preview_every": max(1, count // PREVIEWS),
        **changed,
        "output_dir": output,
    }


def shown_command(project: Project, form: Form) -> str:
    """The command that does the same, for a shell in the project's folder; or, in one line, what is missing."""
    try:
        made = settings(project, form, f"desk/{form.kind}", "training")
        _check(form.kind, made)
    except UserError as error:
        return f"# {error}"
    return command.shown(command.arguments(f"train-{form.kind}", made))


def check(project: Project, form: Form) -> dict[str, Any]:
    """Settings of the training, by what stands in the form now. Raises UserError, by what is missing or wrong."""
    source = desk(project, form.kind)
    if not references.listing(source):
        raise UserError("there are no images yet: drop a few of them first")
    library.clean_name(form.name)
    trial = settings(project, form, project.relative(source), "training")
    _check(form.kind, trial)
    return trial


def begin(project: Project, form: Form) -> Concept:
    """Make the concept, take its images from the desk, put its training in the queue. Raises UserError before that."""
    trial, source = check(project, form), desk(project, form.kind)
    concept = library.create(
        project,
        form.kind,
        form.name,
        class_word=trial[f"{form.kind}_class"],
        trigger=trial[f"{form.kind}_trigger"],
        settings={
            **advanced.read(CONFIGS[form.kind], project.base.preset, form.typed),
            "steps": trial["steps"],
        },
    )
    folder = project.concept(concept.ident)
    source.rename(folder / "images")
    relative = project.relative(folder)
    made = settings(project, form, f"{relative}/images", f"{relative}/training")
    jobs.put(project, concept.ident, command.arguments(f"train-{form.kind}", made), trial["steps"])
    return concept


def begin_second(project: Project, content: str, style: str, count: int) -> Concept:
    """The second stage of a trained pair, into the queue. Raises UserError."""
    chosen = {"content": library.get(project, content), "style": library.get(project, style)}
    files = library.role_files(project, {"content": content, "style": style})
    told = library.differences(*(library.facts(project, concept) for concept in chosen.values()))
    if told:
        raise UserError(f"{chosen['content'].name} and {chosen['style'].name} do not go together: {told}")
    given: dict[str, Any] = {"preset": project.base.preset, **project.base.settings(), **files}
    for kind, concept in chosen.items():
        folder = project.concept(concept.ident) / "images"
        if not folder.is_dir():
            raise UserError(f"{concept.name} has no images in this project: the second stage needs them")
        given |= {
            f"{kind}_dir": project.relative(folder),
            f"{kind}_class": concept.class_word,
            f"{kind}_trigger": concept.trigger,
        }
    given |= {"steps": count, "preview_every": max(1, count // 2)}
    resolve(SecondConfig, **given)
    name = f"{chosen['content'].name} + {chosen['style'].name}"
    concept = library.create(
        project,
        "lora",
        name[: library.MAX_NAME - 4],
        class_word=chosen["content"].class_word,
        trigger=f"{chosen['content'].trigger} {chosen['style'].trigger}",
        pair=(content, style),
        settings={"steps": count},
    )
    output = project.relative(project.concept(concept.ident) / "training")
    jobs.put(
        project, concept.ident, command.arguments("second-stage", {**given, "output_dir": output}), count
    )
    return concept


def partner_choices(project: Project, kind: str) -> list[tuple[str, str]]:
    """(label, value): what may stand beside a concept of `kind` while it is taught."""
    others = [
        (concept.name, concept.ident)
        for concept in library.concepts(project)
        if concept.kind == OTHER[kind] and (project.concept(concept.ident) / "images").is_dir()
    ]
    return [(f"five {OTHER[kind]}s that come with b4m", SHIPPED), *others]


def _partners(project: Project, form: Form) -> dict[str, Any]:
    """partner_dirs, and their captions where one is a concept of the project."""
    folders: list[str] = []
    prompts: list[str] = []
    for choice in form.partners:
        if choice == SHIPPED:
            found = matches(f"examples/references/partners/{OTHER[form.kind]}s/*.png")
            folders += found
            prompts += [_words(OTHER[form.kind], Path(path).stem) for path in found]
            continue
        concept = library.get(project, choice)
        if concept.kind != OTHER[form.kind]:
            raise UserError(
                f"{concept.name} is a {concept.kind}: partners of a {form.kind} are {OTHER[form.kind]}s"
            )
        folders.append(project.relative(project.concept(choice) / "images"))
        prompts.append(_words(concept.kind, concept.class_word))
    if not folders:
        raise UserError(
            f"no partners: choose a few {OTHER[form.kind]}s that this {form.kind} is taught beside"
        )
    only_shipped = set(form.partners) == {SHIPPED}
    return {"partner_dirs": folders} | ({} if only_shipped else {"partner_prompts": prompts})


def _words(kind: str, words: str) -> str:
    return (CONTENT_WORDS if kind == "content" else STYLE_WORDS).format(words)


def _check(kind: str, made: Mapping[str, Any]) -> None:
    """As the command will, whose settings class it is."""
    given = dict(made)
    resolve(CONFIGS[kind], given.pop("preset"), None, **given)
