"""How pages show things: instants AOE and UTC, figures, intervals as small drawings.

In: plain values. Out: text or escaped SVG, for the templates.
Beware: drawings take no style attribute (the Content-Security-Policy forbids it); their colours are classes of site.css.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from smalltale.rules import AOE


def when(instant: datetime) -> Markup:
    """An instant AOE and UTC; the page's script adds the visitor's own time."""
    aoe, utc = instant.astimezone(AOE), instant.astimezone(UTC)
    return Markup(
        '<time datetime="{}" class="when"><b>{}</b> AOE<span class="also"> · {} UTC</span></time>'
    ).format(
        utc.strftime("%Y-%m-%dT%H:%M:%SZ"), aoe.strftime("%-d %b %Y, %H:%M"), utc.strftime("%-d %b %H:%M")
    )


def brief(instant: datetime) -> Markup:
    """A short instant for tables."""
    aoe = instant.astimezone(AOE)
    return Markup('<time datetime="{}" title="{} UTC">{} AOE</time>').format(
        instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M"),
        aoe.strftime("%-d %b, %H:%M"),
    )


def countdown(end: datetime, now: datetime) -> Markup:
    """Time left by the server's clock; the page's script lets it tick."""
    return Markup('<span class="countdown" data-end="{}" data-now="{}">{}</span>').format(
        int(end.timestamp()), int(now.timestamp()), span((end - now).total_seconds())
    )


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    if seconds <= 0:
        return "over"
    parts = [
        (int(seconds // 86_400), "day"),
        (int(seconds % 86_400 // 3_600), "hour"),
        (int(seconds % 3_600 // 60), "minute"),
    ]
    shown = [f"{count} {unit}{'' if count == 1 else 's'}" for count, unit in parts if count]
    return " ".join(shown[:2]) or "less than a minute"


def score(value: float | None) -> str:
    """A score with two digits."""
    return "–" if value is None else f"{value:.2f}"


def millions(parameters: int) -> str:
    """Parameters for people."""
    return f"{parameters / 1e6:.1f}M".replace(".0M", "M") if parameters >= 100_000 else f"{parameters:,}"


def whisker(
    mean: float | None, low: float | None, high: float | None, floor: float = 1.0, ceiling: float = 10.0
) -> Markup:
    """A mean with its interval on a scale, as a drawing."""
    if mean is None:
        return Markup("")

    def x(value: float) -> float:
        return round(4 + 112 * (min(max(value, floor), ceiling) - floor) / (ceiling - floor), 1)

    low, high = mean if low is None else low, mean if high is None else high
    return Markup(
        '<svg class="whisker" viewBox="0 0 120 16" width="120" height="16" role="img" aria-label="{} to {}">'
        '<line class="axis" x1="4" y1="8" x2="116" y2="8"/><line class="range" x1="{}" y1="8" x2="{}" y2="8"/><circle class="dot" cx="{}" cy="8" r="4"/></svg>'
    ).format(score(low), score(high), x(low), x(high), x(mean))


def scale(values: Iterable[float | None]) -> tuple[float, float]:
    """The ends of a drawing's axis: a little beyond what is drawn, the whole scale of scores where that is nothing."""
    known = [value for value in values if value is not None]
    return (min(known) - 0.1, max(known) + 0.1) if known else (1.0, 10.0)


def bars(rows: Sequence[tuple[str, float | None, float | None]], ceiling: float = 10.0) -> Markup:
    """Criteria as bars, each with a tick where the field's median is."""
    height, parts = 26 * len(rows) + 6, []
    for i, (name, value, median) in enumerate(rows):
        y = 26 * i + 4
        width = 0 if value is None else round(220 * value / ceiling, 1)
        parts.append(
            Markup(
                '<text class="label" x="0" y="{}">{}</text><rect class="track" x="110" y="{}" width="220" height="14" rx="3"/><rect class="bar" x="110" y="{}" width="{}" height="14" rx="3"/><text class="value" x="338" y="{}">{}</text>'
            ).format(y + 12, name, y, y, width, y + 12, score(value))
        )
        if median is not None:
            x = round(110 + 220 * median / ceiling, 1)
            parts.append(
                Markup(
                    '<line class="median" x1="{0}" y1="{1}" x2="{0}" y2="{2}"><title>median of the field: {3}</title></line>'
                ).format(x, y - 3, y + 17, score(median))
            )
    return Markup(
        '<svg class="bars" viewBox="0 0 380 {0}" width="380" height="{0}" role="img" aria-label="scores by criterion">{1}</svg>'
    ).format(height, Markup("").join(parts))


def over_time(points: Sequence[tuple[datetime, float, float | None, float | None]]) -> Markup:
    """A team's scores over time, with intervals."""
    if not points:
        return Markup("")
    values = [value for _, mean, low, high in points for value in (mean, low, high) if value is not None]
    bottom, top = min(values) - 0.2, max(values) + 0.2
    first, last = points[0][0].timestamp(), points[-1][0].timestamp()

    def x(instant: datetime) -> float:
        return round(48 + 540 * ((instant.timestamp() - first) / (last - first) if last > first else 0.5), 1)

    def y(value: float) -> float:
        return round(150 - 130 * (value - bottom) / (top - bottom), 1)

    parts = [
        Markup(
            '<line class="grid" x1="40" y1="{0}" x2="600" y2="{0}"/><text class="mark" x="34" y="{1}">{2}</text>'
        ).format(y(value), y(value) + 4, f"{value:.1f}")
        for value in (bottom + 0.2, (bottom + top) / 2, top - 0.2)
    ]
    for instant, _, low, high in points:
        if low is not None and high is not None:
            parts.append(
                Markup('<line class="range" x1="{0}" y1="{1}" x2="{0}" y2="{2}"/>').format(
                    x(instant), y(low), y(high)
                )
            )
    path = " ".join(f"{x(instant)},{y(mean)}" for instant, mean, _, _ in points)
    parts.append(Markup('<polyline class="line" points="{}"/>').format(path))
    for instant, mean, _, _ in points:
        parts.append(
            Markup('<circle class="dot" cx="{}" cy="{}" r="4.5"><title>{}: {}</title></circle>').format(
                x(instant), y(mean), instant.astimezone(AOE).strftime("%-d %b"), score(mean)
            )
        )
    for instant in {points[0][0], points[-1][0]}:
        parts.append(
            Markup('<text class="date" x="{}" y="172">{}</text>').format(
                x(instant), instant.astimezone(AOE).strftime("%-d %b")
            )
        )
    return Markup(
        '<svg class="time" viewBox="0 0 610 180" width="610" height="180" role="img" aria-label="score over time">{}</svg>'
    ).format(Markup("").join(parts))


def told(prompt: str, story: str) -> Markup:
    """A story with its given beginning set apart, once, even where the completion repeats it."""
    rest = (
        story[len(prompt) :] if story.startswith(prompt) else (story if story[:1].isspace() else f" {story}")
    )
    return Markup('<span class="given">{}</span>{}').format(prompt, escape(rest))


def capitalise(text: str) -> str:
    """A sentence with a capital at its start; the rest stays as it is, for names stand in it."""
    return text[:1].upper() + text[1:]


FILTERS: dict[str, Callable[..., Any]] = {
    "when": when,
    "brief": brief,
    "score": score,
    "millions": millions,
    "capitalise": capitalise,
}
GLOBALS: dict[str, Any] = {
    "countdown": countdown,
    "whisker": whisker,
    "bars": bars,
    "over_time": over_time,
    "told": told,
    "span": span,
}
