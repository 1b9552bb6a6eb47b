"""The things: crockery, furniture, buildings, vehicles, a robot."""

from __future__ import annotations

from world.contents.parts import Builder, Drawing, Look, Part, Spot
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
    polygon,
    ring,
    stroke,
    subtract,
    union,
)


def teapot(k: Look) -> Drawing:
    rx, ry = 0.50 + 0.04 * k.a, 0.42 + 0.03 * k.b
    body = (
        ellipse(0, 0.16, rx, ry),
        box(0, 0.18, rx - 0.05, ry, 0.20),
        polygon((-0.26, -0.16), (0.26, -0.16), (0.48, 0.46), (-0.48, 0.46), round_=0.08),
    )[k.variant]
    spout = polygon(
        (-0.30, 0.38),
        (-0.34, 0.06),
        (-0.50, 0.02),
        (-0.58, -0.16),
        (-0.80, -0.20),
        (-0.68, 0.10),
        (-0.54, 0.30),
        round_=0.03,
    )
    lid_y = (-0.17, -0.20, -0.20)[k.variant]
    return Drawing(
        [
            Part(ring(rx, 0.12, 0.22, 0.23, 0.062), "second"),
            Part(spout),
            Part(box(0, 0.58, 0.27, 0.06, 0.05), "second"),
            Part(body),
            Part(circle(0, lid_y - 0.27, 0.09), "second"),
            Part(intersect(ellipse(0, lid_y, 0.33, 0.20), half_plane(0, -1, -lid_y - 0.04)), "second"),
        ],
        mark=Spot(0, 0.17, 0.26),
        top=Spot(0, lid_y - 0.30, 0.22),
        eyes=Spot(0, 0.06, 0.34),
    )


def vase(k: Look) -> Drawing:
    r, neck = 0.42 + 0.04 * k.a, 0.15 + 0.03 * k.b
    body = (
        blend(ellipse(0, 0.20, r, 0.44), box(0, -0.35, neck, 0.32, 0.05), 0.25),
        blend(
            union(ellipse(0, -0.22, r - 0.03, 0.36), box(0, -0.56, 0.17, 0.10, 0.03)),
            polygon((-0.24, -0.2), (0.24, -0.2), (0.15, 0.62), (-0.15, 0.62), round_=0.05),
            0.2,
        ),
        blend(ellipse(0, 0.34, r + 0.04, 0.32), box(0, -0.30, 0.10, 0.38, 0.04), 0.3),
    )[k.variant]
    handles = mirrored(ring(0.28, -0.26, 0.16, 0.24, 0.045))
    return Drawing(
        [
            *([Part(handles, "second")] if k.variant == 0 else []),
            Part(box(0, 0.68, 0.26, 0.07, 0.04), "second"),
            Part(body),
            Part(box(0, -0.68, (neck + 0.13, 0.26, 0.20)[k.variant], 0.07, 0.06), "second"),
        ],
        mark=Spot(0, (0.20, -0.18, 0.32)[k.variant], 0.28),
        top=Spot(0, -0.72, 0.24),
        eyes=Spot(0, (0.10, -0.26, 0.24)[k.variant], 0.32),
    )


def cup(k: Look) -> Drawing:
    w, taper = 0.46 + 0.04 * k.a, (0.14, 0.0, 0.06)[k.variant]
    body = polygon((-w, -0.32), (w, -0.32), (w - taper, 0.46), (-w + taper, 0.46), round_=0.09)
    steam = union(
        *(
            stroke((x, -0.52), (x + 0.05, -0.62), (x - 0.04, -0.72), (x + 0.02, -0.82), r=0.028)
            for x in (-0.16, 0.12)
        )
    )
    saucer = [Part(ellipse(0, 0.58, 0.78, 0.13), "second")] if k.variant == 0 else []
    return Drawing(
        [
            Part(steam, "light"),
            *saucer,
            Part(ring(w + 0.05, 0.04, 0.20 + 0.03 * k.b, 0.22, 0.065), "second"),
            Part(body),
            Part(ellipse(0, -0.36, w + 0.09, 0.15), "second"),
            Part(ellipse(0, -0.345, w, 0.095), "coffee", flat=True),
        ],
        mark=Spot(0, 0.14, 0.26),
        top=Spot(0, -0.42, 0.34),
        eyes=Spot(0, 0.02, 0.32),
    )


