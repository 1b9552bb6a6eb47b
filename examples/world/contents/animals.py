"""The animals: bear, dog, cat, fish, bird, owl, penguin, snail, whale."""

from __future__ import annotations

from world.contents.parts import Builder, Drawing, Look, Part, Spot, eye, eyes
from world.shapes import (
    arc,
    blend,
    capsule,
    circle,
    ellipse,
    intersect,
    mirrored,
    moved,
    polygon,
    ring,
    spiral,
    stroke,
    union,
)


def bear(k: Look) -> Drawing:
    ear, tummy = 0.17 + 0.035 * k.a, 0.40 + 0.04 * k.b
    arm = (
        capsule(0.30, 0.12, 0.53, 0.30, 0.15),
        capsule(0.30, 0.14, 0.58, -0.04, 0.14),
        capsule(0.28, 0.12, 0.36, 0.44, 0.15),
    )[k.variant]
    return Drawing(
        [
            Part(mirrored(circle(0.32, -0.60, ear))),
            Part(mirrored(circle(0.32, -0.60, 0.55 * ear)), "second", flat=True),
            Part(mirrored(ellipse(0.34, 0.68, 0.21, 0.16))),
            Part(ellipse(0, 0.34, tummy, 0.41)),
            Part(ellipse(0, 0.38, tummy - 0.13, 0.28), "second", marked="some", flat=True),
            Part(mirrored(ellipse(0.36, 0.69, 0.11, 0.085)), "second", flat=True),
            Part(mirrored(arm)),
            Part(ellipse(0, -0.30, 0.45, 0.38)),
            Part(ellipse(0, -0.16, 0.21, 0.16), "second"),
            Part(ellipse(0, -0.23, 0.085, 0.06), "dark"),
            Part(
                union(capsule(0, -0.2, 0, -0.12, 0.012), arc(0, -0.14, 0.07, 0.05, 0.45, 0.014, 4)),
                "dark",
                flat=True,
            ),
            *eyes(0.19, -0.36, 0.075),
        ],
        mark=Spot(0, 0.36, 0.30),
        top=Spot(0, -0.62, 0.36),
        eyes=Spot(0, -0.36, 0.36),
        neck=Spot(0, 0.05, 0.34),
    )


def dog(k: Look) -> Drawing:
    length, leg = 0.07 * k.a, 0.64 + 0.05 * k.b
    back = 0.42 + length
    ear = (
        capsule(-0.24, -0.50, -0.14, -0.12, 0.09, 0.13),
        polygon((-0.42, -0.44), (-0.22, -0.84), (-0.12, -0.36), round_=0.04),
        capsule(-0.26, -0.50, -0.04, -0.36, 0.09, 0.10),
    )[k.variant]
    tail = (
        stroke((back + 0.1, 0.0), (back + 0.28, -0.14), (back + 0.32, -0.38), r=0.085, r_end=0.05),
        arc(back + 0.14, -0.18, 0.15, 0.30, -0.30, 0.065),
        capsule(back + 0.1, 0.04, back + 0.34, -0.22, 0.09, 0.06),
    )[k.variant]
    body = blend(capsule(-0.20, 0.10, back, 0.12, 0.25, 0.22), capsule(-0.22, 0.0, -0.36, -0.26, 0.20), 0.15)
    return Drawing(
        [
            Part(tail),
            Part(
                union(
                    capsule(-0.06, 0.2, -0.04, leg, 0.10), capsule(back - 0.14, 0.2, back - 0.12, leg, 0.10)
                ),
                "deep",
            ),
            Part(
                union(
                    body,
                    capsule(-0.26, 0.2, -0.28, leg, 0.105),
                    capsule(back + 0.08, 0.16, back + 0.08, leg, 0.105),
                )
            ),
            Part(
                union(ellipse(-0.32, leg + 0.04, 0.15, 0.085), ellipse(back + 0.05, leg + 0.04, 0.15, 0.085)),
                "second",
            ),
            Part(
                blend(ellipse(-0.36, -0.32, 0.30, 0.29), capsule(-0.48, -0.22, -0.68, -0.18, 0.15, 0.12), 0.1)
            ),
            Part(capsule(-0.56, -0.16, -0.69, -0.17, 0.12), "second", flat=True),
            Part(ellipse(-0.78, -0.24, 0.07, 0.06), "dark"),
            Part(ear, "second"),
            *eye(-0.44, -0.38, 0.075),
        ],
        mark=Spot(0.14, 0.10, 0.22),
        top=Spot(-0.32, -0.56, 0.26, -0.06),
        upright=False,
        eyes=Spot(-0.46, -0.38, 0.24),
        neck=Spot(-0.30, -0.07, 0.24, 0.2),
    )


