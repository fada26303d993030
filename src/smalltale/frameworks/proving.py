"""Proves a framework: export, train with the framework's own trainer, import, count, evaluate, generate, check.

Input: a framework and stories. Output: a Proof (records.py).
Speeds of one run of this module, including our own trainer's, are comparable with each other only: another machine, or other
work on this one, gives different numbers.
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
from statistics import fmean
from typing import Any

from smalltale.corpus.corpus_folder import read_corpus
from smalltale.errors import SmalltaleError
from smalltale.files import END_OF_STORY, read_json, read_jsonl
from smalltale.frameworks.framework import Framework
from smalltale.frameworks.install import Environment, find_environment, install, pinned_version
from smalltale.frameworks.records import Proof, source_hashes, write_record
from smalltale.frameworks.run import FrameworkRun, median_tokens_per_second, read_run, train
from smalltale.machine import usable_cores

log = logging.getLogger(__name__)

SHAPE = {"layers": 4, "width": 128, "heads": 4, "context": 256}
RUN = {"rows": 8, "steps": 60, "learning-rate": 0.003}
STORIES, VOCABULARY, PROMPTS = 3000, 2048, 2
MIN_LOSS_FALL = 0.5
"""Required fall from the mean of the first ten losses to the mean of the last ten, in nats."""
THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
"""For all runs, ours included: threads that spin while waiting starve each other on shared cores."""
EAGER = {"TORCHDYNAMO_DISABLE": "1"}
"""For the frameworks' runs: compiling takes longer on a CPU than the few steps it would speed up."""
EXPORT_ONLY = "export, train"
ROUND_TRIP = f"{EXPORT_ONLY}, import, count, evaluate, generate, check"


