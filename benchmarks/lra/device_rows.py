# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""A training set on the device it is trained on, and its batches in few shapes."""

from bisect import bisect_left

import numpy as np
import torch
from datasets import Dataset

from .tasks import NUM_SPECIAL_TOKENS, PAD_TOKEN_ID, LraTask
from .training import MULTIPLE

# Each is a captured step of its own, and with SAOR several are. Fewer make more padding.
NUM_WIDTHS = 6


def choose_widths(longest: np.ndarray, limit: int, count: int = NUM_WIDTHS) -> list[int]:
    """
    The few lengths that batches are filled up to: of all multiples of a block those that are left when the one that costs
    least padding goes along with the next, again and again.

    Args:
        longest (`np.ndarray` of shape `(num_rows,)`): The length of every row's longest document.
        limit (`int`): The most a document is long; no width is larger.
        count (`int`): The most widths.
    """
    rounded = np.minimum(-(-longest // MULTIPLE) * MULTIPLE, limit)
    widths, rows = (values.tolist() for values in np.unique(rounded, return_counts=True))
    while len(widths) > count:
        added = [number * (widths[i + 1] - widths[i]) for i, number in enumerate(rows[:-1])]
        cheapest = added.index(min(added))
        gone = rows.pop(cheapest)
        rows[cheapest] += gone
        del widths[cheapest]
    return widths


class DeviceRows:
    """
    The rows of a split: all documents one after the other as bytes on the device, where batches are gathered.

    Args:
        rows (`Dataset`): With the columns `documents` and `labels`.
        task ([`LraTask`])
        batch_size (`int`): Of every batch; the last one of an epoch is filled up.
        device (`torch.device`)
    """

    def __init__(self, rows: Dataset, task: LraTask, batch_size: int, device: torch.device):
        documents = [document for batch in rows.iter(1000) for row in batch["documents"] for document in row]
        lengths = torch.tensor([len(document) for document in documents])
        self.batch_size = batch_size
        self.symbols = torch.frombuffer(bytearray(b"".join(documents)), dtype=torch.uint8).to(device)
        shape = (len(rows), task.num_documents)
        self.starts = (lengths.cumsum(0) - lengths).view(shape).to(device)
        self.lengths = lengths.view(shape).to(device)
        self.labels = torch.tensor(rows["labels"][:])
        self.longest = lengths.view(shape).amax(1)
        self.widths = choose_widths(self.longest.numpy(), task.max_length)
        # Then there is no padding in any batch.
        self.are_full = lengths.unique().tolist() == self.widths

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, numbers: list[int]) -> dict[str, torch.Tensor | int]:
        """
        What tells the device of a batch: the numbers of its rows, their labels, and its width. Where rows are missing, the
        first one stands in for them without a label: what has no label adds nothing to loss and gradient.
        """
        rows = torch.tensor(numbers + numbers[:1] * (self.batch_size - len(numbers)))
        labels = self.labels[rows]
        labels[len(numbers) :] = -100
        width = self.widths[bisect_left(self.widths, int(self.longest[rows].max()))]
        return {"rows": rows, "labels": labels, "width": width}

    def is_real(self, rows: torch.Tensor, width: int) -> torch.Tensor:
        """Where symbols stand and where padding, `(batch_size, num_documents, width)`."""
        return torch.arange(width, device=rows.device) < self.lengths[rows].unsqueeze(-1)

    def gather(self, rows: torch.Tensor, width: int) -> dict[str, torch.Tensor]:
        """The documents of rows as [`DocumentCollator`] has them, filled up to `width`."""
        is_real = self.is_real(rows, width)
        places = self.starts[rows].unsqueeze(-1) + torch.arange(width, device=rows.device)
        symbols = self.symbols[places.clamp(max=len(self.symbols) - 1)].long() + NUM_SPECIAL_TOKENS
        return {"input_ids": symbols.masked_fill(~is_real, PAD_TOKEN_ID), "attention_mask": is_real.long()}
