"""Train with the Hugging Face Trainer: training.yaml has its arguments, config.json the model."""

from datasets import load_dataset
from stories import CONTEXT, HERE, Diary, keep, new_model
from transformers import HfArgumentParser, Trainer, TrainerCallback, TrainingArguments, default_data_collator


class Keeper(TrainerCallback):
    """Hands every logged loss to the diary."""

    def __init__(self, diary: Diary) -> None:
        self.diary = diary

    def on_log(self, args, state, control, logs=None, **rest) -> None:
        if logs and "loss" in logs:
            self.diary.step(logs["loss"])


def main() -> None:
    (arguments,) = HfArgumentParser(TrainingArguments).parse_yaml_file(HERE / "training.yaml")
    rows = load_dataset(
        "parquet",
        data_files={split: str(HERE / f"{split}.parquet") for split in ("train", "val")},
        cache_dir=str(HERE / "cache"),
    )
    rows = rows.map(lambda batch: {"labels": batch["input_ids"]}, batched=True)
    diary, model = Diary(), new_model()
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows["train"],
        eval_dataset=rows["val"],
        data_collator=default_data_collator,
        callbacks=[Keeper(diary)],
    )
    trainer.train()
    out = HERE / "model"
    keep(trainer.accelerator.unwrap_model(trainer.model), out)
    diary.close(out, arguments.train_batch_size * arguments.gradient_accumulation_steps * CONTEXT)


if __name__ == "__main__":
    main()
