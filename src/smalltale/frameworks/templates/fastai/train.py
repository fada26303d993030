"""Train with fastai: a Learner over rows of stories; run.toml has the settings of the run, config.json the model."""

from fastai.callback.schedule import Learner  # with fit_one_cycle
from fastai.callback.training import GradientClip
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import Adam
from fastai_rows import LossRecorder, Pairs, loaders_of, run
from stories import CONTEXT, HERE, new_model, save_reference
from torch.nn import Module


class Logits(Module):
    """The Llama, returning only logits."""

    def __init__(self) -> None:
        super().__init__()
        self.llama = new_model()

    def forward(self, ids):
        return self.llama(input_ids=ids).logits


loaders, epochs = loaders_of(Pairs)
learn = Learner(
    loaders,
    Logits(),
    loss_func=CrossEntropyLossFlat(),
    opt_func=Adam,
    wd=run["weight_decay"],
    cbs=[LossRecorder(), GradientClip(1.0)],
    path=HERE,
)
learn.fit_one_cycle(epochs, run["learning_rate"], pct_start=min(0.5, run["warmup_steps"] / run["steps"]))
# Without the optimizer the file contains only tensors, which `smalltale import` can open.
learn.save("stories", with_opt=False)

model = learn.model.to("cpu").eval()
save_reference(model, model, HERE / "models")
learn.loss_recorder.run_log.close(HERE / "models", run["rows"] * CONTEXT)
