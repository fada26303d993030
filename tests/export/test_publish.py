"""`smalltale checkpoint`: exports that load back, a card from the records, a push to a local Hub server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from smalltale.corpus.fable.generator import generate_stories
from smalltale.errors import FileProblem, SmalltaleError
from smalltale.export.publish import export_checkpoint
from smalltale.files import write_json, write_jsonl
from smalltale.model import serialization
from smalltale.model.serialization import write_model
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer
from smalltale.training.checkpoint import load_checkpoint
from smalltale.training.evaluate import evaluate

SHAPE = ModelConfig(vocabulary=300, layers=2, width=32, heads=2, context=64)
PLAIN = ModelConfig(
    vocabulary=300, layers=2, width=32, heads=2, context=64, soft_cap=0.0, residual_scalars=False
)


def write_checkpoint(shape: ModelConfig, folder: Path) -> Path:
    torch.manual_seed(3)
    model = Transformer(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    write_model(folder, shape, model.state_dict(), {"counted_parameters": 25_000, "weight_class": "small"})
    train_tokenizer(generate_stories(1, 50), TokenizerConfig(vocabulary=300)).save(folder)
    record = {
        "recipe": {"corpus": {"sources": ["fable"]}},
        "inputs": {"tokens": "ab" * 32},
        "counts": {"steps": 1234, "tokens": 567_890},
        "seconds": 90.0,
        "hardware": {"device": "cpu", "name": "a small processor"},
        "trained_from_scratch": True,
    }
    write_json(folder / "meta.json", record)
    write_jsonl(folder / "metrics.jsonl", [{"step": 1, "bits_per_byte": 1.2345}, {"step": 2}])
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(SHAPE, tmp_path_factory.mktemp("run") / "checkpoint")


def test_an_export_to_transformers_is_verified_and_still_a_checkpoint(
    checkpoint: Path, tmp_path: Path
) -> None:
    result = export_checkpoint(checkpoint, "transformers", tmp_path / "out")
    assert result.difference <= 1e-4
    assert {"config.json", "model.safetensors", "modeling_smalltale.py", "README.md"} <= set(result.files)
    texts = list(generate_stories(5, 3))
    original, exported = (load_checkpoint(folder) for folder in (checkpoint, tmp_path / "out"))
    assert evaluate(original.model, original.tokenizer, texts) == evaluate(
        exported.model, exported.tokenizer, texts
    )


def test_an_export_contains_no_folder_of_the_machine(tmp_path: Path) -> None:
    folder = write_checkpoint(SHAPE, tmp_path / "run")
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    meta["recipe"]["corpus"] = {"sources": ["/home/ada/tales.txt"], "validation": "/home/ada/held-out.txt"}
    meta["sources"] = {"/home/ada/tales.txt": "ab" * 32}
    write_json(folder / "meta.json", meta)
    export_checkpoint(folder, "transformers", tmp_path / "out")
    for name in ("README.md", "meta.json", "config.json", "generation_config.json", "tokenizer_config.json"):
        content = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "/home/" not in content, name
        assert str(tmp_path) not in content, name
    assert f"tales.txt `{'ab' * 32}`" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_shape_that_llama_cpp_supports_is_exported_to_gguf_and_verified(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    result = export_checkpoint(write_checkpoint(PLAIN, tmp_path / "plain"), "gguf", tmp_path / "out")
    assert "model.gguf" in result.files
    assert result.difference <= 1e-4


def test_features_that_gguf_does_not_support_are_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SmalltaleError, match=r"soft_cap=15.*residual_scalars") as raised:
        export_checkpoint(checkpoint, "gguf", tmp_path / "out")
    assert "export --to transformers" in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_an_export_that_differs_is_not_left_behind(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = serialization.MODELING_FILE
    wrong = tmp_path / code.name
    wrong.write_text(code.read_text(encoding="utf-8").replace(".square())", ".abs())"), encoding="utf-8")
    monkeypatch.setattr("smalltale.model.serialization.MODELING_FILE", wrong)
    with pytest.raises(SmalltaleError, match="over the bound"):
        export_checkpoint(checkpoint, "transformers", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_input_is_explained(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    cut = write_checkpoint(SHAPE, tmp_path / "cut")
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    for source, to, out, message in (
        (checkpoint, "onnx", "new", "choose one of: transformers, gguf"),
        (checkpoint, "transformers", "full", "not empty"),
        (tmp_path / "none", "transformers", "new", "not a checkpoint folder"),
        (tmp_path / "full", "transformers", "new", "config.json does not exist"),
        (cut, "transformers", "new", "no complete safetensors file"),
    ):
        with pytest.raises((SmalltaleError, FileProblem), match=message):
            export_checkpoint(source, to, tmp_path / out)
        assert not (tmp_path / "new").exists()


class Hub(BaseHTTPRequestHandler):
    """Accepts a repository and a commit as the Hub does."""

    requests: list[tuple[str, bytes]]

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        type(self).requests.append((self.path, body))
        base_url = f"http://{self.headers['Host']}"
        if self.path.endswith("/preupload/main"):
            files = [
                {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            self.reply({"files": files})
        elif "/commit/" in self.path:
            self.reply({"commitUrl": f"{base_url}/me/tales/commit/{'c' * 40}", "commitOid": "c" * 40})
        else:
            self.reply({"url": f"{base_url}/me/tales", "name": "me/tales", "id": "1"})

    def do_GET(self) -> None:
        self.reply({"id": "me/tales", "sha": "c" * 40, "siblings": [], "tags": [], "private": False})

    def reply(self, answer: object) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    handler = type("ThisHub", (Hub,), {"requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def run_push(
    checkpoint: Path, home: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "smalltale",
            "checkpoint",
            "push",
            str(checkpoint),
            *arguments,
        ],
        env={**inherited, **quiet, "HF_HOME": str(home), **environment},
        capture_output=True,
        text=True,
    )


def test_a_dry_run_shows_the_card_from_the_records_and_sends_nothing(
    checkpoint: Path, tmp_path: Path
) -> None:
    process = run_push(checkpoint, tmp_path, "me/tales", "--dry-run")
    assert process.returncode == 0, process.stderr
    for fact in (
        "25,000",
        "fable",
        "1,234",
        "567,890",
        "1.5 minutes",
        "1.2345",
        "a small processor",
        "ab" * 32,
    ):
        assert fact in process.stdout
    assert "modeling_smalltale.py" in process.stdout


def test_a_push_uploads_every_file(checkpoint: Path, hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, server = hub
    process = run_push(checkpoint, tmp_path, "me/tales", HF_ENDPOINT=endpoint, HF_TOKEN="hf_secret")
    assert process.returncode == 0, process.stderr[-1500:]
    (commit,) = [body for path, body in server.requests if "/commit/" in path]
    for name in ("README.md", "config.json", "model.safetensors", "modeling_smalltale.py", "tokenizer.json"):
        assert f'"path": "{name}"'.encode() in commit.replace(b'":"', b'": "')


def test_a_push_without_a_token_is_explained(checkpoint: Path, tmp_path: Path) -> None:
    process = run_push(checkpoint, tmp_path, "me/tales")
    assert process.returncode == 2
    assert "HF_TOKEN" in process.stderr
