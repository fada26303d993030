"""Opens the panel that judges an edition: language models, or the scripts of the demonstration.

Input: an edition and a panel's name. Output: a Panel, which a worker asks for opinions batch by batch, in memory.
Note: a panel ranks only if the edition has a qualification of each of its judges (`smalltale judge qualify`) and each judge has
passed it. Judges named `scripted-…` are for demonstrations and need none.
"""

from __future__ import annotations

import contextlib
import json
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from smalltale.errors import SmalltaleError
from smalltale.judging.item import items_from_rows
from smalltale.judging.judgement import Judgement
from smalltale.judging.panel import Calibration, calibrate, may_rank
from smalltale.judging.registry import open_judges
from smalltale.judging.rubric import load_rubric
from smalltale.judging.run import judge_items
from smalltale.server.database.models import Edition
from smalltale.server.judging.panel import JudgeOpinion, Panel, Story
from smalltale.server.judging.scoring import get_calibrations, is_scripted
from smalltale.server.judging.scripted import ScriptedPanel
from smalltale.submission import Completion

open_panels = threading.local()


def open_panel(edition: Edition, panel: str) -> Panel:
    """The panel of that name. The last one stays open in its thread, so that a local model is loaded once.

    Raises SmalltaleError if the edition names no judge, or this machine's rubric is of another version.
    """
    current = {"judges": edition.judges, "rubric": edition.rubric, "version": ""}
    definition = edition.panels.get(panel, current)
    judges = definition["judges"]
    if not judges:
        raise SmalltaleError(
            f"edition {edition.slug} names no judges; add judges = […] to [edition] in its file and import it again"
        )
    if all(map(is_scripted, judges)):
        return ScriptedPanel(judges=tuple(judges))
    key = json.dumps([definition, edition.calibrations], sort_keys=True)
    if getattr(open_panels, "key", None) != key:
        open_panels.panel = LanguageModelPanel(
            judges, definition["rubric"], get_calibrations(edition), definition["version"]
        )
        open_panels.key = key
    language_models: LanguageModelPanel = open_panels.panel
    return language_models


class LanguageModelPanel:
    """Language models as judges; their connections and local models stay open as long as the panel exists."""

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
                "run the version of smalltale that imported the edition, or name a new panel in [edition]"
            )
        stack = contextlib.ExitStack()
        self.judges_by_name = dict(zip(judges, stack.enter_context(open_judges(judges)), strict=True))
        weakref.finalize(self, stack.close)
        # A calibration no longer counts if the rubric or the endpoint has changed since the edition was imported.
        self.calibrations = {
            name: calibration
            for name, calibration in (calibrations or {}).items()
            if (judge := self.judges_by_name.get(name))
            and calibration.matches(judge.name, judge.endpoint, self.rubric.hash)
        }

    @property
    def qualified(self) -> bool:
        return may_rank(self.judges, self.calibrations)

    @property
    def judges(self) -> Sequence[str]:
        return tuple(self.judges_by_name)

    def judge(self, stories: Sequence[Story], judge: str) -> Iterable[JudgeOpinion]:
        items = items_from_rows([Completion(story.prompt, story.text) for story in stories])
        batch = judge_items(items, [self.judges_by_name[judge]], self.rubric)
        # A refusal is an opinion. The judge has failed only if all judgements of the batch are errors.
        if all(judgement.state == "error" for judgement in batch.judgements):
            batch.raise_without_score()
        # If the judge failed in the middle, the batch has no judgement of the remaining stories.
        stories_by_item = {
            (item.prompt, item.sample): story for item, story in zip(items, stories, strict=True)
        }
        named = [replace(judgement, judge=judge) for judgement in batch.judgements]
        return [
            opinion_from(judgement, stories_by_item[judgement.prompt, judgement.sample])
            for judgement in calibrate(named, self.judges, self.calibrations)
        ]


def opinion_from(judgement: Judgement, story: Story) -> JudgeOpinion:
    """A judgement as an opinion of a story. Half surrogate pairs are replaced and NUL removed: databases refuse both."""
    words = (judgement.words or judgement.reason).encode("utf-8", "replace").decode()
    return JudgeOpinion(
        completion_id=story.id,
        judge=judgement.judge,
        state=judgement.state,
        overall=judgement.overall,
        calibrated=judgement.calibrated,
        weight=judgement.weight,
        scores=dict(judgement.scores),
        age=judgement.age,
        words=words.replace("\x00", ""),
    )
