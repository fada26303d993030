"""How fast a corpus is prepared, against the same steps done with datasets.map and datasketch.

In: nothing; the text is told by fable, with planted copies, near copies, mojibake, cut endings and leaks.
Out: results/corpus.json, and as the last line of standard output one JSON object with the key `ratio`.
Beware: the peer is measured on a part of the text (it is slow), smalltale on that same part for the ratio, and on
three sizes for the scaling.

    python -m benchmarks.corpus.build [--quick] [--megabytes 400] [--near] [--out benchmarks/results/corpus.json]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
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

from smalltale.machine import usable_cores

HERE = Path(__file__).parents[1]
MARK = "\n<|endoftext|>\n"
SHARES = {"copy": 0.04, "near copy": 0.04, "mojibake": 0.02, "cut": 0.01, "leak": 0.005}
PROCESSES = 2
PEER_PACKAGES = ("datasets", "datasketch", "ftfy")


def make_text(folder: Path, megabytes: float, seed: int = 1) -> tuple[Path, Path, dict[str, int]]:
    """A text of about so many MB with planted faults, a validation file, and how many faults of each kind."""
    from smalltale.corpus.fable.generator import generate_stories

    chance = random.Random(seed)
    held = list(generate_stories(seed + 1_000_000, 2_000))
    valid = folder / "valid.txt"
    valid.write_text(MARK.join(held), encoding="utf-8")
    path, size, planted, recent = folder / f"train-{megabytes:g}.txt", 0, dict.fromkeys(SHARES, 0), []
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for text in generate_stories(seed, 1 << 40):
            recent = [*recent[-50:], text]
            draw = chance.random()
            for kind, share in SHARES.items():
                if draw < share:
                    planted[kind] += 1
                    text = spoilt(kind, text, recent, held, chance)
                    break
                draw -= share
            size += out.write(text + MARK)
            if size >= megabytes * 1e6:
                return path, valid, planted
    raise AssertionError


def spoilt(kind: str, text: str, recent: list[str], held: list[str], chance: random.Random) -> str:
    words = text.split(" ")
    if kind == "copy":
        return chance.choice(recent)
    if kind == "near copy":
        words = chance.choice(recent).split(" ")
        words[chance.randrange(len(words))] = "something"
        return " ".join(words)
    if kind == "mojibake":
        return text.replace('"', "\u201c").replace("'", "\u2019").encode().decode("cp1252", "ignore")
    if kind == "cut":
        return " ".join(words[: len(words) // 2]) + " and"
    run = chance.choice(held).split(" ")[10:60]
    return " ".join([*words[:20], *run, *words[20:]])


def watched(command: list[str]) -> tuple[float, float, str]:
    """Run a command: its wall seconds, the peak of the resident memory of it and its children in MB, its output."""
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
    """Proportional resident memory of a process and all below it, in MB: pages that are shared count once."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.parent.name)] = int(fields[1])
    total = 0
    for pid in parents:
        above = pid
        while above and above != root:
            above = parents.get(above, 0)
        if above == root:
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            except (OSError, StopIteration):
                continue
    return total / 1024


def ours(path: str, valid: str, out: str) -> None:
    """The whole build, in a process of its own."""
    from smalltale.corpus.build import build_corpus
    from smalltale.corpus.config import CorpusConfig

    summary = build_corpus(CorpusConfig(sources=(path,), validation=valid, processes=PROCESSES), Path(out))
    print(json.dumps({"dropped": summary.dropped, "kept": summary.train_stories, "stages": summary.stages}))


def peer(path: str, valid: str, out: str) -> None:
    """The same steps as people do them: datasets.map and filter in two processes, ftfy, regexes, datasketch."""
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

    def good(row: dict[str, str]) -> bool:
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
    data = data.map(clean, num_proc=PROCESSES).filter(good, num_proc=PROCESSES)
    held: set[str] = set()
    for story in Path(valid).read_text(encoding="utf-8").split(MARK):
        held |= grams(story)
    data = data.filter(lambda row: held.isdisjoint(grams(row["text"])), num_proc=PROCESSES)
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


def rates(path: Path, valid: Path) -> dict[str, float]:
    """MB/s of each step alone, on one core."""
    from smalltale.corpus.hashing import hash_stories, hash_words
    from smalltale.corpus.sources.catalog import find_sources
    from smalltale.corpus.sources.pieces import read_piece, split_source
    from smalltale.corpus.steps.clean import clean_story
    from smalltale.corpus.steps.decontamination import build_leak_index
    from smalltale.corpus.steps.dedup import minhash

    piece = next(split_source(find_sources([str(path)], 0)[0]))
    found: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        made = work()
        found[name] = round((piece.stop - piece.start) / 1e6 / (time.perf_counter() - began), 1)
        return made

    documents = timed("read", lambda: list(read_piece(piece)))
    cleaned = timed("clean", lambda: [clean_story(document, 30).text for document in documents])
    words = timed("hash words", lambda: hash_words(cleaned))
    timed("story keys", lambda: hash_stories(words))
    timed("MinHash", lambda: minhash(words))
    held_out = valid.read_text(encoding="utf-8").split(MARK)
    leaks = build_leak_index(held_out, [str(number) for number in range(len(held_out))], 30)
    timed("leaks", lambda: leaks.find(words))
    return found


