"""Rows for training: whole stories packed into rows of one length, in an order that can be taken up anywhere.

In: a token folder. Out: batches of input ids, targets and story numbers, each (B, T).
Beware: a story of n tokens and its end takes n + 1 positions: the end token stands before it as its start, and
every token of the story, its end included, is a target. A story longer than a row is cut into row-long pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalltale.errors import SmalltaleError
from smalltale.model.head import NO_TARGET
from smalltale.tokens.shards import TokenFolder


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch, each (B, T), int64 on the training device."""

    ids: Tensor
    targets: Tensor
    """NO_TARGET where there is nothing to predict."""
    story: Tensor
    """The number of the story in its row; padding has a number of its own."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Which pieces of stories stand in which row. Piece p is `lengths[p]` positions from position `starts[p]`."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    rows: list[list[int]]

    def fill(self, row_length: int) -> float:
        """Share of the rows' positions that are used."""
        return float(self.lengths.sum() / (len(self.rows) * row_length))


class Rows:
    """An endless stream of packed rows; epoch e is packed and shuffled by (seed, e), each rank takes its share."""

    def __init__(
        self,
        tokens: NDArray[np.integer],
        offsets: NDArray[np.uint64],
        end_id: int,
        row_length: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        # One position before the first token: the start of the first story.
        self.stream = torch.from_numpy(np.concatenate([[end_id], tokens]).astype(np.int64)).to(device)
        self.end_id, self.row_length, self.seed = end_id, row_length, seed
        self.rank, self.world_size = rank, world_size
        self.starts, self.lengths = pieces(offsets.astype(np.int64), row_length)
        self.epoch = -1
        self.packing: Packing
        self.order: NDArray[np.int64]
        self.load_epoch(0)
        self.per_epoch = len(self.packing.rows) // world_size
        if self.per_epoch < 1:
            raise SmalltaleError(
                f"{len(offsets) - 1} stories fill fewer rows than there are processes; train on more stories"
            )

    @classmethod
    def from_tokens(
        cls, data: TokenFolder, row_length: int, *, seed: int, device: torch.device | str = "cpu"
    ) -> Rows:
        """The rows of a token folder's training split."""
        return cls(data.train, data.train_offsets, data.meta["end_id"], row_length, seed=seed, device=device)

    def load_epoch(self, epoch: int) -> None:
        """Pack and shuffle an epoch."""
        if epoch != self.epoch:
            # The packing is the first epoch's; an epoch is a new order of its rows.
            if self.epoch < 0:
                self.packing = pack(
                    self.starts, self.lengths, self.row_length, np.random.default_rng(self.seed)
                )
            self.order = np.random.default_rng((self.seed, epoch)).permutation(len(self.packing.rows))
            self.epoch = epoch

    def batch(self, index: int, count: int) -> Batch:
        """Rows index·count to (index + 1)·count of this rank's stream."""
        ids = np.full((count, self.row_length), 0, dtype=np.int64)
        story = np.empty((count, self.row_length), dtype=np.int64)
        for line, number in enumerate(range(index * count, (index + 1) * count)):
            epoch, place = divmod(number, self.per_epoch)
            self.load_epoch(epoch)
            row = self.packing.rows[self.order[place * self.world_size + self.rank]]
            self.fill_row(row, ids[line], story[line])
        positions = torch.from_numpy(ids).to(self.stream.device)
        numbers = torch.from_numpy(story).to(self.stream.device)
        padding = positions < 0
        inputs = self.stream[positions.clamp_min(0)]
        targets = self.stream[positions.clamp_min(0) + 1]
        return Batch(
            ids=inputs.masked_fill(padding, self.end_id),
            targets=targets.masked_fill(padding, NO_TARGET),
            story=numbers,
        )

    def fill_row(self, row: list[int], positions: NDArray[np.int64], story: NDArray[np.int64]) -> None:
        """Write a row's positions in the stream (−1: padding) and story numbers."""
        at = 0
        for number, piece in enumerate(row):
            length = int(self.lengths[piece])
            start = int(self.starts[piece])
            positions[at : at + length] = np.arange(start, start + length)
            story[at : at + length] = number
            at += length
        positions[at:] = -1
        story[at:] = len(row)


def pieces(offsets: NDArray[np.int64], row_length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts in the stream and lengths of the stories, those longer than a row cut."""
    starts, ends = offsets[:-1], offsets[1:]
    if not ((ends - starts) > row_length).any():
        return starts, ends - starts
    cut_starts, cut_lengths = [], []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        for at in range(start, end, row_length):
            cut_starts.append(at)
            cut_lengths.append(min(row_length, end - at))
    return np.array(cut_starts, dtype=np.int64), np.array(cut_lengths, dtype=np.int64)


def pack(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], row_length: int, random: np.random.Generator
) -> Packing:
    """Best-fit decreasing: the longest piece first, into the fullest row that still takes it."""
    shuffled = random.permutation(len(lengths))
    order = shuffled[np.argsort(-lengths[shuffled], kind="stable")]
    rows: list[list[int]] = []
    by_space: list[list[int]] = [[] for _ in range(row_length + 1)]
    for piece in order.tolist():
        length = int(lengths[piece])
        space = next((each for each in range(length, row_length + 1) if by_space[each]), -1)
        if space < 0:
            rows.append([piece])
            by_space[row_length - length].append(len(rows) - 1)
        else:
            row = by_space[space].pop()
            rows[row].append(piece)
            by_space[space - length].append(row)
    return Packing(starts=starts, lengths=lengths, rows=rows)
