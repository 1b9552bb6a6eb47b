"""What a partner without a caption is called: the words of its file's or folder's name, if they are words."""

import re
from pathlib import Path

from .dataset import parse

# Parts of the names that cameras, telephones and programs give, with numbers behind them.
MACHINES = set(
    "img imag imge mvimg pxl dsc dscn dscf sdc sam pict gopr gp dji mg cimg hpim kif stp ms pano burst vid fb insta "
    "snapchat signal telegram viber received resized screenshot bildschirmfoto "
    "whatsapp wa comfyui sd sdxl nef dng arw cr raw 微信图片 屏幕截图".split()
)
# Words that say nothing alone.
EMPTY = set(
    "img image images imag dsc photo photos foto fotos pic pics picture pictures bild bilder scan scanned screenshot "
    "screenshots screen shot capture captura pantalla untitled unnamed unbenannt unknown download downloads file files "
    "folder new neu tmp temp copy kopie edit edited final clipboard export style styles content contents partner "
    "partners reference references ref refs train data dataset sample samples test jpg jpeg png webp of at am pm on "
    "the and d".split()
)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
WORD = re.compile(r"[^\W\d_]+")


def partner_prompt(kind: str, path: str) -> str:
    """Caption of a partner without one: "styles/02_paper-cut.png" -> "a picture in paper cut style"."""
    name = partner_words(path) or "another"
    return f"a photo of {name}" if kind == "content" else f"a picture in {name} style"


def partner_words(path: str) -> str:
    """The words in the name of a file, folder or data set; "" where it says nothing, as a camera's or a download's."""
    found = parse(path)
    stem = UUID.sub(" ", found.called if found else Path(path).stem)
    parts = [part for part in re.split(r"[\W_]+", stem) if not _random(part)]
    words = [word for part in parts for word in WORD.findall(part)]
    if re.search(r"\d{3}", stem):
        words = [word for word in words if word.lower() not in MACHINES]
    return (
        " ".join(words)
        if any((len(word) > 1 or not word.isascii()) and word.lower() not in EMPTY for word in words)
        else ""
    )


def _random(part: str) -> bool:
    """Letters and digits in turns, as in a hash or an identifier."""
    return len(re.findall(r"[^\W\d_]+|\d+", part)) > 3
