"""Several processes train one model, through torchrun and Gloo on the CPU of this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from smalltale.training.checkpoint import find_latest_state
from smalltale.training.metrics_file import read_metrics, read_rows

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


FLOAT32_MAIN = """
import os, sys, torch
from smalltale.cli import main
from smalltale.training import device
device.cpu_has_bfloat16 = lambda: False
rank = int(os.environ.get("RANK", 0))
{setup}
main()
"""


def start_training(
    prepared: Path,
    out: Path,
    ranks: int,
    steps: int,
    *settings: str,
    restarts: int = 0,
    setup: str = "",
    rendezvous: Sequence[str] = ("--standalone",),
) -> subprocess.Popen[str]:
    """Start torchrun. setup: code that each rank runs first, with its number as `rank`. rendezvous: torchrun's options."""
    code = out.parent / "float32_main.py"
    code.write_text(FLOAT32_MAIN.format(setup=setup))
    command = [sys.executable]
    if ranks > 1 or "--standalone" not in rendezvous:
        command += ["-m", "torch.distributed.run", *rendezvous, f"--nproc-per-node={ranks}"]
        command += [f"--max-restarts={restarts}"]
    command += [str(code), "train", "demo", "--tokens", str(prepared / "tokens")]
    command += ["--tokenizer", str(prepared / "tokenizer"), "--out", str(out), "--steps", str(steps)]
    command += [option for setting in (*SETTINGS, *settings) for option in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(process: subprocess.Popen[str]) -> str:
    """The output of a process that must succeed."""
    try:
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait for a condition while the process runs."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)


def read_losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out)]


@pytest.mark.all
def test_two_ranks_learn_as_one_rank_does_from_the_same_batches(prepared: Path, tmp_path: Path) -> None:
    for ranks in (1, 2):
        wait_for(start_training(prepared, tmp_path / str(ranks), ranks, 30))
    one_rank, two_ranks = (read_metrics(tmp_path / name) for name in ("1", "2"))
    assert len(one_rank) == len(two_ranks) == 30
    for expected, row in zip(one_rank, two_ranks, strict=True):
        # Muon's matrices are orthogonalised in bfloat16, so rounding differences grow slowly from step to step.
        assert row["loss"] == pytest.approx(expected["loss"], abs=1e-6 if row["step"] == 1 else 5e-3)
        assert row["tokens"] == expected["tokens"]
    expected_bits, bits = (
        [row["bits_per_byte"] for row in rows if "bits_per_byte" in row] for rows in (one_rank, two_ranks)
    )
    assert len(expected_bits) == 2
    assert bits == pytest.approx(expected_bits, abs=5e-3)


@pytest.mark.all
def test_two_machines_train_as_two_ranks_of_one_machine(prepared: Path, tmp_path: Path) -> None:
    wait_for(start_training(prepared, tmp_path / "one", 2, 30))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    rendezvous = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}")
    machines = [start_training(prepared, tmp_path / "two", 1, 30, rendezvous=rendezvous) for _ in range(2)]
    for process in machines:
        wait_for(process)
    assert read_losses(tmp_path / "two") == read_losses(tmp_path / "one")


GRADIENTS = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.token_folder import read_tokens
from smalltale.training.batches import PackedRows
from smalltale.training.device import choose_device
from smalltale.training.distributed import Distributed, init_distributed
from smalltale.training.gradients import GradientAccumulator

def compute_gradients(distributed):
    torch.manual_seed(0)
    model = Transformer(ModelConfig(vocabulary=300, layers=2, width=32, heads=2, context=64))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
        parameter.grad = torch.zeros_like(parameter)
    tokens = read_tokens(Path(sys.argv[1]))
    rows = PackedRows(
        tokens, 64, seed=0, rank=distributed.rank, world_size=distributed.world_size
    )
    device = replace(choose_device("cpu"), dtype=torch.float32)
    gradients = GradientAccumulator(
        model, rows, device, distributed, head_rows=64, compiled=False, max_micro_tokens=64
    )
    gradients.fit_micro_batch(512)
    loss_share = float(gradients.accumulate(3, 512))
    return distributed.all_reduce_sum(loss_share)[0], [parameter.grad for parameter in model.parameters()]

