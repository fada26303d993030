"""Train with Axolotl: axolotl.yaml has its settings, config.json the model. Run in this folder.

With all that Axolotl asks for installed (a GPU's libraries among them), `axolotl train axolotl.yaml` does the same.
"""

import accelerate  # noqa: F401  these ask whether the packages below are there: before the stand-ins
import peft  # noqa: F401
import transformers.trainer  # noqa: F401
import trl  # noqa: F401
from stand_in import stand_in_for

stand_in_for("bitsandbytes", "triton", "wandb")

from axolotl.cli.train import do_cli

# The processes that prepare the data import this file again.
if __name__ == "__main__":
    do_cli("axolotl.yaml")
