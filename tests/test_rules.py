"""The rules as data: classes, limits, dates Anywhere on Earth."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from smalltale.errors import RecipeError, SmalltaleError
from smalltale.rules import Rules, aoe_day, parse_rules


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (1, "small"),
        (30_000_000, "small"),
        (30_000_001, "medium"),
        (60_000_000, "medium"),
        (120_000_000, "large"),
        (120_000_001, None),
    ],
)
def test_a_class_admits_its_limit_and_no_parameter_more(parameters: int, name: str | None) -> None:
    weight_class = Rules().class_for(parameters)
    assert (weight_class.name if weight_class else None) == name


def test_the_first_edition_ends_when_april_7th_ends_anywhere_on_earth() -> None:
    assert Rules().deadline() == datetime(2025, 4, 8, 12, tzinfo=UTC)
    assert Rules().opens() == datetime(2025, 3, 1, 12, tzinfo=UTC)
    assert Rules().teams_lock() == datetime(2025, 3, 8, 12, tzinfo=UTC)


def test_a_day_anywhere_on_earth_begins_at_noon_utc() -> None:
    assert aoe_day(datetime(2025, 4, 8, 11, 59, 59, tzinfo=UTC)) == date(2025, 4, 7)
    assert aoe_day(datetime(2025, 4, 8, 12, tzinfo=UTC)) == date(2025, 4, 8)


@pytest.mark.parametrize(
    ("hardware", "name"),
    [
        ("MacBook Air M2", "small"),
        ("GTX 1650 laptop", "small"),
        ("MacBook Pro M3 Max", "medium"),
        ("RTX 4070", "medium"),
        ("one RTX 4090", "large"),
        ("8x H100", "large"),
    ],
)
def test_declared_hardware_suggests_a_class(hardware: str, name: str) -> None:
    assert Rules().class_for_hardware(hardware).name == name


def test_a_team_may_enter_its_class_and_larger_ones_only() -> None:
    assert [weight_class.name for weight_class in Rules().classes_open_to("medium")] == ["medium", "large"]


def test_an_unknown_class_is_reported_with_the_valid_names() -> None:
    with pytest.raises(SmalltaleError, match="choose one of: small, medium, large"):
        Rules().weight_class("tiny")


def test_an_edition_is_read_from_a_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "edition.toml"
    path.write_text(
        'team_size = 3\nstart = 2026-01-01\nend = 2026-02-01\nhardware = []\n[[weight_classes]]\nname = "nano"\nmax_parameters = 1000000\nhardware = "any"\n[edition]\nslug = "x"\n',
        encoding="utf-8",
    )
    rules = parse_rules(path.read_text(encoding="utf-8"), str(path))
    assert (rules.team_size, rules.start) == (3, date(2026, 1, 1))
    assert [weight_class.name for weight_class in rules.weight_classes] == ["nano"]
    assert rules.class_for_hardware("8x H100").name == "nano"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("team_sise = 2", "did you mean 'team_size'"),
        ("team_size = 'two'", "team_size = 'two'"),
        ("team_size = 0", "at least 1"),
        ("start = 2026-02-01\nend = 2026-01-01", "is before start"),
        ("team_size = ", "is not TOML"),
        ("weight_classes = []", "at least one weight class"),
        ("[[weight_classes]]\nname = 'a'\nmax_parameters = 1\nhardware = 'x'", "is not a weight class"),
    ],
)
def test_invalid_rules_are_reported_with_the_fix(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "edition.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        parse_rules(path.read_text(encoding="utf-8"), str(path))
