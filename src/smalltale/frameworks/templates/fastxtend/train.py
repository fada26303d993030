"""Train with fastxtend: fastai's Learner with its fused Adam and flat schedule; run.toml has the settings of the run."""

from fastai.callback.training import GradientClip
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai_rows import LossRecorder, Pairs, loaders_of, run
from fastxtend.optimizer.fused import adam
from fastxtend.schedulers import *  # noqa: F403  gives Learner fit_flat_varied
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
    # foreach updates all weights in a few calls; adan, lion, sophia, stableadam are in fastxtend.optimizer too.
    opt_func=adam(foreach=True),
    wd=run["weight_decay"],
    cbs=[LossRecorder(), GradientClip(1.0)],
    path=HERE,
)
learn.fit_flat_warmup(
    epochs, run["learning_rate"], warm_pct=min(0.5, run["warmup_steps"] / run["steps"]), pct_start=0.75
)
# Without the optimizer the file contains only tensors, which `smalltale import` can open.
learn.save("stories", with_opt=False)

model = learn.model.to("cpu").eval()
save_reference(model, model, HERE / "models")
learn.loss_recorder.run_log.close(HERE / "models", run["rows"] * CONTEXT)