def cake(k: Look) -> Drawing:
    w, h = 0.60 + 0.04 * k.a, 0.03 * k.b
    icing_y = (-0.02, -0.12, 0.06)[k.variant]
    drips = union(
        box(0, icing_y, w, 0.11, 0.10),
        *(
            capsule(x * w, icing_y, x * w, icing_y + 0.17 + 0.06 * (i % 2), 0.085)
            for i, x in enumerate((-0.82, -0.42, 0.0, 0.42, 0.82))
        ),
    )
    upper = [
        Part(box(0, -0.22, 0.36, 0.24, 0.06)),
        Part(
            union(
                box(0, -0.40, 0.37, 0.09, 0.085),
                *(capsule(x, -0.4, x, -0.25, 0.07) for x in (-0.28, 0.0, 0.28)),
            ),
            "second",
        ),
    ]
    top = (-0.46, -0.22, -0.04)[k.variant]
    candles = union(
        *(box(x, top - 0.12, 0.032, 0.15) for x in ((0,), (-0.28, 0, 0.28), (-0.14, 0.14))[k.variant])
    )
    flames = union(
        *(ellipse(x, top - 0.32, 0.045, 0.075) for x in ((0,), (-0.28, 0, 0.28), (-0.14, 0.14))[k.variant])
    )
    return Drawing(
        [
            Part(ellipse(0, 0.62, 0.78, 0.10), "light"),
            Part(candles, "light"),
            Part(flames, "gold"),
            *(upper if k.variant == 0 else []),
            Part(box(0, 0.5 * (icing_y + 0.62) + h, w, 0.5 * (0.62 - icing_y) - h, 0.06)),
            Part(drips, "second"),
        ],
        mark=Spot(0, 0.36, 0.20),
        top=Spot(0, top + 0.02, 0.26),
        eyes=Spot(0, 0.32, 0.36),
        tiles=False,
    )


def lamp(k: Look) -> Drawing:
    top, low = 0.20 + 0.04 * k.a, 0.50 + 0.05 * k.b
    shade = (
        polygon((-top, -0.70), (top, -0.70), (low, -0.04), (-low, -0.04), round_=0.04),
        intersect(ellipse(0, 0.0, 0.54, 0.72), half_plane(0, -1, -0.02)),
        box(0, -0.36, 0.44, 0.34, 0.06),
    )[k.variant]
    foot = (
        ellipse(0, 0.40, 0.22, 0.28),
        capsule(0, 0.1, 0, 0.62, 0.05),
        union(circle(0, 0.22, 0.13), circle(0, 0.46, 0.17)),
    )[k.variant]
    return Drawing(
        [
            Part(capsule(0, -0.1, 0, 0.66, 0.045), "metal"),
            Part(capsule(0.24, -0.06, 0.24, 0.18, 0.014), "metal"),
            Part(circle(0.24, 0.20, 0.04), "gold"),
            Part(foot, "second"),
            Part(box(0, 0.70, 0.30, 0.06, 0.05), "second"),
            Part(shade),
        ],
        mark=Spot(0, -0.32, 0.24),
        top=Spot(0, -0.68, 0.22),
        eyes=Spot(0, -0.28, 0.34),
    )


