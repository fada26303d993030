"""Which panel judges an edition.

In: an edition and a panel's name. Out: a Panel that a worker runs.
Beware: judges named `scripted…` are for demonstrations; every other is a judge of the judging stage.
"""

from __future__ import annotations

from smalltale.errors import SmalltaleError
from smalltale.hackathon.scripted import ScriptedPanel
from smalltale.hackathon.tables import Edition
from smalltale.hackathon.worker import Panel


def panel_of(edition: Edition, panel: str) -> Panel:
    """The panel of that name. Raises SmalltaleError where the edition names no judge."""
    if not edition.judges:
        raise SmalltaleError(
            f"edition {edition.slug} names no judges; add judges = […] to [edition] in its file and start again"
        )
    if all(each.startswith("scripted") for each in edition.judges):
        return ScriptedPanel(judges=tuple(edition.judges))
    raise SmalltaleError(f"edition {edition.slug}: the judges {', '.join(edition.judges)} are not known here")
