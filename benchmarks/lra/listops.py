# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
ListOps: nested operations on lists of digits, such as `[MAX 2 [SM 5 9 ] 0 ]`, whose value is one of ten classes.

The generator follows the constraints of Long Range Arena's and draws from `random.Random(seed).random()` alone, the one
method whose sequence Python promises to keep: the same seed gives the same rows on every machine.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

OPERATORS = ("MIN", "MAX", "MED", "SM")

Tree = int | tuple[str, list["Tree"]]


@dataclass(frozen=True)
class ListOpsShape:
    """
    What a tree may look like; the defaults are Long Range Arena's.

    Args:
        max_depth (`int`): A node that deep is a digit; the root has depth 1.
        max_args (`int`): Most arguments of an operator; the least are two.
        operator_probability (`float`): Of a node above `max_depth`.
        min_length, max_length (`int`): Tokens without parentheses, both bounds excluded.
    """

    max_depth: int = 10
    max_args: int = 10
    operator_probability: float = 0.25
    min_length: int = 500
    max_length: int = 2000

    def __post_init__(self):
        if self.max_depth < 2 or self.max_args < 2 or not 0 < self.operator_probability <= 1:
            raise ValueError(f"{self}: max_depth and max_args are at least 2, operator_probability lies in (0, 1]")
        if not 0 <= self.min_length < self.max_length - 1:
            raise ValueError(f"{self}: no length lies between {self.min_length} and {self.max_length}")


class _TooLong(Exception):
    """The tree being drawn has reached the most tokens it may have."""


def draw_tree(draw: random.Random, shape: ListOpsShape) -> Tree | None:
    """One tree, or `None` when it became too long; one that is too short is returned."""
    room = shape.max_length - 1

    def node(depth: int) -> Tree:
        nonlocal room
        if depth < shape.max_depth and draw.random() < shape.operator_probability:
            room -= 2
            count = 2 + int(draw.random() * (shape.max_args - 1))
            name = OPERATORS[int(draw.random() * len(OPERATORS))]
            return name, [node(depth + 1) for _ in range(count)]
        room -= 1
        if room < 0:
            raise _TooLong
        return int(draw.random() * 10)

    try:
        tree = node(1)
    except _TooLong:
        return None
    return tree if room >= 0 else None


def tokens(tree: Tree) -> list[str]:
    """The tree as symbols: digits, `[MAX` and so on, and `]`."""
    if isinstance(tree, int):
        return [str(tree)]
    name, arguments = tree
    return [f"[{name}", *(token for argument in arguments for token in tokens(argument)), "]"]


def source(tree: Tree) -> str:
    """The tree in the files' form, nested pairs in parentheses: `( ( ( [MAX 2 ) 5 ) ] )`."""
    if isinstance(tree, int):
        return str(tree)
    name, arguments = tree
    text = f"[{name}"
    for argument in arguments:
        text = f"( {text} {source(argument)} )"
    return f"( {text} ] )"


def value(tree: Tree) -> int:
    """What the tree computes, 0 to 9. The median of an even number of values is the mean of the middle two, truncated."""
    if isinstance(tree, int):
        return tree
    name, arguments = tree
    values = sorted(map(value, arguments))
    if name == "MIN":
        return values[0]
    if name == "MAX":
        return values[-1]
    if name == "SM":
        return sum(values) % 10
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) // 2


def generate(seed: int, shape: ListOpsShape | None = None) -> Iterator[tuple[str, int]]:
    """Source and target of distinct trees of the lengths allowed, without end."""
    shape, draw, seen = shape or ListOpsShape(), random.Random(seed), set()
    while True:
        tree = draw_tree(draw, shape)
        if tree is None or len(tokens(tree)) <= shape.min_length:
            continue
        text = source(tree)
        # A digest is enough to tell them apart, and takes a hundredth of the memory.
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield text, value(tree)


def parse(text: str) -> list[str]:
    """The symbols of a source; parentheses, which only show the nesting again, are left out."""
    return text.replace("(", " ").replace(")", " ").split()
