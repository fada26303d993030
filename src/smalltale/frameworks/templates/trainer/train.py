"""Train with the Hugging Face Trainer: training.yaml has its arguments, config.json the model."""

from datasets import load_dataset
from stories import CONTEXT, HERE, RunLog, new_model, save_model
from transformers import HfArgumentParser, Trainer, TrainerCallback, TrainingArguments, default_data_collator


class LossLogger(TrainerCallback):
    """Appends every logged loss to the run log."""

    def __init__(self, run_log: RunLog) -> None:
        self.run_log = run_log

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if logs and "loss" in logs:
            self.run_log.step(logs["loss"])


def main() -> None:
    (arguments,) = HfArgumentParser(TrainingArguments).parse_yaml_file(HERE / "training.yaml")
    rows = load_dataset(
        "parquet",
        data_files={split: str(HERE / f"{split}.parquet") for split in ("train", "val")},
        cache_dir=str(HERE / "cache"),
    )
    rows = rows.map(lambda batch: {"labels": batch["input_ids"]}, batched=True)
    run_log, model = RunLog(), new_model()
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows["train"],
        eval_dataset=rows["val"],
        data_collator=default_data_collator,
        callbacks=[LossLogger(run_log)],
    )
    trainer.train()
    out = HERE / "model"
    save_model(trainer.accelerator.unwrap_model(trainer.model), out)
    run_log.close(out, arguments.train_batch_size * arguments.gradient_accumulation_steps * CONTEXT)


if __name__ == "__main__":
    main()
