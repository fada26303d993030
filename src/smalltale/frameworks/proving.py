"""A row's proof: the whole way out and back through the command line, by a real run of the framework's own trainer.

In: a framework, real stories. Out: a Proof, kept as records/NAME.json.
Beware: a record names the hashes of what it proved; one that no longer fits is stale, which is shown and fails nothing.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from smalltale.corpus.build import read_corpus
from smalltale.errors import SmalltaleError
from smalltale.files import END_OF_STORY, read_json, write_json
from smalltale.frameworks.exporting import TEMPLATES
from smalltale.frameworks.framework import MODULES, Framework, Run
from smalltale.frameworks.install import (
    Environment,
    clean_environment,
    constraints_of,
    environment,
    install,
    version_of,
)
from smalltale.frameworks.reading import near

log = logging.getLogger(__name__)

RECORDS = Path(__file__).parent / "records"
SHAPE = {"layers": 4, "width": 128, "heads": 4, "context": 256}
RUN = {"rows": 8, "steps": 60, "learning-rate": 0.003}
STORIES, VOCABULARY, PROMPTS = 3000, 2048, 2
FALL = 0.5
"""The last ten losses are on average so much lower than the first ten, in nats."""
SECONDS = 1200
"""The longest a single command may take."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a run showed."""

    name: str
    passed: bool
    message: str
    proven_at: str
    version: str
    module_hash: str
    constraints_hash: str
    machine: str
    install_seconds: float | None = None
    install_megabytes: int | None = None
    figures: dict[str, Any] = field(default_factory=dict)


def hashes_of(framework: Framework) -> tuple[str, str]:
    """SHA-256 of the framework's module with its recipe files, and of its list of versions."""
    module = Path(__file__).parent / f"{MODULES[framework.name]}.py"
    recipes = sorted(each for each in (TEMPLATES / framework.name).rglob("*") if each.is_file())
    told = sha256(b"".join(path.read_bytes() for path in [module, *recipes])).hexdigest()
    constraints = constraints_of(framework)
    return told, sha256(constraints.read_bytes() if constraints.exists() else b"").hexdigest()


def record_of(framework: Framework) -> Proof | None:
    """The last recorded proof."""
    path = RECORDS / f"{framework.name}.json"
    return Proof(**read_json(path)) if path.exists() else None


def is_stale(framework: Framework, proof: Proof) -> bool:
    """Whether the row has changed since it was proven."""
    return hashes_of(framework) != (proof.module_hash, proof.constraints_hash)


def prepare(work: Path, source: str) -> None:
    """Corpus, tokenizer, tokens, held-out text and prompts for all rows, once."""
    if (work / "prompts.txt").exists():
        return
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


def our_speed(work: Path) -> float:
    """Tokens/s of our own trainer on the same shape, tokens a step and number of steps, measured once a work folder."""
    kept = work / "own.json"
    if not kept.exists():
        tokens = RUN["rows"] * SHAPE["context"]
        values = {
            **{f"model.{key}": value for key, value in SHAPE.items()},
            "training.row_length": SHAPE["context"],
            "training.batch_tokens": tokens,
            "training.micro_batch_tokens": tokens,
        }
        overrides = [each for key, value in values.items() for each in ("--set", f"{key}={value}")]
        place = ["--tokens", work / "tokens", "--tokenizer", work / "tokenizer", "--out", work / "own"]
        said = smalltale("train", "demo", *place, "--steps", RUN["steps"], "--device", "cpu", *overrides)
        found = re.search(r"\(([\d,]+) tokens/s\)", said)
        write_json(kept, {"tokens_per_second": float(found[1].replace(",", "")) if found else None})
    return float(read_json(kept)["tokens_per_second"])


def prove(framework: Framework, work: Path, source: str, *, fresh: bool = False) -> Proof:
    """Prove one row and keep its record. A failure is a Proof too, with the message."""
    figures: dict[str, Any] = {}
    made: Environment | None = None
    try:
        prepare(work, source)
        if constraints_of(framework).exists():
            made = environment(framework)
            made = made if made and made.current and not fresh else install(framework)
        go(framework, work, made, figures)
        passed, message = True, "export, train, import, count, evaluate, generate, check"
    except SmalltaleError as error:
        passed, message = False, str(error)
    module_hash, constraints_hash = hashes_of(framework)
    proof = Proof(
        name=framework.name,
        passed=passed,
        message=message,
        proven_at=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version_of(framework),
        module_hash=module_hash,
        constraints_hash=constraints_hash,
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        install_seconds=made.seconds if made else None,
        install_megabytes=made.megabytes if made else None,
        figures=figures,
    )
    write_json(RECORDS / f"{framework.name}.json", asdict(proof))
    return proof


def go(framework: Framework, work: Path, made: Environment | None, figures: dict[str, Any]) -> None:
    """The way out and back; `figures` is filled as it goes. Raises SmalltaleError at the first thing that is wrong."""
    place, back = work / "rows" / framework.name, work / "back" / framework.name
    for old in (place, back):
        remove(old)
    shape = [each for key, value in {**SHAPE, **RUN}.items() for each in (f"--{key}", str(value))]
    smalltale("export", work / "tokens", "--for", framework.name, "--out", place, *shape)
    if framework.read is None:
        return
    assert made is not None
    run = trained(framework, place, made.python)
    first, last = mean(run.losses[:10]), mean(run.losses[-10:])
    figures.update(steps=len(run.losses), first_losses=first, last_losses=last)
    figures["tokens_per_second"] = run.tokens_per_second
    figures["own_tokens_per_second"] = our_speed(work)
    check(len(run.losses) >= RUN["steps"], f"{len(run.losses)} optimizer steps, {RUN['steps']} are wanted")
    check(first - last > FALL, f"the loss went from {first:.3f} to {last:.3f}, a fall of {FALL} is wanted")
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


def trained(framework: Framework, place: Path, python: Path) -> Run:
    """Run the recipe's own lines in the framework's environment."""
    log.info("training with %s", framework.title)
    script = "set -e\n" + "\n".join(framework.train)
    said = command(["bash", "-c", script], cwd=place, env=clean_environment(python))
    (place / "train.log").write_text(said, encoding="utf-8")
    if framework.read_run is not None:
        return framework.read_run(place, said)
    found = near(place / framework.checkpoint, "run.json")
    check(found is not None, f"the run left no run.json near {framework.checkpoint}")
    return Run(**read_json(found))  # type: ignore[arg-type]


def smalltale(*arguments: object) -> str:
    """One command of ours. Returns what it printed; raises SmalltaleError with its message."""
    return command([sys.executable, "-m", "smalltale", *map(str, arguments)])


def command(asked: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Standard output of a process. Raises SmalltaleError with its last words where it fails."""
    try:
        ran = subprocess.run(
            asked, cwd=cwd, env=env, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SmalltaleError(f"{asked[-1][:80]} took more than {SECONDS} s; run it by hand") from error
    if ran.returncode:
        if cwd is not None:
            (cwd / "train.log").write_text(ran.stdout + ran.stderr, encoding="utf-8")
        words = [line for line in (ran.stderr or ran.stdout).strip().splitlines() if line.strip()]
        raise SmalltaleError(
            words[-1].removeprefix("smalltale: ")[:400] if words else f"status {ran.returncode}"
        )
    return ran.stdout


def remove(folder: Path) -> None:
    """Take away what an earlier proof left."""

    shutil.rmtree(folder, ignore_errors=True)


def mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))


def check(holds: bool, message: str) -> None:
    if not holds:
        raise SmalltaleError(message)
