"""Encoding speed of a corpus against tokenizers' encode_batch, datasets.map and tiktoken, with identical ids.

Input: a text with stories (--text; fables by default), repeated to --sizes. Output: results/tokens.json, and as the last line of
standard output one JSON object with the key `megabytes_per_second`.
Every figure is of a whole process, start and file access included. The peers, which cache little, run on --peer-megabytes of the
same text. `cold_megabytes_per_second` is of the text once, start included; `steady_megabytes_per_second` is of the remaining
text at the largest size.

    python -m benchmarks.corpus.encode_tokens [--text stories.txt] [--quick] [--sizes 203 609 2210]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record

THREADS = 2
COLD_RUNS = 3
PEERS = {
    "tokenizers": "encode_batch",
    "datasets": "map, one story per call",
    "tiktoken": "encode_ordinary_batch",
}


def load_stories(text: Path | None) -> list[str]:
    """The stories of a text file, or fables."""
    from smalltale.corpus.fable.generator import generate_stories
    from smalltale.files import read_stories

    return read_stories(text) if text else list(generate_stories(1, 12_000))


def write_corpus(folder: Path, stories: list[str], repeats: int) -> int:
    """Write a corpus folder with the stories repeated. Returns the UTF-8 bytes of its train split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "text").mkdir(parents=True)
    count = len(stories)
    table = pa.table(
        {"text": stories, "source": ["benchmark"] * count, "id": [f"benchmark-{i}" for i in range(count)]}
    )
    with pq.ParquetWriter(folder / "text" / "train-00000.parquet", table.schema, compression="zstd") as out:
        for _ in range(repeats):
            out.write_table(table, row_group_size=20_000)
    pq.write_table(table.slice(0, 1), folder / "text" / "val-00000.parquet")
    (folder / "meta.json").write_text(json.dumps({"kind": "corpus", "format": 1}))
    return repeats * sum(len(story.encode()) for story in stories)


def run_timed(command: list[str]) -> tuple[float, float]:
    """Run a command; returns seconds and peak resident megabytes of its largest process."""
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        error_output = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{error_output[-2000:]}")
    return time.monotonic() - began, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def encode(corpus: Path, tokenizer: Path, out: Path) -> tuple[float, float]:
    """Run `smalltale tokens encode`, timed."""
    command = [sys.executable, "-m", "smalltale", "tokens", "encode", str(corpus)]
    return run_timed([*command, "--tokenizer", str(tokenizer), "--out", str(out), "--threads", str(THREADS)])


def run_peer(name: str, corpus: Path, tokenizer: Path, out: Path) -> None:
    """Run one peer in this process: read the corpus, encode it, write ids with end tokens to `out`."""
    import numpy as np
    import pyarrow.parquet as pq

    from smalltale.tokens.tokenizer import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    parquet = corpus / "text" / "train-00000.parquet"
    if name == "datasets":
        from datasets import Dataset

        def encode_row(row: dict[str, str]) -> dict[str, Any]:
            return {"ids": [*loaded.engine.encode(row["text"], add_special_tokens=False).ids, loaded.end_id]}

        dataset = Dataset.from_parquet(str(parquet), cache_dir=str(out.parent / "cache"))
        encoded = dataset.map(encode_row, remove_columns=["text", "source", "id"], num_proc=THREADS)
        with out.open("wb") as file:
            for batch in encoded.with_format("numpy").iter(batch_size=1024):
                file.write(np.concatenate(batch["ids"]).astype(np.uint16).tobytes())
        return
    encode_batch = loaded.encode_batch
    if name == "tiktoken":
        encoding = as_tiktoken(loaded)
        encode_batch = lambda texts: encoding.encode_ordinary_batch(texts, num_threads=THREADS)  # noqa: E731
    with out.open("wb") as file, pq.ParquetFile(parquet) as source:
        for batch in source.iter_batches(batch_size=2_000, columns=["text"]):
            for ids in encode_batch(batch.column(0).to_pylist()):
                file.write(np.array([*ids, loaded.end_id], dtype=np.uint16).tobytes())


