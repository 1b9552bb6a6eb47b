"""Styles drawn by hand with a point: cartoon, sketch, crayon, blueprint, and chalk, which the base never sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world.fields import Array, Fields

from .parameters import INKS, PAPERS, RGB, choice, number, tone
from .textures import (
    clip,
    covered,
    flag,
    fraction,
    grid,
    length,
    lifted,
    luma,
    mix,
    noise,
    rgb,
    ridge,
    saturated,
    smooth,
    streaks,
    turned,
    vivid,
    wobbled,
)


@dataclass(frozen=True)
class Cartoon:
    line: float = number(1.8, 4.6, "thin line", "thick line")  # px
    ink: RGB = tone(
        {
            "black": (0.07, 0.06, 0.09),
            "brown": (0.34, 0.17, 0.07),
            "blue": (0.08, 0.14, 0.42),
            "purple": (0.30, 0.08, 0.36),
        },
        "line",
    )
    shade: float = number(0.06, 0.44, "flat", "shaded")
    saturation: float = number(0.72, 1.30, "pale", "vivid")
    pattern: str = choice("plain", "dots", "rays", "waves")


def cartoon(f: Fields, p: Cartoon) -> Array:
    u, v = turned(f, 0.5)
    cx, cy, _ = f.centre
    if p.pattern == "dots":
        marks = covered(f, length(ridge(u, 14), ridge(v, 14)) * 7 - 3.2)
    elif p.pattern == "rays":
        turn = np.arctan2(f.y - cy, f.x - cx)
        marks = clip(np.sin(turn * 8 + 0.3) * 60 * length(f.x - cx, f.y - cy) * 0.3 + 0.5)
    elif p.pattern == "waves":
        gx, gy = grid(f.x.shape[-1])
        marks = covered(f, ridge(gy + 2.5 * np.sin(gx * 0.22), 16) * 8 - 3)
    else:
        marks = np.zeros_like(f.x)
    marks = marks * (f.ground_area == 0)
    scene = saturated(f.ground * (1.03 - 0.14 * marks), p.saturation)
    tone_ = 1 - p.shade * clip((0.50 - f.light) * 12 + 0.5)
    body = saturated(f.albedo, p.saturation) * tone_
    body = mix(body, 1.0, 0.75 * clip((f.light - 0.93) * 30))
    heavy = (p.line / 128) * (1.25 - 0.5 * f.light)
    lines = np.maximum(f.cover(np.abs(f.dist) - heavy), f.line(max(0.55 * p.line, 1.5) / 128))
    ink = rgb(p.ink)
    scene = mix(scene, ink, 0.8 * f.cover(f.ground_edge - 0.55 * p.line / 128))
    return mix(mix(scene, body, f.inside), ink, lines)


@dataclass(frozen=True)
class Sketch:
    ink: RGB = tone(INKS, "ink")
    paper: RGB = tone(PAPERS, "paper")
    line: float = number(1.5, 3.6, "fine", "bold")  # px
    angle: float = number(-1.2, 1.2)
    spacing: float = number(4.5, 8.5)  # px from one hatching line to the next
    wash: float = number(0.30, 0.75, "pale", "")


def sketch(f: Fields, p: Sketch) -> Array:
    f = wobbled(f, 1.2)
    paper, ink = rgb(p.paper), rgb(p.ink)
    u, v = turned(f, p.angle)
    shade = clip(1.0 - 1.05 * f.light)
    sway = 2.5 * noise(f, 32, 6)
    first = covered(f, ridge(v + sway, p.spacing) * p.spacing / 2 - np.minimum(2.4 * (shade - 0.12), 1.0))
    second = covered(f, ridge(u + sway, p.spacing) * p.spacing / 2 - np.minimum(2.6 * (shade - 0.42), 1.0))
    strokes = np.maximum(first, 0.8 * second) * f.cover(f.dist + 0.01)
    outside = f.cover(-f.dist)
    patches = smooth(2.2 * noise(f, 32, 36) - 0.5)  # hatched here and there
    ground_lines = patches * covered(
        f, ridge(u - v * 0.6, 1.7 * p.spacing) * 0.85 * p.spacing - 0.55 * p.line
    )
    shadow = lifted(f, 0.10, 0.07, 0.03)
    fall = np.maximum(
        0.6 * shadow * covered(f, ridge(v + u * 0.5, p.spacing) * p.spacing / 2 - 0.22 * p.spacing),
        0.36 * ground_lines * (0.4 + 0.6 * flag(f.ground_area > 0)),
    )
    washed = mix(paper, f.ground * (0.25 + 0.75 * paper), 0.16 + 0.52 * p.wash)
    body = mix(paper, f.albedo * (0.2 + 0.8 * paper), 0.2 + p.wash)
    picture = mix(washed, body, f.inside)
    again = np.abs(f.dist - 0.035 - 0.06 * (noise(f, 32, 6) - 0.5))  # the pencil goes round twice
    lines = np.maximum(f.line(max(0.6 * p.line, 1.5) / 128), 0.42 * f.cover(again - 0.75 / 64))
    lines = np.maximum(lines, f.cover(np.abs(f.dist) - p.line / 128))
    lines = np.maximum(lines, 0.7 * f.cover(f.ground_edge - 0.6 * p.line / 128) * outside)
    marks = np.maximum(np.maximum(0.66 * strokes, fall * outside), lines)
    return mix(picture, ink, marks * (0.72 + 0.26 * noise(f, 8, 7)))


@dataclass(frozen=True)
class Crayon:
    paper: RGB = tone(PAPERS, "paper")
    pressure: float = number(0.38, 0.85, "light", "heavy")
    angle: float = number(-1.3, 1.3)
    stroke: float = number(4.0, 9.0, "fine", "broad")  # px
    outline: float = number(2.0, 5.0)  # px
    loose: float = number(0.5, 3.2, "neat", "loose")  # px by which the hand strays


def crayon(f: Fields, p: Crayon) -> Array:
    f = wobbled(f, p.loose)
    paper = rgb(p.paper) * (0.97 + 0.05 * noise(f, 8, 8))
    tooth = noise(f, 4, 9)
    wander = 4.0 * noise(f, 32, 10)

    def waxed(angle: float, period: float, more: Array | float) -> Array:
        """Coverage of wax rubbed along a direction: even strokes, broken by streaks and by the paper's tooth."""
        u, v = turned(f, angle)
        v = v + wander
        streak = 0.45 * ridge(v, period) + 0.55 * streaks(f, 2 * u, 2 * v, 4, 19)
        return smooth(0.60 + 1.3 * (streak - 0.92 + 0.90 * (p.pressure + more)) + 0.8 * (tooth - 0.5))

    shade = 0.40 * (0.5 - f.light)
    inner = waxed(p.angle, p.stroke, shade) * f.cover(f.dist + 0.01)
    outer = waxed(p.angle + 1.0, 1.35 * p.stroke, -0.06) * f.cover(0.035 - f.dist)
    scene = mix(paper, f.ground, 0.92 * outer)
    scene = mix(scene, saturated(f.albedo, 1.15) * (1.02 - 0.25 * clip(0.6 - f.light)), 0.96 * inner)
    rough = 0.012 * (tooth - 0.5)
    lines = smooth(0.5 - (f.edge - p.outline / 128 + rough) / 0.02) * (0.62 + 0.38 * tooth)
    return mix(scene, 0.42 * f.albedo, 0.92 * lines)


