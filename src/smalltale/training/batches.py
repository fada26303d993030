"""Rows for training: whole stories packed into rows of one length, in an order that can be taken up anywhere.

In: a token folder. Out: batches of input ids, targets, positions and story numbers, each (B, T).
Beware: a story of n tokens takes n + 1 positions. Its inputs are [end, t0, … t_last], its targets
[t0, … t_last, end]: the end token before it is its start, and every token of it, the first and its end included,
is predicted once. A story longer than a row is cut into row-long pieces, and where whole stories fill less than 98 % of
the rows, those of the emptiest rows are cut to fill the gaps; only a story's first piece sees its start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalltale.model.loss import NO_TARGET
from smalltale.tokens.shards import TokenFolder

LEAST_FILL = 0.98
"""Whole stories of TinyStories, 207 tokens on average and much alike, fill 95 % of rows of 512 and 79 % of 256."""

PIECES = 8
"""Batches have a multiple of this many pieces a row, the same in an epoch, so that a new shape is seldom met."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch, each (B, T), int64 on the training device."""

    ids: Tensor
    targets: Tensor
    """NO_TARGET where there is nothing to predict."""
    positions: Tensor
    """0, 1, 2, … from the start of each story piece."""
    story: Tensor
    """The number of the story in its row; padding has a number of its own."""
    spans: Tensor
    """(2, B·T) int32: where the story of each of the batch's tokens, laid end to end, begins and ends; so does padding."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where the tokens of a batch stand in the token stream, each (B, P), 0-padded; P is a multiple of PIECES."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def targets(self) -> int:
        """Tokens to be predicted."""
        return int(self.lengths.sum())


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Which pieces of stories stand in which row: row r holds pieces bounds[r] to bounds[r + 1]."""

    starts: NDArray[np.int64]
    """Where a piece begins in the token stream."""
    lengths: NDArray[np.int64]
    bounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @cached_property
    def widest(self) -> int:
        """Pieces of the fullest row, rounded up to a multiple of PIECES."""
        return -(-int(np.diff(self.bounds).max()) // PIECES) * PIECES

    def plan(self, rows: NDArray[np.int64]) -> Plan:
        """The pieces of these rows, as wide as the widest of all rows."""
        first, count = self.bounds[rows], self.bounds[rows + 1] - self.bounds[rows]
        column = np.arange(self.widest)
        held = column < count[:, None]
        piece = np.where(held, first[:, None] + column, 0)
        return Plan(
            starts=np.where(held, self.starts[piece], 0), lengths=np.where(held, self.lengths[piece], 0)
        )


class Rows:
    """An endless stream of packed rows; epoch e is packed and shuffled by (seed, e), the ranks take turns.

    Row i of rank r of w is row i·w + r of the whole stream, which depends on (tokens, row_length, seed) alone: a run
    resumes by its row count, and the first n·w rows are the same ones for any number of ranks.
    """

    def __init__(
        self,
        tokens: NDArray[Any],
        offsets: NDArray[np.uint64],
        end_id: int,
        row_length: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.tokens = token_tensor(tokens, device)
        self.end_id, self.row_length, self.seed = end_id, row_length, seed
        self.rank, self.world_size = rank, world_size
        self.starts, self.lengths = cut(offsets.astype(np.int64), row_length)
        self.epoch = -1
        self.packing: Packing
        self.order: NDArray[np.int64]
        self.load_epoch(0)
        self.per_epoch = len(self.packing)
        """Rows in an epoch, of all ranks together."""

    @classmethod
    def from_tokens(
        cls,
        data: TokenFolder,
        row_length: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> Rows:
        """The rows of a token folder's training split. On a GPU its tokens lie there whole, 2 or 4 bytes each."""
        return cls(
            data.train,
            data.train_offsets,
            data.meta["end_id"],
            row_length,
            seed=seed,
            rank=rank,
            world_size=world_size,
            device=device,
        )

    @property
    def fill(self) -> float:
        """Share of the rows' positions that hold a token."""
        return float(self.lengths.sum() / (len(self.packing) * self.row_length))

    def load_epoch(self, epoch: int) -> None:
        """Pack and shuffle an epoch; the number of rows is the same in each."""
        if epoch != self.epoch:
            random = np.random.default_rng((self.seed, epoch))
            self.packing = pack(self.starts, self.lengths, self.row_length, random)
            self.order = random.permutation(len(self.packing))
            self.epoch = epoch

    def plan(self, index: int, count: int) -> Plan:
        """Where the tokens of rows index·count to (index + 1)·count of this rank's stream stand.

        Equally wide on all ranks: a shape that is new to one is new to all of them, so that they record it together.
        """
        mine = np.arange(index * count, (index + 1) * count) * self.world_size + self.rank
        epochs, places = np.divmod(mine, self.per_epoch)
        parts = []
        first, last = index * count * self.world_size, (index + 1) * count * self.world_size - 1
        for epoch in range(first // self.per_epoch, last // self.per_epoch + 1):
            self.load_epoch(epoch)
            parts.append(self.packing.plan(self.order[places[epochs == epoch]]))
        widest = max(each.starts.shape[1] for each in parts)
        starts, lengths = (
            np.concatenate([np.pad(held, ((0, 0), (0, widest - held.shape[1]))) for held in each])
            for each in ([part.starts for part in parts], [part.lengths for part in parts])
        )
        return Plan(starts=starts, lengths=lengths)

    def batch(self, index: int, count: int) -> Batch:
        """Rows index·count to (index + 1)·count of this rank's stream."""
        plan = self.plan(index, count)
        starts, lengths = (
            torch.from_numpy(each).to(self.tokens.device) for each in (plan.starts, plan.lengths)
        )
        return gather(self.tokens, starts, lengths, self.row_length, self.end_id)


def token_tensor(tokens: NDArray[Any], device: torch.device | str) -> Tensor:
    """Tokens as a tensor in as few bytes; uint16 goes as the int16 of the same bits, which every device gathers."""
    narrow = tokens.view({2: np.int16, 4: np.int32, 8: np.int64}[tokens.dtype.itemsize])
    if not narrow.flags.writeable:
        narrow = narrow.copy()
    return torch.from_numpy(narrow).to(device)


def gather(tokens: Tensor, starts: Tensor, lengths: Tensor, row_length: int, end_id: int) -> Batch:
    """The batch of a plan, built where the tokens lie; nothing waits for the device.

    tokens: (N,), from token_tensor, story 0 at 0 and each story followed by its end token. starts, lengths: (B, P).
    """
    device = tokens.device
    ends = lengths.cumsum(1)
    place = torch.arange(row_length, device=device).repeat(len(starts), 1)
    story = torch.searchsorted(ends, place, right=True)
    padding = place >= ends[:, -1:]
    piece = story.clamp_max(starts.shape[1] - 1)
    begins = (ends - lengths).gather(1, piece)
    begins = torch.where(padding, ends[:, -1:], begins)
    positions = place - begins
    source = (starts.gather(1, piece) + positions).masked_fill(padding, 0)
    inputs = wide(tokens[(source - 1).clamp_min(0)])
    lines = torch.arange(len(starts), device=device)[:, None] * row_length
    over = torch.where(padding, row_length, ends.gather(1, piece))
    return Batch(
        # The token before a story is the end of the one before it; the first story has none before it.
        ids=inputs.masked_fill(source == 0, end_id),
        targets=wide(tokens[source]).masked_fill(padding, NO_TARGET),
        positions=positions,
        story=torch.minimum(story, (lengths > 0).sum(1, keepdim=True)),
        spans=torch.stack([(lines + begins).flatten(), (lines + over).flatten()]).int(),
    )


def wide(tokens: Tensor) -> Tensor:
    """Token ids as int64, whatever sign their narrow form gave them."""
    return tokens.long() & 0xFFFF if tokens.dtype == torch.int16 else tokens.long()


def cut(offsets: NDArray[np.int64], row_length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts in the stream and lengths of the stories, those longer than a row cut into row-long pieces."""
    sizes = np.diff(offsets)
    counts = -(-sizes // row_length)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(offsets[:-1], counts) + number * row_length
    return starts, np.minimum(row_length, np.repeat(offsets[1:], counts) - starts)


def pack(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], row_length: int, random: np.random.Generator
) -> Packing:
    """Pieces in rows that are at least LEAST_FILL full, as many of them whole as may be."""
    order, row_of = best_fit(lengths, row_length, random)
    starts, lengths = starts[order], lengths[order]
    rows = int(row_of.max()) + 1
    tokens = int(lengths.sum())
    fewer = max(math.ceil(tokens / row_length), math.floor(tokens / (LEAST_FILL * row_length)))
    if fewer < rows:
        starts, lengths, row_of = fill_gaps(starts, lengths, row_of, row_length, fewer)
        rows = fewer
    by_row = np.argsort(row_of, kind="stable")
    return Packing(
        starts=starts[by_row],
        lengths=lengths[by_row],
        bounds=np.searchsorted(row_of[by_row], np.arange(rows + 1)),
    )


def fill_gaps(
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    row_of: NDArray[np.int64],
    row_length: int,
    rows: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The same tokens in the fullest `rows` rows: the pieces of the others are laid over the gaps, largest first.

    Returns starts, lengths and row of each piece.
    """
    used = np.bincount(row_of, weights=lengths).astype(np.int64)
    fullest = np.argsort(-used, kind="stable")
    place = np.empty(len(used), dtype=np.int64)
    place[fullest] = np.arange(len(used))
    row_of = place[row_of]
    stays = row_of < rows
    loose, loose_lengths = starts[~stays], lengths[~stays]
    # Row numbers now go from full to empty, so the largest gaps are the last rows'.
    gap_ends = np.cumsum((row_length - used[fullest[:rows]])[::-1])
    piece_ends = np.cumsum(loose_lengths)
    ends = np.unique(np.concatenate([piece_ends, gap_ends[(gap_ends > 0) & (gap_ends < piece_ends[-1])]]))
    begins = np.concatenate([[0], ends[:-1]])
    piece = np.searchsorted(piece_ends, begins, side="right")
    row = rows - 1 - np.searchsorted(gap_ends, begins, side="right")
    return (
        np.concatenate([starts[stays], loose[piece] + begins - (piece_ends - loose_lengths)[piece]]),
        np.concatenate([lengths[stays], ends - begins]),
        np.concatenate([row_of[stays], row]),
    )


def best_fit(
    lengths: NDArray[np.int64], row_length: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Best-fit decreasing: the longest piece first, into the fullest row that still takes it.

    lengths: of each piece, 1 to row_length; pieces of one length are placed in random order, all at once.
    Returns the pieces in the order they were placed, and the row of each. 2.7 million stories take 0.4 s.
    """
    shuffled = random.permutation(len(lengths))
    order = shuffled[np.argsort(-lengths[shuffled], kind="stable")]
    counts = np.bincount(lengths, minlength=row_length + 1)
    by_space: list[list[NDArray[np.int64]]] = [[] for _ in range(row_length + 1)]
    placed: list[NDArray[np.int64]] = []
    total, space = 0, np.zeros(row_length + 1, dtype=bool)
    for length in range(row_length, 0, -1):
        left = int(counts[length])
        while left:
            fitting = np.flatnonzero(space[length:])
            if fitting.size:
                found = length + int(fitting[0])
                rows = by_space[found].pop()
                if len(rows) > left:
                    by_space[found].append(rows[left:])
                    rows = rows[:left]
                space[found] = bool(by_space[found])
            else:
                found = row_length
                rows = np.arange(total, total + -(-left // (row_length // length)))
                total += len(rows)
            placed.append(rows)
            left -= len(rows)
            by_space[found - length].append(rows)
            space[found - length] = found > length
    return order, np.concatenate(placed)
