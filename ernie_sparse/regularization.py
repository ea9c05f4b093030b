# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""How a training is regularised, as flags, and what follows from them for a step: patterns, rows and weight, without a model."""

import dataclasses
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import ClassVar

from .sparse_pattern import MOST, SparsePattern

REGULARIZATIONS = ("none", "r-drop", "saor", "alignment")
PERTURBATIONS = ("shift", "block_size", "window", "random", "hierarchy", "none")
PERTURBED = ("second", "both")


@dataclass
class SaorArguments:
    """
    How [`SaorTrainer`] regularizes a training. The paper fixes only that output distributions under two patterns are
    made to agree. The draw of the second pattern, the weight and the schedule are our choice.

    Args:
        regularization (`str`, *optional*):
            What is added to the task loss.

            - `"saor"`: the divergence of the outputs of two passes under two patterns.
            - `"r-drop"`: the divergence of two passes under the model's own pattern, which differ by dropout only.
            - `"alignment"`: the distance of the outputs of attention under two patterns, in every layer of one pass.
            - `"none"`: nothing. A step has one pass.

            `None` is `"saor"`, or `"none"` with `saor_alpha=0`.
        saor_alpha (`float`, defaults to 1.0): Weight of what is added, at least 0.
        saor_patterns (`list[str]`, defaults to `["shift", "block_size", "window", "random"]`):
            The second pattern of each step is drawn from this list. An entry is a pattern as text, such as
            `block_size=32,num_window_blocks=5`, or the name of a change to the model's own pattern:

            - `shift`: other block boundaries.
            - `block_size`: half or double the block size.
            - `window`: a window that is two blocks wider or narrower.
            - `random`: one to three random blocks more.
            - `hierarchy`: representatives on or off.
            - `none`: no change, so that only dropout differs.
        saor_seed (`int`, defaults to 0): Seed of the draws. A draw depends on the seed and on the step only.
        saor_every (`int`, defaults to 1):
            The first of every `saor_every` steps is regularized, with the whole weight. The others have one pass.
        saor_share (`float`, defaults to 1.0):
            Share of each batch's rows that are in the second pass, above 0 and at most 1. At least one row is drawn in
            each step, and the consistency loss is scaled up accordingly. For `saor` and `r-drop`.
        saor_alpha_warmup (`float`, defaults to 0.0):
            Share of all steps, from 0 to 1, in which the weight grows linearly up to `saor_alpha`.
        saor_temperature (`float`, defaults to 1.0):
            Logits are divided by this number before they are compared, and the consistency loss is multiplied by its
            square. For `saor` and `r-drop`, and not for regression.
        saor_perturb (`str`, defaults to `"second"`):
            Which passes have a drawn pattern: `"second"` (the first has the model's own) or `"both"`.

    Raises:
        `ValueError`: A value is not allowed, or has no effect with this `regularization`.
    """

    _argument_group_name: ClassVar[str] = (
        "regularisation: SAOR, the consistency between two sparse patterns, and its like"
    )

    regularization: str | None = field(
        default=None,
        kw_only=True,
        metadata={
            "help": (
                "What is added to the task loss. none: nothing, one pass per step. r-drop: two passes under the model's own "
                "pattern, of which dropout alone differs, have to agree. saor: two passes under two patterns have to agree. "
                "alignment: one pass, in each layer of which attention runs under a second pattern as well, and both outputs "
                "have to agree. None: saor, or none where --saor-alpha is 0."
            )
        },
    )
    saor_alpha: float = field(
        default=1.0,
        metadata={"help": "Weight of what is added to the task loss. 0 is --regularization none."},
    )
    saor_patterns: list[str] = field(
        default_factory=lambda: ["shift", "block_size", "window", "random"],
        metadata={
            "help": (
                "What the second pattern of each step is drawn from. Names perturb the model's own pattern: shift (other "
                "block boundaries), block_size (half or double), window (two blocks less or more), random (one to three "
                "random blocks more), hierarchy (representatives on or off), none (the same pattern twice: dropout alone, "
                "as R-Drop). Anything else is read as a pattern, such as block_size=32,num_window_blocks=5."
            )
        },
    )
    saor_seed: int = field(default=0, metadata={"help": "Seed of the draws, which depend on it and the step alone."})
    saor_every: int = field(
        default=1,
        metadata={"help": "Regularise the first of so many steps, with the whole weight; the others are plain ones."},
    )
    saor_share: float = field(
        default=1.0,
        metadata={
            "help": (
                "Run the second pass over this share of each batch's rows (at least one), drawn anew in each step; the "
                "consistency loss is scaled up accordingly. For r-drop and saor."
            )
        },
    )
    saor_alpha_warmup: float = field(
        default=0.0, metadata={"help": "Share of all steps over which the weight grows linearly to --saor-alpha."}
    )
    saor_temperature: float = field(
        default=1.0,
        metadata={
            "help": (
                "What logits are divided by before they are compared; the consistency loss is multiplied by its square. For "
                "r-drop and saor, and not for numbers."
            )
        },
    )
    saor_perturb: str = field(
        default="second",
        metadata={
            "help": "Which passes have a drawn pattern: second (the first has the model's own), or both, each its own draw."
        },
    )

    def __post_init__(self):
        if self.regularization is None:
            self.regularization = "none" if self.saor_alpha == 0 else "saor"
        self._check_types()
        for is_wrong, message in (*self._wrong_values(), *self._conflicts()):
            if is_wrong:
                raise ValueError(message)
        self._check_patterns()
        if self.regularization == "none":
            self.saor_alpha = 0.0

    def _check_types(self):
        for name, types, needed in (
            ("saor_seed", Integral, "a whole number"),
            ("saor_every", Integral, "a whole number"),
            *((f"saor_{name}", Real, "a number") for name in ("alpha", "share", "alpha_warmup", "temperature")),
            ("saor_patterns", list | tuple, "a list of names and patterns"),
        ):
            if not isinstance(getattr(self, name), types):
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: it must be {needed}")

    def _wrong_values(self) -> Iterator[tuple[bool, str]]:
        for name, is_allowed, allowed in (
            ("regularization", self.regularization in REGULARIZATIONS, f"one of {', '.join(REGULARIZATIONS)}"),
            ("saor_alpha", 0 <= self.saor_alpha < math.inf, "at least 0, and finite"),
            ("saor_every", self.saor_every >= 1, "at least 1"),
            ("saor_share", 0 < self.saor_share <= 1, "more than 0 and at most 1"),
            ("saor_alpha_warmup", 0 <= self.saor_alpha_warmup <= 1, "from 0 to 1"),
            ("saor_temperature", 0 < self.saor_temperature < math.inf, "more than 0, and finite"),
            ("saor_perturb", self.saor_perturb in PERTURBED, f"one of {', '.join(PERTURBED)}"),
        ):
            yield not is_allowed, f"{name}={getattr(self, name)} is not allowed: it must be {allowed}"

    def _conflicts(self) -> Iterator[tuple[bool, str]]:
        arm = self.regularization
        has_no_weight = arm != "none" and self.saor_alpha == 0
        yield has_no_weight, f"regularization={arm} with saor_alpha=0 is none: give it a weight"
        schedule = ("saor_every", "saor_share", "saor_alpha_warmup", "saor_temperature", "saor_perturb")
        reason, flags = {
            "none": ("there is nothing to weigh, to draw or to leave out", schedule),
            "r-drop": ("both passes are under the model's own pattern", ("saor_patterns", "saor_perturb")),
            "alignment": ("no distributions of two passes are compared", ("saor_share", "saor_temperature")),
        }.get(arm, ("", ()))
        for flag in dataclasses.fields(self):
            default = flag.default if flag.default is not dataclasses.MISSING else flag.default_factory()
            value = getattr(self, flag.name)
            yield (
                flag.name in flags and value != default,
                f"{flag.name}={value} is not for regularization={arm}: {reason}",
            )
        is_same = arm == "alignment" and "none" in self.saor_patterns
        yield (
            is_same,
            "saor_patterns: with regularization=alignment none has no effect, the same pattern twice is aligned",
        )

    def _check_patterns(self):
        if not self.saor_patterns:
            raise ValueError("saor_patterns is empty: name at least one perturbation or pattern")
        for entry in self.saor_patterns:
            if entry not in PERTURBATIONS:
                try:
                    SparsePattern.parse(entry)
                except ValueError as error:
                    names = ", ".join(PERTURBATIONS)
                    raise ValueError(
                        f"saor_patterns: {entry!r} is not one of {names}, nor a pattern: {error}"
                    ) from None

    def is_on(self, step: int) -> bool:
        """Whether the step with this number, from 0, is regularised."""
        return self.regularization != "none" and step % self.saor_every == 0

    def alpha(self, step: int, num_steps: int) -> float:
        """The weight in the step with this number, from 0, in a training of `num_steps` steps."""
        num_warmup = math.ceil(self.saor_alpha_warmup * num_steps)
        return self.saor_alpha * min(1.0, (step + 1) / max(1, num_warmup))

    def rows(self, step: int, num_rows: int) -> list[int] | None:
        """
        The rows of a batch of `num_rows` that are in the second pass of a step, or `None` for all. They are drawn: the
        first rows could be the longest ones, if rows of similar length are batched together.
        """
        count = math.ceil(self.saor_share * num_rows)
        if count == num_rows:
            return None
        return sorted(random.Random(f"{self.saor_seed}/{step}/rows").sample(range(num_rows), count))

    def may_be_hierarchical(self, own: SparsePattern) -> tuple[set[bool], set[bool]]:
        """The values that `hierarchical` may have in the first and in the second pattern of a step."""
        own_alone = {own.hierarchical}
        drawn = {
            own.hierarchical != (entry == "hierarchy")
            if entry in PERTURBATIONS
            else SparsePattern.parse(entry).hierarchical
            for entry in self.saor_patterns
        }
        if self.regularization in ("none", "r-drop"):
            return own_alone, own_alone
        return drawn if self.saor_perturb == "both" else own_alone, drawn