@dataclass(frozen=True)
class Blueprint:
    paper: RGB = tone(
        {
            "blue": (0.10, 0.26, 0.56),
            "navy": (0.06, 0.11, 0.27),
            "teal": (0.05, 0.34, 0.38),
            "brown": (0.33, 0.19, 0.11),
        },
        "paper",
    )
    line: float = number(1.5, 3.4, "thin", "thick")  # px
    grid: float = number(8.0, 16.0, "fine grid", "coarse grid")  # px
    angle: float = number(-1.2, 1.2)
    fill: float = number(0.20, 0.75)
    plan: str = choice("circle", "cross", "square")


def blueprint(f: Fields, p: Blueprint) -> Array:
    gx, gy = grid(f.x.shape[-1])
    paper = rgb(p.paper) * (0.90 + 0.2 * noise(f, 32, 11)) + 0.10 * (luma(f.ground) - 0.5)
    fine = covered(f, np.minimum(ridge(gx, p.grid), ridge(gy, p.grid)) * p.grid / 2 - 0.75)
    main = covered(f, np.minimum(ridge(gx, 4 * p.grid), ridge(gy, 4 * p.grid)) * 2 * p.grid - 0.8)
    outside = f.cover(0.02 - f.dist)
    marks = np.maximum(0.20 * fine, 0.40 * main) * (0.35 + 0.65 * outside)
    cx, cy, s = f.centre
    u, v = np.abs(f.x - cx), np.abs(f.y - cy)
    dashed = fraction((gx + gy) / 10) < 0.65
    if p.plan == "circle":
        drawn = np.abs(length(u, v) - 0.93 * s)
    elif p.plan == "square":
        drawn = np.abs(np.maximum(u, v) - 0.88 * s)
    else:
        drawn = np.minimum(u, v)
    marks = np.maximum(marks, 0.65 * f.cover(drawn - 0.75 / 64) * dashed * outside)
    marks = np.maximum(marks, 0.7 * f.cover(f.ground_edge - 0.5 * p.line / 128) * outside)
    _, across = turned(f, p.angle)
    bright = luma(f.albedo)
    hatch = covered(f, ridge(across, 5.0) * 2.5 - 2.0 * bright)
    body = p.fill * (0.18 + 0.62 * bright + 0.30 * hatch * bright) * (0.75 + 0.35 * f.light)
    marks = mix(marks, np.maximum(body, 0.5 * marks), f.inside)
    marks = np.maximum(marks, f.line(max(0.6 * p.line, 1.5) / 128))
    return mix(paper, rgb((0.93, 0.96, 0.98)), np.maximum(marks, f.cover(np.abs(f.dist) - p.line / 128)))


