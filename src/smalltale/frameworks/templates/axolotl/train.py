"""Train with Axolotl: axolotl.yaml has the settings, config.json the model. Run in this folder.

If all of Axolotl's requirements are installed (GPU libraries included), `axolotl train axolotl.yaml` does the same.
"""

import accelerate  # noqa: F401  these check for the packages below, so they come before the stand-ins
import peft  # noqa: F401
import transformers.trainer  # noqa: F401
import trl  # noqa: F401
from stand_in import stand_in_for

stand_in_for("bitsandbytes", "triton", "wandb")

from axolotl.cli.train import do_cli

# The data preparation processes import this file again.
if __name__ == "__main__":
    do_cli("axolotl.yaml")
