"""Train with LLM Foundry: train.yaml has the settings, config.json the model. Run in this folder."""

from pathlib import Path

import torchmetrics  # noqa: F401  before the stand-ins, because it checks for torchvision
from stand_in import stand_in_for

stand_in_for("torchvision", "mlflow", "bs4")

from composer import Callback
from llmfoundry.command_utils import train_from_yaml
from llmfoundry.registry import callbacks
from stories import CONTEXT, HERE, PLAN, RunLog, save_model

run_log = RunLog()


class LossRecorder(Callback):
    """Appends each loss to the run log."""

    def batch_end(self, state, logger) -> None:
        run_log.step(state.loss.item())


callbacks.register("loss_recorder", func=LossRecorder)
trainer = train_from_yaml(str(Path(HERE) / "train.yaml"))
save_model(trainer.state.model.model, HERE / "model")
run_log.close(HERE / "model", PLAN["batch_rows"] * CONTEXT)
