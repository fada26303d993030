"""Packed rows contain every story once per epoch, in an order that depends only on seed, rank and row number."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from smalltale.model.loss import IGNORE_INDEX
from smalltale.tokens.token_folder import TokenFolder
from smalltale.training.batches import MicroBatch, PackedRows

END = 1
ROW_LENGTH = 64


def random_tokens(
    count: int = 300, longest: int = 25, seed: int = 0, dtype: str = "uint16"
) -> tuple[np.ndarray, np.ndarray]:
    """Random stories of ids from 2 to the top of the type, each followed by END, and their offsets."""
    random = np.random.default_rng(seed)
    stories = [random.integers(2, 65_536, size) for size in random.integers(1, longest + 1, count)]
    tokens = np.concatenate([np.append(story, END) for story in stories]).astype(dtype)
    return tokens, np.cumsum([0, *(len(story) + 1 for story in stories)]).astype(np.uint64)


def token_folder(tokens: np.ndarray, offsets: np.ndarray) -> TokenFolder:
    """A token folder with this training split and no validation split."""
    return TokenFolder(
        train=tokens, train_offsets=offsets, val=tokens[:0], val_offsets=offsets[:1], meta={"end_id": END}
    )


def packed_rows(row_length: int = ROW_LENGTH, **options: int) -> PackedRows:
    return PackedRows(token_folder(*random_tokens()), row_length, **{"seed": 3, **options})


def story_pieces(batch: MicroBatch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Each story piece of a batch as its inputs and targets."""
    pieces = []
    for row in range(len(batch.ids)):
        used = batch.targets[row] != IGNORE_INDEX
        for story_id in batch.story_ids[row][used].unique().tolist():
            mask = batch.story_ids[row] == story_id
            pieces.append((tuple(batch.ids[row][mask].tolist()), tuple(batch.targets[row][mask].tolist())))
    return pieces


def test_an_epoch_contains_every_story_once_starting_with_the_end_token() -> None:
    tokens, offsets = random_tokens()
    rows = packed_rows()
    pieces = story_pieces(rows.batch(0, rows.per_epoch))
    stories = [tuple(tokens[start:end].tolist()) for start, end in itertools.pairwise(offsets)]
    assert sorted(targets for _, targets in pieces) == sorted(stories)
    assert all(inputs == (END, *targets[:-1]) for inputs, targets in pieces)


def test_uint32_tokens_are_returned_unchanged() -> None:
    tokens, offsets = random_tokens(dtype="uint32")
    tokens[tokens > 60_000] += 100_000
    rows = PackedRows(token_folder(tokens, offsets), ROW_LENGTH, seed=0)
    targets = rows.batch(0, rows.per_epoch).targets
    assert torch.equal(
        targets[targets >= 0].sort().values, torch.from_numpy(np.sort(tokens.astype(np.int64)))
    )


def test_positions_restart_at_each_story_and_padding_has_no_target() -> None:
    batch = packed_rows().batch(0, 8)
    for row in range(8):
        story_ids, positions = batch.story_ids[row], batch.positions[row]
        for story_id in story_ids.unique():
            columns = (story_ids == story_id).nonzero().flatten()
            assert torch.equal(positions[columns], torch.arange(len(columns)))
            assert torch.equal(columns, torch.arange(columns[0], columns[-1] + 1))
        padding = batch.targets[row] == IGNORE_INDEX
        assert (story_ids[padding] == story_ids.max()).all() or not padding.any()
        assert not (story_ids[~padding] == story_ids[padding].max()).any() if padding.any() else True


def test_a_story_longer_than_a_row_is_cut_without_losing_targets() -> None:
    tokens, _offsets = random_tokens()
    rows = packed_rows(row_length=16)
    targets = rows.batch(0, rows.per_epoch).targets
    assert sorted(targets[targets >= 0].tolist()) == sorted(tokens.tolist())


