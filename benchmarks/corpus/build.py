"""Corpus build speed against the same steps done with datasets.map and datasketch.

The text is made of fables with planted copies, near copies, mojibake, cut endings and leaks.
Output: results/corpus.json, and as the last line of standard output one JSON object with the key `ratio`.
The peer is slow, so it runs on a part of the text; the ratio is of smalltale on that same part, the scaling of three sizes.

    python -m benchmarks.corpus.build [--quick] [--megabytes 400] [--near] [--out benchmarks/results/corpus.json]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record

MARK = "\n<|endoftext|>\n"
SHARES = {"copy": 0.04, "near copy": 0.04, "mojibake": 0.02, "cut": 0.01, "leak": 0.005}
PROCESSES = 2
PEER_PACKAGES = ("datasets", "datasketch", "ftfy")


def make_text(folder: Path, megabytes: float, seed: int = 1) -> tuple[Path, Path, dict[str, int]]:
    """Write a text of about `megabytes` MB with planted faults, and a validation file; also returns faults by kind."""
    from smalltale.corpus.fable.generator import generate_stories

    generator = random.Random(seed)
    held_out = list(generate_stories(seed + 1_000_000, 2_000))
    valid = folder / "valid.txt"
    valid.write_text(MARK.join(held_out), encoding="utf-8")
    path, size, planted, recent = folder / f"train-{megabytes:g}.txt", 0, dict.fromkeys(SHARES, 0), []
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for text in generate_stories(seed, 1 << 40):
            recent = [*recent[-50:], text]
            draw = generator.random()
            for kind, share in SHARES.items():
                if draw < share:
                    planted[kind] += 1
                    text = plant_fault(kind, text, recent, held_out, generator)
                    break
                draw -= share
            size += out.write(text + MARK)
            if size >= megabytes * 1e6:
                return path, valid, planted
    raise AssertionError


def plant_fault(
    kind: str, text: str, recent: list[str], held_out: list[str], generator: random.Random
) -> str:
    words = text.split(" ")
    if kind == "copy":
        return generator.choice(recent)
    if kind == "near copy":
        words = generator.choice(recent).split(" ")
        words[generator.randrange(len(words))] = "something"
        return " ".join(words)
    if kind == "mojibake":
        return text.replace('"', "\u201c").replace("'", "\u2019").encode().decode("cp1252", "ignore")
    if kind == "cut":
        return " ".join(words[: len(words) // 2]) + " and"
    run = generator.choice(held_out).split(" ")[10:60]
    return " ".join([*words[:20], *run, *words[20:]])


def run_measured(command: list[str]) -> tuple[float, float, str]:
    """Run a command; returns wall-clock seconds, peak memory of its process tree in MB, and its output."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            peak[0] = max(peak[0], tree_memory(process.pid))

    thread = threading.Thread(target=watch)
    thread.start()
    output, _ = process.communicate()
    seconds = time.monotonic() - began
    stop.set()
    thread.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return seconds, peak[0], output