def near_table() -> list[dict[str, float]]:
    """Precision and recall of near-duplicate removal (threshold 0.8) on planted pairs, by their true overlap."""
    import numpy as np

    from smalltale.corpus.fable.generator import generate_stories
    from smalltale.corpus.hashing import hash_ngrams, hash_stories, hash_words
    from smalltale.corpus.steps.dedup import KEPT, find_duplicates, minhash

    rows = []
    for overlap in (0.95, 0.9, 0.85, 0.8, 0.7, 0.5):
        chance, count = random.Random(1), 2_000
        originals = list(generate_stories(77, count))
        strangers = list(generate_stories(78, count))
        copies = [overlapping(text, overlap, chance) for text in originals]
        texts = originals + copies + strangers
        words = hash_words(texts)
        shingles, offsets = hash_ngrams(words, 5)
        sets = [set(shingles[offsets[i] : offsets[i + 1]].tolist()) for i in range(2 * count)]
        true = [len(sets[i] & sets[i + count]) / len(sets[i] | sets[i + count]) for i in range(count)]
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
        wrong = int(np.count_nonzero(gone[2 * count :])) + sum(
            bool(r) and t < 0.8 for r, t in zip(removed, true, strict=True)
        )
        copies_found = int(np.count_nonzero(removed))
        above = [t >= 0.8 for t in true]
        rows.append(
            {
                "overlap": round(sum(true) / count, 3),
                "removed": round(copies_found / count, 4),
                "strangers removed": int(np.count_nonzero(gone[2 * count :])),
                "recall of pairs at 0.8 or more": round(
                    sum(bool(r) and a for r, a in zip(removed, above, strict=True)) / max(1, sum(above)), 4
                ),
                "precision at 0.8": round(1 - wrong / max(1, int(np.count_nonzero(gone))), 4),
            }
        )
    return rows


def overlapping(text: str, share: float, chance: random.Random) -> str:
    """`text` with words replaced so that at least `share` of the joined 5-word shingles stay."""
    words = text.split()
    shingles = len(words) - 4
    touched: set[int] = set()
    places = list(range(len(words)))
    chance.shuffle(places)
    for place in places:
        more = touched | set(range(max(0, place - 4), min(shingles, place + 1)))
        if (shingles - len(more)) / (shingles + len(more)) >= share:
            touched, words[place] = more, f"zq{chance.randrange(10**9)}"
    return " ".join(words)


def peer_python() -> str:
    """A Python that has the peer's packages: this one, or that of a venv made for them under build/."""
    if all(importlib.util.find_spec(name) for name in PEER_PACKAGES):
        return sys.executable
    place = HERE.parent / "build" / "peers"
    python = place / "bin" / "python"
    if not (place / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEER_PACKAGES],
            check=True,
            stdout=sys.stderr,
        )
        (place / "ready").touch()
    return str(python)


def measure(role: str, path: Path, valid: Path, folder: Path) -> dict[str, Any]:
    out = folder / f"out-{role}"
    python = peer_python() if role == "peer" else sys.executable
    seconds, peak, output = watched(
        [python, "-W", "ignore", __file__, "--role", role, str(path), str(valid), str(out)]
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
    parser.add_argument("--quick", action="store_true", help="small sizes, for a check")
    parser.add_argument("--megabytes", type=float, default=400)
    parser.add_argument("--peer-megabytes", type=float, default=40)
    parser.add_argument("--near", action="store_true", help="only precision and recall of near-duplicates")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "corpus.json")
    parser.add_argument("--role", nargs=4, metavar=("ROLE", "TEXT", "VALID", "OUT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.role:
        {"ours": ours, "peer": peer}[asked.role[0]](*asked.role[1:])
        return
    if asked.near:
        print(json.dumps(near_table(), indent=1))
        return
    largest, shared = (24.0, 24.0) if asked.quick else (asked.megabytes, asked.peer_megabytes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scaling = []
        for size in (largest / 4, largest / 2, largest):
            path, valid, planted = make_text(folder, size)
            scaling.append({**measure("ours", path, valid, folder), "planted": planted})
            if size != largest:
                path.unlink()
        steps = rates(path, valid)
        path, valid, _ = make_text(folder, shared)
        same, other = measure("ours", path, valid, folder), measure("peer", path, valid, folder)
    result = {
        "claim": "a whole corpus build against the same steps with datasets.map and datasketch, same text, same machine",
        "ratio": round(same["MB/s"] / other["MB/s"], 2),
        "ours": same,
        "peer": other,
        "scaling": scaling,
        "steps, MB/s on one core": steps,
        "minutes for 2.2 GB": round(2_227.75 / scaling[-1]["MB/s"] / 60, 2),
        "processes": PROCESSES,
        "machine": {
            "cpu": cpu_name(),
            "cores": usable_cores(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": {
            each: importlib.metadata.version(each)
            for each in ("smalltale", "ftfy", "rensa", "pyarrow", "numpy")
        },
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=HERE, check=False
        ).stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "quick": asked.quick,
    }
    if not asked.quick:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


if __name__ == "__main__":
    main()