def test_stories_of_similar_length_fill_98_percent_with_few_of_them_cut() -> None:
    sizes = np.random.default_rng(0).normal(200, 40, 3_000).astype(int).clip(20, 500)
    tokens = np.full(sizes.sum(), 7, dtype=np.uint16)
    ends = np.cumsum(sizes)
    tokens[ends - 1] = END
    tokens[::3][tokens[::3] != END] = 9
    rows = PackedRows(token_folder(tokens, np.append(0, ends).astype(np.uint64)), 512, seed=0)
    assert rows.fill >= 0.98
    batch = rows.batch(0, rows.per_epoch)
    targets = batch.targets[batch.targets != IGNORE_INDEX]
    assert torch.equal(targets.sort().values, torch.from_numpy(np.sort(tokens.astype(np.int64))))
    complete = sum(inputs[0] == END and targets[-1] == END for inputs, targets in story_pieces(batch))
    assert complete > 0.8 * len(sizes)
    assert max(row[row != IGNORE_INDEX].numel() for row in batch.targets) <= 512


def test_rows_are_filled_to_98_percent() -> None:
    tokens, offsets = random_tokens(count=5_000, longest=400)
    assert PackedRows(token_folder(tokens, offsets), 512, seed=0).fill > 0.98


def test_reading_can_resume_at_any_row() -> None:
    continuous = packed_rows()
    steps = continuous.per_epoch  # Two rows per step: two epochs.
    batches = [continuous.batch(step, 2) for step in range(steps)]
    for step in (steps - 1, 0, steps // 2):
        assert torch.equal(packed_rows().batch(step, 2).ids, batches[step].ids)


def test_epochs_and_seeds_differ() -> None:
    rows = packed_rows()
    first = rows.batch(0, rows.per_epoch).ids
    assert not torch.equal(first, rows.batch(1, rows.per_epoch).ids)
    assert not torch.equal(first, packed_rows(seed=4).batch(0, rows.per_epoch).ids)


def test_a_batch_across_two_epochs_contains_the_rows_of_both() -> None:
    rows = packed_rows()
    count = rows.per_epoch
    across = rows.batch(0, count + 3).ids
    assert torch.equal(across[:count], rows.batch(0, count).ids)
    assert torch.equal(across[count:], rows.batch(1, count).ids[:3])


def test_ranks_take_turns_in_one_stream() -> None:
    single = packed_rows().batch(0, 12)
    for rank in range(3):
        share = packed_rows(rank=rank, world_size=3).batch(0, 4)
        assert torch.equal(share.ids, single.ids[rank::3])
        assert torch.equal(share.targets, single.targets[rank::3])


def test_spans_are_the_start_and_end_of_each_tokens_story() -> None:
    batch = packed_rows().batch(0, 8)
    T = batch.ids.shape[1]
    starts, ends = batch.spans.view(2, 8, T).tolist()
    for row in range(8):
        story_ids = batch.story_ids[row].tolist()
        for column, story_id in enumerate(story_ids):
            assert starts[row][column] - row * T == story_ids.index(story_id)
            assert ends[row][column] - row * T == T - story_ids[::-1].index(story_id)


def test_all_ranks_get_the_same_width_in_a_step() -> None:
    random = np.random.default_rng(0)
    sizes = np.concatenate([random.integers(2, 5, 400), random.integers(20, 64, 60)])
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
    tokens = np.zeros(int(offsets[-1]), dtype=np.uint16)
    data = token_folder(tokens, offsets)
    streams = [PackedRows(data, 64, seed=3, rank=rank, world_size=2) for rank in (0, 1)]
    per_epoch = streams[0].per_epoch
    for step in range(2 * per_epoch // (2 * 3)):
        assert len({rows.layout(step, 3).starts.shape[1] for rows in streams}) == 1
    assert max(rows.layout(0, per_epoch).lengths.astype(bool).sum(1).max() for rows in streams) > 8
