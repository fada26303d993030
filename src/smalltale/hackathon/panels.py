"""Which panel judges an edition.

In: an edition and a panel's name. Out: a Panel that a worker runs.
Beware: judges named `scripted-…` are for demonstrations; every other is asked through the judging stage. A panel ranks
only where the edition names each of its judges as qualified (`smalltale judge qualify` says which may be).
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smalltale.errors import SmalltaleError
from smalltale.hackathon.scripted import ScriptedPanel
from smalltale.hackathon.tables import Edition
from smalltale.hackathon.worker import Opinion, Panel, Story
from smalltale.submission import Completion, write_submission

if TYPE_CHECKING:
    from smalltale.judging.judgement import Judgement

opened = threading.local()


def panel_of(edition: Edition, panel: str) -> Panel:
    """The panel of that name, kept open in this thread. Raises SmalltaleError where the edition names no judge."""
    if not edition.judges:
        raise SmalltaleError(
            f"edition {edition.slug} names no judges; add judges = […] to [edition] in its file and start again"
        )
    qualified = set(edition.judges) <= set(edition.qualified)
    if all(each.startswith("scripted-") for each in edition.judges):
        return ScriptedPanel(judges=tuple(edition.judges), qualified=qualified)
    key = (tuple(edition.judges), edition.rubric, qualified)
    if getattr(opened, "key", None) != key:
        opened.panel, opened.key = LanguagePanel(edition.judges, edition.rubric, qualified=qualified), key
    found: Panel = opened.panel
    return found


class LanguagePanel:
    """Judges of the judging stage, open as long as the panel lives."""

    def __init__(self, judges: Sequence[str], rubric: str, *, qualified: bool) -> None:
        from smalltale.judging.named import open_judges
        from smalltale.judging.rubric import load_rubric

        self.rubric, self.qualified = load_rubric(rubric), qualified
        stack = contextlib.ExitStack()
        self.asked = dict(zip(judges, stack.enter_context(open_judges(judges)), strict=True))
        weakref.finalize(self, stack.close)

    @property
    def judges(self) -> Sequence[str]:
        return tuple(self.asked)

    def judge(self, stories: Sequence[Story], judge: str) -> Iterable[Opinion]:
        from smalltale.judging.folder import read_judgements
        from smalltale.judging.run import judge_submission

        with tempfile.TemporaryDirectory(prefix="smalltale-judging-") as folder:
            hand_in, out = Path(folder) / "hand-in" / "stories.jsonl", Path(folder) / "judgements"
            write_submission(hand_in, [Completion(each.prompt, each.text) for each in stories], {})
            try:
                judge_submission(hand_in, [self.asked[judge]], self.rubric, out)
                said = read_judgements(out)
            except SmalltaleError:
                # A batch without any score is an error to the stage; refusals in it are answers all the same.
                said = read_judgements(out) if (out / "judgements.parquet").exists() else []
                if all(each.state == "error" for each in said):
                    raise
        return [opinion_of(story, judge, each) for story, each in zip(stories, said, strict=True)]


def opinion_of(story: Story, judge: str, said: Judgement) -> Opinion:
    """A judgement of the judging stage as a row of ours."""
    return Opinion(
        story=story.id,
        judge=judge,
        state=said.state,
        overall=said.overall,
        scores=dict(said.scores),
        age=said.age,
        words=(said.words or said.reason).replace("\x00", ""),
    )
