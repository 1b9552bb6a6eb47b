"""What may be shown on a page: one line of text, without the paths of the machine it runs on."""

import re

_ABSOLUTE = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:)?[/\\](?:[^\s/\\:;,'\"()]+[/\\])*([^\s/\\:;,'\"()]+)")


def without_paths(text: object, *folders: object) -> str:
    """The text with absolute paths cut to their last name; of `folders` and what is in them, all the rest stays."""
    line = " ".join(str(text).split())
    for folder in sorted(map(str, folders), key=len, reverse=True):
        line = line.replace(f"{folder}/", "").replace(folder, "the project")
    return _ABSOLUTE.sub(r"\1", line)


def name_of_model(name: str) -> str:
    """A base model as a card shows it: its Hugging Face name, or the last part of its folder's."""
    if name == "examples/world/base":
        return "embedded base"
    return (
        name
        if name.count("/") == 1 and not name.startswith((".", "/", "~"))
        else name.rstrip("/").split("/")[-1]
    )


def seconds(value: float) -> str:
    """ "40 s", "3 min", "1 h 20 min"."""
    whole = max(0, round(value))
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
