# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The five tasks of Long Range Arena, one row each: what a document is made of, how long it is, and the recipe."""

import math
from dataclasses import dataclass

# Ids of every vocabulary; the symbols of a task follow behind them.
PAD_TOKEN_ID, MASK_TOKEN_ID = 0, 1
NUM_SPECIAL_TOKENS = 2


@dataclass(frozen=True)
class Recipe:
    """
    How long and with what a model is trained. These are the small setting in which PyTorch re-implementations of the
    benchmark compare encoders.

    Args:
        max_steps (`int`): Updates.
        batch_size (`int`): Rows per update.
        warmup (`float`): Share of the updates in which the learning rate rises linearly; behind them it falls linearly to 0.
        learning_rate (`float`)
    """

    max_steps: int
    batch_size: int
    warmup: float
    learning_rate: float = 1e-4

    @property
    def warmup_steps(self) -> int:
        """Updates of the warm-up."""
        return math.ceil(self.max_steps * self.warmup)


@dataclass(frozen=True)
class LraTask:
    """
    Args:
        what (`str`): In a few words, for the list.
        num_symbols (`int`): Symbols a document is made of, without padding and mask.
        max_length (`int`): Symbols read of each document.
        num_labels (`int`): Classes.
        num_documents (`int`): Documents per row: 1, or 2 that are encoded on their own.
        recipe ([`Recipe`])
        mlm_probability (`float`): Share of the symbols masked in self-pretraining; more where neighbours tell nearly
            everything. Our choice.
    """

    what: str
    num_symbols: int
    max_length: int
    num_labels: int
    recipe: Recipe
    num_documents: int = 1
    mlm_probability: float = 0.15

    @property
    def vocab_size(self) -> int:
        return NUM_SPECIAL_TOKENS + self.num_symbols


TASKS = {
    "listops": LraTask(
        what="the value of nested operations on digits",
        num_symbols=15,
        max_length=2000,
        num_labels=10,
        # Our choice: at it `hst` leaves chance within a tenth of the updates.
        recipe=Recipe(max_steps=5_000, batch_size=32, warmup=0.2, learning_rate=1e-3),
    ),
    "text": LraTask(
        what="the verdict of IMDb reviews, byte by byte",
        num_symbols=256,
        max_length=4096,
        num_labels=2,
        recipe=Recipe(max_steps=20_000, batch_size=32, warmup=0.4),
    ),
    "retrieval": LraTask(
        what="whether one paper cites another, byte by byte",
        num_symbols=256,
        max_length=4096,
        num_labels=2,
        num_documents=2,
        recipe=Recipe(max_steps=30_000, batch_size=32, warmup=800 / 30_000),
    ),
    "image": LraTask(
        what="CIFAR-10 in gray, pixel by pixel",
        num_symbols=256,
        max_length=1024,
        num_labels=10,
        recipe=Recipe(max_steps=35_000, batch_size=256, warmup=0.005),
        mlm_probability=0.5,
    ),
    "pathfinder": LraTask(
        what="whether two dots lie on the same dashed curve, pixel by pixel",
        num_symbols=256,
        max_length=1024,
        num_labels=2,
        recipe=Recipe(max_steps=62_400, batch_size=256, warmup=0.005),
        mlm_probability=0.5,
    ),
}