def patterns_of_step(own: SparsePattern, saor: SaorArguments, step: int) -> tuple[SparsePattern, SparsePattern | None]:
    """The pattern of a step and, if the step is regularised, the second one; `None` if not."""
    if not saor.is_on(step):
        return own, None
    if saor.regularization == "r-drop":
        return own, own
    first = _draw(own, saor, f"{saor.saor_seed}/{step}/first") if saor.saor_perturb == "both" else own
    return first, second_pattern(own, saor, step)


def second_pattern(own: SparsePattern, saor: SaorArguments, step: int) -> SparsePattern:
    """
    The second pattern of a step. It is a function of its arguments only: all processes draw the same, and a resumed run
    repeats it.

    Args:
        own ([`SparsePattern`]): The model's own pattern, `config.pattern`.
        saor ([`SaorArguments`]): What it is drawn from (`saor_patterns`), and the seed.
        step (`int`): The number of the step.

    Returns:
        [`SparsePattern`]: The pattern, for `consistency_pattern`.
    """
    return _draw(own, saor, f"{saor.saor_seed}/{step}")


def _draw(own: SparsePattern, saor: SaorArguments, seed: str) -> SparsePattern:
    draw = random.Random(seed)
    entry = draw.choice(saor.saor_patterns)
    return perturb(own, entry, draw) if entry in PERTURBATIONS else SparsePattern.parse(entry)


def perturb(own: SparsePattern, name: str, draw: random.Random) -> SparsePattern:
    """
    `own` with the one thing changed that `name` (of `PERTURBATIONS`) says. Always another pattern, except for `none` and
    for the shift of blocks of one token.
    """
    if name == "none":
        return own
    if name == "hierarchy":
        return dataclasses.replace(own, hierarchical=not own.hierarchical)
    if name == "window":
        narrower, wider = own.num_window_blocks - 2, own.num_window_blocks + 2
        return dataclasses.replace(own, num_window_blocks=draw.choice([w for w in (narrower, wider) if 0 < w <= MOST]))
    if name == "random":
        num_random_blocks = min(own.num_random_blocks + draw.randint(1, 3), MOST)
        return dataclasses.replace(own, num_random_blocks=num_random_blocks, seed=draw.randrange(2**32))
    if name == "block_size":
        block_size = draw.choice([size for size in (own.block_size // 2, own.block_size * 2) if 0 < size <= MOST])
        return dataclasses.replace(own, block_size=block_size, block_shift=own.block_shift % block_size)
    if own.block_size == 1:
        return own
    shift = (own.block_shift + draw.randint(1, own.block_size - 1)) % own.block_size
    return dataclasses.replace(own, block_shift=shift)
