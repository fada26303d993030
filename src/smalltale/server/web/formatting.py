"""Template filters and functions: instants in AOE and UTC, numbers, and intervals as small SVG plots.

Input: plain values. Output: text or escaped SVG.
The SVG uses classes of site.css for its colours: the Content-Security-Policy forbids style attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from markupsafe import Markup, escape

from smalltale.rules import AOE

SCORE_RANGE = (1.0, 10.0)


def full_time(instant: datetime) -> Markup:
    """An instant in AOE and UTC; site.js adds the visitor's local time."""
    aoe, utc = instant.astimezone(AOE), instant.astimezone(UTC)
    return Markup(
        '<time datetime="{}" class="when"><b>{}</b> AOE<span class="also"> · {} UTC</span></time>'
    ).format(
        utc.strftime("%Y-%m-%dT%H:%M:%SZ"), aoe.strftime("%-d %b %Y, %H:%M"), utc.strftime("%-d %b %H:%M")
    )


def short_time(instant: datetime) -> Markup:
    """An instant in AOE for tables, with UTC as the tooltip."""
    aoe, utc = instant.astimezone(AOE), instant.astimezone(UTC)
    return Markup('<time datetime="{}" title="{} UTC">{} AOE</time>').format(
        utc.strftime("%Y-%m-%dT%H:%M:%SZ"), utc.strftime("%Y-%m-%d %H:%M"), aoe.strftime("%-d %b, %H:%M")
    )


def countdown(end: datetime, now: datetime) -> Markup:
    """Time left by the server's clock; site.js updates it every second."""
    return Markup('<span class="countdown" data-end="{}" data-now="{}">{}</span>').format(
        int(end.timestamp()), int(now.timestamp()), duration((end - now).total_seconds())
    )


