"""Which panel judges an edition.

In: an edition and a panel's name. Out: a Panel that a worker runs.
Beware: judges named `scripted-…` are for demonstrations; every other is asked through the judging stage. A panel ranks
only where the edition has a qualification of each of its judges (`smalltale judge qualify`), and each has passed it.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from smalltale.errors import SmalltaleError
from smalltale.judging.folder import TABLE, read_judgements
from smalltale.judging.item import items_from_rows
from smalltale.judging.judgement import Judgement
from smalltale.judging.panel import Calibration, calibrate, may_rank
from smalltale.judging.registry import open_judges
from smalltale.judging.rubric import load_rubric
from smalltale.judging.run import judge_submission
from smalltale.server.database.models import Edition
from smalltale.server.judging.panel import JudgeOpinion, Panel, Story
from smalltale.server.judging.scoring import get_calibrations, is_scripted
from smalltale.server.judging.scripted import ScriptedPanel
from smalltale.submission import Completion, write_submission

opened = threading.local()


def open_panel(edition: Edition, panel: str) -> Panel:
    """The panel of that name, kept open in this thread.

    Raises SmalltaleError where the edition names no judge, or this machine's rubric is another version.
    """
    meant = edition.panels.get(panel) or {"judges": edition.judges, "rubric": edition.rubric, "version": ""}
    judges = meant["judges"]
    if not judges:
        raise SmalltaleError(
            f"edition {edition.slug} names no judges; add judges = […] to [edition] in its file and start again"
        )
    if all(map(is_scripted, judges)):
        return ScriptedPanel(judges=tuple(judges))
    key = json.dumps([meant, edition.calibrations], sort_keys=True)
    if getattr(opened, "key", None) != key:
        opened.panel = LanguageModelPanel(
            judges, meant["rubric"], get_calibrations(edition), meant["version"]
        )
        opened.key = key
    found: Panel = opened.panel
    return found


class LanguageModelPanel:
    """Judges of the judging stage, open as long as the panel lives."""

    def __init__(
        self,
        judges: Sequence[str],
        rubric: str,
        calibrations: Mapping[str, Calibration] | None = None,
        version: str = "",
    ) -> None:
        self.rubric = load_rubric(rubric)
        if version not in {"", self.rubric.hash}:
            raise SmalltaleError(
                f"the rubric {rubric} has version {self.rubric.hash} here, and the panel judges by {version}; "
                "run the smalltale that the edition was started with, or give [edition] a new panel"
            )
        stack = contextlib.ExitStack()
        self.asked = dict(zip(judges, stack.enter_context(open_judges(judges)), strict=True))
        weakref.finalize(self, stack.close)
        # A rubric or an endpoint may have changed since the edition was read.
        self.known = {
            name: each
            for name, each in (calibrations or {}).items()
            if name in self.asked
            and each.matches(self.asked[name].name, self.asked[name].endpoint, self.rubric.hash)
        }

    @property
    def qualified(self) -> bool:
        return may_rank(self.judges, self.known)

    @property
    def judges(self) -> Sequence[str]:
        return tuple(self.asked)

    def judge(self, stories: Sequence[Story], judge: str) -> Iterable[JudgeOpinion]:
        rows = [Completion(each.prompt, each.text) for each in stories]
        with tempfile.TemporaryDirectory(prefix="smalltale-judging-") as folder:
            hand_in, out = Path(folder) / "hand-in" / "stories.jsonl", Path(folder) / "judgements"
            write_submission(hand_in, rows, {})
            try:
                judge_submission(hand_in, [self.asked[judge]], self.rubric, out)
                said = read_judgements(out)
            except SmalltaleError:
                # A batch without any score is an error to the stage; refusals in it are answers all the same.
                said = read_judgements(out) if (out / TABLE).exists() else []
                if all(each.state == "error" for each in said):
                    raise
        # A judge that became unusable in the middle has said nothing of the rest.
        place = {
            (item.prompt, item.sample): story
            for item, story in zip(items_from_rows(rows), stories, strict=True)
        }
        told = calibrate([replace(each, judge=judge) for each in said], self.judges, self.known)
        return [opinion_of(place[each.prompt, each.sample], each) for each in told]


def opinion_of(story: Story, said: Judgement) -> JudgeOpinion:
    """A judgement of the judging stage as a row of ours."""
    return JudgeOpinion(
        story=story.id,
        judge=said.judge,
        state=said.state,
        overall=said.overall,
        calibrated=said.calibrated,
        weight=said.weight,
        scores=dict(said.scores),
        age=said.age,
        words=(said.words or said.reason).replace("\x00", ""),
    )