def umbrella(k: Look) -> Drawing:
    w, high = 0.74 + 0.04 * k.a, 0.60 + 0.05 * k.b
    dome = intersect(ellipse(0, 0.0, w, high), half_plane(0, -1, -0.02))
    count = (4, 3, 5)[k.variant]
    scallops = union(*(circle(w * (2 * i + 1 - count) / count, 0.05, w / count * 1.05) for i in range(count)))
    canopy = subtract(dome, scallops) if k.variant != 2 else dome
    panel = intersect(canopy, ellipse(0, 0.0, w / count * (1.0 if count % 2 else 2.0) * 0.52, 1.2 * high))
    return Drawing(
        [
            Part(union(capsule(0, -0.5, 0, 0.62, 0.035), arc(0.12, 0.62, 0.12, 0.5, 0.0, 0.045, 5)), "wood"),
            Part(capsule(0, -high - 0.08, 0, -high + 0.1, 0.035), "wood"),
            Part(canopy),
            Part(panel, "second", flat=True),
        ],
        mark=Spot(0.0, -0.28, 0.22),
        top=Spot(0, -high + 0.02, 0.24),
        tiles=False,
        upright=True,
    )


def guitar(k: Look) -> Drawing:
    low, high = 0.40 + 0.03 * k.a, 0.29 + 0.03 * k.b
    body = (
        blend(circle(0, 0.40, low), circle(0, -0.02, high), 0.12),
        union(
            blend(circle(0, 0.40, low), circle(0, 0.08, 0.26), 0.1),
            mirrored(capsule(0.16, 0.10, 0.32, -0.16, 0.11, 0.06)),
        ),
        polygon((0, 0.10), (0.52, 0.72), (0.36, 0.76), (0, 0.42), (-0.36, 0.76), (-0.52, 0.72), round_=0.05),
    )[k.variant]
    hole = (
        circle(0, 0.14, 0.13),
        union(box(0, 0.14, 0.15, 0.04, 0.03), box(0, 0.34, 0.15, 0.04, 0.03)),
        box(0, 0.28, 0.12, 0.04, 0.03),
    )[k.variant]
    return Drawing(
        [
            Part(union(*(capsule(-0.16, y, 0.16, y, 0.032) for y in (-0.84, -0.74, -0.64))), "metal"),
            Part(
                polygon((-0.08, -0.58), (0.08, -0.58), (0.11, -0.88), (-0.11, -0.88), round_=0.02), "second"
            ),
            Part(body),
            Part(hole, "dark", flat=True),
            Part(box(0, -0.22, 0.065, 0.42, 0.02), "wood"),
            Part(union(*(box(0, y, 0.065, 0.012) for y in (-0.50, -0.38, -0.26, -0.14))), "metal", flat=True),
            Part(box(0, 0.56, 0.19, 0.045, 0.03), "second"),
            Part(union(*(capsule(x, -0.6, x, 0.55, 0.008) for x in (-0.03, 0.03))), "light", flat=True),
        ],
        mark=Spot(0, 0.46, 0.26),
        top=Spot(0, -0.84, 0.20),
        tiles=False,
    )


def house(k: Look) -> Drawing:
    w, ridge = 0.52 + 0.04 * k.a, -0.66 - 0.06 * k.b
    roof = (
        polygon((-w - 0.14, -0.06), (0, ridge), (w + 0.14, -0.06), round_=0.05),
        polygon(
            (-w - 0.12, -0.06),
            (-w + 0.20, ridge + 0.10),
            (w - 0.20, ridge + 0.10),
            (w + 0.12, -0.06),
            round_=0.05,
        ),
        polygon((-w - 0.12, -0.06), (-0.22, ridge), (w + 0.14, -0.06), round_=0.04),
    )[k.variant]
    arched = union(circle(-0.22, 0.36, 0.15), box(-0.22, 0.56, 0.15, 0.20))
    door = arched if k.variant == 1 else box(-0.22, 0.46, 0.14, 0.28, 0.03)
    window = box(0.22, 0.20, 0.14, 0.14)
    return Drawing(
        [
            Part(box(0.34, -0.44, 0.095, 0.24), "wood"),
            Part(box(0, 0.32, w, 0.44, 0.02)),
            Part(roof, "second"),
            Part(door, "wood"),
            Part(circle(-0.13, 0.50, 0.028), "gold", flat=True),
            Part(window, "glass", flat=True),
            Part(
                union(
                    box(0.22, 0.20, 0.14, 0.018),
                    box(0.22, 0.20, 0.018, 0.14),
                    subtract(box(0.22, 0.20, 0.165, 0.165), window),
                ),
                "light",
                flat=True,
            ),
            Part(
                circle((0, 0, -0.12)[k.variant], (-0.32, -0.28, -0.32)[k.variant], 0.095), "glass", flat=True
            ),
        ],
        mark=Spot(0.0, 0.36, 0.30),
        top=Spot((0, 0, -0.2)[k.variant], ridge + (0.02, 0.08, 0.02)[k.variant], 0.26),
    )


