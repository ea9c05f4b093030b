# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Pathfinder: where the parts of images lie, what is painted of them, labels that only the curves tell, and images that
never change."""

import dataclasses
import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.linear_model import LogisticRegression

from benchmarks.lra import pathfinder
from benchmarks.lra.pathfinder import PathfinderShape, draw_image, draw_parts, generate, generator_of, render

SHAPES = {length: PathfinderShape(contour_length=length) for length in (6, 9, 14)}
HARD = SHAPES[14]
# What generate(0) began with when it was written.
GOLDEN = "77fac62a5aceddd0db48c983ef77146d3d8b84446973048d9992ead8d009e507"
GOLDEN_LABELS = [0, 0, 0, 1, 0, 1, 1, 1]


@pytest.fixture(scope="module")
def parts():
    """Of each contour length; the hardest images are most."""
    numbers = {6: 40, 9: 40, 14: 100}
    return {n: [draw_parts(generator_of(1, i), shape) for i in range(numbers[n])] for n, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def many(parts):
    """Of the hardest images as many as it takes to tell shares apart."""
    return parts[14] + [draw_parts(generator_of(1, i), HARD) for i in range(len(parts[14]), 360)]


@pytest.fixture(scope="module")
def images(many):
    return np.stack([render(part, HARD) for part in many])


@pytest.fixture(scope="module")
def labels(many):
    return np.array([part.label for part in many])


def lengths_of(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1)


def points_on(dashes: np.ndarray, number: int = 9) -> np.ndarray:
    """Points along dashes of shape `(dashes, 2, 2)`, of shape `(dashes, number, 2)`."""
    share = np.linspace(0, 1, number)[:, None]
    return dashes[:, None, 0] * (1 - share) + dashes[:, None, 1] * share


def least_distance(first: np.ndarray, second: np.ndarray) -> float:
    first, second = points_on(first).reshape(-1, 2), points_on(second).reshape(-1, 2)
    return lengths_of(first[:, None] - second).min()


def all_curves(part) -> list[np.ndarray]:
    return [*part.curves, *part.distractors]


def connectivity(part) -> int:
    """The label, from dashes in any order: those whose ends are as far apart as a gap is wide belong together."""
    dashes = np.concatenate(all_curves(part))
    dashes = dashes[np.random.default_rng(0).permutation(len(dashes))]
    gaps = lengths_of(dashes[:, None, 1] - dashes[None, :, 0])
    links = coo_array(np.abs(gaps - 2 * HARD.paddle_margin) < 1e-9)
    number, groups = connected_components(links, directed=False)
    assert number == len(all_curves(part))
    origin = lengths_of(dashes[:, 0] - part.markers[0]).argmin()
    end = lengths_of(dashes[:, 1] - part.markers[1]).argmin()
    return int(groups[origin] == groups[end])


def digest(rows) -> str:
    return hashlib.sha256(b"".join(image.tobytes() + bytes([label]) for image, label in rows)).hexdigest()


def test_the_first_images_never_change():
    assert digest(itertools.islice(generate(0), 3)) == GOLDEN
    assert [label for _, label in itertools.islice(generate(0), 8)] == GOLDEN_LABELS


def test_images_do_not_hang_on_the_process():
    # The file alone, because the package imports much more.
    code = (
        "import hashlib, itertools, runpy, sys; generate = runpy.run_path(sys.argv[1])['generate'];"
        "rows = b''.join(i.tobytes() + bytes([n]) for i, n in itertools.islice(generate(0), 3));"
        "print(hashlib.sha256(rows).hexdigest())"
    )
    command = [sys.executable, "-c", code, pathfinder.__file__]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    printed = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert printed.stdout.split()[-1] == GOLDEN


def test_an_image_is_a_function_of_seed_and_index():
    shape = SHAPES[6]
    whole = list(itertools.islice(generate(3, shape), 6))
    assert digest(itertools.islice(generate(3, shape, start=4), 2)) == digest(whole[4:])
    assert digest([draw_image(generator_of(3, 5), shape)]) == digest(whole[5:])
    others = [*whole, *itertools.islice(generate(4, shape), 6)]
    assert len({image.tobytes() for image, _ in others}) == 12


def test_only_the_method_that_numpy_keeps_is_drawn_from():
    class Draw:
        def __init__(self):
            self.random = generator_of(0, 0).random

    image, label = draw_image(Draw(), SHAPES[6])
    other, other_label = draw_image(generator_of(0, 0), SHAPES[6])
    assert (image == other).all() and label == other_label


@pytest.mark.slow
def test_labels_and_marked_curves_are_even(many, labels):
    spread = 4 * 0.5 / len(labels) ** 0.5
    marked = np.array([(part.markers[0] == part.curves[1, 0, 0]).all() for part in many])
    assert abs(labels.mean() - 0.5) < spread and abs(marked.mean() - 0.5) < spread
    assert abs((marked == labels).mean() - 0.5) < spread


@pytest.mark.parametrize("length", SHAPES)
def test_curves_are_chains_of_dashes(parts, length):
    for part in parts[length]:
        assert part.curves.shape == (2, length, 2, 2)
        assert part.distractors.shape[1:] == (length // 3, 2, 2) and len(part.distractors) <= 20 // (length // 3)
        for dashes in all_curves(part):
            along = dashes[:, 1] - dashes[:, 0]
            assert np.allclose(lengths_of(along), 2) and np.allclose(lengths_of(np.diff(dashes[:, 0], axis=0)), 4)
            # The next dash starts straight ahead, and turns there.
            assert np.allclose(dashes[1:, 0], dashes[:-1, 0] + 2 * along[:-1])
            assert (np.einsum("ij,ij->i", along[1:], along[:-1]) > 0).all()
            assert dashes.min() >= 2 and dashes.max() <= 30
        starts = part.curves[:, 0, 0]
        assert np.isclose(lengths_of(starts[0] - starts[1]), 7)
        assert starts[0].min() >= 14 and starts[0].max() <= 18


def test_starts_orientations_and_turns_are_spread(parts):
    starts = np.array([part.curves[0, 0, 0] for part in parts[14]])
    between = np.array([part.curves[1, 0, 0] for part in parts[14]]) - starts
    # Of a uniform draw the mean lies within four standard errors.
    assert (np.abs(starts.mean(axis=0) - 16) < 4 * 4 / 12**0.5 / len(starts) ** 0.5).all()
    assert (np.abs(between.mean(axis=0) / 7) < 4 * 0.5**0.5 / len(starts) ** 0.5).all()
    first = np.concatenate([part.curves[:, 0, 1] - part.curves[:, 0, 0] for part in parts[6]]) / 2
    assert (np.abs(first.mean(axis=0)) < 4 * 0.5**0.5 / len(first) ** 0.5).all()
    # In the open, where next to nothing is in the way.
    shape = PathfinderShape(size=100, seed_distance=25, antialias_scale=1, contour_length=6, num_distractors=0)
    curves = np.concatenate([draw_parts(generator_of(0, i), shape).curves for i in range(150)])
    down, right = np.moveaxis(curves[:, :, 1] - curves[:, :, 0], 2, 0) / 2
    cosines = down[:, 1:] * down[:, :-1] + right[:, 1:] * right[:, :-1]
    sines = down[:, :-1] * right[:, 1:] - right[:, :-1] * down[:, 1:]
    # By the squared cosine of whole degrees 49.4 % of the turns are below 24, 17.6 % above 45 and 49.4 % to one side.
    for share, expected in (
        (cosines > np.cos(np.radians(23.5)), 0.494),
        (cosines < np.cos(np.radians(45.5)), 0.176),
        (sines > 1e-9, 0.494),
    ):
        assert abs(share.mean() - expected) < 4 * (expected * (1 - expected) / share.size) ** 0.5


def test_continuity_bounds_the_turns():
    shape = PathfinderShape(size=64, seed_distance=12, contour_length=6, continuity=1.8)
    for index in range(5):
        along = np.diff(draw_parts(generator_of(0, index), shape).curves, axis=2)[:, :, 0] / 2
        assert np.einsum("abc,abc->ab", along[:, 1:], along[:, :-1]).min() > np.cos(np.radians(90 / 1.8 + 1))


@pytest.mark.parametrize("length", SHAPES)
def test_curves_keep_apart(parts, length):
    # Twice the margin, less what rounding to a cell of half a pixel can take.
    least = 2 - 0.5**0.5
    for part in parts[length][:30]:
        curves = all_curves(part)
        assert all(least_distance(a, b) > least for a, b in itertools.combinations(curves, 2))
        for dashes in curves:
            pairs = itertools.combinations(range(len(dashes)), 2)
            assert all(least_distance(dashes[i : i + 1], dashes[j : j + 1]) > least for i, j in pairs if j > i + 1)


@pytest.mark.parametrize("length", SHAPES)
def test_no_curve_crosses_another_nor_itself_not_even_in_a_gap(parts, length):
    for part in parts[length][:30]:
        drawing = np.zeros((256, 256), dtype=bool)
        for dashes in all_curves(part):
            path = np.concatenate([dashes[:, 0], dashes[-1:, 1]])
            lines = points_on(np.stack([path[:-1], path[1:]], axis=1), 80).reshape(-1, 2)
            drawing[tuple((lines * 8).astype(int).T)] = True
        drawing = ndimage.binary_dilation(drawing, np.ones((3, 3)))
        assert ndimage.label(drawing, np.ones((3, 3)))[1] == len(all_curves(part))
        # A closed curve would shut off a part of the background.
        assert ndimage.label(~drawing)[1] == 1


@pytest.mark.parametrize("length", SHAPES)
def test_markers_sit_where_the_label_says(parts, length):
    seen = set()
    for part in parts[length]:
        marked = [(part.markers[0] == dashes[0, 0]).all() for dashes in part.curves].index(True)
        far = [(part.markers[1] == dashes[-1, 1]).all() for dashes in part.curves].index(True)
        assert part.label == (marked == far) == connectivity(part)
        seen.add((marked, far))
    assert len(seen) == 4


def test_distractors_fill_what_is_left(parts):
    counts = {length: np.mean([len(part.distractors) for part in some]) for length, some in parts.items()}
    assert counts[6] > 9.5 and counts[9] > 5.5 and counts[14] > 4
    shape = PathfinderShape(contour_length=6, distractor_length=1, num_distractors=3)
    assert draw_parts(generator_of(0, 0), shape).distractors.shape == (3, 1, 2, 2)
    shape = PathfinderShape(contour_length=6, num_distractors=0)
    assert draw_image(generator_of(0, 0), shape)[0].any()


def test_distractors_that_do_not_fit_leave_nothing_behind():
    field = pathfinder._Field(PathfinderShape(distractor_length=9, num_distractors=40))
    found = pathfinder._draw_distractors(generator_of(0, 0), field)
    again = pathfinder._Field(field.shape)
    for dash in found.reshape(-1, 2, 2):
        again.put(dash)
    assert 2 < len(found) < 40 and (again.taken == field.taken).all()


def test_images_show_the_parts(parts):
    images = np.stack([render(part, HARD) for part in parts[14][:30]])
    assert images.dtype == np.uint8 and images.shape[1:] == (32, 32)
    border = np.ones((32, 32), dtype=bool)
    border[1:-1, 1:-1] = False
    assert not images[:, border].any()
    centres = np.stack(np.meshgrid(np.arange(32), np.arange(32), indexing="ij"), axis=-1) + 0.5
    shares = []
    for part, image in zip(parts[14], images, strict=False):
        long, short = part.curves.reshape(-1, 2, 2), part.distractors.reshape(-1, 2, 2)
        to_markers = lengths_of(centres[:, :, None] - part.markers).min(axis=2)
        dashes = points_on(np.concatenate([long, short])).reshape(-1, 2)
        to_dashes = lengths_of(centres[:, :, None] - dashes).min(axis=2)
        inside = ~border
        assert (image[(to_markers < 0.7) & inside] == 255).all() and (image[(to_markers < 1) & inside] > 220).all()
        away = to_markers > 2.5
        assert 60 < image[away & (to_dashes < 0.2)].min() and image[away].max() < 240
        assert image[away & (to_dashes > 1.5)].max() < 30
        middles = [image[tuple(some.mean(axis=1).astype(int).T)] for some in (long, short) if len(some)]
        shares.append([np.median(some) for some in middles])
    long, short = np.array([pair for pair in shares if len(pair) == 2]).T
    # Long curves and distractors are alike.
    assert abs(long.mean() / short.mean() - 1) < 0.05 and 120 < long.mean() < 200


def test_contrast_thickness_and_padding_are_those_of_the_shape(parts):
    part = parts[6][0]
    base = render(part, SHAPES[6]).astype(int)
    far = lengths_of(np.indices((32, 32)).transpose(1, 2, 0)[:, :, None] + 0.5 - part.markers).min(axis=2) > 5
    half = render(part, dataclasses.replace(SHAPES[6], paddle_contrast=0.375)).astype(int)
    assert (half == render(part, dataclasses.replace(SHAPES[6], snake_contrast=1))).all()
    assert np.abs(base - 2 * half)[far].max() <= 1 and half.max() == 255
    thick = render(part, dataclasses.replace(SHAPES[6], paddle_thickness=1, paddle_contrast=0.25)).astype(int)
    thin = render(part, dataclasses.replace(SHAPES[6], paddle_contrast=0.25)).astype(int)
    assert 1.7 < thick[far].sum() / thin[far].sum() < 2.3
    image, _ = draw_image(generator_of(0, 0), PathfinderShape(size=36, padding=3, contour_length=6, antialias_scale=3))
    assert image.shape == (36, 36) and image[3:-3, 3:-3].any() and image.sum() == image[3:-3, 3:-3].sum()


def test_a_drawing_without_edges_stays_as_bright():
    assert np.allclose(pathfinder._lanczos(8, 3) @ np.ones(24), 1)
    ramp = pathfinder._lanczos(40, 2) @ ((np.arange(80) + 0.5) / 2)
    assert np.allclose(ramp[5:-5], np.arange(5, 35) + 0.5, atol=0.02)


@pytest.mark.slow
def test_positives_and_negatives_have_the_same_statistics(images, labels):
    for values in (images.mean(axis=(1, 2)), (images > 64).sum(axis=(1, 2)), (images == 255).sum(axis=(1, 2))):
        positive, negative = values[labels == 1], values[labels == 0]
        error = (positive.var() / len(positive) + negative.var() / len(negative)) ** 0.5
        assert abs(positive.mean() - negative.mean()) < 3 * error


@pytest.mark.slow
def test_pixels_alone_do_not_tell_the_label(images, labels):
    flat, half = images.reshape(len(images), -1) / 255, len(images) // 2
    model = LogisticRegression(C=0.01, max_iter=200).fit(flat[:half], labels[:half])
    assert abs(model.score(flat[half:], labels[half:]) - 0.5) < 4 * 0.5 / (len(images) - half) ** 0.5


def test_a_third_of_the_contour_is_what_distractors_have_unless_said():
    assert [shape.distractors for shape in SHAPES.values()] == [(10, 2), (6, 3), (5, 4)]
    assert PathfinderShape(contour_length=2).distractors == (20, 1)
    assert PathfinderShape(distractor_length=7).distractors == (2, 7)
    assert dataclasses.replace(HARD, contour_length=6).distractors == (10, 2)


@pytest.mark.parametrize(
    "name, value",
    [
        *[(name, 0) for name in ("size", "antialias_scale", "contour_length", "distractor_length")],
        *[("size", 32.0), ("size", None), ("padding", -1), ("padding", 16), ("num_distractors", -1)],
        *[("paddle_length", 0), ("paddle_thickness", 0), ("paddle_margin", 0), ("paddle_contrast", 0)],
        *[("snake_contrast", -1), ("marker_radius", 0), ("seed_distance", 0), ("seed_distance", 8.1)],
        *[("paddle_thickness", 2), ("continuity", 0.9), ("continuity", float("nan")), ("seed_distance", float("inf"))],
    ],
)
def test_shapes_that_cannot_be_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        PathfinderShape(**{name: value})


def test_curves_without_room_are_given_up(monkeypatch):
    monkeypatch.setattr(pathfinder, "MAX_PAIRS", 3)
    with pytest.raises(ValueError, match="of 3 pairs of curves none fitted"):
        next(generate(0, PathfinderShape(contour_length=60)))
