# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Command lines: flags made of dataclasses, and which of them were given."""

import argparse
import dataclasses
import math
import sys
from collections.abc import Collection, Mapping
from numbers import Real

from transformers import HfArgumentParser

from .errors import InputError, input_errors
from .help import HELP

# No machine runs more processes or threads for one command: it would come to its end before the command does.
MOST_PROCESSES = 1_000
_NOT_GIVEN = object()


class ArgumentParser(argparse.ArgumentParser):
    """Of a command: what is wrong is raised, without the usage before it, and `--help` is pointed at."""

    help_flag = "--help"

    @classmethod
    def of_command(cls, name: str) -> "ArgumentParser":
        """The parser of a command of `ernie-sparse`, as yet without flags."""
        text, prog = HELP[name], f"ernie-sparse {name}"
        parser = cls(
            prog=prog,
            usage=f"{prog} {text.usage}",
            description=text.about,
            epilog=text.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
        )
        parser.add_help_all()
        return parser

    def add_help_all(self):
        # `--help` is answered before a command is imported.
        self.help_flag = "--help-all"
        self.add_argument("--help-all", action="help", help="show every flag")

    def error(self, message: str):
        raise InputError(f"{message} ({self.prog} {self.help_flag} shows every flag)")

    def parse_args(self, args=None, namespace=None):
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            # Without their values: one may be a token, and its flag misspelt.
            flags = [word.partition("=")[0] for word in unknown if word.startswith("--")]
            self.error(f"unrecognized arguments: {' '.join(flags or unknown)}")
        for action in self._actions:
            value = getattr(found, action.dest, None)
            if "" in (value if isinstance(value, list) else [value]) and action.default != "":
                # Most often of a variable of the shell that is not set: it would stand for this folder, or for a default.
                name = action.option_strings[-1] if action.option_strings else action.metavar
                self.error(f"{name} '': it is empty, and needs a value")
        return found


class CommandParser(ArgumentParser, HfArgumentParser):
    """
    The flags of some dataclasses, which are parsed once: [`CommandParser.given`] says what stands on the command line, and
    [`CommandParser.fill`] makes the dataclasses of it and of what the command puts in where nothing was given.

    Args:
        prog (`str`): The command, as it is typed.
        usage (`str`): What follows it, with examples.
        description (`str`): What it does.
        dataclass_types (`type`): Their fields are the flags.
        defaults (`Mapping`, *optional*): The command's own defaults of some fields.
        add_help (`bool`, defaults to `True`): Whether `--help` prints every flag.
    """

    def __init__(
        self,
        prog: str,
        usage: str,
        description: str,
        *dataclass_types: type,
        defaults: Mapping | None = None,
        add_help: bool = True,
    ):
        super().__init__(
            dataclass_types,
            prog=prog,
            usage=f"{prog} {usage}",
            description=description,
            allow_abbrev=False,
            add_help=add_help,
        )
        self.defaults = defaults or {}
        self.set_defaults(**self.defaults)

    @classmethod
    def of_command(cls, name: str, *dataclass_types: type, defaults: Mapping | None = None) -> "CommandParser":
        text = HELP[name]
        # The formatter would fill an epilog's lines.
        usage = f"{text.usage}\n\n{text.epilog}"
        parser = cls(f"ernie-sparse {name}", usage, text.about, *dataclass_types, defaults=defaults, add_help=False)
        parser.add_help_all()
        return parser

    def given(self, argv: list[str]) -> dict[str, object]:
        """The flags that stand on the command line, by field. Raises an [`InputError`] for those that do not exist."""
        # Their defaults are for `--help` alone: a recipe may have others.
        nothing = argparse.Namespace(**{action.dest: _NOT_GIVEN for action in self._actions})
        found = vars(self.parse_args(argv, nothing))
        return {name: value for name, value in found.items() if value is not _NOT_GIVEN}

    def fill(self, given: Mapping[str, object], recipe: Mapping[str, object] | None = None) -> tuple:
        """The dataclasses, from what was given, else the recipe, else the defaults."""
        values = {**self.defaults, **(recipe or {}), **given}
        for name, value in values.items():
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    raise InputError(f"--{name.replace('_', '-')} {number}: it must be a finite number")
                if isinstance(number, int) and abs(number) > sys.maxsize:
                    raise InputError(
                        f"--{name.replace('_', '-')} {number}: no whole number may be beyond {sys.maxsize}"
                    )
        with input_errors(ValueError, ImportError):
            return self.parse_dict(values)


def check_least(arguments, least: Mapping[str, float]):
    """Raise an [`InputError`] for a field of `arguments` that is set and is not at least what `least` has for it."""
    for name, low in least.items():
        value = getattr(arguments, name)
        # So that nan is refused as well, and what is no number at all.
        if value is not None and not (isinstance(value, Real) and value >= low):
            raise InputError(f"--{name.replace('_', '-')} {value}: it must be at least {low}")


def check_most(arguments, most: Mapping[str, float]):
    """Raise an [`InputError`] for a field of `arguments` that is set and is more than what `most` has for it."""
    for name, high in most.items():
        value = getattr(arguments, name)
        if value is not None and not value <= high:
            raise InputError(f"--{name.replace('_', '-')} {value}: it must be at most {high:,}")


def check_seeds(seeds: Collection[int]):
    """Raise an [`InputError`] unless each of `--seeds` is one, and given once."""
    words = " ".join(map(str, seeds))
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise InputError(f"--seeds {words}: each must be from 0 to {2**32 - 1}")
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {words}: one of them is given twice")


def fields_of(*arguments) -> dict[str, object]:
    """The fields of some dataclasses of flags."""
    return {field.name: getattr(part, field.name) for part in arguments for field in dataclasses.fields(part)}


def without_flag(argv: list[str], flag: str) -> list[str]:
    """A command line without a flag that takes a value."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(flag, f"--{flag[2:].replace('-', '_')}")
    return parser.parse_known_args(argv)[1]