def tree_memory(root: int) -> float:
    """Proportional set size of a process and its descendants in MB: shared pages count once."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.parent.name)] = int(fields[1])
    total = 0
    for pid in parents:
        ancestor = pid
        while ancestor and ancestor != root:
            ancestor = parents.get(ancestor, 0)
        if ancestor == root:
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            except (OSError, StopIteration):
                continue
    return total / 1024


def build_ours(path: str, valid: str, out: str) -> None:
    """Run our build in this process."""
    from smalltale.corpus.build import build_corpus
    from smalltale.corpus.config import CorpusConfig

    summary = build_corpus(CorpusConfig(sources=(path,), validation=valid, processes=PROCESSES), Path(out))
    print(json.dumps({"dropped": summary.dropped, "kept": summary.train_stories, "stages": summary.stages}))


def build_with_peer(path: str, valid: str, out: str) -> None:
    """Run the same steps with datasets.map and filter in two processes, ftfy, regexes and datasketch."""
    import re

    import datasets
    import ftfy
    from datasketch import MinHash, MinHashLSH

    datasets.disable_progress_bars()
    words = re.compile(r"\w+")

    def clean(row: dict[str, str]) -> dict[str, str]:
        text = ftfy.fix_text(row["text"], uncurl_quotes=True)
        text = re.sub(r"[ \t]+", " ", text)
        text = re.sub(r" ?\n ?", "\n", text)
        text = re.sub(r"\n{3,}", "\n\n", text)
        return {"text": re.sub(r"\s*the end\.?\s*$", "", text.strip(), flags=re.IGNORECASE)}

    def is_good(row: dict[str, str]) -> bool:
        text = row["text"]
        if len(text.split()) < 30 or not re.search(r"[.!?][\"')]*$", text) or "\ufffd" in text:
            return False
        return not re.search(
            r"<[a-z/][^>]*>|https?:|[{}\\]|as an ai|language model|^words:", text, re.IGNORECASE
        )

    def signature(row: dict[str, str]) -> dict[str, Any]:
        tokens = words.findall(row["text"].lower())
        shingles = {" ".join(tokens[i : i + 5]).encode() for i in range(len(tokens) - 4)}
        sketch = MinHash(num_perm=120, seed=1)
        sketch.update_batch(list(shingles))
        return {"sketch": sketch.hashvalues, "key": " ".join(tokens)}

    def grams(text: str, length: int = 30) -> set[str]:
        tokens = words.findall(text.lower())
        return {" ".join(tokens[i : i + length]) for i in range(len(tokens) - length + 1)}

    data = datasets.Dataset.from_dict({"text": Path(path).read_text(encoding="utf-8").split(MARK)})
    data = data.map(clean, num_proc=PROCESSES).filter(is_good, num_proc=PROCESSES)
    held_out: set[str] = set()
    for story in Path(valid).read_text(encoding="utf-8").split(MARK):
        held_out |= grams(story)
    data = data.filter(lambda row: held_out.isdisjoint(grams(row["text"])), num_proc=PROCESSES)
    data = data.map(signature, num_proc=PROCESSES)
    index, seen, keep = MinHashLSH(threshold=0.8, num_perm=120), set(), []
    for number, row in enumerate(data.with_format("numpy", columns=["sketch"], output_all_columns=True)):
        if row["key"] in seen:
            continue
        seen.add(row["key"])
        sketch = MinHash(num_perm=120, seed=1, hashvalues=row["sketch"], scheme="affine32")
        if not index.query(sketch):
            index.insert(number, sketch)
            keep.append(number)
    data = data.select(keep).remove_columns(["sketch", "key"]).shuffle(seed=1)
    Path(out).mkdir(parents=True)
    data.to_parquet(f"{out}/train.parquet")
    print(
        json.dumps(
            {
                "kept": len(keep),
                "versions": {name: importlib.metadata.version(name) for name in PEER_PACKAGES},
            }
        )
    )


def measure_steps(path: Path, valid: Path) -> dict[str, float]:
    """MB/s of each step on one core."""
    from smalltale.corpus.hashing import hash_stories, hash_words
    from smalltale.corpus.sources.catalog import find_sources
    from smalltale.corpus.sources.pieces import read_piece, split_source
    from smalltale.corpus.steps.clean import clean_story
    from smalltale.corpus.steps.decontamination import build_leak_index
    from smalltale.corpus.steps.dedup import minhash

    piece = next(split_source(find_sources([str(path)], 0)[0]))
    speeds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        speeds[name] = round((piece.stop - piece.start) / 1e6 / (time.perf_counter() - began), 1)
        return result

    documents = timed("read", lambda: list(read_piece(piece)))
    cleaned = timed("clean", lambda: [clean_story(document, 30).text for document in documents])
    words = timed("hash words", lambda: hash_words(cleaned))
    timed("story keys", lambda: hash_stories(words))
    timed("MinHash", lambda: minhash(words))
    held_out = valid.read_text(encoding="utf-8").split(MARK)
    leaks = build_leak_index(held_out, [str(number) for number in range(len(held_out))], 30)
    timed("leaks", lambda: leaks.find(words))
    return speeds


def measure_dedup() -> list[dict[str, float]]:
    """Precision and recall of near-duplicate removal (threshold 0.8) on planted pairs, by their true overlap."""
    import numpy as np

    from smalltale.corpus.fable.generator import generate_stories
    from smalltale.corpus.hashing import hash_ngrams, hash_stories, hash_words
    from smalltale.corpus.steps.dedup import KEPT, find_duplicates, minhash

    rows = []
    for overlap in (0.95, 0.9, 0.85, 0.8, 0.7, 0.5):
        generator, count = random.Random(1), 2_000
        originals = list(generate_stories(77, count))
        unrelated = list(generate_stories(78, count))
        copies = [replace_words(text, overlap, generator) for text in originals]
        texts = originals + copies + unrelated
        words = hash_words(texts)
        shingles, offsets = hash_ngrams(words, 5)
        sets = [set(shingles[offsets[i] : offsets[i + 1]].tolist()) for i in range(2 * count)]
        similarity = np.array(
            [len(sets[i] & sets[i + count]) / len(sets[i] | sets[i + count]) for i in range(count)]
        )
        verdicts = find_duplicates(
            hash_stories(words),
            np.array([len(text) for text in texts]),
            np.zeros(len(texts), bool),
            np.arange(len(texts)),
            minhash(words),
            0.8,
        )
        gone = verdicts.code != KEPT
        removed = gone[:count] | gone[count : 2 * count]
        is_duplicate = similarity >= 0.8
        unrelated_removed = int(gone[2 * count :].sum())
        wrongly_removed = unrelated_removed + int((removed & ~is_duplicate).sum())
        recall = int((removed & is_duplicate).sum()) / max(1, int(is_duplicate.sum()))
        rows.append(
            {
                "overlap": round(float(similarity.mean()), 3),
                "removed": round(int(removed.sum()) / count, 4),
                "unrelated removed": unrelated_removed,
                "recall of pairs at 0.8 or more": round(recall, 4),
                "precision at 0.8": round(1 - wrongly_removed / max(1, int(gone.sum())), 4),
            }
        )
    return rows


def replace_words(text: str, share: float, generator: random.Random) -> str:
    """Replace words of `text` so that the Jaccard similarity of 5-word shingles stays at least `share`."""
    words = text.split()
    shingles = len(words) - 4
    changed: set[int] = set()
    positions = list(range(len(words)))
    generator.shuffle(positions)
    for position in positions:
        candidate = changed | set(range(max(0, position - 4), min(shingles, position + 1)))
        if (shingles - len(candidate)) / (shingles + len(candidate)) >= share:
            changed, words[position] = candidate, f"zq{generator.randrange(10**9)}"
    return " ".join(words)


def peer_python() -> str:
    """A Python with the peer's packages: this one, or that of a venv made for them under build/."""
    if all(importlib.util.find_spec(name) for name in PEER_PACKAGES):
        return sys.executable
    folder = RESULTS.parents[1] / "build" / "peers"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEER_PACKAGES],
            check=True,
            stdout=sys.stderr,
        )
        (folder / "ready").touch()
    return str(python)