with init_distributed() as distributed:
    loss, gradients = compute_gradients(distributed)
    expected_loss, expected_gradients = compute_gradients(Distributed())
    assert abs(loss - expected_loss) < 1e-5, (loss, expected_loss)
    for gradient, expected in zip(gradients, expected_gradients):
        assert gradient.abs().max() > 1e-5
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)
"""


@pytest.mark.all
def test_gradients_are_averaged_exactly_over_ranks(prepared: Path, tmp_path: Path) -> None:
    code = tmp_path / "gradients.py"
    code.write_text(GRADIENTS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(code)]
    process = subprocess.run(
        [*command, str(prepared / "tokens")], capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.all
def test_after_a_killed_rank_the_run_restarts_from_its_checkpoint_and_ends_the_same(
    prepared: Path, tmp_path: Path
) -> None:
    wait_for(start_training(prepared, tmp_path / "uninterrupted", 2, 200))
    process = start_training(
        prepared, tmp_path / "killed", 2, 200, "training.checkpoint_seconds=0.2", restarts=2
    )
    states = tmp_path / "killed" / "training_state"
    wait_until(process, lambda: any(int(path.name[5:]) > 20 for path in states.glob("step-*")))
    os.kill(find_worker(process.pid), signal.SIGKILL)
    assert "resuming from step" in wait_for(process)
    assert read_losses(tmp_path / "killed") == read_losses(tmp_path / "uninterrupted")


def find_worker(parent: int) -> int:
    """The process id of a rank that torchrun started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    assert children
    return int(children[-1])


@pytest.mark.all
def test_a_pre_empted_run_saves_on_all_ranks_and_equals_an_uninterrupted_run(
    prepared: Path, tmp_path: Path
) -> None:
    wait_for(start_training(prepared, tmp_path / "uninterrupted", 2, 200))
    out = tmp_path / "stopped"
    metrics = out / "metrics.jsonl"
    process = start_training(prepared, out, 2, 200, "training.checkpoint_seconds=1000")
    wait_until(process, lambda: metrics.exists() and len(read_rows(metrics)[0]) > 20)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    state = find_latest_state(out)
    assert state is not None, output
    assert state.name == f"step-{len(read_metrics(out)):08d}"
    assert 20 < len(read_metrics(out)) < 200
    shutil.copytree(out, tmp_path / "one_rank")
    wait_for(start_training(prepared, out, 2, 200, "training.checkpoint_seconds=1000"))
    losses = read_losses(tmp_path / "uninterrupted")
    assert read_losses(out) == losses
    wait_for(start_training(prepared, tmp_path / "one_rank", 1, 200))
    assert read_losses(tmp_path / "one_rank") == pytest.approx(losses, abs=2e-2)


OTHER_TOKENS = (
    "sys.argv = [word + '-other' * rank if word.endswith('/tokens') else word for word in sys.argv]"
)


@pytest.mark.all
@pytest.mark.parametrize(
    ("setup", "ranks", "message"),
    [
        ("", 3, "rank 0: training.batch_tokens = 512 does not divide into rows of 64 tokens on 3 ranks"),
        (
            "sys.argv += ['--set', f'training.seed={rank}']",
            2,
            "rank 1 differs from rank 0 in recipe, tokens or options",
        ),
        (OTHER_TOKENS, 2, "rank 1 differs from rank 0 in recipe, tokens or options"),
        (OTHER_TOKENS.replace("other", "missing"), 2, "rank 1: "),
        ("torch.cuda.is_available = lambda: rank == 0", 2, "rank 1 sees no GPU and rank 0 does"),
        ("sys.argv += ['--device', 'cuda'] * rank", 2, "rank 1: this machine has no cuda device"),
    ],
)
def test_ranks_that_do_not_match_are_refused_within_half_a_minute(
    prepared: Path, tmp_path: Path, setup: str, ranks: int, message: str
) -> None:
    shutil.copytree(prepared / "tokens", tmp_path / "tokens")
    shutil.copytree(prepared / "tokens", tmp_path / "tokens-other")
    shutil.copytree(prepared / "tokenizer", tmp_path / "tokenizer")
    meta = tmp_path / "tokens-other" / "meta.json"
    meta.write_text(meta.read_text().replace(json.loads(meta.read_text())["hashes"]["train"], "0" * 64))
    process = start_training(tmp_path, tmp_path / "out", ranks, 5, setup=setup)
    try:
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode != 0
    assert f"smalltale: {message}" in output, output
    assert not (tmp_path / "out" / "training_state").exists()
