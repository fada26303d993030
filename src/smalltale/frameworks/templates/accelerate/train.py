"""Train with Accelerate: a plain loop; run.toml has the settings of the run, config.json the model."""

import tomllib

import torch
from accelerate import Accelerator
from stories import CONTEXT, HERE, RunLog, StoryRows, new_model, save_model
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

run = tomllib.loads((HERE / "run.toml").read_text(encoding="utf-8"))
accelerator = Accelerator()
model = new_model()
optimizer = torch.optim.AdamW(
    model.parameters(), lr=run["learning_rate"], betas=(0.9, 0.95), weight_decay=run["weight_decay"]
)
schedule = get_cosine_schedule_with_warmup(optimizer, run["warmup_steps"], run["steps"])
loader = DataLoader(StoryRows("train"), batch_size=run["rows"], shuffle=True, drop_last=True)
model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)

run_log, step = RunLog(), 0
model.train()
while step < run["steps"]:
    for batch in loader:
        loss = model(**batch).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        run_log.step(loss.item())
        step += 1
        if step % 10 == 0:
            accelerator.print(f"step {step}: loss {loss.item():.3f}")
        if step == run["steps"]:
            break

accelerator.wait_for_everyone()
if accelerator.is_main_process:
    save_model(accelerator.unwrap_model(model), HERE / "model")
    run_log.close(HERE / "model", run["rows"] * CONTEXT * accelerator.num_processes)