def car(k: Look) -> Drawing:
    cabin = (
        polygon((-0.46, 0.05), (-0.28, -0.36), (0.24, -0.36), (0.48, 0.05), round_=0.06),
        intersect(ellipse(0.02, 0.06, 0.56, 0.54 + 0.03 * k.b), half_plane(0, -1, -0.10)),
        polygon((-0.40, 0.05), (-0.30, -0.34), (0.06, -0.34), (0.08, 0.05), round_=0.06),
    )[k.variant]
    panes = (
        union(
            polygon((-0.37, -0.03), (-0.24, -0.27), (-0.06, -0.27), (-0.06, -0.03), round_=0.02),
            polygon((0.06, -0.03), (0.06, -0.27), (0.20, -0.27), (0.36, -0.03), round_=0.02),
        ),
        union(
            intersect(ellipse(0.02, 0.04, 0.44, 0.40), box(-0.26, -0.18, 0.20, 0.16)),
            intersect(ellipse(0.02, 0.04, 0.44, 0.40), box(0.26, -0.18, 0.18, 0.16)),
        ),
        polygon((-0.30, -0.03), (-0.23, -0.26), (0.0, -0.26), (0.0, -0.03), round_=0.02),
    )[k.variant]
    wheel = 0.20 + 0.025 * k.a
    return Drawing(
        [
            Part(cabin, "second"),
            Part(panes, "glass", flat=True),
            Part(
                (
                    box(0, 0.20, 0.80, 0.22, 0.14),
                    blend(box(0, 0.24, 0.78, 0.18, 0.16), ellipse(0.02, 0.16, 0.66, 0.22), 0.1),
                    polygon((-0.72, 0.06), (0.74, -0.02), (0.74, 0.34), (-0.72, 0.34), round_=0.07),
                )[k.variant]
            ),
            Part(box(0, 0.39, 0.80, 0.045, 0.04), "metal"),
            Part(box(-0.02, 0.12, 0.06, 0.018, 0.015), "metal", flat=True),
            Part(ellipse(-0.74, 0.16, 0.06, 0.075), "gold"),
            Part(mirrored(circle(0.45, 0.44, wheel)), "tyre"),
            Part(mirrored(circle(0.45, 0.44, 0.5 * wheel)), "light"),
        ],
        mark=Spot(0.0, 0.19, 0.19),
        top=Spot((-0.02, 0.02, -0.12)[k.variant], -0.40, 0.28),
        upright=False,
        tiles=False,
    )


