"""Train with blurr: fastai's Learner around the Llama, which computes its own loss; run.toml has the settings of the run."""

from blurr.text.modeling.core import BaseModelCallback, BaseModelWrapper
from blurr.utils import PreCalculatedCrossEntropyLoss
from fastai.callback.schedule import Learner  # with fit_one_cycle
from fastai.callback.training import GradientClip
from fastai.optimizer import Adam
from fastai_rows import LossRecorder, Pairs, loaders_of, run
from stories import CONTEXT, HERE, new_model, save_reference


class Inputs(Pairs):
    """(model inputs, target), the format of blurr; Hugging Face models shift the labels themselves."""

    def __getitem__(self, row: int):
        ids, target = super().__getitem__(row)
        return {"input_ids": ids, "labels": ids}, target


loaders, epochs = loaders_of(Inputs)
learn = Learner(
    loaders,
    BaseModelWrapper(new_model()),
    loss_func=PreCalculatedCrossEntropyLoss(),
    opt_func=Adam,
    wd=run["weight_decay"],
    cbs=[BaseModelCallback(), LossRecorder(), GradientClip(1.0)],
    path=HERE,
)
learn.fit_one_cycle(epochs, run["learning_rate"], pct_start=min(0.5, run["warmup_steps"] / run["steps"]))
# Without the optimizer the file contains only tensors, which `smalltale import` can open.
learn.save("stories", with_opt=False)

model = learn.model.to("cpu").eval()
save_reference(model, lambda ids: model({"input_ids": ids}).logits, HERE / "models")
learn.loss_recorder.run_log.close(HERE / "models", run["rows"] * CONTEXT)
