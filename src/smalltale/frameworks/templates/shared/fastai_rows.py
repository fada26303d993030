"""Rows for fastai's DataLoaders and a callback that records losses: shared by fastai, fastxtend and blurr."""

import math
import tomllib

import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from stories import CONTEXT, HERE, RunLog, StoryRows

run = tomllib.loads((HERE / "run.toml").read_text(encoding="utf-8"))


class Pairs(StoryRows):
    """(input, target), the format of fastai: the target is the next token, so a row has one more token."""

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // CONTEXT

    def __getitem__(self, row: int):
        start = row * CONTEXT
        ids = torch.from_numpy(self.tokens[start : start + CONTEXT + 1].astype("int64"))
        return ids[:-1], ids[1:]


class LossRecorder(Callback):
    """Appends each loss to the run log (`learn.loss_recorder.run_log`)."""

    def before_fit(self) -> None:
        self.run_log = RunLog()

    def after_batch(self) -> None:
        if self.training:
            self.run_log.step(self.loss_grad.item())


def loaders_of(rows: type[StoryRows]) -> tuple[DataLoaders, int]:
    """DataLoaders of both splits, and the number of epochs: fastai counts in epochs, so the steps are divided among them."""
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
