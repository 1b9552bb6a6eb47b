"""Named particular styles, in three sets that nobody mixes: for tuning, for confirming a claim, and rare ones.

Each is one member of a family; its exact parameters are practically never drawn at random. `TUNING` may be looked
at and chosen by; `CONFIRMATION` is of other families and is used once per claim; `RARE` are of families that the
base has never seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from world.styles import Style, member

__all__ = ["ALL", "CONFIRMATION", "RARE", "TUNING", "NamedStyle"]


@dataclass(frozen=True)
class NamedStyle:
    """A style concept: its name, the word a designer would use for its class, and what it is in a sentence."""

    name: str
    word: str
    about: str
    style: Style


def _named(name: str, family: str, about: str, **parameters: object) -> NamedStyle:
    return NamedStyle(name, family, about, member(family, **parameters))


TUNING: dict[str, NamedStyle] = {
    one.name: one
    for one in (
        _named(
            "warm-wash",
            "watercolour",
            "a rich, wet watercolour with dark edges on warm cream paper",
            paper=(0.981, 0.871, 0.712),
            pigment=0.93,
            wet=2.6,
            rim=0.71,
            blotch=0.62,
            margin=0.11,
        ),
        _named(
            "blue-pencil",
            "sketch",
            "a fine drawing in blue ink, hatched steeply, on grey paper",
            ink=(0.107, 0.204, 0.648),
            paper=(0.771, 0.793, 0.803),
            line=2.05,
            angle=-0.83,
            spacing=5.3,
            wash=0.46,
        ),
        _named(
            "chunky-knit",
            "yarn",
            "chunky stocking stitch on a garter cloth dyed towards brown",
            stitch=10.4,
            kind="knit",
            depth=0.94,
            cloth=(0.541, 0.352, 0.228),
            dye=0.57,
            angle=0.31,
        ),
        _named(
            "deep-paper",
            "papercut",
            "smooth paper in deep layers behind a wavy red frame with five petals",
            frame=(0.822, 0.207, 0.188),
            hole=0.97,
            petals=5.0,
            depth=0.108,
            wave=0.061,
            grain=0.24,
        ),
    )
}

CONFIRMATION: dict[str, NamedStyle] = {
    one.name: one
    for one in (
        _named(
            "black-mosaic",
            "mosaic",
            "small even tiles at a slant, set in black grout",
            tile=7.7,
            grout=(0.097, 0.113, 0.142),
            angle=0.42,
            ragged=0.19,
            variety=0.35,
            polish=0.23,
        ),
        _named(
            "purple-night",
            "neon",
            "thick, glowing tubes on a wall of small bricks in a purple night",
            tube=3.2,
            glow=0.172,
            night=(0.141, 0.024, 0.183),
            bricks=10.6,
            fill=0.14,
        ),
        _named(
            "swirling-oil",
            "oil",
            "broad, thick strokes that swirl over a canvas primed in ochre",
            width=7.7,
            angle=-0.62,
            relief=0.91,
            variety=0.27,
            swirl=14.2,
            canvas=(0.724, 0.462, 0.197),
        ),
        _named(
            "red-lino",
            "woodcut",
            "a light cut in red ink on cream paper, with rays around the figure",
            ink=(0.684, 0.103, 0.131),
            paper=(0.968, 0.903, 0.762),
            spacing=6.1,
            angle=0.57,
            heavy=0.27,
            colour=0.81,
            cuts="rays",
        ),
        _named(
            "blue-hoop",
            "embroidery",
            "thick, silky thread on blue cloth in a small hoop",
            thread=6.6,
            angle=0.71,
            sheen=0.66,
            cloth=(0.279, 0.415, 0.603),
            dye=0.47,
            hoop=0.98,
        ),
        _named(
            "soft-crayon",
            "crayon",
            "a broad, loose crayon on pink paper",
            paper=(0.985, 0.841, 0.811),
            pressure=0.67,
            angle=0.94,
            stroke=7.8,
            outline=4.1,
            loose=2.7,
        ),
    )
}

RARE: dict[str, NamedStyle] = {
    one.name: one
    for one in (
        _named(
            "cathedral",
            "glass",
            "deep stained glass that glows between thick leads",
            lead=3.9,
            rays=6.0,
            clear=0.18,
            glow=0.52,
            ripple=0.12,
        ),
        _named(
            "clear-pane",
            "glass",
            "clear, rippled glass in thin leads",
            lead=2.3,
            rays=4.0,
            clear=0.51,
            glow=0.31,
            ripple=0.23,
        ),
        _named(
            "blackboard",
            "chalk",
            "broad white chalk on a dusty black board",
            board=(0.108, 0.117, 0.134),
            chalk=(0.981, 0.952, 0.914),
            stroke=7.1,
            angle=-0.66,
            dust=0.82,
        ),
        _named(
            "pink-burst",
            "comic",
            "coarse dots and thick lines before a pink burst",
            dot=7.2,
            angle=0.79,
            line=3.9,
            burst=(0.992, 0.604, 0.731),
            rays=11.0,
        ),
        _named(
            "red-thread",
            "stitch",
            "felt sewn with long red stitches on coarse cream linen",
            linen=(0.874, 0.801, 0.642),
            thread=(0.812, 0.128, 0.149),
            length=9.4,
            weave=6.2,
            fuzz=0.37,
        ),
    )
}

ALL: dict[str, NamedStyle] = {**TUNING, **CONFIRMATION, **RARE}
