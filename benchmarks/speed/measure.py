# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Seconds and peak memory of steps. A step that cannot be run is a reason, and the others go on."""

import gc
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import logging

from ernie_sparse.allocator import give_back_freed_memory

# Long enough for lazy initialisation, too short to leave a mark on the peak.
WARM_UP_TOKENS = 8
# What a process may take to start, import and build, on top of its steps.
START_SECONDS = 120


@dataclass
class Case:
    """
    A model with its input, ready to be timed.

    Args:
        step (`Callable`): One step; what it leaves behind, `model.zero_grad()` clears.
        num_tokens (`int`): Tokens that a step reads, without padding.
    """

    model: nn.Module
    step: Callable[[], object]
    num_tokens: int


@dataclass(frozen=True)
class LeftOut:
    """
    Why something was not measured.

    Args:
        reason (`str`): In one line.
        stays (`bool`): Whether it cannot be better with a longer input.
    """

    reason: str
    stays: bool = False


OUT_OF_MEMORY = LeftOut("out of memory", stays=True)


def over_budget(seconds: float) -> LeftOut:
    return LeftOut(f"over {seconds:g} s", stays=True)


def left_out_by(error: Exception) -> LeftOut:
    """The error as a reason."""
    text = " ".join(str(error).split())
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return OUT_OF_MEMORY
    if len(text) > 200:
        text = f"{text[:200]}…"
    return LeftOut(f"{type(error).__name__}: {text}")


def time_rounds(
    cases: dict[Hashable, Case],
    runs: int,
    budget: float,
    clock: Callable[[], float] = time.perf_counter,
    tick: Callable[[], object] = lambda: None,
) -> dict[Hashable, list[float] | LeftOut]:
    """
    The seconds of `runs` steps of each case, after one step that is not counted. All cases run once per round, and
    each round begins with another one, so that what changes with time (heat, other processes) falls on all alike.

    Args:
        budget (`float`): A case whose first step takes more seconds is left out.
        clock (`Callable`): Seconds since any moment.
        tick (`Callable`): Called after every step.
    """
    outcomes = {}
    for name, case in cases.items():
        first = _seconds(case, clock)
        tick()
        if isinstance(first, LeftOut):
            outcomes[name] = first
        else:
            outcomes[name] = over_budget(budget) if first > budget else []
    names = [name for name in cases if not isinstance(outcomes[name], LeftOut)]
    for number in range(runs):
        start = number % len(names) if names else 0
        for name in names[start:] + names[:start]:
            if isinstance(outcomes[name], LeftOut):
                continue
            seconds = _seconds(cases[name], clock)
            tick()
            if isinstance(seconds, LeftOut):
                outcomes[name] = seconds
            else:
                outcomes[name].append(seconds)
    return outcomes


def _seconds(case: Case, clock: Callable[[], float]) -> float | LeftOut:
    """Of one step, which finds no gradients of an earlier one."""
    try:
        case.model.zero_grad(set_to_none=True)
        synchronize()
        start = clock()
        case.step()
        synchronize()
        return clock() - start
    except Exception as error:
        return left_out_by(error)
    finally:
        # Not to be held while the other models run.
        case.model.zero_grad(set_to_none=True)


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free_memory():
    """Give back what models that are gone have left."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def cuda_peak(case: Case) -> float | LeftOut:
    """MiB that one step of a case on a GPU takes at its peak, on top of what lies there before it."""
    try:
        case.step()
        case.model.zero_grad(set_to_none=True)
        free_memory()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        case.step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    except Exception as error:
        return left_out_by(error)
    finally:
        case.model.zero_grad(set_to_none=True)


def cpu_peak(build: Callable[[int], Case], length: int, threads: int, budget: float) -> float | LeftOut:
    """
    MiB that one step over `length` tokens takes at its peak, on top of the built model, in a process of its own.

    Args:
        build (`Callable`): The case for a number of tokens; it is sent to the process, so it must be picklable.
        budget (`float`): Seconds that the step may take.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_peak, args=(sender, build, length, threads), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(START_SECONDS + budget):
            return over_budget(budget)
        return receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGKILL:
            return LeftOut("killed, most likely for its memory", stays=True)
        return LeftOut(f"its process ended with code {process.exitcode}")
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        receiver.close()


def _send_peak(sender, build: Callable[[int], Case], length: int, threads: int):
    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    try:
        outcome = _step_peak(build, length)
    except Exception as error:
        outcome = left_out_by(error)
    sender.send(outcome)


def _step_peak(build: Callable[[int], Case], length: int) -> float | LeftOut:
    # Of a model of its own: BigBird gives up its block form for good on an input as short as this.
    build(WARM_UP_TOKENS).step()
    gc.collect()
    case = build(length)
    # What building has freed would otherwise serve the step and not be counted: megabytes, on short inputs all of it.
    give_back_freed_memory()
    before = _memory(reset_peak=True)
    if before is None:
        return LeftOut("this platform does not say")
    case.step()
    _, peak = _memory()
    return max(0.0, peak - before[0])


def _memory(reset_peak: bool = False) -> tuple[float, float] | None:
    """MiB that lie in memory now and that lay there at most; the latter twice where only that is known."""
    if sys.platform == "linux":
        if reset_peak:
            try:
                with open("/proc/self/clear_refs", "w") as file:
                    file.write("5")
            except OSError:
                # Then the peak of building the model stands, which is hardly above the model itself.
                pass
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        if "VmRSS" in fields and "VmHWM" in fields:
            return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
    return peak, peak
