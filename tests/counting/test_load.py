"""Sources that a model is loaded from, files that are refused, and checks of claimed counts."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from smalltale.counting.count import count_parameters
from smalltale.counting.shapes import closed_form_count, propose_shapes
from smalltale.counting.verify import check_claim, verify_claim
from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import sha256_file
from smalltale.model.architectures import build_model
from smalltale.model.factory import build_model_from_factory
from smalltale.model.serialization import write_model
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.model.weights_file import check_weights

SHAPE = ModelConfig(vocabulary=16, layers=2, width=8, heads=2, context=16)
COUNTED = 16 * 8 + 2 * (4 * 64 + 2 * 8 * 32 + 2)  # 128 + 2·(256 + 512 + 2) = 1,668


def checkpoint(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    write_model(folder, SHAPE, Transformer(SHAPE).state_dict(), {})
    return folder


def submit(folder: Path, model: Path, **changes: object) -> Path:
    claim = {
        "counted_parameters": COUNTED,
        "weight_class": "small",
        "model_hash": sha256_file(model / "model.safetensors"),
        **changes,
    }
    (folder / "submission.json").write_text(json.dumps(claim))
    return folder / "submission.json"


def test_count_of_our_checkpoint_equals_the_closed_form(tmp_path: Path) -> None:
    report = count_parameters(build_model(checkpoint(tmp_path)))
    assert report.counted == COUNTED == closed_form_count(SHAPE)


def test_a_hugging_face_folder_needs_no_weights(tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(vocab_size=11, n_positions=16, n_embd=8, n_layer=2, n_head=2).save_pretrained(tmp_path)
    # 88 tied + 16·8 + 2·872 + 16
    report = count_parameters(build_model(tmp_path))
    assert (report.counted, report.proven) == (88 + 128 + 1744 + 16, True)


def test_a_model_on_the_meta_device_is_counted() -> None:
    with torch.device("meta"):
        model = Transformer(SHAPE)
    report = count_parameters(model)
    assert (report.counted, report.proven) == (COUNTED, True)


def test_code_in_a_model_folder_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "x", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}'
    )
    (tmp_path / "evil.py").write_text("raise SystemExit(3)")
    with pytest.raises(SmalltaleError, match="--trust-remote-code"):
        build_model(tmp_path)


def test_a_failing_factory_is_named_in_the_error() -> None:
    with pytest.raises(SmalltaleError, match=r"calling torch.nn:Linear\(\) failed"):
        build_model_from_factory("torch.nn:Linear")
    with pytest.raises(SmalltaleError, match="importing no_such:thing failed"):
        build_model_from_factory("no_such:thing")
    assert isinstance(build_model_from_factory("torch.nn:Identity"), nn.Identity)


def test_a_pickle_is_opened_only_if_allowed(tmp_path: Path) -> None:
    model = Transformer(SHAPE)
    path = tmp_path / "model.pt"
    torch.save(
        {"state_dict": {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}}, path
    )
    with pytest.raises(FileProblem, match="is a pickle"):
        check_weights(model, path)
    check_weights(model, path, allow_pickle=True)


def test_an_invalid_safetensors_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = json.dumps({"w": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 16]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    with pytest.raises(FileProblem, match="not a valid safetensors file"):
        check_weights(nn.Linear(4, 4), path)
    path.write_bytes(struct.pack("<Q", 10_000_000_000) + b"{}")
    with pytest.raises(FileProblem, match="header too large"):
        check_weights(nn.Linear(4, 4), path)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(4, 5), "bias": torch.zeros(4)}, tmp_path / "model.safetensors")
    with pytest.raises(FileProblem, match=r"weight has shape \(4, 5\), the model's is \(4, 4\)"):
        check_weights(nn.Linear(4, 4), tmp_path / "model.safetensors")


def test_integers_for_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(4, 4, dtype=torch.int32), "bias": torch.zeros(4)}, path)
    with pytest.raises(FileProblem, match=r"weight weight is I32, the model's is torch.float32"):
        check_weights(nn.Linear(4, 4), path)
    save_file({"weight": torch.zeros(4, 4, dtype=torch.bfloat16), "bias": torch.zeros(4)}, path)
    check_weights(nn.Linear(4, 4), path)


def test_a_correct_claim_passes_in_its_own_process(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model")
    check = verify_claim(submit(tmp_path, model), model)
    assert (check.verdict, check.counted) == ("pass", COUNTED), check.reasons


def test_a_smaller_claim_or_another_file_fails(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model")
    assert check_claim(submit(tmp_path, model, counted_parameters=3), model, frozenset()).verdict == "fail"
    assert check_claim(submit(tmp_path, model, model_hash="00"), model, frozenset()).verdict == "fail"


def test_an_unknown_architecture_is_unproven(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model")
    claim = submit(tmp_path, model)
    (model / "config.json").write_text('{"model_type": "my_own"}')
    assert check_claim(claim, model, frozenset()).verdict == "unproven"


def test_a_proposed_shape_fills_its_class() -> None:
    best = propose_shapes(30_000_000)[0]
    assert 0.98 * 30_000_000 <= closed_form_count(best) <= 30_000_000
