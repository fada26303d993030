"""A plugin for Axolotl (axolotl.yaml names it): keeps the losses, and at the end the model with its own logits."""

from axolotl.integrations.base import BasePlugin
from stories import CONTEXT, HERE, PLAN, Diary, keep
from transformers import TrainerCallback


class Losses(TrainerCallback):
    """Hands every logged loss to the diary."""

    def __init__(self, diary: Diary) -> None:
        self.diary = diary

    def on_log(self, args, state, control, logs=None, **rest) -> None:
        if logs and "loss" in logs:
            self.diary.step(float(logs["loss"]))


class Keeper(BasePlugin):
    """Writes the diary, the model and its logits to the folder `model`."""

    def __init__(self) -> None:
        super().__init__()
        self.diary = Diary()

    def add_callbacks_post_trainer(self, cfg, trainer) -> list:
        return [Losses(self.diary)]

    def post_train(self, cfg, model) -> None:
        keep(model, HERE / "model")
        self.diary.close(HERE / "model", PLAN["batch_rows"] * CONTEXT)
