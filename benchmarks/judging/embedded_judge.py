"""The embedded judge: seconds for 32 stories.

Out: benchmarks/results/judging_local.json. Run: python -m benchmarks.judging.embedded_judge [--stories 32]
Beware: the model judges at chance (docs/judging.md); only the speed of its path is measured here.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from smalltale.files import git_commit, read_json, write_json
from smalltale.judging.gold import read_gold_stories
from smalltale.machine import usable_cores
from smalltale.submission import Completion, write_submission


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stories", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "judging_local.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [Completion(each.prompt, each.completion) for each in read_gold_stories()[: options.stories]]
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
    machine = {"cores": usable_cores(), "platform": platform.platform(), "python": platform.python_version()}
    write_json(options.out, {**figures, "machine": machine, "commit": git_commit()})
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
