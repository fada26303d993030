"""Several processes train one model, through torchrun and Gloo on this machine's processor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smalltale.training.metrics import read_metrics

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
from smalltale.cli import main
from smalltale.training import device
device.cpu_multiplies_bfloat16 = lambda: False
main()
"""


def train(
    prepared: Path, out: Path, ranks: int, steps: int, *more: str, restarts: int = 0
) -> subprocess.Popen[str]:
    code = out.parent / "in_float32.py"
    code.write_text(IN_FLOAT32)
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
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


GRADIENTS = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.shards import read_tokens
from smalltale.training.batches import Rows
from smalltale.training.device import choose_device
from smalltale.training.ranks import Ranks, joined
from smalltale.training.step import Gradients

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
    share = maker.of_step(3, 512)
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
def test_a_batch_that_does_not_divide_is_refused_by_every_rank(prepared: Path, tmp_path: Path) -> None:
    run = train(prepared, tmp_path / "out", 3, 5)
    told, _ = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "does not divide into 3 ranks' rows" in told


@pytest.mark.all
def test_ranks_with_different_recipes_are_refused(prepared: Path, tmp_path: Path) -> None:
    code = tmp_path / "differs.py"
    code.write_text(
        "import os, sys\nfrom smalltale.cli import main\n"
        "sys.argv += ['--set', f\"training.seed={os.environ['RANK']}\"]\nmain()\n"
    )
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(code),
        "train",
    ]
    words += ["demo", "--tokens", str(prepared / "tokens"), "--tokenizer", str(prepared / "tokenizer")]
    words += ["--out", str(tmp_path / "out"), "--steps", "5"]
    words += [word for each in SETTINGS for word in ("--set", each)]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode != 0
    assert "rank 1 has another fingerprint than rank 0" in done.stderr + done.stdout
