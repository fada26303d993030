"""Train with fastai: a Learner over rows of stories; run.toml has its numbers, config.json the model."""

import math
import tomllib

import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import Learner  # with fit_one_cycle
from fastai.callback.training import GradientClip
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import Adam
from stories import CONTEXT, HERE, Diary, StoryRows, keep_reference, new_model
from torch.nn import Module

run = tomllib.loads((HERE / "run.toml").read_text(encoding="utf-8"))


class Pairs(StoryRows):
    """(input, target) as fastai wants it: the target is the next token, so a row is one token longer."""

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // CONTEXT

    def __getitem__(self, row: int):
        start = row * CONTEXT
        ids = torch.from_numpy(self.tokens[start : start + CONTEXT + 1].astype("int64"))
        return ids[:-1], ids[1:]


class Logits(Module):
    """The Llama, giving logits alone."""

    def __init__(self) -> None:
        super().__init__()
        self.llama = new_model()

    def forward(self, ids):
        return self.llama(input_ids=ids).logits


class Keeper(Callback):
    """Writes the diary."""

    def before_fit(self) -> None:
        self.diary = Diary()

    def after_batch(self) -> None:
        if self.training:
            self.diary.step(self.loss_grad.item())


rows, steps = run["rows"], run["steps"]
train = Pairs("train")
# fastai counts in epochs: enough of them, each cut so that together they make the run's steps.
epochs = math.ceil(steps / (len(train) // rows))
loaders = DataLoaders(
    DataLoader(
        train, bs=rows, shuffle=True, drop_last=True, num_workers=0, n=math.ceil(steps / epochs) * rows
    ),
    DataLoader(Pairs("val"), bs=rows, num_workers=0),
)
learn = Learner(
    loaders,
    Logits(),
    loss_func=CrossEntropyLossFlat(),
    opt_func=Adam,
    wd=run["weight_decay"],
    cbs=[Keeper(), GradientClip(1.0)],
    path=HERE,
)
learn.fit_one_cycle(epochs, run["learning_rate"], pct_start=min(0.5, run["warmup_steps"] / steps))
# Without the optimizer the file holds tensors alone, which `smalltale import` can open.
learn.save("stories", with_opt=False)

model = learn.model.to("cpu").eval()
keep_reference(model, model, HERE / "models")
learn.keeper.diary.close(HERE / "models", rows * CONTEXT)
