"""A checkpoint folder's model: `config.json` and `model.safetensors`.

In: a folder, or a Transformer to write. Out: a ModelConfig, a Transformer with its weights.
Beware: nothing in a folder is ever run or unpickled; shapes are checked before weights are read.
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
from smalltale.files import new_file, read_json, write_json
from smalltale.model.transformer import ModelConfig, Transformer

ARCHITECTURE = "smalltale"
FORMAT = 1
CODE = Path(__file__).parent / "hf" / "modeling_smalltale.py"
"""What transformers runs to open a checkpoint folder, where the user trusts it."""
FOR_TRANSFORMERS = {
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
    """Write `config.json` (with `extra` at its top), `model.safetensors`, each whole or not at all, and their code."""
    with new_file(folder / CODE.name) as temporary:
        shutil.copyfile(CODE, temporary)
    table = {"architecture": ARCHITECTURE, "format": FORMAT, "model": asdict(shape)}
    write_json(folder / "config.json", {**table, **FOR_TRANSFORMERS, **extra})
    with new_file(folder / "model.safetensors") as temporary:
        save_tensors(temporary, weights)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. Raises FileProblem where the disk does not take it."""
    try:
        save_file(
            {name: each.detach().contiguous() for name, each in tensors.items()}, path, {"format": "pt"}
        )
    except SafetensorError as error:
        raise FileProblem(f"{path.parent}: {error}; free some space or choose another place") from error


def read_model_config(folder: Path) -> ModelConfig:
    """The shape in a checkpoint folder's config.json. Raises FileProblem for another architecture or version."""
    table = read_json(folder / "config.json")
    path = folder / "config.json"
    if not isinstance(table, dict) or table.get("architecture") != ARCHITECTURE:
        raise FileProblem(f"{path} is not a smalltale checkpoint; give a folder that `smalltale train` wrote")
    if table.get("format") != FORMAT:
        raise FileProblem(
            f"{path} has checkpoint format {table.get('format')}, this smalltale reads {FORMAT}; "
            "use the smalltale version named in its meta.json"
        )
    shape = table.get("model")
    known = {each.name for each in fields(ModelConfig)}
    if not isinstance(shape, dict) or set(shape) - known:
        raise FileProblem(
            f"{path} has unknown model keys {sorted(set(shape or ()) - known)}; it is of another version"
        )
    try:
        return ModelConfig(**shape)
    except TypeError as error:
        raise FileProblem(
            f"{path} has a model value of the wrong type ({error}); make the checkpoint anew"
        ) from error


def read_model(folder: Path) -> Transformer:
    """The model of a checkpoint folder, in float32 on the CPU, in evaluation mode. Raises FileProblem."""
    model = Transformer(read_model_config(folder))
    path = folder / "model.safetensors"
    if not path.exists():
        raise FileProblem(
            f"{path} does not exist; the checkpoint is not whole, resume the run that writes it"
        )
    expected = {name: tuple(each.shape) for name, each in model.state_dict().items()}
    try:
        with safe_open(path, framework="pt") as opened:
            found = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        if found != expected:
            name = min(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
            raise FileProblem(
                f"{path}: weight {name} has shape {found.get(name)}, config.json says {expected.get(name)}; "
                "the two files are not of one checkpoint"
            )
        model.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise FileProblem(
            f"{path} is cut short or not safetensors ({error}); resume the run or copy it again"
        ) from error
    return model.eval()
