"""A row's proof: the whole way out and back through the command line, by a real run of the framework's own trainer.

In: a framework, stories. Out: a Proof (records.py).
Beware: the speeds of one run of this, ours among them, belong together: another machine, or work beside, gives others.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from smalltale.corpus.build import read_corpus
from smalltale.errors import SmalltaleError
from smalltale.files import END_OF_STORY, read_json, read_jsonl
from smalltale.frameworks.framework import Framework
from smalltale.frameworks.install import Environment, environment, install, version_of
from smalltale.frameworks.records import Proof, hashes_of, keep_record
from smalltale.frameworks.run import Run, run_of, speed, train
from smalltale.machine import usable_cores

log = logging.getLogger(__name__)

SHAPE = {"layers": 4, "width": 128, "heads": 4, "context": 256}
RUN = {"rows": 8, "steps": 60, "learning-rate": 0.003}
STORIES, VOCABULARY, PROMPTS = 3000, 2048, 2
FALL = 0.5
"""The last ten losses are on average so much lower than the first ten, in nats."""
THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
"""For every run, ours too: threads that spin while they wait starve each other where the cores are shared."""
EAGER = {"TORCHDYNAMO_DISABLE": "1"}
"""For theirs: compiling for a processor takes longer than the few steps that it would speed up."""
OUT = "export, train"
OUT_AND_BACK = f"{OUT}, import, count, evaluate, generate, check"


def prepare(work: Path, source: str) -> None:
    """Corpus, tokenizer, tokens, held-out text and prompts for all rows, once for each source of stories."""
    told = work / "source.txt"
    if told.exists() and told.read_text(encoding="utf-8") == source:
        return
    told.unlink(missing_ok=True)
    for name in ("corpus", "tokenizer", "tokens"):
        remove(work / name)
    work.mkdir(parents=True, exist_ok=True)
    smalltale(
        "corpus", "build", "--source", source, "--set", f"corpus.stories={STORIES}", "--out", work / "corpus"
    )
    size = ["--set", f"tokenizer.vocabulary={VOCABULARY}"]
    smalltale("tokens", "train", work / "corpus", "--out", work / "tokenizer", *size)
    smalltale(
        "tokens", "encode", work / "corpus", "--tokenizer", work / "tokenizer", "--out", work / "tokens"
    )
    stories = [document.text for document in read_corpus(work / "corpus", "val")]
    (work / "val.txt").write_text(f"\n{END_OF_STORY}\n".join(stories), encoding="utf-8")
    prompts = [" ".join(story.split()[:8]) for story in stories[:PROMPTS]]
    (work / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    told.write_text(source, encoding="utf-8")


def our_speed(work: Path) -> float:
    """Tokens/s of our own trainer on the same shape, tokens a step and number of steps: the median of windows of 10 steps."""
    tokens = int(RUN["rows"] * SHAPE["context"])
    values = {
        **{f"model.{key}": value for key, value in SHAPE.items()},
        "training.row_length": SHAPE["context"],
        "training.batch_tokens": tokens,
        "training.micro_batch_tokens": tokens,
    }
    overrides = [each for key, value in values.items() for each in ("--set", f"{key}={value}")]
    place = ["--tokens", work / "tokens", "--tokenizer", work / "tokenizer", "--out", work / "own"]
    remove(work / "own")
    smalltale("train", "demo", *place, "--steps", RUN["steps"], "--device", "cpu", *overrides)
    told = [row["seconds"] for row in read_jsonl(work / "own" / "metrics.jsonl") if "loss" in row]
    found = speed([after - before for before, after in pairwise(told)], tokens)
    assert found is not None
    return found


def prove_all(
    rows: Sequence[Framework], work: Path, source: str, *, fresh: bool = False, record: bool = False
) -> Iterator[Proof]:
    """Prove one row after the other. Raises SmalltaleError where what they share fails."""
    prepare(work, source)
    own = our_speed(work)
    for framework in rows:
        proof = prove(framework, work, own, fresh=fresh)
        if record:
            keep_record(proof)
        yield proof


def prove(framework: Framework, work: Path, own_speed: float, *, fresh: bool = False) -> Proof:
    """Prove one row. A failure is a Proof too, with the message."""
    began = time.monotonic()
    figures: dict[str, Any] = {"own_tokens_per_second": own_speed}
    made: Environment | None = None
    try:
        made = environment(framework)
        made = made if made and made.current and not fresh else install(framework)
        go(framework, work, figures)
        passed, message = True, OUT_AND_BACK if framework.read else OUT
    except SmalltaleError as error:
        passed, message = False, str(error)
    module_hash, constraints_hash = hashes_of(framework)
    return Proof(
        name=framework.name,
        passed=passed,
        message=message,
        proven_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version_of(framework),
        module_hash=module_hash,
        constraints_hash=constraints_hash,
        machine=f"{platform.system()} {platform.machine()}, {usable_cores()} cores",
        seconds=round(time.monotonic() - began, 1),
        install_seconds=made.seconds if made else None,
        install_megabytes=made.megabytes if made else None,
        figures=figures,
    )


def go(framework: Framework, work: Path, figures: dict[str, Any]) -> None:
    """The way out and back; `figures` is filled as it goes. Raises SmalltaleError at the first thing that is wrong."""
    place, back = work / "rows" / framework.name, work / "back" / framework.name
    for old in (place, back):
        remove(old)
    shape = [each for key, value in {**SHAPE, **RUN}.items() for each in (f"--{key}", str(value))]
    smalltale("export", work / "tokens", "--for", framework.name, "--out", place, *shape)
    run = trained(framework, place)
    first, last = mean(run.losses[:10]), mean(run.losses[-10:])
    figures.update(steps=len(run.losses), first_losses=first, last_losses=last)
    figures["tokens_per_second"] = run.tokens_per_second
    check(len(run.losses) >= RUN["steps"], f"{len(run.losses)} optimizer steps, {RUN['steps']} are wanted")
    check(first - last > FALL, f"the loss went from {first:.3f} to {last:.3f}, a fall of {FALL} is wanted")
    if framework.read is None:
        return
    trust = ["--trust"] if framework.needs_trust else []
    checkpoint = place / framework.checkpoint
    smalltale("import", checkpoint, "--from", framework.name, "--out", back, *trust)
    reference = read_json(back / "meta.json")["reference"]
    check(reference is not None, f"the run left no reference.safetensors near {checkpoint}")
    figures["largest_logit_difference"] = reference["difference"]
    counted = json.loads(smalltale("count", back, "--json"))["counted"]
    figures["counted_parameters"] = counted
    check(
        counted == reference["parameters"], f"counted {counted}, the framework has {reference['parameters']}"
    )
    scored = json.loads(smalltale("evaluate", back, "--text", work / "val.txt", "--json"))
    figures["bits_per_byte"] = scored["bits_per_byte"]
    hand_in = back.with_name(f"{framework.name}.csv")
    prompts = ["--prompts", work / "prompts.txt"]
    settings = ["--device", "cpu", "--set", "generation.max_tokens=48"]
    smalltale("generate", back, *prompts, "--out", hand_in, *settings)
    verdict = json.loads(smalltale("submission", "check", hand_in, *prompts, "--json"))
    figures["completions"] = verdict["rows"]
    check(verdict["accepted"], f"the hand-in was refused: {verdict['errors'][:1]}")


def trained(framework: Framework, place: Path) -> Run:
    """Train in an export folder. Raises SmalltaleError with the run's last words where it fails."""
    log.info("training with %s", framework.title)
    path = place / "train.log"
    with path.open("w", encoding="utf-8") as printed:
        try:
            train(framework, place, {**THREADS, **EAGER}, printed)
        except SmalltaleError as error:
            raise SmalltaleError(last_words(path.read_text(encoding="utf-8")) or str(error)) from error
    return run_of(framework, place, path.read_text(encoding="utf-8"))


def smalltale(*arguments: object) -> str:
    """What one command of ours printed. Raises SmalltaleError with its message."""
    asked = [sys.executable, "-m", "smalltale", *map(str, arguments)]
    ran = subprocess.run(asked, capture_output=True, text=True, check=False, env={**os.environ, **THREADS})
    if ran.returncode:
        raise SmalltaleError(last_words(ran.stderr or ran.stdout) or f"status {ran.returncode}")
    return ran.stdout


def last_words(text: str) -> str:
    """The last line that says something."""
    words = [line for line in text.strip().splitlines() if line.strip()]
    return words[-1].removeprefix("smalltale: ")[:400] if words else ""


def remove(folder: Path) -> None:
    """Take away what an earlier proof left."""
    shutil.rmtree(folder, ignore_errors=True)


def mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))


def check(holds: bool, message: str) -> None:
    if not holds:
        raise SmalltaleError(message)
