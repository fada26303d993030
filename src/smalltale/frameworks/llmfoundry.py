"""LLM Foundry: MDS shards, the YAML of its own trainer for a Llama through `hf_causal_lm`; a model folder comes back.

Beware: LLM Foundry 0.22 is its last release and pins torch < 2.7.1 and transformers < 4.52. It runs with torch 2.13, of which
there is a build for processors; its own MPT is left alone, for no later transformers loads one.
"""

from __future__ import annotations

from smalltale.frameworks.composer import write_shards
from smalltale.frameworks.framework import Export, Framework
from smalltale.frameworks.huggingface import llama_reader, write_llama_export


def export(to: Export) -> None:
    """Shards of both splits, train.yaml and the few lines that start it."""
    write_llama_export(FRAMEWORK, to, ("train.py", "train.yaml", "stand_in.py"))
    write_shards(to)


FRAMEWORK = Framework(
    name="llmfoundry",
    title="LLM Foundry",
    export=export,
    read=llama_reader("llmfoundry", ("state", "model")),
    train=("python train.py",),
    checkpoint="model",
    package="llm-foundry",
)
