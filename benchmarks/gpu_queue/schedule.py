# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What fits into the time there is, and the run through the queue."""

import datetime
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ernie_sparse.errors import without_secrets

from . import PROG
from .processes import Outcome
from .queue import KINDS, Measurement
from .store import Store

# What a measurement may take: so many times what is expected, and some more.
SHARE, GRACE = 2.0, 30.0
# Kept back for the imports at the beginning and the tables at the end.
RESERVE = 15.0


class Forecast:
    """
    What measurements take, corrected by those that were seen: by the median of how many times longer than expected those of its
    kind took, those under a compiler or with graphs apart from others.

    Args:
        kept (`list[dict]`): Results from before.
    """

    def __init__(self, kept: list[dict]):
        self._ratios = {}
        for content in kept:
            self.learn(content["kind"], content["settings"], content["expected_seconds"], content["wall_seconds"])

    def learn(self, kind: str, settings: dict, expected: float, seen: float):
        self._ratios.setdefault(_group(kind, settings), []).append(seen / expected)

    def seconds(self, measurement: Measurement) -> float:
        ratios = self._ratios.get(_group(measurement.kind, measurement.settings), [1.0])
        return measurement.seconds * statistics.median(ratios)


def _group(kind: str, settings: dict) -> tuple:
    return kind, settings.get("compiler"), settings.get("graphs")


@dataclass
class Run:
    """
    A way through the queue.

    Args:
        store ([`Store`]): Where results are kept, and what is there.
        seconds (`float`): How long it may take.
        options (`dict`): What measurements are given beside their settings; `data_dir` among them.
        facts (`dict`): What stands in every result, such as the commit.
        flags (`list[str]`): Of the command that measures one of them again.
        launch (`Callable`): [`processes.launch`], with its processes.
        clock (`Callable`): Seconds since any moment.
        on_result (`Callable`): Called after every measurement.
    """

    store: Store
    seconds: float
    options: dict
    facts: dict
    flags: list[str]
    launch: Callable[..., Outcome]
    clock: Callable[[], float]
    on_result: Callable[[], None] = lambda: None
    again: bool = False
    measured: list[str] = field(default_factory=list)

    def through(self, queue: list[Measurement]) -> dict[str, str]:
        """Measure what is not there yet and fits; the reasons of what was left out, by name."""
        end = self.clock() + self.seconds - RESERVE
        results = self.store.results()
        forecast = Forecast(list(results.values()))
        left_out = {}
        for number, measurement in enumerate(queue, 1):
            before = results.get(measurement.name)
            if before and before["digest"] == measurement.digest() and not self.again:
                left_out[measurement.name] = "there is a result"
                continue
            hindrance = measurement.hindrance(Path(self.options["data_dir"]))
            left, expected = end - self.clock(), forecast.seconds(measurement)
            if hindrance is None and expected > left:
                hindrance = f"takes about {expected:.0f} s, {max(0, left):.0f} s are left"
            if hindrance is not None:
                left_out[measurement.name] = hindrance
                continue
            say(f"[{number}/{len(queue)}] {measurement.name}: about {expected:.0f} s of {left:.0f} s")
            # Not less for what was seen to be quicker: it is killed by this.
            seen = self._measure(measurement, min(left, SHARE * max(expected, measurement.seconds) + GRACE))
            if seen is not None:
                forecast.learn(measurement.kind, measurement.settings, measurement.seconds, seen)
            self.on_result()
        return left_out

    def _measure(self, measurement: Measurement, limit: float) -> float | None:
        """The seconds it took, where it came to a result."""
        start = self.clock()
        settings = {**measurement.settings, **self.options}
        outcome = self.launch(KINDS[measurement.kind].measure, settings, limit, lambda text: say(f"    {text}"))
        seen = self.clock() - start
        content = {
            "name": measurement.name,
            "kind": measurement.kind,
            "command": " ".join([PROG, "--minutes", str(max(5, round(4 * measurement.seconds / 60))), *self.flags])
            + f" --again --only {measurement.name}",
            **self.facts,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "digest": measurement.digest(),
            "settings": measurement.settings,
            "seeds": [measurement.settings.get("seed", 0)],
            "expected_seconds": measurement.seconds,
            "wall_seconds": round(seen, 1),
        }
        if outcome.error is not None:
            self.store.keep({**content, "error": outcome.error, "tail": list(outcome.tail)})
            say(f"    failed after {seen:.0f} s: {outcome.error}")
            return None
        for kept in outcome.found["results"].get("kept", {}).values():
            # Other commands do not know what this one was told.
            kept["commit"] = kept.get("commit") or self.facts["commit"]
        self.store.keep({**content, **outcome.found})
        self.measured.append(measurement.name)
        say(f"    done in {seen:.0f} s")
        return seen


def by_reason(left_out: dict[str, str]) -> list[str]:
    """A line for each reason, with the first of what it holds for."""
    names = {}
    for name, reason in left_out.items():
        names.setdefault(reason, []).append(name)
    return [
        f"{found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: {reason}"
        for reason, found in names.items()
    ]


def say(text: str):
    print(without_secrets(text), flush=True)
