"""Train with PyTorch Lightning: python train.py fit --config training.yaml."""

import lightning as L
import torch
from lightning.pytorch.cli import LightningCLI
from stories import CONTEXT, HERE, RunLog, StoryRows, new_model, save_reference
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup


class StoryModel(L.LightningModule):
    """The Llama of config.json, its loss and its optimizer."""

    def __init__(
        self, learning_rate: float = 1e-3, warmup_steps: int = 100, weight_decay: float = 0.1
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = new_model()

    def training_step(self, batch: dict, number: int) -> torch.Tensor:
        return self.model(**batch).loss

    def validation_step(self, batch: dict, number: int) -> None:
        self.log("val_loss", self.model(**batch).loss)

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(
            self.parameters(),
            lr=self.hparams.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=self.hparams.weight_decay,
        )
        steps = self.trainer.estimated_stepping_batches
        schedule = get_cosine_schedule_with_warmup(optimizer, self.hparams.warmup_steps, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Stories(L.LightningDataModule):
    """Rows of both splits."""

    def __init__(self, rows: int = 32) -> None:
        super().__init__()
        self.rows = rows

    def train_dataloader(self) -> DataLoader:
        return DataLoader(StoryRows("train"), batch_size=self.rows, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(StoryRows("val"), batch_size=self.rows)


class Recorder(L.Callback):
    """Records losses, and saves the model's logits at the end."""

    def __init__(self) -> None:
        self.run_log = RunLog()

    def on_train_batch_end(self, trainer, module, outputs, batch, number) -> None:
        self.run_log.step(outputs["loss"].item())

    def on_train_end(self, trainer, module) -> None:
        model = module.model.to("cpu", torch.float32).eval()
        save_reference(model, lambda ids: model(input_ids=ids).logits, HERE / "out")
        self.run_log.close(HERE / "out", trainer.datamodule.rows * CONTEXT)


if __name__ == "__main__":
    LightningCLI(StoryModel, Stories, save_config_callback=None, trainer_defaults={"callbacks": [Recorder()]})