def duration(seconds: float) -> str:
    """A duration in its two largest units."""
    if seconds <= 0:
        return "over"
    parts = [
        (int(seconds // 86_400), "day"),
        (int(seconds % 86_400 // 3_600), "hour"),
        (int(seconds % 3_600 // 60), "minute"),
    ]
    nonzero = [plural(count, unit) for count, unit in parts if count]
    return " ".join(nonzero[:2]) or "less than a minute"


def plural(count: int, noun: str, plural_noun: str = "") -> str:
    """A count with its noun: 1 day, 2 days."""
    return f"{count:,} {noun if count == 1 else plural_noun or noun + 's'}"


def score(value: float | None) -> str:
    """A score with two decimals; a dash for none."""
    return "–" if value is None else f"{value:.2f}"


def parameter_count(count: int) -> str:
    """A number of parameters: in millions from 100,000."""
    return f"{count / 1e6:.1f}M".replace(".0M", "M") if count >= 100_000 else f"{count:,}"


def axis_range(values: Iterable[float | None]) -> tuple[float, float]:
    """The ends of a plot's axis: 0.1 beyond the values, or the whole range of scores if there are none."""
    numbers = [value for value in values if value is not None]
    return (min(numbers) - 0.1, max(numbers) + 0.1) if numbers else SCORE_RANGE


def interval_plot(
    mean: float | None, low: float | None, high: float | None, axis: tuple[float, float] = SCORE_RANGE
) -> Markup:
    """A mean and its interval on an axis, as SVG."""
    if mean is None:
        return Markup("")
    start, end = axis

    def x(value: float) -> float:
        return round(4 + 112 * (min(max(value, start), end) - start) / (end - start), 1)

    low, high = mean if low is None else low, mean if high is None else high
    # Only numbers are inserted, so nothing needs escaping: a leaderboard page draws fifty of these.
    return Markup(
        '<svg class="interval" viewBox="0 0 120 16" width="120" height="16" role="img" '
        f'aria-label="{score(low)} to {score(high)}"><line class="axis" x1="4" y1="8" x2="116" y2="8"/>'
        f'<line class="range" x1="{x(low)}" y1="8" x2="{x(high)}" y2="8"/>'
        f'<circle class="dot" cx="{x(mean)}" cy="8" r="4"/></svg>'
    )


def criteria_bars(rows: Sequence[tuple[str, float | None, float | None]]) -> Markup:
    """One bar per criterion (name, score, median over all submissions), with a tick at the median."""
    height, parts = 26 * len(rows) + 6, []
    for position, (name, value, median) in enumerate(rows):
        y = 26 * position + 4
        width = 0 if value is None else round(22 * value, 1)
        parts.append(
            Markup(
                '<text class="label" x="0" y="{}">{}</text><rect class="track" x="110" y="{}" width="220" height="14" rx="3"/><rect class="bar" x="110" y="{}" width="{}" height="14" rx="3"/><text class="value" x="338" y="{}">{}</text>'
            ).format(y + 12, name, y, y, width, y + 12, score(value))
        )
        if median is not None:
            x = round(110 + 22 * median, 1)
            parts.append(
                Markup(
                    '<line class="median" x1="{0}" y1="{1}" x2="{0}" y2="{2}"><title>median of all submissions: {3}</title></line>'
                ).format(x, y - 3, y + 17, score(median))
            )
    return Markup(
        '<svg class="bars" viewBox="0 0 380 {0}" width="380" height="{0}" role="img" aria-label="scores by criterion">{1}</svg>'
    ).format(height, Markup("").join(parts))


def score_timeline(points: Sequence[tuple[datetime, float, float | None, float | None]]) -> Markup:
    """A team's scores over time (instant, mean, low, high), with intervals."""
    values = [value for _, mean, low, high in points for value in (mean, low, high) if value is not None]
    bottom, top = min(values) - 0.2, max(values) + 0.2
    first, last = points[0][0].timestamp(), points[-1][0].timestamp()

    def x(instant: datetime) -> float:
        return round(48 + 540 * ((instant.timestamp() - first) / (last - first) if last > first else 0.5), 1)

    def y(value: float) -> float:
        return round(150 - 130 * (value - bottom) / (top - bottom), 1)

    def date(instant: datetime) -> str:
        return instant.astimezone(AOE).strftime("%-d %b")

    # Only numbers and dates are inserted, so nothing needs escaping.
    parts = [
        f'<line class="grid" x1="40" y1="{y(value)}" x2="600" y2="{y(value)}"/>'
        f'<text class="mark" x="34" y="{y(value) + 4}">{value:.1f}</text>'
        for value in (bottom + 0.2, (bottom + top) / 2, top - 0.2)
    ]
    for instant, _, low, high in points:
        if low is not None and high is not None:
            parts.append(
                f'<line class="range" x1="{x(instant)}" y1="{y(low)}" x2="{x(instant)}" y2="{y(high)}"/>'
            )
    path = " ".join(f"{x(instant)},{y(mean)}" for instant, mean, _, _ in points)
    parts.append(f'<polyline class="line" points="{path}"/>')
    for instant, mean, _, _ in points:
        title = f"<title>{date(instant)}: {score(mean)}</title>"
        parts.append(f'<circle class="dot" cx="{x(instant)}" cy="{y(mean)}" r="4.5">{title}</circle>')
    for instant in {points[0][0], points[-1][0]}:
        parts.append(f'<text class="date" x="{x(instant)}" y="172">{date(instant)}</text>')
    return Markup(
        '<svg class="time" viewBox="0 0 610 180" width="610" height="180" role="img" '
        f'aria-label="score over time">{"".join(parts)}</svg>'
    )


def highlight_prompt(prompt: str, story: str) -> Markup:
    """A story whose prompt is set apart, shown once even if the completion repeats it."""
    if story.startswith(prompt):
        completion = story[len(prompt) :]
    else:
        completion = story if story[:1].isspace() else f" {story}"
    return Markup('<span class="prompt-text">{}</span>{}').format(prompt, escape(completion))


def capitalise_first(text: str) -> str:
    """A sentence with a capital at its start; str.capitalize would also lower-case the names in it."""
    return text[:1].upper() + text[1:]


FILTERS = (full_time, short_time, score, parameter_count, capitalise_first)
"""Functions that templates use as filters."""
GLOBALS = (countdown, interval_plot, criteria_bars, score_timeline, highlight_prompt, duration, plural)
"""Functions that templates call."""
