"""Axolotl plugin (named in axolotl.yaml): records losses, and saves the model and its logits at the end."""

from axolotl.integrations.base import BasePlugin
from stories import CONTEXT, HERE, PLAN, RunLog, save_model
from transformers import TrainerCallback


class LossLogger(TrainerCallback):
    """Appends every logged loss to the run log."""

    def __init__(self, run_log: RunLog) -> None:
        self.run_log = run_log

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if logs and "loss" in logs:
            self.run_log.step(float(logs["loss"]))


class Recorder(BasePlugin):
    """Writes the run log, the model and its logits to the folder `model`."""

    def __init__(self) -> None:
        super().__init__()
        self.run_log = RunLog()

    def add_callbacks_post_trainer(self, cfg, trainer) -> list:
        return [LossLogger(self.run_log)]

    def post_train(self, cfg, model) -> None:
        save_model(model, HERE / "model")
        self.run_log.close(HERE / "model", PLAN["batch_rows"] * CONTEXT)
