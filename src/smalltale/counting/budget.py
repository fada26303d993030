"""The weight class that a count fits, the parameters left in it, and what would fit a smaller class.

Input: the rows of a count. Output: sentences, or OverBudget.
"N layers instead of M" assumes that modules whose names differ only by a number are layers of one stack.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from smalltale.counting.report import CountReport, CountRow
from smalltale.errors import OverBudget
from smalltale.rules import Rules, WeightClass

LAYER_NAME = re.compile(r"^(.*?)\.?(?:\b|_)(\d+)\.")


def budget_notes(rows: Sequence[CountRow], counted: int) -> list[str]:
    """The class that the count fits and what is left in it, or how far it is over the largest class."""
    rules = Rules()
    weight_class = rules.class_for(counted)
    if weight_class is not None:
        limit = weight_class.max_parameters
        return [f"fits class {weight_class.name} ({limit:,}): {limit - counted:,} parameters are left"]
    largest = max(rules.weight_classes, key=lambda weight_class: weight_class.max_parameters)
    return [
        f"fits no class: {counted - largest.max_parameters:,} over {largest.name} ({largest.max_parameters:,}); "
        f"{suggest_reduction(rows, counted, largest)}"
    ]


def refuse_over_budget(report: CountReport, weight_class: WeightClass) -> None:
    """Raise OverBudget if the count is above the class, with a model size that would fit."""
    if report.counted > weight_class.max_parameters:
        raise OverBudget(
            f"the model has {report.counted:,} counted parameters, class {weight_class.name} allows "
            f"{weight_class.max_parameters:,}: {report.counted - weight_class.max_parameters:,} too many; "
            f"{suggest_reduction(report.rows, report.counted, weight_class)}"
        )


def suggest_reduction(rows: Sequence[CountRow], counted: int, weight_class: WeightClass) -> str:
    """Fewer layers if that is enough, else a smaller largest weight."""
    size_by_layer: dict[str, dict[int, int]] = {}
    for row in rows:
        if row.counted and (match := LAYER_NAME.match(row.name)):
            sizes = size_by_layer.setdefault(match[1], {})
            sizes[int(match[2])] = sizes.get(int(match[2]), 0) + row.counted
    excess = counted - weight_class.max_parameters
    if size_by_layer:
        stack, sizes = max(size_by_layer.items(), key=lambda entry: sum(entry[1].values()))
        layer_sizes = sorted(sizes.values())
        removed, layers = 0, len(layer_sizes)
        while removed < excess and layers:
            layers -= 1
            removed += layer_sizes[layers]
        if layers and removed >= excess and len(layer_sizes) > 1:
            return f"{layers} layers instead of {len(layer_sizes)} in {stack or 'the model'} would fit"
    largest = max(rows, key=lambda row: row.counted)
    return f"the largest weight is {largest.name} ({largest.shape}, {largest.counted:,}); make it smaller"
