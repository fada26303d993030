"""Printing of results on standard output."""

from __future__ import annotations

from rich.console import Console


def print_line(text: str) -> None:
    """Print one line as it is: not wrapped, and without rich's markup or highlighting."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
