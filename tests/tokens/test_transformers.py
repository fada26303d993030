"""A tokenizer folder opens with transformers' AutoTokenizer, in versions 4 and 5, with the same ids."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smalltale.tokens.tokenizer import Tokenizer

TEXT = 'Once upon a time, Tom said, "I can\'t!"\n\nThe end. 12  é 🙂'
SCRIPT = """
import json, sys, transformers
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer(sys.argv[2])["input_ids"]
print(json.dumps([transformers.__version__, ids, tokenizer.decode(ids), tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)]))
"""
PYTHONS = "SMALLTALE_TRANSFORMERS_PYTHONS"


def load_with_transformers(python: str, folder: Path) -> list[object]:
    """Load the folder and encode TEXT with the transformers of an interpreter's environment."""
    process = subprocess.run(
        [python, "-W", "ignore", "-c", SCRIPT, str(folder), TEXT],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "USE_TORCH": "0"},
    )
    result: list[object] = json.loads(process.stdout.splitlines()[-1])
    return result


def expected(tokenizer: Tokenizer) -> list[object]:
    return [tokenizer.encode(TEXT), TEXT, tokenizer.end_id, tokenizer.pad_id, tokenizer.vocabulary_size]


def test_the_installed_transformers_gives_the_same_ids(tokenizer: Tokenizer, tokenizer_folder: Path) -> None:
    assert load_with_transformers(sys.executable, tokenizer_folder)[1:] == expected(tokenizer)


@pytest.mark.all
def test_other_versions_of_transformers_give_the_same_ids(
    tokenizer: Tokenizer, tokenizer_folder: Path
) -> None:
    pythons = [path for path in os.environ.get(PYTHONS, "").split(os.pathsep) if path]
    if not pythons:
        pytest.skip(
            f"{PYTHONS} names no interpreter; give those of environments with transformers 4.51 and 4.57"
        )
    for python in pythons:
        assert load_with_transformers(python, tokenizer_folder)[1:] == expected(tokenizer)
