"""smalltale: pretrain small storytellers from scratch, and run the hackathon that ranks them."""

from importlib.metadata import version

__version__ = version("smalltale")
