"""What grows: tree, mushroom, flower, cactus."""

from __future__ import annotations

from math import cos, pi, sin

from world.contents.parts import Builder, Drawing, Look, Part, Spot, eyes
from world.shapes import (
    arc,
    blend,
    box,
    capsule,
    circle,
    ellipse,
    half_plane,
    intersect,
    mirrored,
    moved,
    polygon,
    stroke,
    union,
)


def tree(k: Look) -> Drawing:
    r = 0.33 + 0.03 * k.a
    crown = (
        union(circle(0, -0.44, r), mirrored(circle(0.34, -0.14, r)), circle(0, 0.0, 0.34)),
        union(
            *(
                polygon((0, y - 0.34), (w, y + 0.14), (-w, y + 0.14), round_=0.05)
                for y, w in ((-0.46, 0.30), (-0.18, 0.42), (0.12, 0.54))
            )
        ),
        ellipse(0, -0.22, 0.46 + 0.03 * k.a, 0.56),
    )[k.variant]
    fruit = (
        ((0.0, -0.52), (-0.32, -0.16), (0.30, -0.24), (0.02, -0.06), (0.40, 0.04)),
        ((0.0, -0.50), (-0.16, -0.14), (0.18, -0.20), (-0.30, 0.14), (0.04, 0.10), (0.34, 0.18)),
        ((0.04, -0.56), (-0.24, -0.32), (0.24, -0.24), (-0.06, -0.08), (0.20, 0.08), (-0.26, 0.06)),
    )[k.variant]
    trunk = union(
        polygon(
            (-0.09, 0.10), (0.09, 0.10), (0.15 + 0.02 * k.b, 0.76), (-0.15 - 0.02 * k.b, 0.76), round_=0.02
        ),
        stroke((0.02, 0.34), (0.20, 0.14), r=0.045),
    )
    return Drawing(
        [Part(trunk, "wood"), Part(crown), Part(union(*(circle(x, y, 0.068) for x, y in fruit)), "second")],
        mark=Spot(0, -0.16, 0.30),
        top=Spot(0, (-0.72, -0.80, -0.74)[k.variant], 0.24),
    )


def mushroom(k: Look) -> Drawing:
    w, h = 0.70 + 0.04 * k.a, (0.70, 0.52, 0.84)[k.variant]
    cap = intersect(ellipse(0, 0.04, w, h), half_plane(0, -1, -0.10))
    stem = 0.18 + 0.03 * k.b
    return Drawing(
        [
            Part(blend(box(0, 0.38, stem, 0.34, 0.10), ellipse(0, 0.60, stem + 0.09, 0.15), 0.1), "second"),
            *eyes(0.09, 0.38, 0.05),
            Part(arc(0, 0.46, 0.055, 0.04, 0.46, 0.015, 4), "dark", flat=True),
            Part(ellipse(0, 0.11, 0.30, 0.07), "second"),
            Part(union(cap, box(0, 0.075, w, 0.055, 0.05))),
        ],
        mark=Spot(0, 0.36 - 0.85 * h, 0.26),
        top=Spot(0, 0.07 - h, 0.30),
        eyes=Spot(0, 0.40, 0.22),
    )


def flower(k: Look) -> Drawing:
    count, r = (6, 5, 10)[k.variant], 0.33 + 0.02 * k.a
    angles = [2 * pi * i / count for i in range(count)]
    petals = (
        union(*(circle(r * sin(a), -0.26 - r * cos(a), 0.205) for a in angles)),
        union(*(moved(ellipse(0, -r, 0.185, 0.26), 0, -0.26, turn=a) for a in angles)),
        union(
            *(
                capsule(
                    0.15 * sin(a), -0.26 - 0.15 * cos(a), 0.44 * sin(a), -0.26 - 0.44 * cos(a), 0.08, 0.10
                )
                for a in angles
            )
        ),
    )[k.variant]
    bend = 0.06 * k.b
    return Drawing(
        [
            Part(stroke((0, 0.0), (bend, 0.40), (0, 0.78), r=0.048), "leaf"),
            Part(
                union(
                    capsule(0.08, 0.62, 0.42, 0.42, 0.05, 0.11), capsule(-0.08, 0.70, -0.42, 0.50, 0.05, 0.11)
                ),
                "leaf",
            ),
            Part(petals),
            Part(circle(0, -0.26, 0.21), "second"),
        ],
        mark=Spot(0, -0.26, 0.50),
        top=Spot(0, -0.72, 0.26),
        eyes=Spot(0, -0.28, 0.24),
    )


def cactus(k: Look) -> Drawing:
    r, high = 0.20 + 0.02 * k.a, -0.52 - 0.05 * k.b
    body = (
        union(
            capsule(0, high, 0, 0.3, r),
            stroke((0, 0.08), (0.42, 0.06), (0.42, -0.24), r=0.11),
            stroke((0, 0.20), (-0.40, 0.18), (-0.40, -0.04), r=0.11),
        ),
        union(ellipse(0, 0.0, 0.38 + 0.02 * k.a, 0.44), circle(0.22, -0.44, 0.17)),
        union(
            capsule(0, high + 0.08, 0, 0.3, r + 0.03),
            stroke((0, -0.04), (-0.42, -0.06), (-0.42, -0.38), r=0.115),
        ),
    )[k.variant]
    bloom = ((0, high - r), (0.22, -0.62), (0, high + 0.06 - r))[k.variant]
    spines = union(
        *(
            capsule(x - 0.02, y, x + 0.02, y - 0.05, 0.012)
            for x, y in (
                (-0.08, -0.40),
                (0.08, -0.28),
                (-0.08, -0.14),
                (0.08, -0.02),
                (-0.07, 0.14),
                (0.1, 0.22),
            )
        )
    )
    return Drawing(
        [
            Part(body),
            Part(spines, "light", flat=True),
            Part(
                union(
                    *(
                        circle(
                            bloom[0] + 0.07 * cos(2 * pi * i / 5), bloom[1] + 0.07 * sin(2 * pi * i / 5), 0.06
                        )
                        for i in range(5)
                    )
                ),
                "tongue",
            ),
            Part(circle(*bloom, 0.045), "gold", flat=True),
            Part(polygon((-0.32, 0.40), (0.32, 0.40), (0.24, 0.74), (-0.24, 0.74), round_=0.03), "second"),
            Part(box(0, 0.38, 0.40, 0.075, 0.04), "second"),
        ],
        mark=Spot(0, 0.0, 0.18),
        top=Spot(bloom[0], bloom[1] + 0.05, 0.22),
        eyes=Spot(0, -0.14, 0.24),
        tiles=False,
    )


PLANTS: dict[str, Builder] = {f.__name__: f for f in (tree, mushroom, flower, cactus)}