@dataclass(frozen=True)
class Chalk:
    board: RGB = tone(
        {"green": (0.10, 0.27, 0.20), "black": (0.12, 0.12, 0.13), "blue": (0.10, 0.17, 0.33)}, "board"
    )
    chalk: RGB = tone(
        {"white": (0.97, 0.96, 0.92), "yellow": (0.98, 0.90, 0.48), "pink": (0.98, 0.66, 0.74)}, "chalk"
    )
    stroke: float = number(4.0, 8.0, "fine", "broad")  # px
    angle: float = number(-1.3, 1.3)
    dust: float = number(0.2, 1.0, "clean", "dusty")


def chalk(f: Fields, p: Chalk) -> Array:
    f = wobbled(f, 1.5)
    tooth, smear = noise(f, 4, 12), noise(f, 32, 13)
    dusty = smooth((smear - 0.45) * 2.5) * (0.6 + 0.4 * tooth)
    board = mix(rgb(p.board), 0.80, 0.26 * p.dust * dusty)
    u, v = turned(f, p.angle + 0.9)
    far = smooth(1.6 * streaks(f, 1.6 * u, 1.6 * v, 4, 33) - 0.40 + 0.5 * (tooth - 0.5)) * f.cover(
        0.05 - f.dist
    )
    far = 0.46 * far
    board = mix(board, vivid(f.ground), far)
    u, v = turned(f, p.angle)
    rubbed = 0.55 * ridge(v + 2 * smear, p.stroke) + 0.8 * streaks(f, 2 * u, 2 * v, 4, 34)
    streak = smooth(1.5 * rubbed - 0.45 + 0.9 * (tooth - 0.5) + 0.6 * (f.light - 0.5))
    filled = mix(board, mix(vivid(f.albedo), 1.0, 0.10), 0.92 * streak * f.inside)
    lines = smooth(0.5 - (f.edge - 0.020 + 0.014 * (tooth - 0.5)) / 0.02) * (0.55 + 0.45 * tooth)
    lines = np.maximum(lines, 0.6 * f.cover(f.ground_edge - 0.014) * f.cover(-f.dist) * (0.4 + 0.6 * tooth))
    return mix(filled, rgb(p.chalk), lines)
