"""What a style may know of a scene: distances, colours and light on a grid of points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Fields:
    """Fields of one scene on n x n points, float32; distances are in half frames (the frame spans -1..1, y down)."""

    x: Array  # (n, n) frame coordinates
    y: Array
    dist: Array  # (n, n) signed distance to the silhouette of everything in front of the ground, negative inside
    edge: (
        Array  # (n, n) distance to the nearest visible border of a part or a marking, in front of the ground
    )
    label: Array  # (n, n) int8, topmost part, 0 for the ground
    albedo: (
        Array  # (3, n, n) local colour 0..1 of what is in front, carried on a little outside the silhouette
    )
    light: Array  # (n, n) 0..1, how far the rounded surface faces the light at the upper left
    ground: (
        Array  # (3, n, n) local colour 0..1 of the ground (sky, wall, table, grass, floor ...), flat areas
    )
    ground_edge: (
        Array  # (n, n) distance to the nearest border between two areas of the ground, 9 where there is none
    )
    ground_area: (
        Array  # (n, n) int8, 0 for what stands upright (sky, wall), 1 for what lies (table, grass, floor)
    )
    centre: tuple[float, float, float]  # x, y and scale of the main object
    foot: float  # y at which the main object touches what it stands on (for cast shadows)
    seed: int  # of whatever a style draws at random

    @property
    def pixel(self) -> float:
        """Width of a point in half frames."""
        return 2 / self.x.shape[-1]

    @property
    def inside(self) -> Array:
        """Antialiased coverage of everything in front of the ground."""
        return self.cover(self.dist)

    def cover(self, distance: Array) -> Array:
        """Antialiased coverage of the region where the distance is negative."""
        return np.clip(0.5 - distance / self.pixel, 0, 1)

    def line(self, width: float) -> Array:
        """Coverage of lines of half-width `width` along all visible borders in front of the ground."""
        return self.cover(self.edge - width)
