"""Several processes train one model, through torchrun and Gloo on this machine's processor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from smalltale.training.checkpoint import newest_state
from smalltale.training.metrics_file import read_metrics, rows_of

SETTINGS = (
    "model.layers=2",
    "model.width=32",
    "model.heads=2",
    "model.context=64",
    "training.row_length=64",
    "training.batch_tokens=512",
    "training.compile=false",
    "training.evaluations=2",
    "training.validation_stories=6",
)


IN_FLOAT32 = """
import os, sys, torch
from smalltale.cli import main
from smalltale.training import device
device.cpu_multiplies_bfloat16 = lambda: False
rank = int(os.environ.get("RANK", 0))
{before}
main()
"""


def train(
    prepared: Path,
    out: Path,
    ranks: int,
    steps: int,
    *more: str,
    restarts: int = 0,
    before: str = "",
    machines: Sequence[str] = ("--standalone",),
) -> subprocess.Popen[str]:
    """Start torchrun. before: code that each rank runs first, with its number as `rank`. machines: how they meet."""
    code = out.parent / "in_float32.py"
    code.write_text(IN_FLOAT32.format(before=before))
    start = [sys.executable]
    if ranks > 1 or "--standalone" not in machines:
        start += ["-m", "torch.distributed.run", *machines, f"--nproc-per-node={ranks}"]
        start += [f"--max-restarts={restarts}"]
    words = [str(code), "train", "demo", "--tokens", str(prepared / "tokens")]
    words += ["--tokenizer", str(prepared / "tokenizer"), "--out", str(out), "--steps", str(steps)]
    words += [word for each in (*SETTINGS, *more) for word in ("--set", each)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [*start, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(run: subprocess.Popen[str]) -> str:
    try:
        told, _ = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == 0, told
    return told


@pytest.mark.all
def test_two_ranks_learn_what_one_learns_from_the_same_batches(prepared: Path, tmp_path: Path) -> None:
    for ranks in (1, 2):
        finished(train(prepared, tmp_path / str(ranks), ranks, 30))
    alone, together = (read_metrics(tmp_path / name) for name in ("1", "2"))
    assert len(alone) == len(together) == 30
    for one, two in zip(alone, together, strict=True):
        # Muon's matrices are orthogonalised in bfloat16, so rounding grows a little from step to step.
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-6 if one["step"] == 1 else 5e-3)
        assert two["tokens"] == one["tokens"]
    bits = [[row["bits_per_byte"] for row in rows if "bits_per_byte" in row] for rows in (alone, together)]
    assert len(bits[0]) == 2
    assert bits[1] == pytest.approx(bits[0], abs=5e-3)


@pytest.mark.all
def test_two_machines_train_as_two_ranks_of_one(prepared: Path, tmp_path: Path) -> None:
    finished(train(prepared, tmp_path / "one", 2, 30))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}")
    for run in [train(prepared, tmp_path / "two", 1, 30, machines=meeting) for _ in range(2)]:
        finished(run)
    one, two = ([row["loss"] for row in read_metrics(tmp_path / name)] for name in ("one", "two"))
    assert two == one


GRADIENTS = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.shards import read_tokens
from smalltale.training.batches import Rows
from smalltale.training.device import choose_device
from smalltale.training.distributed import Ranks, joined
from smalltale.training.gradients import Gradients

def gradients(ranks):
    torch.manual_seed(0)
    model = Transformer(ModelConfig(vocabulary=300, layers=2, width=32, heads=2, context=64))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
        parameter.grad = torch.zeros_like(parameter)
    rows = Rows.from_tokens(read_tokens(Path(sys.argv[1])), 64, seed=0, rank=ranks.rank, world_size=ranks.size)
    device = replace(choose_device("cpu"), dtype=torch.float32)
    maker = Gradients(model, rows, device, ranks, head_rows=64, compiled=False, most=64)
    maker.fit(512)
    share = float(maker.of_step(3, 512))
    return ranks.sums(share)[0], [parameter.grad for parameter in model.parameters()]

with joined() as ranks:
    loss, together = gradients(ranks)
    alone_loss, alone = gradients(Ranks())
    assert abs(loss - alone_loss) < 1e-5, (loss, alone_loss)
    for one, two in zip(alone, together):
        assert one.abs().max() > 1e-5
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)
"""


