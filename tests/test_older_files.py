"""Files that smalltale wrote before the move to the new layout (commit 87ac097) still open.

fixtures/files-of-87ac097.tar.xz has one of each kind, made with that commit's commands: a corpus of 60 fables, a tokenizer, a token
folder, a training run interrupted at step 71 of 300, a submission, its judgements by a loopback judge, and the demo's database.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from smalltale.server.accounts.accounts import authenticate
from smalltale.server.database.models import JudgementRow, Person, Submission
from smalltale.server.database.session import Database
from smalltale.server.web.app import create_app

ARCHIVE = Path(__file__).parent / "fixtures" / "files-of-87ac097.tar.xz"
RECIPE = [
    "tokenizer.vocabulary=300",
    "model.layers=2",
    "model.width=16",
    "model.heads=1",
    "model.context=128",
    "training.row_length=128",
    "training.batch_tokens=256",
    "training.micro_batch_tokens=256",
    "training.compile=false",
    "training.evaluations=1",
    "training.validation_stories=5",
    "corpus.stories=60",
    "corpus.validation_share=0.2",
    "generation.max_tokens=30",
]
SUBMISSIONS, JUDGEMENTS = 48, 4608
"""Rows of the database when it was archived."""
DEMO_PASSWORD = "tell me a story"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "files"


def smalltale(folder: Path, *words: str) -> str:
    """Run a command in the folder; its output, both streams."""
    completed = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "smalltale", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert completed.returncode == 0, completed.stdout
    return completed.stdout


def test_an_interrupted_run_resumes_at_its_step_and_finishes(folder: Path) -> None:
    settings = [word for setting in RECIPE for word in ("--set", setting)]
    command = ["train", "demo", "--tokens", "tokens", "--tokenizer", "tokenizer", "--out", "checkpoint"]
    smalltale(folder, *command, "--steps", "300", "--device", "cpu", *settings)
    rows = [json.loads(line) for line in (folder / "checkpoint" / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(1, 301))


def test_a_checkpoint_is_evaluated_counted_and_writes_the_same_kind_of_submission(folder: Path) -> None:
    stories = folder / "stories.txt"
    stories.write_text(
        "A dog saw a cat. They played all day.<|endoftext|>Tom had a red ball.", encoding="utf-8"
    )
    evaluation = json.loads(
        smalltale(folder, "evaluate", "checkpoint", "--text", "stories.txt", "--json").splitlines()[-1]
    )
    assert 2 < evaluation["bits_per_byte"] < 6
    count = smalltale(folder, "count", "checkpoint")
    declared = json.loads((folder / "checkpoint" / "config.json").read_text())["counted_parameters"]
    assert f"{declared:,}" in count
    smalltale(
        folder,
        "generate",
        "checkpoint",
        "--prompts",
        "prompts.jsonl",
        "--out",
        "new.csv",
        "--set",
        "generation.max_tokens=30",
    )
    assert len((folder / "new.csv").read_text().splitlines()) >= 9


def test_an_old_submission_is_accepted_as_before(folder: Path) -> None:
    smalltale(folder, "submission", "check", "submission.csv", "--prompts", "prompts.jsonl")


def test_judgements_rank_as_before_and_a_finished_run_asks_the_judge_for_nothing(folder: Path) -> None:
    entry = json.loads(smalltale(folder, "leaderboard", "judgements", "--json"))
    assert "6.03" in smalltale(folder, "leaderboard", "judgements")
    assert entry
    judge = (folder / "judge.txt").read_text().strip()
    output = smalltale(folder, "judge", "run", "submission.csv", "--judge", judge, "--out", "judgements")
    assert "0 calls" in output


def test_a_database_migrates_and_an_account_with_an_scrypt_hash_signs_in(folder: Path) -> None:
    database = Database(f"sqlite:///{folder / 'hackathon.db'}")
    database.migrate()
    with database.read() as session:
        submissions = session.scalar(select(func.count()).select_from(Submission))
        judgements = session.scalar(select(func.count()).select_from(JudgementRow))
        stored_hash = session.scalar(select(Person.password).where(Person.handle == "organiser"))
    assert (submissions, judgements) == (SUBMISSIONS, JUDGEMENTS)
    assert str(stored_hash).startswith("scrypt$")
    client = TestClient(create_app(database, demo=True), base_url="http://localhost")
    assert client.get("/e/demo/leaderboard").status_code == 200
    authenticate(database, "organiser", DEMO_PASSWORD)
    with database.read() as session:
        stored_hash = session.scalar(select(Person.password).where(Person.handle == "organiser"))
    assert str(stored_hash).startswith("$argon2id$")
    database.close()
