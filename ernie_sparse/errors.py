# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What the user of a command can mend."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError


class InputError(ValueError):
    """
    A bad argument, a missing file, unusable data: what whoever typed a command can mend. Commands end with its message and
    exit code 2; every other exception is a fault of the package's and keeps its traceback.
    """


@contextmanager
def input_errors(*errors: type[Exception], about: str = "") -> Iterator[None]:
    """
    Raise what is raised inside as an [`InputError`].

    Args:
        errors (`type[Exception]`): What to catch: `ValueError` when nothing is given, and a config's errors always.
        about (`str`, *optional*): What stands before the message, such as the flag.
    """
    caught = (*(errors or (ValueError,)), StrictDataclassError)
    try:
        yield
    except InputError:
        raise
    except caught as error:
        # A config's error tells the field; what is wrong with it stands in its cause.
        reason = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
        raise InputError(f"{about}: {reason}" if about else str(reason)) from error