def cat(k: Look) -> Drawing:
    ear, wide = 0.84 + 0.06 * k.a, 0.37 + 0.04 * k.b
    tail = (
        stroke((0.24, 0.62), (0.56, 0.64), (0.68, 0.42), (0.62, 0.18), (0.70, 0.02), r=0.085, r_end=0.07),
        stroke((0.26, 0.56), (0.54, 0.50), (0.62, 0.20), (0.56, -0.06), r=0.09, r_end=0.06),
        stroke((0.28, 0.66), (0.56, 0.70), (0.72, 0.60), r=0.095, r_end=0.08),
    )[k.variant]
    return Drawing(
        [
            Part(tail),
            Part(blend(ellipse(0, 0.42, wide, 0.34), ellipse(0, 0.10, 0.25, 0.30), 0.2)),
            Part(ellipse(0, 0.26, 0.15, 0.25), "second", marked="some", flat=True),
            Part(mirrored(ellipse(0.15, 0.68, 0.14, 0.10)), "second"),
            Part(mirrored(polygon((0.10, -0.48), (0.35, -ear), (0.41, -0.34), round_=0.035))),
            Part(
                mirrored(polygon((0.20, -0.50), (0.33, 0.12 - ear), (0.36, -0.42), round_=0.01)),
                "tongue",
                flat=True,
            ),
            Part(ellipse(0, -0.30, 0.43, 0.33)),
            Part(mirrored(ellipse(0.18, -0.34, 0.10, 0.10)), "gold", flat=True),
            Part(mirrored(ellipse(0.18, -0.34, 0.042, 0.09)), "dark", flat=True),
            Part(mirrored(ellipse(0.075, -0.15, 0.095, 0.075)), "second"),
            Part(polygon((-0.045, -0.215), (0.045, -0.215), (0, -0.17), round_=0.02), "tongue", flat=True),
            Part(
                mirrored(
                    union(capsule(0.24, -0.19, 0.56, -0.24, 0.014), capsule(0.24, -0.13, 0.56, -0.10, 0.014))
                ),
                "dark",
                flat=True,
            ),
        ],
        mark=Spot(0, 0.38, 0.26),
        top=Spot(0, -0.56, 0.28),
        eyes=Spot(0, -0.34, 0.34),
        neck=Spot(0, 0.02, 0.30),
    )


def fish(k: Look) -> Drawing:
    rx, ry = (0.60, 0.54, 0.62)[k.variant] + 0.04 * k.a, (0.40, 0.47, 0.33)[k.variant] + 0.03 * k.b
    body = ellipse(-0.14, 0, rx, ry)
    tail = (
        polygon((0.34, 0.0), (0.76, -0.36), (0.66, 0.0), (0.76, 0.36), round_=0.05),
        union(capsule(0.36, 0, 0.66, -0.22, 0.06, 0.15), capsule(0.36, 0, 0.66, 0.22, 0.06, 0.15)),
        polygon((0.36, 0.0), (0.80, -0.44), (0.56, 0.0), (0.72, 0.34), round_=0.04),
    )[k.variant]
    fin = (
        polygon((-0.34, -ry + 0.1), (0.10, -ry - 0.16), (0.22, -ry + 0.18), round_=0.05),
        union(*(circle(-0.32 + 0.15 * i, -ry + 0.06 * abs(i - 1.2), 0.12) for i in range(4))),
        polygon((-0.40, -ry + 0.1), (-0.28, -ry - 0.22), (0.24, -ry + 0.16), round_=0.03),
    )[k.variant]
    return Drawing(
        [
            Part(tail, "second"),
            Part(fin, "second"),
            Part(polygon((-0.16, ry - 0.08), (0.10, ry - 0.08), (0.12, ry + 0.12), round_=0.04), "second"),
            Part(body),
            Part(intersect(ring(-0.86, 0.0, 0.50, 0.60, 0.016), body), "deep", flat=True),
            Part(polygon((-0.06, 0.17), (0.12, 0.14), (0.10, 0.30), round_=0.035), "second"),
            Part(intersect(capsule(-0.80, 0.14, 0.10 - rx, 0.17, 0.018), body), "dark", flat=True),
            *eye(-0.52, -0.10, 0.105),
        ],
        mark=Spot(0.02, -0.06, 0.24),
        top=Spot(-0.34, -0.85 * ry, 0.22, -0.30),
        upright=False,
        eyes=Spot(-0.50, -0.10, 0.25),
    )


