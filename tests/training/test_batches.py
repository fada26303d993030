"""Rows for training hold every story whole, once an epoch, in an order that depends on seed, rank and place alone."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from smalltale.model.loss import NO_TARGET
from smalltale.training.batches import Batch, Rows

END = 1
ROW = 64


def stream(
    count: int = 300, longest: int = 25, seed: int = 0, dtype: str = "uint16"
) -> tuple[np.ndarray, np.ndarray]:
    """Random stories of ids from 2 to the top of the type, each followed by END, and their offsets."""
    random = np.random.default_rng(seed)
    stories = [random.integers(2, 65_536, size) for size in random.integers(1, longest + 1, count)]
    tokens = np.concatenate([np.append(each, END) for each in stories]).astype(dtype)
    return tokens, np.cumsum([0, *(len(each) + 1 for each in stories)]).astype(np.uint64)


def rows(row_length: int = ROW, **changes: int) -> Rows:
    return Rows(*stream(), END, row_length, **{"seed": 3, **changes})


def stories_of(batch: Batch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Each story piece of a batch as its inputs and targets."""
    found = []
    for line in range(len(batch.ids)):
        used = batch.targets[line] != NO_TARGET
        for number in batch.story[line][used].unique().tolist():
            here = batch.story[line] == number
            found.append((tuple(batch.ids[line][here].tolist()), tuple(batch.targets[line][here].tolist())))
    return found


def test_an_epoch_holds_every_story_once_with_the_end_token_as_its_start() -> None:
    tokens, offsets = stream()
    given = rows()
    found = stories_of(given.batch(0, given.per_epoch))
    told = [tuple(tokens[a:b].tolist()) for a, b in itertools.pairwise(offsets)]
    assert sorted(targets for _, targets in found) == sorted(told)
    assert all(inputs == (END, *targets[:-1]) for inputs, targets in found)


def test_uint32_tokens_come_back_as_they_are() -> None:
    tokens, offsets = stream(dtype="uint32")
    tokens[tokens > 60_000] += 100_000
    given = Rows(tokens, offsets, END, ROW, seed=0)
    targets = given.batch(0, given.per_epoch).targets
    assert torch.equal(
        targets[targets >= 0].sort().values, torch.from_numpy(np.sort(tokens.astype(np.int64)))
    )


def test_positions_restart_at_each_story_and_padding_has_no_target() -> None:
    batch = rows().batch(0, 8)
    for line in range(8):
        story, positions = batch.story[line], batch.positions[line]
        for number in story.unique():
            place = (story == number).nonzero().flatten()
            assert torch.equal(positions[place], torch.arange(len(place)))
            assert torch.equal(place, torch.arange(place[0], place[-1] + 1))
        padding = batch.targets[line] == NO_TARGET
        assert (story[padding] == story.max()).all() or not padding.any()
        assert not (story[~padding] == story[padding].max()).any() if padding.any() else True


def test_a_story_longer_than_a_row_is_cut_and_no_target_is_lost() -> None:
    tokens, _offsets = stream()
    given = rows(row_length=16)
    targets = given.batch(0, given.per_epoch).targets
    assert sorted(targets[targets >= 0].tolist()) == sorted(tokens.tolist())


def test_stories_much_alike_fill_98_percent_with_few_of_them_cut() -> None:
    sizes = np.random.default_rng(0).normal(200, 40, 3_000).astype(int).clip(20, 500)
    tokens = np.full(sizes.sum(), 7, dtype=np.uint16)
    ends = np.cumsum(sizes)
    tokens[ends - 1] = END
    tokens[::3][tokens[::3] != END] = 9
    given = Rows(tokens, np.append(0, ends).astype(np.uint64), END, 512, seed=0)
    assert given.fill >= 0.98
    batch = given.batch(0, given.per_epoch)
    targets = batch.targets[batch.targets != NO_TARGET]
    assert torch.equal(targets.sort().values, torch.from_numpy(np.sort(tokens.astype(np.int64))))
    whole = sum(each[0][0] == END and each[1][-1] == END for each in stories_of(batch))
    assert whole > 0.8 * len(sizes)
    held = [row[row != NO_TARGET].numel() for row in batch.targets]
    assert max(held) <= 512


def test_rows_are_filled_to_98_percent() -> None:
    tokens, offsets = stream(count=5_000, longest=400)
    assert Rows(tokens, offsets, END, 512, seed=0).fill > 0.98


def test_the_order_can_be_taken_up_anywhere() -> None:
    unbroken = rows()
    steps = unbroken.per_epoch  # two rows a step: two epochs
    whole = [unbroken.batch(step, 2) for step in range(steps)]
    for step in (steps - 1, 0, steps // 2):
        assert torch.equal(rows().batch(step, 2).ids, whole[step].ids)


def test_epochs_and_seeds_differ() -> None:
    given = rows()
    first = given.batch(0, given.per_epoch).ids
    assert not torch.equal(first, given.batch(1, given.per_epoch).ids)
    assert not torch.equal(first, rows(seed=4).batch(0, given.per_epoch).ids)


def test_a_batch_across_two_epochs_holds_the_rows_of_both() -> None:
    given = rows()
    count = given.per_epoch
    across = given.batch(0, count + 3).ids
    assert torch.equal(across[:count], given.batch(0, count).ids)
    assert torch.equal(across[count:], given.batch(1, count).ids[:3])


def test_ranks_take_turns_in_one_stream() -> None:
    alone = rows().batch(0, 12)
    for rank in range(3):
        share = rows(rank=rank, world_size=3).batch(0, 4)
        assert torch.equal(share.ids, alone.ids[rank::3])
        assert torch.equal(share.targets, alone.targets[rank::3])


def test_spans_tell_where_the_story_of_each_token_begins_and_ends() -> None:
    batch = rows().batch(0, 8)
    T = batch.ids.shape[1]
    begin, end = batch.spans.view(2, 8, T).tolist()
    for row in range(8):
        story = batch.story[row].tolist()
        for place, number in enumerate(story):
            assert begin[row][place] - row * T == story.index(number)
            assert end[row][place] - row * T == T - story[::-1].index(number)


def test_every_rank_of_a_step_gets_the_same_width() -> None:
    random = np.random.default_rng(0)
    sizes = np.concatenate([random.integers(2, 5, 400), random.integers(20, 64, 60)])
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
    tokens = np.zeros(int(offsets[-1]), dtype=np.uint16)
    ranks = [Rows(tokens, offsets, 1, 64, seed=3, rank=rank, world_size=2) for rank in (0, 1)]
    steps = 2 * ranks[0].per_epoch // (2 * 3)
    widths = [{each.plan(step, 3).starts.shape[1] for each in ranks} for step in range(steps)]
    assert all(len(each) == 1 for each in widths)
    assert max(each.plan(0, ranks[0].per_epoch).lengths.astype(bool).sum(1).max() for each in ranks) > 8