def train(k: Look) -> Drawing:
    stack = -0.46 - 0.08 * k.a
    boiler = (
        box(-0.22, 0.12, 0.50, 0.25, 0.14),
        box(-0.22, 0.10, 0.50, 0.27, 0.06),
        box(-0.20, 0.16, 0.50, 0.21, 0.16),
    )[k.variant]
    funnel = (
        polygon((-0.50, -0.04), (-0.58, stack), (-0.32, stack), (-0.38, -0.04), round_=0.02),
        union(box(-0.44, -0.22, 0.08, 0.22), box(-0.44, stack + 0.02, 0.14, 0.06, 0.03)),
        polygon(
            (-0.52, -0.04),
            (-0.50, stack + 0.12),
            (-0.60, stack),
            (-0.28, stack),
            (-0.38, stack + 0.12),
            (-0.36, -0.04),
            round_=0.02,
        ),
    )[k.variant]
    small = union(circle(-0.52, 0.54, 0.145), circle(-0.16, 0.54, 0.145))
    return Drawing(
        [
            Part(union(circle(-0.36, stack - 0.14, 0.08), circle(-0.20, stack - 0.20, 0.11)), "light"),
            Part(funnel, "second"),
            Part(circle(-0.08, -0.14, 0.11), "gold"),
            Part(boiler),
            Part(polygon((-0.70, 0.40), (-0.70, 0.62), (-0.88, 0.66), round_=0.02), "metal"),
            Part(box(0.42, -0.02, 0.30, 0.46, 0.03)),
            Part(box(0.42, -0.52, 0.38, 0.07, 0.05), "second"),
            Part(box(0.42, -0.18, 0.17, 0.15, 0.03), "glass", flat=True),
            Part(box(0.0, 0.42, 0.74, 0.07, 0.03), "second"),
            Part(circle(-0.70, 0.06, 0.085), "gold"),
            Part(small, "tyre"),
            Part(circle(0.38, 0.48, 0.22 + 0.02 * k.b), "tyre"),
            Part(
                union(circle(-0.52, 0.54, 0.07), circle(-0.16, 0.54, 0.07), circle(0.38, 0.48, 0.11)), "light"
            ),
        ],
        mark=Spot(-0.22, 0.13, 0.19),
        top=Spot(0.42, -0.57, 0.26),
        upright=False,
        tiles=False,
    )


def boat(k: Look) -> Drawing:
    w, mast = 0.74 + 0.04 * k.a, -0.70 - 0.05 * k.b
    hull = polygon((-w, 0.34), (w, 0.34), (0.44, 0.64), (-0.46, 0.64), round_=0.06)
    sails = (
        [
            Part(capsule(0, mast, 0, 0.36, 0.032), "wood"),
            Part(polygon((0.09, mast + 0.10), (0.60, 0.18), (0.09, 0.18), round_=0.03), "second"),
            Part(polygon((-0.09, mast + 0.24), (-0.09, 0.18), (-0.50, 0.18), round_=0.03), "second"),
        ],
        [
            Part(box(-0.04, 0.12, 0.46, 0.20, 0.03), "light"),
            Part(union(*(circle(x, 0.12, 0.075) for x in (-0.30, -0.04, 0.22))), "glass", flat=True),
            Part(polygon((-0.02, -0.06), (0.0, -0.48), (0.26, -0.48), (0.24, -0.06), round_=0.02), "second"),
            Part(circle(0.22, -0.64, 0.085), "light"),
            Part(circle(0.38, -0.74, 0.11), "light"),
        ],
        [
            Part(capsule(-0.04, mast, -0.04, 0.36, 0.036), "wood"),
            Part(
                polygon(
                    (-0.46, -0.52), (0.42, -0.52), (0.48, 0.14), (-0.56, 0.14), (-0.42, -0.2), round_=0.04
                ),
                "second",
            ),
        ],
    )[k.variant]
    flag = (
        []
        if k.variant == 1
        else [Part(polygon((0.0, mast - 0.02), (0.20, mast + 0.05), (0.0, mast + 0.12), round_=0.01))]
    )
    return Drawing(
        [*sails, *flag, Part(hull), Part(box(0, 0.34, w + 0.05, 0.05, 0.04), "wood")],
        mark=Spot(0, 0.50, 0.15),
        top=Spot((0.0, 0.13, -0.04)[k.variant], (mast, -0.48, mast)[k.variant], 0.20),
        upright=False,
        tiles=False,
    )