@pytest.mark.all
def test_gradients_are_averaged_exactly_over_ranks(prepared: Path, tmp_path: Path) -> None:
    code = tmp_path / "gradients.py"
    code.write_text(GRADIENTS)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(code)]
    done = subprocess.run([*words, str(prepared / "tokens")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.all
def test_a_killed_rank_leads_to_a_restart_from_the_last_checkpoint_and_the_same_end(
    prepared: Path, tmp_path: Path
) -> None:
    finished(train(prepared, tmp_path / "unbroken", 2, 200))
    run = train(prepared, tmp_path / "broken", 2, 200, "training.checkpoint_seconds=0.2", restarts=2)
    states = tmp_path / "broken" / "training_state"
    until = time.monotonic() + 120
    while not any(int(each.name[5:]) > 20 for each in states.glob("step-*")):
        assert time.monotonic() < until
        assert run.poll() is None
        time.sleep(0.05)
    os.kill(worker_of(run.pid), signal.SIGKILL)
    told = finished(run)
    assert "going on from step" in told
    broken, unbroken = (read_metrics(tmp_path / name) for name in ("broken", "unbroken"))
    assert [row["loss"] for row in broken] == [row["loss"] for row in unbroken]


def worker_of(parent: int) -> int:
    """One of the processes that torchrun started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    assert children
    return int(children[-1])


@pytest.mark.all
def test_a_pre_empted_run_saves_on_all_ranks_and_ends_as_one_never_stopped(
    prepared: Path, tmp_path: Path
) -> None:
    finished(train(prepared, tmp_path / "unbroken", 2, 200))
    out = tmp_path / "broken"
    run = train(prepared, out, 2, 200, "training.checkpoint_seconds=1000")
    until = time.monotonic() + 120
    while not ((out / "metrics.jsonl").exists() and len(rows_of(out / "metrics.jsonl")[0]) > 20):
        assert time.monotonic() < until
        assert run.poll() is None
        time.sleep(0.05)
    run.terminate()
    told, _ = run.communicate(timeout=60)
    state = newest_state(out)
    assert state is not None, told
    assert state.name == f"step-{len(read_metrics(out)):08d}"
    assert 20 < len(read_metrics(out)) < 200
    shutil.copytree(out, tmp_path / "alone")
    finished(train(prepared, out, 2, 200, "training.checkpoint_seconds=1000"))
    unbroken, broken = (
        [row["loss"] for row in read_metrics(tmp_path / name)] for name in ("unbroken", "broken")
    )
    assert broken == unbroken
    finished(train(prepared, tmp_path / "alone", 1, 200))
    assert [row["loss"] for row in read_metrics(tmp_path / "alone")] == pytest.approx(unbroken, abs=2e-2)


OF_ANOTHER_FOLDER = (
    "sys.argv = [each + '-other' * rank if each.endswith('/tokens') else each for each in sys.argv]"
)


@pytest.mark.all
@pytest.mark.parametrize(
    ("before", "ranks", "says"),
    [
        ("", 3, "rank 0: training.batch_tokens = 512 does not divide into 3 ranks' rows of 64 tokens"),
        (
            "sys.argv += ['--set', f'training.seed={rank}']",
            2,
            "rank 1 has another recipe, tokens or options than rank 0",
        ),
        (OF_ANOTHER_FOLDER, 2, "rank 1 has another recipe, tokens or options than rank 0"),
        (OF_ANOTHER_FOLDER.replace("other", "missing"), 2, "rank 1: "),
        ("torch.cuda.is_available = lambda: rank == 0", 2, "rank 1 sees no GPU and rank 0 does"),
        ("sys.argv += ['--device', 'cuda'] * rank", 2, "rank 1: this machine has no cuda device"),
    ],
)
def test_ranks_that_do_not_fit_together_are_refused_within_half_a_minute(
    prepared: Path, tmp_path: Path, before: str, ranks: int, says: str
) -> None:
    shutil.copytree(prepared / "tokens", tmp_path / "tokens")
    shutil.copytree(prepared / "tokens", tmp_path / "tokens-other")
    shutil.copytree(prepared / "tokenizer", tmp_path / "tokenizer")
    meta = tmp_path / "tokens-other" / "meta.json"
    meta.write_text(meta.read_text().replace(json.loads(meta.read_text())["hashes"]["train"], "0" * 64))
    run = train(tmp_path, tmp_path / "out", ranks, 5, before=before)
    try:
        told, _ = run.communicate(timeout=30)
    finally:
        run.kill()
    assert run.returncode != 0
    assert f"smalltale: {says}" in told, told
    assert not (tmp_path / "out" / "training_state").exists()
