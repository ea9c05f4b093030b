# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Pathfinder: gray images of two long dashed curves among short ones. One round marker sits at the origin of a long curve,
another at a far end; the label says whether both sit on the same curve.

The curves follow the description of Long Range Arena's images; how dashes keep apart and are drawn in detail is our
choice. An image is a function of the seed and its index alone, by way of `numpy.random.Generator.random()`, so images can
be made in pieces and in parallel. Places are pairs of row and column, in pixels from the upper left corner.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np

# A shape of which so many pairs of curves in a row do not fit is taken for one that cannot be drawn.
MAX_PAIRS = 2000
# How often each distractor is tried before it is left out.
MAX_DISTRACTORS = 4
# Of the Lanczos filter that shrinks a drawing, in pixels of the image.
LANCZOS_LOBES = 3


@dataclass(frozen=True)
class PathfinderShape:
    """
    What an image may look like; the defaults are those of Long Range Arena's hardest set of 32 x 32 pixels. Lengths are in
    pixels of the image.

    Args:
        size (`int`): Height and width.
        padding (`int`): Width of the border that stays black.
        antialias_scale (`int`): How much finer than the image the drawing is.
        paddle_length, paddle_thickness (`float`): Of a dash.
        paddle_margin (`float`): Half of the way from the end of a dash to the start of the next, and half of the least
            distance between the middle lines of any others, to within a cell of the drawing.
        paddle_contrast, snake_contrast (`float`): Their product is the brightness of dashes, of long curves and
            distractors alike; what exceeds white is cut off. Markers are white.
        marker_radius (`float`): Of the two round markers.
        seed_distance (`float`): Between the origins of the long curves. The first of them starts twice as far from the
            edges of the image at least.
        continuity (`float`): A turn of that many times fewer degrees is as unlikely as at 1, where all turns below 90
            degrees can be. At least 1.
        contour_length (`int`): Dashes of a long curve.
        distractor_length (`int`, *optional*, defaults to a third of `contour_length`): Dashes of a distractor.
        num_distractors (`int`, *optional*, defaults to `20 // distractor_length`): The most there are; those that do not
            fit are left out.
    """

    size: int = 32
    padding: int = 1
    antialias_scale: int = 2
    paddle_length: float = 2
    paddle_thickness: float = 0.5
    paddle_margin: float = 1
    paddle_contrast: float = 0.75
    snake_contrast: float = 2
    marker_radius: float = 1.5
    seed_distance: float = 7
    continuity: float = 1.0
    contour_length: int = 14
    distractor_length: int | None = None
    num_distractors: int | None = None

    def __post_init__(self):
        whole = {"size": 1, "padding": 0, "antialias_scale": 1, "contour_length": 1}
        optional = {"distractor_length": 1, "num_distractors": 0}
        for name, least in {**whole, **optional}.items():
            value = getattr(self, name)
            if (value is not None or name in whole) and not (isinstance(value, int) and value >= least):
                raise ValueError(f"{name} is {value}: a whole number of at least {least} is needed")
        positive = ("paddle_length", "paddle_thickness", "paddle_margin", "paddle_contrast", "snake_contrast")
        for name in (*positive, "marker_radius", "seed_distance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: a number above 0 is needed")
        if not 1 <= self.continuity < math.inf:
            raise ValueError(f"continuity is {self.continuity}: below 1 a curve could turn back on itself")
        if self.paddle_thickness >= 2 * self.paddle_margin:
            raise ValueError(
                f"paddle_thickness is {self.paddle_thickness}: dashes {2 * self.paddle_margin} apart, twice the paddle_margin, "
                "would touch"
            )
        if 2 * self.padding >= self.size:
            raise ValueError(f"padding is {self.padding}: less than half of the size, {self.size}, is needed")
        if self.size < 4 * self.seed_distance:
            raise ValueError(
                f"seed_distance is {self.seed_distance}: at most a quarter of the size, {self.size / 4}, leaves a place to start"
            )

    @property
    def distractors(self) -> tuple[int, int]:
        """How many distractors there are at most, and the dashes of each."""
        length = self.distractor_length or max(1, self.contour_length // 3)
        return (20 // length if self.num_distractors is None else self.num_distractors), length


@dataclass(frozen=True)
class PathfinderParts:
    """
    What an image shows.

    Args:
        curves (`numpy.ndarray` of shape `(2, contour_length, 2, 2)`): Start and end of the dashes of both long curves.
        distractors (`numpy.ndarray` of shape `(distractors, distractor_length, 2, 2)`): The same of the short curves.
        markers (`numpy.ndarray` of shape `(2, 2)`): The markers' centres: first that at an origin, then that at a far end.
        label (`int`): 1 if the markers sit on the same curve, else 0.
    """

    curves: np.ndarray
    distractors: np.ndarray
    markers: np.ndarray
    label: int


class _Tables:
    """What all images of a shape have in common."""

    def __init__(self, shape: PathfinderShape):
        self.scale, margin, thickness = shape.antialias_scale, shape.paddle_margin, shape.paddle_thickness
        # Rounded, because the last digit of a cosine is not the same on every machine.
        degrees = np.array([[round(f(math.radians(d)), 12) for f in (math.sin, math.cos)] for d in range(360)])
        weights = [math.cos(math.radians(min(shape.continuity * abs(turn), 90))) ** 2 for turn in range(-89, 90)]
        self.weights = np.array([round(weight, 12) for weight in weights])
        # Three times around, so that all turns from any heading are one slice.
        self.directions = np.concatenate([degrees] * 3)
        # A dash fits where it is free and where the next one would start; without a look that far ahead most pairs of
        # curves end in front of a wall. The points are close enough that nothing which is kept away fits between them.
        self.pitch, self.reach = shape.paddle_length + 2 * margin, 2 * margin
        points = np.linspace(0, self.pitch, math.ceil(self.pitch / margin) + 1)
        # Of shape (2, orientations, points), in cells.
        self.fan = (self.directions.T[:, :, None] * points) * self.scale
        self.border = math.ceil((self.pitch + max(self.reach, shape.marker_radius, thickness) + 1) * self.scale) + 2
        # A dash keeps its margin inside of the padding.
        inner = shape.padding + margin + thickness / 2
        self.centres = (np.arange(shape.size * self.scale + 2 * self.border) + 0.5 - self.border) / self.scale
        outside = (self.centres < inner) | (self.centres > shape.size - inner)
        self.walls = (outside[:, None] | outside).astype(np.uint8)
        self.shrink = _lanczos(shape.size, self.scale)
        self.shrink[: shape.padding] = self.shrink[shape.size - shape.padding :] = 0

    def around(self, start: np.ndarray, end: np.ndarray, reach: float) -> tuple[tuple[slice, slice], np.ndarray]:
        """The part of the grid that covers all cells within `reach` of a segment, and their squared distances from it."""
        # Plain numbers: on arrays this small numpy's own time is in the number of calls.
        (row, column), (end_row, end_column) = start.tolist(), end.tolist()
        down, right = end_row - row, end_column - column
        # A point has no length to divide by.
        squared = down * down + right * right or 1.0
        half = math.ceil((math.sqrt(squared) / 2 + reach) * self.scale) + 1
        middle = [math.floor((a + b) / 2 * self.scale) + self.border for a, b in ((row, end_row), (column, end_column))]
        part = tuple(slice(m - half, m + half + 1) for m in middle)
        rows, columns = self.centres[part[0], None] - row, self.centres[part[1]] - column
        share = rows * (down / squared) + columns * (right / squared)
        share = np.minimum(np.maximum(share, 0), 1)
        rows, columns = rows - share * down, columns - share * right
        return part, rows * rows + columns * columns


def _lanczos(size: int, scale: int) -> np.ndarray:
    """Weights of shape `(size, size * scale)` that shrink a drawing by `scale`."""
    distance = (np.arange(size * scale) + 0.5) / scale - (np.arange(size)[:, None] + 0.5)
    weights = np.sinc(distance) * np.sinc(distance / LANCZOS_LOBES) * (np.abs(distance) < LANCZOS_LOBES)
    return weights / weights.sum(axis=1, keepdims=True)


@lru_cache(maxsize=8)
def _tables(shape: PathfinderShape) -> _Tables:
    return _Tables(shape)


class _Field:
    """The grid on which curves grow: it counts, for each cell, the dashes that no other may come that near to."""

    def __init__(self, shape: PathfinderShape):
        self.shape, self.tables = shape, _tables(shape)
        self.taken = self.tables.walls.copy()

    def fits(self, origin: np.ndarray, first: int, number: int) -> np.ndarray:
        """Which dashes from `origin` have room, of `number` orientations from `first` on; of shape `(number,)`."""
        start = origin * self.shape.antialias_scale + self.tables.border
        rows, columns = (start[:, None, None] + self.tables.fan[:, first : first + number]).astype(int)
        return (self.taken.take(rows * len(self.taken) + columns) == 0).all(axis=1)

    def put(self, dash: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take the cells around a dash; what is returned is the view of the grid, and what was added to it."""
        part, squared = self.tables.around(dash[0], dash[1], self.tables.reach)
        view, zone = self.taken[part], (squared <= self.tables.reach**2).astype(np.uint8)
        view += zone
        return view, zone


class _Curve:
    """A curve that grows on a field dash by dash."""

    def __init__(self, field: _Field, origin: np.ndarray):
        self.field, self.pivot = field, origin
        self.dashes, self.zones = [], []

    def start(self, draw: np.random.Generator) -> bool:
        """Put the first dash, of any orientation that fits; `False` where none does."""
        free = np.flatnonzero(self.field.fits(self.pivot, 0, 360))
        return len(free) > 0 and self._put(int(free[int(draw.random() * len(free))]))

    def extend(self, draw: np.random.Generator) -> bool:
        """Put the next dash; `False` where no turn leaves it room."""
        tables = self.field.tables
        self.pivot = self.pivot + tables.directions[self.heading] * tables.pitch
        # The gap to its own last dash is given by the step, whatever the turn.
        view, zone = self.zones[-1]
        view -= zone
        free = self.field.fits(self.pivot, self.heading + 360 - 89, 179)
        view += zone
        # Unlike a sum, a running sum is added up in the same order on every machine.
        heights = np.cumsum(tables.weights * free)
        if heights[-1] == 0:
            return False
        turn = int(np.searchsorted(heights, draw.random() * heights[-1], side="right")) - 89
        return self._put((self.heading + turn) % 360)

    def remove(self):
        for view, zone in self.zones:
            view -= zone

    def _put(self, heading: int) -> bool:
        self.heading = heading
        end = self.pivot + self.field.tables.directions[heading] * self.field.shape.paddle_length
        self.dashes.append(np.array([self.pivot, end]))
        self.zones.append(self.field.put(self.dashes[-1]))
        return True


def _draw_pair(draw: np.random.Generator, field: _Field) -> np.ndarray | None:
    """Two long curves that grow by turns, or `None` when one of them has no room left."""
    shape = field.shape
    room = shape.size - 4 * shape.seed_distance
    origin = np.array([draw.random(), draw.random()]) * room + 2 * shape.seed_distance
    direction = field.tables.directions[int(draw.random() * 360)]
    curves = [_Curve(field, origin), _Curve(field, origin + direction * shape.seed_distance)]
    if not all(curve.start(draw) for curve in curves):
        return None
    for _ in range(shape.contour_length - 1):
        if not all(curve.extend(draw) for curve in curves):
            return None
    return np.array([curve.dashes for curve in curves])


def _draw_distractors(draw: np.random.Generator, field: _Field) -> np.ndarray:
    """Short curves in the room that is left."""
    number, length = field.shape.distractors
    found = []
    for _ in range(number * MAX_DISTRACTORS):
        if len(found) == number:
            break
        free = np.argwhere(field.taken == 0)
        if not len(free):
            break
        cell = free[int(draw.random() * len(free))] - field.tables.border
        curve = _Curve(field, (cell + 0.5) / field.shape.antialias_scale)
        if curve.start(draw) and all(curve.extend(draw) for _ in range(length - 1)):
            found.append(curve.dashes)
        else:
            curve.remove()
    return np.array(found, dtype=float).reshape(len(found), length, 2, 2)


def draw_parts(draw: np.random.Generator, shape: PathfinderShape) -> PathfinderParts:
    """
    Where the parts of one image lie.

    Raises:
        `ValueError`: A shape of which no pair of curves fits.
    """
    label = int(draw.random() < 0.5)
    marked = int(draw.random() < 0.5)
    for _ in range(MAX_PAIRS):
        field = _Field(shape)
        curves = _draw_pair(draw, field)
        if curves is not None:
            break
    else:
        raise ValueError(f"{shape}: of {MAX_PAIRS} pairs of curves none fitted; a shorter contour_length may")
    distractors = _draw_distractors(draw, field)
    far = marked if label else 1 - marked
    return PathfinderParts(curves, distractors, np.stack([curves[marked, 0, 0], curves[far, -1, 1]]), label)


def _paint(strokes: np.ndarray, radius: float, shape: PathfinderShape) -> np.ndarray:
    """
    Strokes with round ends, white on black: from starts and ends of shape `(strokes, 2, 2)` an image of shape `(size, size)`
    whose values leave 0 to 1 a little, as those of a Lanczos filter do.
    """
    tables = _tables(shape)
    canvas = np.zeros(tables.walls.shape)
    for start, end in strokes:
        part, squared = tables.around(start, end, radius + 1 / tables.scale)
        # Cells that the edge crosses are gray.
        canvas[part] = np.maximum(canvas[part], (radius - np.sqrt(squared)) * tables.scale + 0.5)
    inner = slice(tables.border, -tables.border)
    return tables.shrink @ np.minimum(canvas[inner, inner], 1) @ tables.shrink.T


def render(parts: PathfinderParts, shape: PathfinderShape) -> np.ndarray:
    """The image of shape `(size, size)` and type `uint8`."""
    image = np.zeros((shape.size,) * 2)
    for dashes in (parts.curves, parts.distractors):
        strokes = _paint(dashes.reshape(-1, 2, 2), shape.paddle_thickness / 2, shape)
        image = np.maximum(image, strokes * (shape.paddle_contrast * shape.snake_contrast))
    image = np.maximum(image, _paint(parts.markers[:, None].repeat(2, axis=1), shape.marker_radius, shape))
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def draw_image(draw: np.random.Generator, shape: PathfinderShape) -> tuple[np.ndarray, int]:
    """An image of shape `(size, size)` and type `uint8`, and its label. Raises what `draw_parts` does."""
    parts = draw_parts(draw, shape)
    return render(parts, shape), parts.label


def generator_of(seed: int, index: int) -> np.random.Generator:
    """What the image of that index is drawn from."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(index,))))


def generate(seed: int, shape: PathfinderShape | None = None, start: int = 0) -> Iterator[tuple[np.ndarray, int]]:
    """The images from index `start` on and their labels, without end."""
    shape = shape or PathfinderShape()
    for index in count(start):
        yield draw_image(generator_of(seed, index), shape)