def prepare_data(work: Path, source: str) -> None:
    """Write corpus, tokenizer, tokens, held-out text and prompts that all frameworks share, once per source of stories."""
    source_record = work / "source.txt"
    if source_record.exists() and source_record.read_text(encoding="utf-8") == source:
        return
    source_record.unlink(missing_ok=True)
    for name in ("corpus", "tokenizer", "tokens"):
        shutil.rmtree(work / name, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    corpus, tokenizer, tokens = work / "corpus", work / "tokenizer", work / "tokens"
    size = ["--set", f"corpus.stories={STORIES}"]
    run_smalltale("corpus", "build", "--source", source, *size, "--out", corpus)
    size = ["--set", f"tokenizer.vocabulary={VOCABULARY}"]
    run_smalltale("tokens", "train", corpus, *size, "--out", tokenizer)
    run_smalltale("tokens", "encode", corpus, "--tokenizer", tokenizer, "--out", tokens)
    stories = [document.text for document in read_corpus(corpus, "val")]
    (work / "val.txt").write_text(f"\n{END_OF_STORY}\n".join(stories), encoding="utf-8")
    prompts = [" ".join(story.split()[:8]) for story in stories[:PROMPTS]]
    (work / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    source_record.write_text(source, encoding="utf-8")


def measure_own_speed(work: Path) -> float:
    """Tokens/s of our own trainer at the same shape, tokens per step and steps: median over windows of 10 steps."""
    tokens = int(RUN["rows"] * SHAPE["context"])
    values = {
        **{f"model.{key}": value for key, value in SHAPE.items()},
        "training.row_length": SHAPE["context"],
        "training.batch_tokens": tokens,
        "training.micro_batch_tokens": tokens,
    }
    overrides = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    folders = ["--tokens", work / "tokens", "--tokenizer", work / "tokenizer", "--out", work / "own"]
    shutil.rmtree(work / "own", ignore_errors=True)
    run_smalltale("train", "demo", *folders, "--steps", RUN["steps"], "--device", "cpu", *overrides)
    seconds = [row["seconds"] for row in read_jsonl(work / "own" / "metrics.jsonl") if "loss" in row]
    step_seconds = [after - before for before, after in pairwise(seconds)]
    tokens_per_second = median_tokens_per_second(step_seconds, tokens)
    assert tokens_per_second is not None
    return tokens_per_second


def prove_all(
    frameworks: Sequence[Framework], work: Path, source: str, *, fresh: bool = False, record: bool = False
) -> Iterator[Proof]:
    """Prove the frameworks one after another. Raises SmalltaleError if the shared preparation fails."""
    prepare_data(work, source)
    own = measure_own_speed(work)
    for framework in frameworks:
        proof = prove(framework, work, own, fresh=fresh)
        if record:
            write_record(proof)
        yield proof


def prove(framework: Framework, work: Path, own_speed: float, *, fresh: bool = False) -> Proof:
    """Prove one framework; a failure gives a Proof with its message."""
    began = time.monotonic()
    figures: dict[str, Any] = {"own_tokens_per_second": own_speed}
    environment: Environment | None = None
    try:
        environment = find_environment(framework)
        if fresh or environment is None or not environment.current:
            environment = install(framework)
        prove_round_trip(framework, work, figures)
        passed, message = True, ROUND_TRIP if framework.read else EXPORT_ONLY
    except SmalltaleError as error:
        passed, message = False, str(error)
    module_hash, constraints_hash = source_hashes(framework)
    return Proof(
        name=framework.name,
        passed=passed,
        message=message,
        proven_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=pinned_version(framework),
        module_hash=module_hash,
        constraints_hash=constraints_hash,
        machine=f"{platform.system()} {platform.machine()}, {usable_cores()} cores",
        seconds=round(time.monotonic() - began, 1),
        install_seconds=environment.seconds if environment else None,
        install_megabytes=environment.megabytes if environment else None,
        figures=figures,
    )


def prove_round_trip(framework: Framework, work: Path, figures: dict[str, Any]) -> None:
    """Export, train, import, count, evaluate, generate and check; adds to `figures`. Raises SmalltaleError at the first failure."""
    exported, imported = work / "exports" / framework.name, work / "imports" / framework.name
    for folder in (exported, imported):
        shutil.rmtree(folder, ignore_errors=True)
    shape = [word for key, value in {**SHAPE, **RUN}.items() for word in (f"--{key}", str(value))]
    run_smalltale("export", work / "tokens", "--for", framework.name, "--out", exported, *shape)
    run = train_export(framework, exported)
    figures.update(steps=len(run.losses), tokens_per_second=run.tokens_per_second)
    require(len(run.losses) >= RUN["steps"], f"{len(run.losses)} optimizer steps, expected {RUN['steps']}")
    first, last = fmean(run.losses[:10]), fmean(run.losses[-10:])
    figures.update(first_losses=first, last_losses=last)
    require(
        first - last > MIN_LOSS_FALL,
        f"the loss went from {first:.3f} to {last:.3f}, expected a fall of more than {MIN_LOSS_FALL}",
    )
    if framework.read is None:
        return
    trust = ["--trust"] if framework.needs_trust else []
    checkpoint = exported / framework.checkpoint
    run_smalltale("import", checkpoint, "--from", framework.name, "--out", imported, *trust)
    reference = read_json(imported / "meta.json")["reference"]
    require(reference is not None, f"the run wrote no reference.safetensors near {checkpoint}")
    figures["largest_logit_difference"] = reference["difference"]
    counted = json.loads(run_smalltale("count", imported, "--json"))["counted"]
    figures["counted_parameters"] = counted
    expected = reference["parameters"]
    require(counted == expected, f"counted {counted} parameters, the framework reports {expected}")
    evaluation = json.loads(run_smalltale("evaluate", imported, "--text", work / "val.txt", "--json"))
    figures["bits_per_byte"] = evaluation["bits_per_byte"]
    submission = imported.with_name(f"{framework.name}.csv")
    prompts = ["--prompts", work / "prompts.txt"]
    settings = ["--device", "cpu", "--set", "generation.max_tokens=48"]
    run_smalltale("generate", imported, *prompts, "--out", submission, *settings)
    check = json.loads(run_smalltale("submission", "check", submission, *prompts, "--json"))
    figures["completions"] = check["rows"]
    require(check["accepted"], f"the submission was refused: {check['errors'][:1]}")


def train_export(framework: Framework, folder: Path) -> FrameworkRun:
    """Train in an export folder. Raises SmalltaleError with the last line of output if training fails."""
    log.info("training with %s", framework.title)
    path = folder / "train.log"
    with path.open("w", encoding="utf-8") as output:
        try:
            train(framework, folder, {**THREADS, **EAGER}, output)
        except SmalltaleError as error:
            raise SmalltaleError(last_line(path.read_text(encoding="utf-8")) or str(error)) from error
    return read_run(framework, folder, path.read_text(encoding="utf-8"))


def run_smalltale(*arguments: object) -> str:
    """Run a smalltale command; returns its standard output. Raises SmalltaleError with its message."""
    command = [sys.executable, "-m", "smalltale", *map(str, arguments)]
    environment = {**os.environ, **THREADS}
    completed = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if completed.returncode:
        message = last_line(completed.stderr or completed.stdout)
        raise SmalltaleError(message or f"status {completed.returncode}")
    return completed.stdout


def last_line(text: str) -> str:
    """The last non-empty line, without our prefix."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].removeprefix("smalltale: ")[:400] if lines else ""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise SmalltaleError(message)
