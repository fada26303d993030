"""Reads and writes a checkpoint folder's model: `config.json` and `model.safetensors`.

Input: a folder, or a ModelConfig and weights to write. Output: a ModelConfig, a Transformer with its weights.
No code in a folder is run and nothing is unpickled; shapes are checked before weights are read.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from smalltale.errors import FileProblem
from smalltale.files import atomic_file, read_json, write_json
from smalltale.model.transformer import ModelConfig, Transformer

ARCHITECTURE = "smalltale"
FORMAT = 1
MODELING_FILE = Path(__file__).parent / "hf" / "modeling_smalltale.py"
"""The code with which transformers opens a checkpoint folder if the user trusts it; copied into every folder."""
TRANSFORMERS_CONFIG = {
    "model_type": ARCHITECTURE,
    "architectures": ["SmalltaleForCausalLM"],
    "auto_map": {
        "AutoConfig": "modeling_smalltale.SmalltaleConfig",
        "AutoModelForCausalLM": "modeling_smalltale.SmalltaleForCausalLM",
    },
    "torch_dtype": "float32",
}


def write_model(
    folder: Path, shape: ModelConfig, weights: Mapping[str, Tensor], extra: dict[str, Any]
) -> None:
    """Write `config.json` (with `extra` at its top level), `model.safetensors` and the modeling file, each atomically."""
    with atomic_file(folder / MODELING_FILE.name) as temporary:
        shutil.copyfile(MODELING_FILE, temporary)
    table = {"architecture": ARCHITECTURE, "format": FORMAT, "model": asdict(shape)}
    write_json(folder / "config.json", {**table, **TRANSFORMERS_CONFIG, **extra})
    with atomic_file(folder / "model.safetensors") as temporary:
        save_tensors(temporary, weights)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. Raises FileProblem if the disk is full."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, path, {"format": "pt"})
    except SafetensorError as error:
        raise FileProblem(f"{path.parent}: {error}; free some space or write to another disk") from error


def read_model_config(folder: Path) -> ModelConfig:
    """The shape in a checkpoint folder's config.json. Raises FileProblem for another architecture or version."""
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict) or config.get("architecture") != ARCHITECTURE:
        raise FileProblem(f"{path} is not a smalltale checkpoint; give a folder that `smalltale train` wrote")
    if config.get("format") != FORMAT:
        raise FileProblem(
            f"{path} has checkpoint format {config.get('format')}, this smalltale reads {FORMAT}; "
            "use the smalltale version named in its meta.json"
        )
    shape = config.get("model")
    model_keys = {field.name for field in fields(ModelConfig)}
    if not isinstance(shape, dict) or set(shape) - model_keys:
        raise FileProblem(
            f"{path} has unknown model keys {sorted(set(shape or ()) - model_keys)}; use the smalltale version named in meta.json"
        )
    try:
        return ModelConfig(**shape)
    except TypeError as error:
        raise FileProblem(f"{path} has a wrong model value ({error}); write the checkpoint again") from error


def read_model(folder: Path) -> Transformer:
    """The model of a checkpoint folder, in float32 on the CPU, in evaluation mode. Raises FileProblem."""
    model = Transformer(read_model_config(folder))
    path = folder / "model.safetensors"
    if not path.exists():
        raise FileProblem(f"{path} does not exist; resume the run that writes this checkpoint")
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        if shapes != expected:
            name = min(key for key in expected.keys() | shapes.keys() if expected.get(key) != shapes.get(key))
            raise FileProblem(
                f"{path}: weight {name} has shape {shapes.get(name)}, config.json says {expected.get(name)}; "
                "the two files are not from one checkpoint"
            )
        model.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise FileProblem(f"{path} is no complete safetensors file ({error}); copy it again") from error
    return model.eval()
