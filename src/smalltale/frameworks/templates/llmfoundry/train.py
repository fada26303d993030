"""Train with LLM Foundry: train.yaml has its settings, config.json the model. Run in this folder."""

from pathlib import Path

import torchmetrics  # noqa: F401  before the stand-ins: it asks whether torchvision is there
from stand_in import stand_in_for

stand_in_for("torchvision", "mlflow", "bs4")

from composer import Callback
from llmfoundry.command_utils import train_from_yaml
from llmfoundry.registry import callbacks
from stories import CONTEXT, HERE, PLAN, Diary, keep

diary = Diary()


class Keeper(Callback):
    """Writes the diary."""

    def batch_end(self, state, logger) -> None:
        diary.step(state.loss.item())


callbacks.register("keeper", func=Keeper)
trainer = train_from_yaml(str(Path(HERE) / "train.yaml"))
keep(trainer.state.model.model, HERE / "model")
diary.close(HERE / "model", PLAN["batch_rows"] * CONTEXT)
