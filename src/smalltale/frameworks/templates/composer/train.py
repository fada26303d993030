"""Train with MosaicML Composer over MDS shards; run.toml has the settings of the run, config.json the model."""

import tomllib

import numpy as np
import torch
import torchmetrics  # noqa: F401  before the stand-in, because it checks for torchvision
from stand_in import stand_in_for

stand_in_for("torchvision")

from composer import Callback, Trainer
from composer.algorithms import GradientClipping
from composer.models import HuggingFaceModel
from composer.optim import CosineAnnealingWithWarmupScheduler
from stories import CONTEXT, HERE, RunLog, new_model, save_model
from streaming import StreamingDataset
from torch.utils.data import DataLoader

run = tomllib.loads((HERE / "run.toml").read_text(encoding="utf-8"))


def collate(samples: list[dict]) -> dict[str, torch.Tensor]:
    """Rows of int64 bytes as ids; Hugging Face models shift the labels themselves."""
    ids = torch.from_numpy(np.stack([np.frombuffer(sample["tokens"], dtype=np.int64) for sample in samples]))
    return {"input_ids": ids, "labels": ids.clone()}


class LossRecorder(Callback):
    """Appends each loss to the run log."""

    def __init__(self) -> None:
        self.run_log = RunLog()

    def batch_end(self, state, logger) -> None:
        self.run_log.step(state.loss.item())


model, recorder = new_model(), LossRecorder()
rows = StreamingDataset(
    local=str(HERE / "mds" / "train"), shuffle=True, batch_size=run["rows"], num_canonical_nodes=1
)
trainer = Trainer(
    model=HuggingFaceModel(model, tokenizer=None, use_logits=True),
    train_dataloader=DataLoader(rows, batch_size=run["rows"], collate_fn=collate, drop_last=True),
    optimizers=torch.optim.AdamW(
        model.parameters(), lr=run["learning_rate"], betas=(0.9, 0.95), weight_decay=run["weight_decay"]
    ),
    schedulers=CosineAnnealingWithWarmupScheduler(t_warmup=f"{run['warmup_steps']}ba"),
    algorithms=[GradientClipping(clipping_type="norm", clipping_threshold=1.0)],
    max_duration=f"{run['steps']}ba",
    device="gpu" if torch.cuda.is_available() else "cpu",
    callbacks=[recorder],
    progress_bar=False,
    seed=0,
)
trainer.fit()
save_model(model, HERE / "model")
recorder.run_log.close(HERE / "model", run["rows"] * CONTEXT)
