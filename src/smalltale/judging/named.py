"""Judges by name: what `--judge` takes.

In: `local`, `local:FILE.gguf`, `scripted`, `http://host/v1#model`, or any model that inspect_ai knows (`openai/…`,
`anthropic/…`, `google/…`, `openrouter/…`, `vllm/…`, `ollama/…`). Out: open judges, closed at the end of the block.
Beware: a name is checked, and its key looked for, before any call.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from smalltale.errors import SmalltaleError
from smalltale.judging.endpoint import EndpointJudge
from smalltale.judging.judge import Judge, ScriptedJudge, rehearsal
from smalltale.judging.local import local_judge

KEY_VARIABLE = "SMALLTALE_JUDGE_KEY"
"""Environment variable with the key of judges given by URL."""


@contextlib.contextmanager
def open_judges(names: Sequence[str], *, concurrency: int | None = None) -> Iterator[list[Judge]]:
    """The judges of these names. Raises SmalltaleError for an unknown or doubled one, MissingExtra."""
    if not names:
        raise SmalltaleError("no judge is named; add --judge, for example --judge local")
    if len(set(names)) != len(names):
        raise SmalltaleError(f"a judge is named twice in {', '.join(names)}; name each once")
    with contextlib.ExitStack() as stack:
        judges = [opened(stack, name) for name in names]
        for judge in judges:
            if concurrency is not None:
                judge.concurrency = concurrency  # type: ignore[misc]
        yield judges


def opened(stack: contextlib.ExitStack, name: str) -> Judge:
    """One judge by name."""
    if name == "local":
        return stack.enter_context(local_judge())
    if name.startswith("local:"):
        return stack.enter_context(local_judge(Path(name.removeprefix("local:"))))
    if name == "scripted":
        return ScriptedJudge(rehearsal)
    if name.startswith(("http://", "https://")):
        url, hash_sign, model = name.partition("#")
        if not (hash_sign and model):
            raise SmalltaleError(
                f"judge {name!r} names no model; write URL#MODEL, for example http://127.0.0.1:8000/v1#qwen3"
            )
        return EndpointJudge(base_url=url, model=model, api_key=os.environ.get(KEY_VARIABLE, ""))
    if "/" in name:
        from smalltale.judging.providers import ProviderJudge

        return ProviderJudge.open(name)
    raise SmalltaleError(
        f"unknown judge {name!r}; known: local, local:FILE.gguf, scripted, http://HOST/v1#MODEL, or PROVIDER/MODEL as inspect_ai names them"
    )