def as_tiktoken(tokenizer: Any) -> Any:
    """Convert the byte-level BPE to tiktoken with the same ids, which are in merge order."""
    import tiktoken

    from smalltale.tokens.convert import byte_letters
    from smalltale.tokens.tokenizer import SPECIALS, STORY_PATTERN

    byte_of = {letter: byte for byte, letter in enumerate(byte_letters())}
    ranks = {
        bytes(byte_of[letter] for letter in token): number
        for token, number in tokenizer.engine.get_vocab().items()
        if token not in SPECIALS
    }
    specials = {token: tokenizer.engine.token_to_id(token) for token in SPECIALS}
    return tiktoken.Encoding("stories", pat_str=STORY_PATTERN, mergeable_ranks=ranks, special_tokens=specials)


def measure(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure all figures."""
    from smalltale.files import sha256_file
    from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer

    stories = load_stories(arguments.text)
    text_bytes = sum(len(story.encode()) for story in stories)
    train_tokenizer(stories, TokenizerConfig(vocabulary=4096)).save(work / "tokenizer", {"seconds": 0})

    corpus = work / "once"
    write_corpus(corpus, stories, 1)
    # The very first process also reads the libraries from disk; the median leaves it out.
    cold_seconds = statistics.median(
        encode(corpus, work / "tokenizer", work / "tokens-once")[0] for _ in range(COLD_RUNS)
    )
    runs = []
    for megabytes in arguments.sizes:
        corpus, out = work / f"corpus-{megabytes:g}", work / f"tokens-{megabytes:g}"
        size = write_corpus(corpus, stories, max(2, round(megabytes * 1e6 / text_bytes)))
        seconds, peak = encode(corpus, work / "tokenizer", out)
        runs.append(
            {
                "megabytes": round(size / 1e6, 1),
                "seconds": round(seconds, 2),
                "megabytes_per_second": round(size / 1e6 / seconds, 1),
                "peak_megabytes": round(peak),
            }
        )
        for path in (*corpus.rglob("*.parquet"), *out.glob("*.bin")):
            path.unlink()

    added = runs[-1]["megabytes"] - text_bytes / 1e6, runs[-1]["seconds"] - cold_seconds

    corpus = work / "peers"
    size = write_corpus(corpus, stories, max(1, round(arguments.peer_megabytes * 1e6 / text_bytes)))
    encode(corpus, work / "tokenizer", work / "tokens-peers")
    ours = sha256_file(work / "tokens-peers" / "train.bin")
    peers: dict[str, Any] = {}
    for name, method in PEERS.items():
        if importlib.util.find_spec(name) is None:
            peers[name] = {"how": method, "not_measured": "not installed"}
            continue
        out = work / f"{name}.bin"
        command = [sys.executable, "-m", "benchmarks.corpus.encode_tokens", "--peer", name]
        command += [str(corpus), str(work / "tokenizer"), str(out)]
        seconds, peak = run_timed(command)
        peers[name] = {
            "how": method,
            "megabytes": round(size / 1e6, 1),
            "megabytes_per_second": round(size / 1e6 / seconds, 2),
            "peak_megabytes": round(peak),
            "identical_ids": sha256_file(out) == ours,
        }
    return {
        "megabytes_per_second": runs[0]["megabytes_per_second"],
        "target": 60,
        "cold_megabytes_per_second": round(text_bytes / 1e6 / cold_seconds, 1),
        "steady_megabytes_per_second": round(added[0] / added[1], 1),
        "cold_megabytes": round(text_bytes / 1e6, 2),
        "sizes": runs,
        "peers": peers,
        "text": arguments.text.name if arguments.text else "fable",
        "vocabulary": 4096,
        "threads": THREADS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, help="stories separated by <|endoftext|>")
    parser.add_argument("--sizes", type=float, nargs="+", default=[203, 609, 2210], metavar="MB")
    parser.add_argument("--peer-megabytes", type=float, default=50)
    add_record_arguments(parser, RESULTS / "tokens.json")
    parser.add_argument("--peer", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        run_peer(arguments.peer[0], *map(Path, arguments.peer[1:]))
        return
    sample = RESULTS.parents[2] / "shared" / "data" / "TinyStories-train.sample.txt"
    if arguments.text is None and sample.exists():
        arguments.text = sample
    if arguments.quick:
        arguments.sizes, arguments.peer_megabytes = [20], 1
    with tempfile.TemporaryDirectory(prefix="smalltale-tokens-") as folder:
        result = measure(arguments, Path(folder))
    packages = ("tokenizers", "pyarrow", "numpy", "datasets", "tiktoken")
    write_record(arguments.out, {**result, **provenance(packages, arguments.commit)}, result)


if __name__ == "__main__":
    main()
