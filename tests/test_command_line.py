# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Flags made of dataclasses: what was given, what stands in for the rest, and what is refused."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from torch.utils.data import DataLoader, IterableDataset

from ernie_sparse.command_line import CommandParser, check_least, fields_of
from ernie_sparse.errors import InputError


@dataclass
class Flags:
    _argument_group_name: ClassVar[str] = "flags"

    model: str = field(metadata={"help": "Which."})
    rate: float = field(default=0.5, metadata={"help": "How fast."})
    long_flag: bool = field(default=False, metadata={"help": "Whether."})
    seeds: list[int] | None = field(default=None, metadata={"help": "Which ones."})

    def __post_init__(self):
        if self.rate > 10:
            raise ValueError(f"--rate {self.rate} is too much")


@dataclass
class More:
    depth: int = field(default=2, metadata={"help": "How deep."})


PARSER = CommandParser("ernie-sparse knit", "--model M", "Knits.", Flags, More, defaults={"rate": 0.25})


def test_what_was_given_is_known_and_a_recipe_stands_in_for_the_rest():
    given = PARSER.given(["--model", "m", "--long-flag", "--seeds", "3", "4"])
    assert given == {"model": "m", "long_flag": True, "seeds": [3, 4]}
    flags, more = PARSER.fill(given)
    assert (flags, more) == (Flags("m", 0.25, True, [3, 4]), More())
    assert fields_of(flags, more) == {"model": "m", "rate": 0.25, "long_flag": True, "seeds": [3, 4], "depth": 2}
    recipe = {"rate": 1.0, "depth": 5}
    assert PARSER.fill(given, recipe)[0].rate == 1.0 and PARSER.fill(given | {"depth": 7}, recipe)[1].depth == 7
    # Even where what is given is what stood there anyway.
    assert PARSER.given(["--model", "m", "--rate", "0.25"])["rate"] == 0.25


def test_help_shows_the_commands_own_defaults(capsys):
    with pytest.raises(SystemExit):
        PARSER.given(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "ernie-sparse knit --model M" in shown and "How fast. (default: 0.25)" in shown


@pytest.mark.parametrize(
    "words, message",
    [
        (["--rate", "1"], "the following arguments are required: --model"),
        (
            ["--model", "m", "--rat", "1"],
            r"unrecognized arguments: --rat \(ernie-sparse knit --help shows every flag\)",
        ),
        (["--model", "m", "--rate", "fast"], "argument --rate: invalid float value: 'fast'"),
        (["--model", "m", "--rate", "11"], "--rate 11.0 is too much"),
    ],
)
def test_what_is_wrong_is_one_line(words, message):
    with pytest.raises(InputError, match=message):
        PARSER.fill(PARSER.given(words))


@pytest.mark.parametrize("value, is_allowed", [(1, True), (None, True), (0.5, False), (float("nan"), False)])
def test_a_least_value(value, is_allowed):
    if is_allowed:
        check_least(More(depth=value), {"depth": 1})
    else:
        with pytest.raises(InputError, match=f"--depth {value}: it must be at least 1"):
            check_least(More(depth=value), {"depth": 1})


class Broken(IterableDataset):
    def __iter__(self):
        raise InputError("text.txt, line 3: it is no text\nin UTF-8")


def test_an_error_of_a_process_that_loads_rows_says_what_it_says_itself():
    with pytest.raises(InputError) as raised:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert str(raised.value).split() == "text.txt, line 3: it is no text in UTF-8".split()