def measure(role: str, path: Path, valid: Path, folder: Path) -> dict[str, Any]:
    out = folder / f"out-{role}"
    python = peer_python() if role == "peer" else sys.executable
    seconds, peak, output = run_measured(
        [
            python,
            "-W",
            "ignore",
            "-m",
            "benchmarks.corpus.build",
            "--role",
            role,
            str(path),
            str(valid),
            str(out),
        ]
    )
    shutil.rmtree(out, ignore_errors=True)
    megabytes = path.stat().st_size / 1e6
    return {
        "megabytes": round(megabytes, 1),
        "seconds": round(seconds, 2),
        "MB/s": round(megabytes / seconds, 2),
        "peak memory MB": round(peak),
        **json.loads(output.strip().splitlines()[-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_record_arguments(parser, RESULTS / "corpus.json")
    parser.add_argument("--megabytes", type=float, default=400)
    parser.add_argument("--peer-megabytes", type=float, default=40)
    parser.add_argument("--near", action="store_true", help="only precision and recall of near-duplicates")
    parser.add_argument("--role", nargs=4, metavar=("ROLE", "TEXT", "VALID", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        {"ours": build_ours, "peer": build_with_peer}[arguments.role[0]](*arguments.role[1:])
        return
    if arguments.near:
        print(json.dumps(measure_dedup(), indent=1))
        return
    largest, shared = (24.0, 24.0) if arguments.quick else (arguments.megabytes, arguments.peer_megabytes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scaling = []
        for size in (largest / 4, largest / 2, largest):
            path, valid, planted = make_text(folder, size)
            scaling.append({**measure("ours", path, valid, folder), "planted": planted})
            if size != largest:
                path.unlink()
        steps = measure_steps(path, valid)
        path, valid, _ = make_text(folder, shared)
        ours, peer = measure("ours", path, valid, folder), measure("peer", path, valid, folder)
    result = {
        "claim": "a whole corpus build against the same steps with datasets.map and datasketch, same text, same machine",
        "ratio": round(ours["MB/s"] / peer["MB/s"], 2),
        "ours": ours,
        "peer": peer,
        "scaling": scaling,
        "steps, MB/s on one core": steps,
        "minutes for 2.2 GB": round(2_227.75 / scaling[-1]["MB/s"] / 60, 2),
        "processes": PROCESSES,
        **provenance(("smalltale", "ftfy", "rensa", "pyarrow", "numpy"), arguments.commit),
        "quick": arguments.quick,
    }
    write_record(None if arguments.quick else arguments.out, result)


if __name__ == "__main__":
    main()