def bird(k: Look) -> Drawing:
    head = 0.29 + 0.03 * k.a
    tail = (
        polygon((0.26, 0.20), (0.74, -0.10), (0.70, 0.18), (0.78, 0.36), round_=0.04),
        polygon((0.26, 0.10), (0.66, -0.36), (0.78, -0.22), (0.56, 0.28), round_=0.04),
        polygon((0.30, 0.24), (0.80, 0.16), (0.84, 0.34), (0.36, 0.40), round_=0.04),
    )[k.variant]
    crest = union(
        capsule(-0.30, -0.56, -0.22, -0.78, 0.05, 0.035), capsule(-0.22, -0.54, -0.06, -0.72, 0.05, 0.035)
    )
    return Drawing(
        [
            Part(
                union(
                    stroke((0.06, 0.40), (0.10, 0.72), (-0.02, 0.75), r=0.03),
                    stroke((-0.14, 0.40), (-0.14, 0.72), (-0.26, 0.75), r=0.03),
                ),
                "gold",
            ),
            *([Part(crest, "second")] if k.variant == 1 else []),
            Part(tail, "second"),
            Part(polygon((-0.56, -0.44), (-0.84, -0.30), (-0.56, -0.20), round_=0.03), "gold"),
            Part(blend(ellipse(-0.02, 0.14, 0.47, 0.37 + 0.03 * k.b), circle(-0.34, -0.32, head), 0.2)),
            Part(ellipse(-0.22, 0.26, 0.22, 0.19), "pale", "some", flat=True),
            Part(polygon((-0.12, 0.0), (0.12, -0.10), (0.50, 0.18), (0.14, 0.32), round_=0.07), "second"),
            *eye(-0.41, -0.37, 0.085),
        ],
        mark=Spot(-0.25, 0.18, 0.21),
        top=Spot(-0.32, -0.55, 0.25, -0.08),
        eyes=Spot(-0.42, -0.37, 0.24),
        neck=Spot(-0.26, -0.10, 0.26, 0.3),
        upright=False,
    )


def owl(k: Look) -> Drawing:
    wide, disc = 0.47 + 0.04 * k.a, 0.215 + 0.02 * k.b
    body = blend(ellipse(0, 0.18, wide, 0.52), ellipse(0, -0.34, 0.45, 0.32), 0.15)
    tuft = (
        polygon((0.10, -0.52), (0.46, -0.80), (0.44, -0.34), round_=0.03),
        polygon((0.16, -0.58), (0.60, -0.66), (0.42, -0.30), round_=0.03),
        polygon((0.20, -0.54), (0.34, -0.86), (0.45, -0.36), round_=0.03),
    )[k.variant]
    scallops = union(
        *(
            arc(0.17 * x, 0.08 + 0.15 * r, 0.075, 0.02, 0.48, 0.016, 3)
            for r in range(3)
            for x in ((-1, 0, 1), (-0.5, 0.5), (0,))[r]
        )
    )
    return Drawing(
        [
            Part(
                mirrored(
                    union(capsule(0.16, 0.62, 0.10, 0.74, 0.055), capsule(0.18, 0.62, 0.26, 0.74, 0.055))
                ),
                "gold",
            ),
            Part(mirrored(tuft)),
            Part(body),
            Part(ellipse(0, 0.28, wide - 0.17, 0.34), "second", marked="some", flat=True),
            Part(scallops, "main", marked="none", flat=True),
            Part(mirrored(moved(ellipse(0, 0, 0.15, 0.38), wide - 0.05, 0.18, turn=-0.18)), "deep"),
            Part(mirrored(circle(0.20, -0.32, disc)), "second"),
            Part(mirrored(circle(0.20, -0.32, 0.135)), "gold", flat=True),
            Part(mirrored(circle(0.19, -0.32, 0.085)), "dark", flat=True),
            Part(mirrored(circle(0.15, -0.36, 0.028)), "light", flat=True),
            Part(polygon((-0.06, -0.24), (0.06, -0.24), (0, -0.08), round_=0.03), "gold"),
        ],
        mark=Spot(0, 0.26, 0.26),
        top=Spot(0, -0.60, 0.28),
        eyes=Spot(0, -0.32, 0.38),
    )


def penguin(k: Look) -> Drawing:
    wide, out = 0.37 + 0.04 * k.a, 0.60 + 0.06 * k.b
    wing = (
        capsule(0.32, -0.08, out, 0.26, 0.11, 0.07),
        capsule(0.32, -0.06, out, -0.28, 0.11, 0.07),
        capsule(0.32, -0.08, 0.46, 0.38, 0.12, 0.08),
    )[k.variant]
    return Drawing(
        [
            Part(mirrored(ellipse(0.20, 0.74, 0.19, 0.075)), "gold"),
            Part(mirrored(wing)),
            Part(blend(ellipse(0, 0.22, wide, 0.50), circle(0, -0.46, 0.30), 0.25)),
            Part(ellipse(0, 0.28, wide - 0.09, 0.40), "second", marked="some", flat=True),
            Part(
                union(mirrored(ellipse(0.10, -0.42, 0.13, 0.15)), ellipse(0, -0.34, 0.17, 0.13)),
                "second",
                flat=True,
            ),
            *eyes(0.115, -0.46, 0.062),
            Part(ellipse(0, -0.34, 0.095, 0.06), "gold"),
        ],
        mark=Spot(0, 0.28, 0.24),
        top=Spot(0, -0.68, 0.25),
        eyes=Spot(0, -0.46, 0.28),
        neck=Spot(0, -0.14, 0.27),
    )


