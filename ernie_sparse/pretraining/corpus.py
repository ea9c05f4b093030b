# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""A corpus: files and data sets of the hub, how often each is read in a pass, and the order of a pass."""

import dataclasses
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from datasets import Dataset, IterableDataset
from transformers.utils import logging

from ..errors import InputError
from ..tables import find_files
from .documents import Reading, documents_of

logger = logging.get_logger(__name__)

# So many files are read by turns, in shares like their sizes.
FILES_AT_ONCE = 16
# Documents that are packed together have so many pieces' characters.
PIECES_AT_ONCE = 32
# Of what is held out without being asked for, in characters: as much as an evaluation needs.
MOST_HELD_OUT = 2**18


class Part(NamedTuple):
    """
    A file, or a shard of a data set.

    Args:
        name (`str`): Of the file, or that of the data set with the shard's number.
        size (`int`): In bytes, or 1 where that is not known.
        weight (`float`): How often it is read in a pass.
        rows (`Dataset` or `IterableDataset`, *optional*): Of a data set.
        first, stop (`int`, *optional*): The documents from which and before which it is read.
    """

    name: str
    size: int
    weight: float = 1.0
    rows: Dataset | IterableDataset | None = None
    first: int = 0
    stop: int | None = None


class Place(NamedTuple):
    """Where a reader of a corpus is: the pass, the files that it reads by turns, and the group of their documents."""

    number_of_pass: int = 0
    window: int = 0
    group: int = 0


FIRST = Place()


@dataclass
class Corpus:
    """
    Args:
        parts (`Sequence[Part]`)
        reading ([`Reading`])
        seed (`int`): Of the order of a pass.
        skipped (`Counter`): How many rows could not be read, of each part, and how many documents were empty. Of several readers of
            the same files, the first one counts; and of several passes, it is the first one that is counted.
        skipped_before (`Counter`): The same, before the files that are read at present.
    """

    parts: Sequence[Part]
    reading: Reading
    seed: int = 0

    def __post_init__(self):
        self.skipped, self.skipped_before = Counter(), Counter()

    def groups(
        self, start: Place = FIRST, share: int = 0, shares: int = 1, passes: int | None = None
    ) -> Iterator[tuple[Place, list[str]]]:
        """
        The documents from `start` on, in groups, each with its place: those of one of several shares. They are whole files
        where there is one for each share, and else every so manieth document of all files.

        Args:
            passes (`int`, *optional*): How many; without end if `None`.

        Raises:
            [`InputError`]: A row that cannot be read, unless those are left out; or no document at all in a pass.
        """
        by_file = len(self.parts) >= shares
        parts = self.parts[share::shares] if by_file else self.parts
        numbers = itertools.count() if passes is None else range(passes)
        for number_of_pass in itertools.dropwhile(lambda number: number < start.number_of_pass, numbers):
            order = random.Random(f"{self.seed}/{number_of_pass}").sample(parts, len(parts))
            is_empty = True
            for window, first in enumerate(range(0, len(order), FILES_AT_ONCE)):
                if (number_of_pass, window) < start[:2]:
                    is_empty = False
                    continue
                self.skipped_before = Counter(self.skipped)
                skipped = self.skipped if number_of_pass == 0 and (by_file or share == 0) else Counter()
                files, seed = order[first : first + FILES_AT_ONCE], f"{self.seed}/{number_of_pass}/{window}"
                texts = self._by_turns(files, seed, skipped)
                if not by_file:
                    texts = itertools.islice(texts, share, None, shares)
                for group, documents in enumerate(self._grouped(texts)):
                    is_empty = False
                    place = Place(number_of_pass, window, group)
                    if place >= start:
                        yield place, documents
            if is_empty:
                names = ", ".join(part.name for part in self.parts[:3]) + (", …" if len(self.parts) > 3 else "")
                raise InputError(
                    f"{names}: there is no text"
                    if shares == 1
                    else f"{names}: there are too few documents for {shares} readers"
                )

    def documents(self) -> Iterator[str]:
        """All documents, once."""
        return itertools.chain.from_iterable(texts for _, texts in self.groups(passes=1))

    def _by_turns(self, parts: Sequence[Part], seed: str, skipped: Counter) -> Iterator[str]:
        """The documents of some parts, each of them drawn from a part in proportion to what is in it."""
        draw = random.Random(seed)
        readers = [self._read(part, f"{seed}/{part.name}", skipped) for part in parts]
        shares = [part.size * part.weight for part in parts]
        while readers:
            (chosen,) = draw.choices(range(len(readers)), shares)
            text = next(readers[chosen], None)
            if text is None:
                del readers[chosen], shares[chosen]
            else:
                yield text

    def _read(self, part: Part, seed: str, skipped: Counter) -> Iterator[str]:
        """The documents of a part, as often as its weight says: each so often as a whole number, and some once more."""
        draw = random.Random(seed)
        for time in range(math.ceil(part.weight)):
            for text in itertools.islice(documents_of(part.name, part.rows, self.reading), part.first, part.stop):
                if isinstance(text, InputError):
                    if not self.reading.skip_bad:
                        raise text
                    if not skipped[part.name]:
                        logger.warning("%s: left out, as all that cannot be read of this file", text)
                    skipped[part.name] += 1
                elif text.isspace() or not text:
                    skipped["empty"] += 1
                elif part.weight - time >= 1 or draw.random() < part.weight - time:
                    yield text

    def _grouped(self, texts: Iterable[str]) -> Iterator[list[str]]:
        group, size = [], 0
        for text in texts:
            group.append(text)
            size += len(text)
            if size >= PIECES_AT_ONCE * self.reading.piece:
                yield group
                group, size = [], 0
        if group:
            yield group

    def held_out(self, fraction: float) -> tuple["Corpus", "Corpus"]:
        """
        The corpus without the first documents of its first part, and these: a share of all that is to be read, and at most
        [`MOST_HELD_OUT`] characters.

        Raises:
            [`InputError`]: The first part has nothing else.
        """
        first, *others = self.parts
        # Of data sets, sizes are not known.
        wanted = (
            MOST_HELD_OUT
            if first.rows is not None
            else min(MOST_HELD_OUT, fraction * sum(part.size for part in self.parts))
        )
        count = size = total = 0
        for total, text in enumerate(documents_of(first.name, first.rows, self.reading), 1):
            if size >= wanted:
                break
            if isinstance(text, InputError) and not self.reading.skip_bad:
                raise text
            count, size = total, size + (0 if isinstance(text, InputError) else len(text))
        if count == total:
            # All of it is not as much.
            count = max(1, round(fraction * total))
        if total < 2:
            raise InputError(f"{first.name} has too few documents to hold some out: name a --validation-file")
        rest = dataclasses.replace(self, parts=[first._replace(first=count), *others])
        return rest, dataclasses.replace(self, parts=[first._replace(stop=count, weight=1.0)])


def parts_of_files(names: Sequence[str], weights: Sequence[float] | None = None) -> list[Part]:
    """
    The files that `names` stand for, each with the weight of its name.

    Raises:
        [`InputError`]: There is no such file, or it is empty.
    """
    weights = [1.0] * len(names) if weights is None else weights
    return [
        Part(str(path), path.stat().st_size, weight)
        for name, weight in zip(names, weights, strict=True)
        for path in find_files([name])
    ]


def parts_of_rows(name: str, rows: Dataset | IterableDataset) -> list[Part]:
    """The shards of a data set of the hub."""
    count = rows.num_shards if isinstance(rows, IterableDataset) else 1
    return [Part(f"{name}, shard {number}", 1, rows=rows.shard(count, number)) for number in range(count)]
