"""What class a count fits, what is left of it, and what would fit a smaller one.

In: the rows of a count. Out: sentences, or OverBudget.
Beware: "N layers instead of M" takes the repeated modules to be alike (their names differ by a number).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from smalltale.errors import OverBudget
from smalltale.rules import Rules, WeightClass

if TYPE_CHECKING:
    from smalltale.counting.count import CountRow, ParameterCount

NUMBERED = re.compile(r"^(.*?)\.?(?:\b|_)(\d+)\.")


def budget_notes(rows: Sequence[CountRow], counted: int) -> list[str]:
    """The class it fits, what is left there, and what would fit the largest class where none does."""
    rules = Rules()
    found = rules.class_for(counted)
    if found is not None:
        return [
            f"fits class {found.name} ({found.max_parameters:,}): {found.max_parameters - counted:,} parameters are left"
        ]
    top = max(rules.weight_classes, key=lambda each: each.max_parameters)
    return [
        f"fits no class: {counted - top.max_parameters:,} over {top.name} ({top.max_parameters:,}); "
        f"{what_would_fit(rows, counted, top)}"
    ]


def refuse_over_budget(count: ParameterCount, weight_class: WeightClass) -> None:
    """Raise OverBudget where the count is above its class, with what would fit."""
    if count.counted > weight_class.max_parameters:
        raise OverBudget(
            f"the model has {count.counted:,} counted parameters, class {weight_class.name} allows "
            f"{weight_class.max_parameters:,}: {count.counted - weight_class.max_parameters:,} too many; "
            f"{what_would_fit(count.rows, count.counted, weight_class)}"
        )


def what_would_fit(rows: Sequence[CountRow], counted: int, weight_class: WeightClass) -> str:
    """The mend: fewer layers, else a smaller largest weight."""
    layers: dict[str, dict[int, int]] = {}
    for row in rows:
        if row.counted and (match := NUMBERED.match(row.name)):
            group = layers.setdefault(match[1], {})
            group[int(match[2])] = group.get(int(match[2]), 0) + row.counted
    over = counted - weight_class.max_parameters
    if layers:
        name, group = max(layers.items(), key=lambda each: sum(each[1].values()))
        sizes = sorted(group.values())
        gone, kept = 0, len(sizes)
        while gone < over and kept:
            kept -= 1
            gone += sizes[kept]
        if kept and gone >= over and len(sizes) > 1:
            return f"{kept} layers instead of {len(sizes)} in {name or 'the model'} would fit"
    largest = max(rows, key=lambda row: row.counted)
    return f"the largest weight is {largest.name} ({largest.shape}, {largest.counted:,}); make it smaller"
