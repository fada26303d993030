"""LLM Foundry: exports MDS shards and the YAML of its own trainer for a Llama (`hf_causal_lm`); imports the model folder.

LLM Foundry 0.22 is its last release and pins torch < 2.7.1 and transformers < 4.52. It runs with torch 2.13, which has a CPU
build; its own MPT model is not used, because no later transformers version loads it.
"""

from __future__ import annotations

from smalltale.frameworks.composer import write_shards
from smalltale.frameworks.framework import ExportRequest, Framework
from smalltale.frameworks.huggingface import make_llama_reader, write_llama_export


def export(request: ExportRequest) -> None:
    """Write shards of both splits, train.yaml and its start script."""
    write_llama_export(FRAMEWORK, request, ("train.py", "train.yaml", "stand_in.py"))
    write_shards(request)


FRAMEWORK = Framework(
    name="llmfoundry",
    title="LLM Foundry",
    export=export,
    read=make_llama_reader("llmfoundry", ("state", "model")),
    train=("python train.py",),
    checkpoint="model",
    package="llm-foundry",
)
