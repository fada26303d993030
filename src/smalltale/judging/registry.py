"""Open judges by name, as `--judge` takes them.

Input: `local`, `local:FILE.gguf`, `scripted`, `http://host/v1#model`, or a model of inspect_ai (`openai/…`, `anthropic/…`,
`google/…`, `openrouter/…`, `vllm/…`, `ollama/…`). Output: open judges, closed at the end of the block.
Note: names and API keys are checked before any call.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from smalltale.errors import SmalltaleError
from smalltale.judging.endpoint import EndpointJudge
from smalltale.judging.judge import Judge, ScriptedJudge, draw_scripted_answer
from smalltale.judging.local import embedded_weights, local_judge, local_judge_identity

KEY_VARIABLE = "SMALLTALE_JUDGE_KEY"
"""Environment variable with the API key of judges given by URL."""


@contextlib.contextmanager
def open_judges(names: Sequence[str], *, concurrency: int | None = None) -> Iterator[list[Judge]]:
    """Open judges. Raises SmalltaleError for an unknown or repeated name, MissingExtra."""
    if not names:
        raise SmalltaleError("no judge is named; add --judge, for example --judge local")
    if len(set(names)) != len(names):
        raise SmalltaleError(f"a judge is named twice in {', '.join(names)}; name each once")
    with contextlib.ExitStack() as stack:
        judges = [open_judge(stack, name) for name in names]
        if len({judge.name for judge in judges}) != len(judges):
            raise SmalltaleError(
                f"two judges of {', '.join(names)} have one name, so their scores would be mixed up; "
                "serve one under another model name"
            )
        for judge in judges:
            if concurrency is not None:
                judge.concurrency = concurrency  # type: ignore[misc]
        yield judges


def judge_identity(name: str) -> tuple[str, str]:
    """The judge's own name and its endpoint, which identify its qualification, without opening it or needing its key.

    Raises SmalltaleError for an unknown name.
    """
    if name == "local" or name.startswith("local:"):
        return local_judge_identity(local_weights_path(name) or embedded_weights())
    if name == "scripted":
        return "scripted", "scripted:"
    if name.startswith(("http://", "https://")):
        url, model = split_judge_url(name)
        return model, url
    if "/" in name:
        from smalltale.judging.providers import provider_endpoint

        return name, provider_endpoint(name)
    raise SmalltaleError(
        f"unknown judge {name!r}; known: local, local:FILE.gguf, scripted, http://HOST/v1#MODEL, or PROVIDER/MODEL as inspect_ai names them"
    )


def open_judge(stack: contextlib.ExitStack, name: str) -> Judge:
    """Open one judge. Raises SmalltaleError, MissingExtra."""
    model, endpoint = judge_identity(name)
    if name == "local" or name.startswith("local:"):
        return stack.enter_context(local_judge(local_weights_path(name)))
    if name == "scripted":
        return ScriptedJudge(draw_scripted_answer)
    if name.startswith(("http://", "https://")):
        return EndpointJudge(base_url=endpoint, model=model, api_key=os.environ.get(KEY_VARIABLE, ""))
    from smalltale.judging.providers import ProviderJudge

    return ProviderJudge.open(model)


def local_weights_path(name: str) -> Path | None:
    """The GGUF file of `local:FILE.gguf`; None for the embedded weights."""
    return Path(name.removeprefix("local:")) if name.startswith("local:") else None


def split_judge_url(name: str) -> tuple[str, str]:
    """Split URL#MODEL. Raises SmalltaleError."""
    url, _, model = name.partition("#")
    if not model:
        raise SmalltaleError(
            f"judge {name!r} names no model; write URL#MODEL, for example http://127.0.0.1:8000/v1#qwen3"
        )
    if "@" in url:
        raise SmalltaleError(
            f"the address of judge {model} contains a secret, which would be saved with its answers; "
            f"remove it and set {KEY_VARIABLE}"
        )
    return url.rstrip("/"), model
