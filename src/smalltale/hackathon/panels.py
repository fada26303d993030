"""Which panel judges an edition.

In: an edition and a panel's name. Out: a Panel that a worker runs.
Beware: judges named `scripted…` are for demonstrations; every other is asked through the judging stage,
and a panel ranks only where each of its judges has qualified there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from smalltale.errors import SmalltaleError
from smalltale.hackathon.scripted import ScriptedPanel
from smalltale.hackathon.tables import Edition
from smalltale.hackathon.worker import Opinion, Panel, Story
from smalltale.submission import Completion

if TYPE_CHECKING:
    from smalltale.judging.judge import Judge

AT_ONCE = 8
"""Stories that one judge reads at the same time."""
JUDGE_URL = "SMALLTALE_JUDGE_URL"
"""Environment variable: the OpenAI-compatible endpoint that the judges are asked at; API keys are the provider's own."""

opened = threading.local()


def panel_of(edition: Edition, panel: str) -> Panel:
    """The panel of that name, kept open in this thread. Raises SmalltaleError where the edition names no judge."""
    if not edition.judges:
        raise SmalltaleError(
            f"edition {edition.slug} names no judges; add judges = […] to [edition] in its file and start again"
        )
    if all(each.startswith("scripted") for each in edition.judges):
        return ScriptedPanel(judges=tuple(edition.judges))
    key = (tuple(edition.judges), edition.rubric)
    if getattr(opened, "key", None) != key:
        opened.panel, opened.key = LanguagePanel(edition.judges, edition.rubric), key
    found: Panel = opened.panel
    return found


class LanguagePanel:
    """Judges of the judging stage, asked on an event loop of their own."""

    def __init__(self, judges: Sequence[str], rubric: str) -> None:
        from smalltale.judging.judge import EndpointJudge
        from smalltale.judging.local import local_judge
        from smalltale.judging.rubric import load_rubric

        self.rubric = load_rubric(rubric)
        self.loop = asyncio.new_event_loop()
        stack = contextlib.ExitStack()
        stack.callback(self.loop.close)
        url = os.environ.get(JUDGE_URL)
        self.asked: dict[str, Judge] = {
            name: stack.enter_context(local_judge()) if name == "local" else EndpointJudge(name, base_url=url)
            for name in judges
        }
        weakref.finalize(self, stack.close)

    @property
    def judges(self) -> Sequence[str]:
        return tuple(self.asked)

    @property
    def qualified(self) -> bool:
        return all(each.qualified for each in self.asked.values())

    def judge(self, stories: Sequence[Story], judge: str) -> Iterable[Opinion]:
        return self.loop.run_until_complete(self.ask(stories, judge))

    async def ask(self, stories: Sequence[Story], judge: str) -> list[Opinion]:
        """Every story by one judge, a few at a time."""
        from smalltale.judging.run import judge_one, key_of

        gate, asked = asyncio.Semaphore(AT_ONCE), self.asked[judge]

        async def one(story: Story) -> Opinion:
            row = Completion(story.prompt, story.text)
            async with gate:
                said = await judge_one(
                    asked, row, story.sample, self.rubric, key_of(asked, self.rubric, row)[:12]
                )
            return Opinion(
                story=story.id,
                judge=judge,
                state=said.state,
                overall=said.overall,
                scores=dict(said.scores),
                age=said.age or None,
                words=said.words.replace("\x00", ""),
            )

        return list(await asyncio.gather(*(one(each) for each in stories)))