def rocket(k: Look) -> Drawing:
    r = 0.27 + 0.03 * k.a
    body = (
        intersect(
            ellipse(-0.32, 0.06, 0.60 + 0.02 * k.a, 0.92),
            ellipse(0.32, 0.06, 0.60 + 0.02 * k.a, 0.92),
            half_plane(0, -1, -0.48),
        ),
        union(box(0, 0.12, r, 0.38, 0.05), intersect(ellipse(0, -0.24, r, 0.56), half_plane(0, -1, 0.2))),
        intersect(ellipse(0, 0.02, r + 0.06, 0.80), half_plane(0, -1, -0.48)),
    )[k.variant]
    fin = (
        polygon((0.18, 0.18), (0.52, 0.44), (0.50, 0.68), (0.20, 0.50), round_=0.04),
        polygon((0.22, 0.10), (0.54, 0.56), (0.22, 0.52), round_=0.04),
        stroke((0.22, 0.24), (0.46, 0.42), (0.46, 0.66), r=0.08),
    )[k.variant]
    flame = union(
        polygon((-0.15, 0.50), (0.15, 0.50), (0.06, 0.76), (0, 0.86 + 0.03 * k.b), (-0.06, 0.76), round_=0.03)
    )
    return Drawing(
        [
            Part(flame, "gold"),
            Part(polygon((-0.07, 0.50), (0.07, 0.50), (0, 0.68), round_=0.02), "light", flat=True),
            Part(mirrored(fin), "second"),
            Part(body),
            Part(intersect(body, half_plane(0, -1, 0.42)), "second"),
            Part(circle(0, -0.16, 0.135), "metal"),
            Part(circle(0, -0.16, 0.095), "glass", flat=True),
            Part(box(0, 0.50, 0.18, 0.05, 0.03), "metal"),
        ],
        mark=Spot(0, 0.22, 0.18),
        top=Spot(0, (-0.66, -0.70, -0.68)[k.variant], 0.20),
        tiles=False,
    )


def robot(k: Look) -> Drawing:
    head = (
        box(0, -0.38, 0.34, 0.25, 0.06),
        box(0, -0.38, 0.34, 0.25, 0.22),
        polygon((-0.24, -0.58), (0.24, -0.58), (0.32, -0.18), (-0.32, -0.18), round_=0.04),
    )[k.variant]
    arm = (
        stroke((0.38, 0.10), (0.58, 0.22), (0.58, 0.42), r=0.075),
        stroke((0.38, 0.10), (0.60, 0.02), (0.62, -0.22), r=0.075),
        stroke((0.38, 0.08), (0.56, 0.40), r=0.085),
    )[k.variant]
    hand = ((0.58, 0.46), (0.62, -0.26), (0.58, 0.44))[k.variant]
    w = 0.34 + 0.04 * k.a
    return Drawing(
        [
            Part(capsule(0, -0.60, 0, -0.76 - 0.04 * k.b, 0.026), "metal"),
            Part(circle(0, -0.79 - 0.04 * k.b, 0.065), "gold"),
            Part(mirrored(box(0.37, -0.38, 0.06, 0.09, 0.03)), "second"),
            Part(mirrored(union(arm, circle(*hand, 0.10))), "second"),
            Part(mirrored(union(box(0.17, 0.60, 0.085, 0.14), box(0.19, 0.72, 0.14, 0.06, 0.04))), "second"),
            Part(box(0, -0.10, 0.09, 0.08), "metal"),
            Part(box(0, 0.24, w, 0.30, 0.08)),
            Part(head),
            Part(box(0, -0.38, 0.26, 0.165, 0.10), "dark", flat=True),
            Part(mirrored(circle(0.115, -0.42, 0.062)), "glass", flat=True),
            Part(arc(0, -0.36, 0.10, 0.08, 0.42, 0.018, 4), "glass", flat=True),
        ],
        mark=Spot(0, 0.24, 0.22),
        top=Spot(0, -0.60, 0.30),
        eyes=Spot(0, -0.42, 0.30),
        neck=Spot(0, -0.08, 0.26),
        tiles=False,
    )


THINGS: dict[str, Builder] = {
    f.__name__: f
    for f in (teapot, vase, cup, cake, lamp, umbrella, guitar, house, car, train, boat, rocket, robot)
}
