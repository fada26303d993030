"""safetensors files with a wrong header are refused from the header alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from torch import nn

from smalltale.errors import FileProblem
from smalltale.model.weights_file import check_weights


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


WEIGHT = entry("F32", [4, 4], 0, 64)
BIAS = entry("F32", [4], 64, 80)


def write_safetensors(path: Path, header: object, data_bytes: int, header_bytes: int | None = None) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", header_bytes or len(text)) + text + bytes(data_bytes))
    return path


def test_a_file_that_matches_the_model_is_accepted(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "weight": WEIGHT, "bias": BIAS}
    check_weights(nn.Linear(4, 4), write_safetensors(tmp_path / "m.safetensors", header, 80))


@pytest.mark.parametrize(
    ("header", "data_bytes"),
    [
        ({"weight": WEIGHT, "bias": BIAS}, 79),
        ({"weight": WEIGHT, "bias": BIAS}, 81),
        ({"weight": WEIGHT, "bias": entry("F32", [4], 60, 76)}, 76),
        ({"weight": WEIGHT, "bias": entry("F32", [4], 68, 84)}, 84),
        ({"weight": WEIGHT, "bias": entry("F32", [4], 80, 64)}, 80),
        ({"weight": entry("F32", [4, 4], 0, 16)}, 16),
        ({"weight": entry("F99", [4, 4], 0, 64)}, 64),
        ({"weight": entry("F32", [2**62, 2**62], 0, 64)}, 64),
        ({"weight": entry("F32", [-4, -4], 0, 64)}, 64),
        ({"weight": "F32"}, 64),
        (["weight"], 64),
    ],
    ids=[
        "truncated", "bytes left over", "overlap", "gap", "end before start", "size differs from shape", "unknown type",
        "size overflows", "negative shape", "entry without offsets", "header is a list",
    ],
)  # fmt: skip
def test_a_wrong_header_is_refused(tmp_path: Path, header: object, data_bytes: int) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", header, data_bytes)
    with pytest.raises(FileProblem, match="not a valid safetensors file"):
        check_weights(nn.Linear(4, 4), path)


@pytest.mark.parametrize("content", [b"", b"abc", struct.pack("<Q", 10_000_000_000) + b"{}"])
def test_a_header_longer_than_the_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileProblem, match="not a valid safetensors file"):
        check_weights(nn.Linear(4, 4), path)


def test_the_weights_themselves_are_not_read(tmp_path: Path) -> None:
    rows = 2**28
    path = write_safetensors(tmp_path / "m.safetensors", {"weight": entry("F32", [rows, 4], 0, 16 * rows)}, 0)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 16 * rows)  # sparse: 4 GiB that take no disk
    with pytest.raises(FileProblem, match=rf"shape \({rows}, 4\), the model's is \(4, 4\)"):
        check_weights(nn.Linear(4, 4, bias=False), path)
