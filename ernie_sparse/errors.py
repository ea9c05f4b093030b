# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What the user of a command can mend, and what is not said of it."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError


class InputError(ValueError):
    """
    A bad argument, a missing file, unusable data: what whoever typed a command can mend. Commands end with its message and
    exit code 2; every other exception is a fault of the package's and keeps its traceback.
    """

    def __init__(self, message: str = ""):
        # Torch raises what a process that loads rows has raised anew, behind its traceback.
        super().__init__(
            re.sub(r"\ACaught \w+ in DataLoader .*^\S*InputError: ", "", message, flags=re.DOTALL | re.MULTILINE)
        )


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
        raise InputError(f"{about}: {_said(reason)}" if about else _said(reason)) from error


def _said(error: BaseException) -> str:
    """What an error says, in one line."""
    text = " ".join(str(error).split())
    # Torch goes on to advise that whatever is in the file be run.
    return "it is no file of weights, or holds more than weights" if "weights_only" in text else text


def reason_of(error: BaseException, length: int = 300) -> str:
    """An error of a library's in a line of at most `length` characters, for a message of ours."""
    is_of_field = isinstance(error, StrictDataclassError) and error.__cause__ is not None
    text = _said(error.__cause__ if is_of_field else error)
    if not text or isinstance(error, KeyError | TypeError | AttributeError | IndexError):
        # By itself it says too little.
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= length else f"{text[: length - 1]}…"


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# As the writers of safetensors, tokenizers and torch say it, who raise errors of their own.
_SAYS_NO_ROOM = re.compile(
    rf"os error ({'|'.join(map(str, _NO_ROOM))})\b|inline_container.*(unexpected pos|failed writing)|iostream error"
)


# As torch's loaders and the pools of datasets say it of a process of theirs.
_SAYS_DEAD = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)|subprocesses has abruptly died")


def is_hub_error(error: BaseException) -> bool:
    """Whether the hub refuses something, cannot be reached, or is asked for what it cannot have."""
    # A config's error is defined there as well, and is no matter of the hub.
    is_theirs = type(error).__module__.partition(".")[0] in ("huggingface_hub", "httpx", "httpx2")
    return is_theirs and not isinstance(error, StrictDataclassError)


def is_no_room(error: BaseException | None) -> bool:
    """Whether an error, or what has caused it, is that a disk is full, or a quota used up."""
    return any(getattr(e, "errno", None) in _NO_ROOM or _SAYS_NO_ROOM.search(str(e)) for e in _with_causes(error))


def is_dead_process(error: BaseException | None) -> bool:
    """Whether an error, or what has caused it, is that a process which prepares or loads rows was killed."""
    return any(_SAYS_DEAD.search(str(e)) for e in _with_causes(error))


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# What may stand in a URL: user and password, to the last @, for a password may have some and slashes as well; and the
# parameters that grant something. And the hub's tokens, wherever they stand.
_SECRETS = (
    (re.compile(r"://\S*@"), "://***@"),
    (
        re.compile(
            r"([?&;][^=&;\s]*(?:token|key|secret|passw|pwd|sig|auth|credential)[^=&;\s]*=)[^&;\s#'\"]*", re.IGNORECASE
        ),
        r"\1***",
    ),
    (re.compile(r"\bhf_[A-Za-z0-9]{20,}"), "hf_***"),
)


def without_secrets(text: str) -> str:
    """`text` as it may be printed and kept: passwords and tokens are `***`."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text