def snail(k: Look) -> Drawing:
    r, lift = 0.45 + 0.03 * k.a, 0.06 * k.b
    cx, cy = 0.16, 0.02
    shell = (
        circle(cx, cy, r),
        blend(circle(cx, cy + 0.04, r - 0.03), circle(cx + 0.06, cy - 0.34, 0.14), 0.3),
        ellipse(cx, cy, r + 0.05, r - 0.05),
    )[k.variant]
    stalks = union(
        capsule(-0.58, -0.02, -0.50, -0.38 - lift, 0.035), capsule(-0.66, -0.02, -0.76, -0.36 - lift, 0.035)
    )
    return Drawing(
        [
            Part(stalks, "second"),
            Part(union(circle(-0.50, -0.40 - lift, 0.075), circle(-0.76, -0.38 - lift, 0.075)), "light"),
            Part(
                union(circle(-0.51, -0.40 - lift, 0.04), circle(-0.77, -0.38 - lift, 0.04)), "dark", flat=True
            ),
            Part(
                blend(
                    capsule(-0.50, 0.54, 0.74, 0.60, 0.15, 0.05),
                    capsule(-0.56, 0.48, -0.62, 0.06, 0.15, 0.15),
                    0.12,
                ),
                "second",
            ),
            Part(shell),
            Part(intersect(spiral(cx, cy, 0.20, 0.028, r - 0.04), shell), "deep", flat=True),
            Part(arc(-0.68, 0.06, 0.08, 0.10, 0.42, 0.016, 4), "dark", flat=True),
        ],
        mark=Spot(cx, cy, 0.28),
        top=Spot(cx - 0.02, cy - r + 0.05, 0.24),
        upright=False,
        neck=Spot(-0.60, 0.30, 0.18),
    )


def whale(k: Look) -> Drawing:
    ry = 0.38 + 0.03 * k.a
    body = blend(
        ellipse(-0.16, 0.20, 0.58, ry),
        stroke((0.28, 0.22), (0.56, 0.10), (0.64, -0.12), r=0.20, r_end=0.07),
        0.15,
    )
    fluke = union(
        moved(ellipse(0, 0, 0.19, 0.10), 0.50, -0.28, turn=0.5),
        moved(ellipse(0, 0, 0.19, 0.10), 0.76, -0.26, turn=-0.6),
    )
    high = -0.58 - 0.06 * k.b
    jet = (
        union(
            stroke((-0.26, -0.20), (-0.28, -0.44), (-0.42, high), (-0.54, high + 0.12), r=0.045, r_end=0.055),
            stroke((-0.22, -0.20), (-0.20, -0.44), (-0.06, high), (0.06, high + 0.12), r=0.045, r_end=0.055),
        ),
        union(
            capsule(-0.24, -0.2, -0.24, high, 0.05),
            circle(-0.24, high, 0.10),
            circle(-0.40, high + 0.07, 0.08),
            circle(-0.08, high + 0.07, 0.08),
        ),
        union(circle(-0.26, -0.34, 0.06), circle(-0.36, high + 0.06, 0.075), circle(-0.16, high, 0.06)),
    )[k.variant]
    return Drawing(
        [
            Part(jet, "water"),
            Part(fluke),
            Part(body),
            Part(intersect(body, ellipse(-0.26, 0.56, 0.62, 0.30)), "second", flat=True),
            Part(
                intersect(
                    body,
                    union(
                        *(capsule(-0.62 + 0.13 * i, 0.36, -0.56 + 0.13 * i, 0.62, 0.012) for i in range(5))
                    ),
                ),
                "deep",
                flat=True,
            ),
            Part(moved(ellipse(0, 0, 0.17, 0.085), 0.04, 0.44, turn=0.6), "main", marked="none"),
            Part(arc(-0.62, 0.18, 0.12, 0.08, 0.30, 0.016, 4), "dark", flat=True),
            *eye(-0.46, 0.10, 0.07),
        ],
        mark=Spot(0.02, 0.10, 0.22),
        top=Spot(-0.06, 0.21 - ry, 0.24, 0.08),
        upright=False,
        eyes=Spot(-0.46, 0.10, 0.20),
    )


ANIMALS: dict[str, Builder] = {
    f.__name__: f for f in (bear, dog, cat, fish, bird, owl, penguin, snail, whale)
}
