"""Rows for fastai's DataLoaders, and the diary as its callback: shared by fastai, fastxtend and blurr."""

import math
import tomllib

import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from stories import CONTEXT, HERE, Diary, StoryRows

run = tomllib.loads((HERE / "run.toml").read_text(encoding="utf-8"))


class Pairs(StoryRows):
    """(input, target) as fastai wants it: the target is the next token, so a row is one token longer."""

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // CONTEXT

    def __getitem__(self, row: int):
        start = row * CONTEXT
        ids = torch.from_numpy(self.tokens[start : start + CONTEXT + 1].astype("int64"))
        return ids[:-1], ids[1:]


class Keeper(Callback):
    """Writes the diary."""

    def before_fit(self) -> None:
        self.diary = Diary()

    def after_batch(self) -> None:
        if self.training:
            self.diary.step(self.loss_grad.item())


def loaders_of(rows: type[StoryRows]) -> tuple[DataLoaders, int]:
    """Both splits, and how many epochs make the run's steps: fastai counts in epochs, each cut to its share."""
    train, size = rows("train"), run["rows"]
    epochs = math.ceil(run["steps"] / (len(train) // size))
    count = math.ceil(run["steps"] / epochs) * size
    return (
        DataLoaders(
            DataLoader(train, bs=size, shuffle=True, drop_last=True, num_workers=0, n=count),
            DataLoader(rows("val"), bs=size, num_workers=0),
        ),
        epochs,
    )
