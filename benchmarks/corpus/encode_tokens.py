"""How fast a corpus is encoded, against tokenizers' encode_batch, datasets.map and tiktoken, with identical ids.

In: a text with stories (--text; fable's where none is given), repeated to --megabytes. Out: results/tokens.json, and
as the last line of standard output one JSON object with the key `megabytes_per_second`.
Beware: every figure is of a whole process, start and files included. The peers, which remember little, run on
--peer-megabytes of the same text; `cold_megabytes_per_second` is of the text once, start included, and
`steady_megabytes_per_second` of what follows it at the largest size.

    python -m benchmarks.corpus.encode_tokens [--text stories.txt] [--quick] [--sizes 203 609 2210]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from smalltale.machine import usable_cores

HERE = Path(__file__).parents[1]
THREADS = 2
COLD_RUNS = 3
PEERS = {
    "tokenizers": "encode_batch",
    "datasets": "map, one story a call",
    "tiktoken": "encode_ordinary_batch",
}


def stories_of(text: Path | None) -> list[str]:
    """The stories of a text file, or of fable."""
    from smalltale.corpus.fable.generator import generate_stories
    from smalltale.files import read_stories

    return read_stories(text) if text else list(generate_stories(1, 12_000))


def write_corpus(folder: Path, stories: list[str], repeats: int) -> int:
    """A corpus folder with the stories so many times. Returns the UTF-8 bytes of its train split."""
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


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds and peak resident megabytes (of its largest process) of a command."""
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        complaint = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{complaint[-2000:]}")
    return time.monotonic() - began, usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def encode(corpus: Path, tokenizer: Path, out: Path) -> tuple[float, float]:
    """`smalltale tokens encode`, timed."""
    program = [sys.executable, "-m", "smalltale", "tokens", "encode", str(corpus)]
    return timed([*program, "--tokenizer", str(tokenizer), "--out", str(out), "--threads", str(THREADS)])


def run_peer(name: str, corpus: Path, tokenizer: Path, out: Path) -> None:
    """One peer in this process: read the corpus, encode it, write the ids with end tokens to `out`."""
    import numpy as np
    import pyarrow.parquet as pq

    from smalltale.tokens.tokenizer import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    parquet = corpus / "text" / "train-00000.parquet"
    if name == "datasets":
        from datasets import Dataset

        def one(row: dict[str, str]) -> dict[str, Any]:
            return {"ids": [*loaded.engine.encode(row["text"], add_special_tokens=False).ids, loaded.end_id]}

        given = Dataset.from_parquet(str(parquet), cache_dir=str(out.parent / "cache"))
        made = given.map(one, remove_columns=["text", "source", "id"], num_proc=THREADS)
        with out.open("wb") as opened:
            for batch in made.with_format("numpy").iter(batch_size=1024):
                opened.write(np.concatenate(batch["ids"]).astype(np.uint16).tobytes())
        return
    encode_batch = loaded.encode_batch
    if name == "tiktoken":
        encoding = as_tiktoken(loaded)
        encode_batch = lambda texts: encoding.encode_ordinary_batch(texts, num_threads=THREADS)  # noqa: E731
    with out.open("wb") as opened, pq.ParquetFile(parquet) as source:
        for batch in source.iter_batches(batch_size=2_000, columns=["text"]):
            for ids in encode_batch(batch.column(0).to_pylist()):
                opened.write(np.array([*ids, loaded.end_id], dtype=np.uint16).tobytes())


def as_tiktoken(tokenizer: Any) -> Any:
    """The same byte-level BPE for tiktoken, with the same ids: they are in the order of the merges."""
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


def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All figures."""
    from smalltale.files import sha256_file
    from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer

    stories = stories_of(args.text)
    once = sum(len(story.encode()) for story in stories)
    train_tokenizer(stories, TokenizerConfig(vocabulary=4096)).save(work / "tokenizer", {"seconds": 0})

    corpus = work / "once"
    write_corpus(corpus, stories, 1)
    # The first process of all also waits for the disk to bring the libraries.
    cold_seconds = statistics.median(
        encode(corpus, work / "tokenizer", work / "tokens-once")[0] for _ in range(COLD_RUNS)
    )
    runs = []
    for megabytes in args.sizes:
        corpus, out = work / f"corpus-{megabytes:g}", work / f"tokens-{megabytes:g}"
        size = write_corpus(corpus, stories, max(2, round(megabytes * 1e6 / once)))
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

    more = runs[-1]["megabytes"] - once / 1e6, runs[-1]["seconds"] - cold_seconds

    corpus = work / "peers"
    size = write_corpus(corpus, stories, max(1, round(args.peer_megabytes * 1e6 / once)))
    encode(corpus, work / "tokenizer", work / "tokens-peers")
    ours = sha256_file(work / "tokens-peers" / "train.bin")
    peers: dict[str, Any] = {}
    for name, how in PEERS.items():
        if importlib.util.find_spec(name) is None:
            peers[name] = {"how": how, "not_measured": "not installed"}
            continue
        out = work / f"{name}.bin"
        command = [sys.executable, __file__, "--peer", name, str(corpus), str(work / "tokenizer"), str(out)]
        seconds, peak = timed(command)
        peers[name] = {
            "how": how,
            "megabytes": round(size / 1e6, 1),
            "megabytes_per_second": round(size / 1e6 / seconds, 2),
            "peak_megabytes": round(peak),
            "identical_ids": sha256_file(out) == ours,
        }
    return {
        "megabytes_per_second": runs[0]["megabytes_per_second"],
        "target": 60,
        "cold_megabytes_per_second": round(once / 1e6 / cold_seconds, 1),
        "steady_megabytes_per_second": round(more[0] / more[1], 1),
        "cold_megabytes": round(once / 1e6, 2),
        "sizes": runs,
        "peers": peers,
        "text": args.text.name if args.text else "fable",
        "vocabulary": 4096,
        "threads": THREADS,
    }


def machine() -> dict[str, Any]:
    """Where and with what this was measured."""
    from smalltale.files import git_commit

    packages = ("tokenizers", "pyarrow", "numpy", "datasets", "tiktoken")
    versions = {name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(name)}
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": names[0].partition(": ")[2] if names else platform.processor(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "commit": git_commit(),
        "versions": versions,
        "day": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, help="stories separated by <|endoftext|>")
    parser.add_argument("--sizes", type=float, nargs="+", default=[203, 609, 2210], metavar="MB")
    parser.add_argument("--peer-megabytes", type=float, default=50)
    parser.add_argument("--quick", action="store_true", help="20 MB, peers on the text once")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "tokens.json")
    parser.add_argument("--peer", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        run_peer(args.peer[0], *map(Path, args.peer[1:]))
        return
    sample = HERE.parents[1] / "shared" / "data" / "TinyStories-train.sample.txt"
    if args.text is None and sample.exists():
        args.text = sample
    if args.quick:
        args.sizes, args.peer_megabytes = [20], 1
    with tempfile.TemporaryDirectory(prefix="smalltale-tokens-") as folder:
        result = measure(args, Path(folder))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({**result, "machine": machine()}, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
