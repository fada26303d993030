"""The data that all proofs share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smalltale.corpus.fable.generator import generate_stories
from smalltale.files import END_OF_STORY
from smalltale.frameworks import proving


@pytest.mark.all
def test_another_source_of_stories_is_prepared_again_and_the_same_one_is_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proving, "STORIES", 600)
    monkeypatch.setattr(proving, "VOCABULARY", 300)
    text, work = tmp_path / "stories.txt", tmp_path / "work"
    text.write_text(f"\n{END_OF_STORY}\n".join(generate_stories(7, 600)), encoding="utf-8")

    def sources() -> set[str]:
        meta = json.loads((work / "corpus" / "meta.json").read_text(encoding="utf-8"))
        return set(meta["sources"])

    proving.prepare_data(work, "fable")
    assert sources() == {"fable"}
    modified_at = (work / "tokens" / "meta.json").stat().st_mtime_ns
    proving.prepare_data(work, "fable")
    assert (work / "tokens" / "meta.json").stat().st_mtime_ns == modified_at
    proving.prepare_data(work, str(text))
    assert sources() != {"fable"}
    assert (work / "tokens" / "meta.json").stat().st_mtime_ns != modified_at
