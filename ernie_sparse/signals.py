# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""SIGTERM and Ctrl-C (SIGINT) while a command runs: it ends at once, or where it says that it comes to an end of its own."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import InputError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# What torchrun passes on to processes that have had the signal themselves is no second signal.
SAME_SIGNAL_SECONDS = 2.0


def speaks() -> bool:
    """Whether this process says what all have had: the first of those that torchrun starts, or the only one."""
    return os.environ.get("RANK", "0") == "0"


class Stopped(KeyboardInterrupt):
    """A signal has stopped the command; libraries clean up after it as after Ctrl-C."""

    def __init__(self, number: int, message: str | None = None):
        super().__init__(message or f"stopped by {signal.Signals(number).name}")
        self.number = number


class StopSignals:
    """
    With `with`: the first signal raises [`Stopped`], or is noted in `number` while somebody waits for it ([`noted`]); a second
    one raises it in either case. Signals that are ignored, as under nohup, stay so, and nothing changes outside the main
    thread.
    """

    def __init__(self):
        self.number: int | None = None
        self.answer: str | None = None
        self._since = 0.0
        self._process = os.getpid()
        self._earlier = {}
        self._earlier_hook = None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in SIGNALS}
            self._earlier = {n: handler for n, handler in found.items() if handler not in (signal.SIG_IGN, None)}
            for number in self._earlier:
                signal.signal(number, self._handle)
            self._earlier_hook, sys.unraisablehook = sys.unraisablehook, self._raise_again
        return self

    def __exit__(self, kind, error, trace):
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        if self._earlier_hook is not None:
            sys.unraisablehook = self._earlier_hook
        if self.number is not None and isinstance(error, Exception) and not isinstance(error, InputError):
            # What fails on the way out, such as to hear of processes that had the signal as well.
            raise Stopped(self.number) from error

    def _handle(self, number: int, frame):
        if os.getpid() != self._process:
            self._handle_in_child(number)
            return
        if self.number is None:
            self.note(number)
            if self.answer is None:
                raise Stopped(number)
            if speaks():
                # Not by print, in the midst of which the signal may have come.
                os.write(2, f"\n{signal.Signals(number).name}: {self.answer}\n".encode())
        elif time.monotonic() - self._since > SAME_SIGNAL_SECONDS:
            raise Stopped(number)

    def _raise_again(self, unraisable):
        """[`Stopped`], where the signal came in a destructor or the like: Python would print it, and go on."""
        if isinstance(unraisable.exc_value, Stopped):
            self.number = None
            # When this has come to its end: what is raised here would be lost as well.
            again = threading.Timer(0.01, os.kill, (self._process, unraisable.exc_value.number))
            again.daemon = True
            again.start()
        else:
            self._earlier_hook(unraisable)

    def note(self, number: int):
        """Take a signal for the first one, such as one that another process has had."""
        if self.number is None:
            self.number, self._since = number, time.monotonic()

    @staticmethod
    def _handle_in_child(number: int):
        """Processes that read or tokenize inherit the handler: they end when their parent says so, by SIGTERM."""
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextmanager
def noted(answer: str) -> Iterator[StopSignals]:
    """
    The signals of the command that runs, which are noted meanwhile; of none where there is no command.

    Args:
        answer (`str`): What is said to who sent one.
    """
    handler = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    signals = handler if isinstance(handler, StopSignals) else StopSignals()
    signals.answer = answer
    try:
        yield signals
    finally:
        signals.answer = None
