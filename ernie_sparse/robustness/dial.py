# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The cheapest pattern that keeps the score."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Loss(NamedTuple):
    """
    Args:
        points (`float`): How much less the score is than the own pattern's, in points of 100; negative where it is more.
        at_most (`float`): What it is at most, with 95 % confidence.
    """

    points: float
    at_most: float


def loss(own: float, other: float, own_draws: Sequence[float], draws: Sequence[float], points: float) -> Loss:
    """
    What is lost under another pattern: paired bootstrap over documents, one-sided.

    Args:
        own, other (`float`): The scores of all documents.
        own_draws, draws (`Sequence[float]`): Those of the same draws of documents.
        points (`float`): How many points a score of 1 is.
    """
    lost = points * (np.asarray(own_draws) - np.asarray(draws))
    return Loss(points * (own - other), float(np.quantile(lost, CONFIDENCE)))


def choose(costs: Mapping[str, float], losses: Mapping[str, Loss], epsilon: float) -> str | None:
    """
    The cheapest of the patterns that cost less than the own one and lose at most `epsilon` points with confidence; of two that
    cost the same the one that loses less. `None` where there is none.

    Args:
        costs (`Mapping[str, float]`): By pattern, the own one's being 1.
        losses (`Mapping[str, Loss]`): Of the other patterns.
    """
    qualified = [name for name, lost in losses.items() if costs[name] < 1 and lost.at_most <= epsilon]
    return min(qualified, key=lambda name: (costs[name], losses[name].at_most), default=None)
