"""Answers kept for visitors nobody knows: shared, compressed, unchanged; and never a person's."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from smalltale.server.web.middleware import response_cache as shelf

from .conftest import Fair, stories

BOARD = "/e/first/leaderboard"


@pytest.fixture
def board(fair: Fair) -> TestClient:
    """A visitor of a leaderboard with one team."""
    fair.hand_in(fair.team("ada"))
    fair.judge()
    return fair.client()


def test_who_only_looks_gets_no_cookie_and_who_sees_a_form_does(fair: Fair) -> None:
    assert "set-cookie" not in fair.client().get("/").headers
    assert "set-cookie" in fair.client().get("/sign-in").headers


def test_a_page_that_has_not_changed_is_not_sent_again(board: TestClient) -> None:
    first = board.get(BOARD)
    assert first.headers["content-encoding"] == "gzip"
    again = board.get(BOARD, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    plain = board.get(BOARD, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == first.text


def test_a_new_hand_in_is_on_the_leaderboard_after_the_kept_ones_have_aged(
    fair: Fair, board: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Team bob" not in board.get(BOARD).text
    fair.hand_in(fair.team("bob"), content=stories("and sang"))
    fair.judge()
    monkeypatch.setattr(shelf, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(board.app.state.site.boards, "FRESH_SECONDS", 0.0)  # type: ignore[attr-defined]
    monkeypatch.setattr(board.app.state.site.boards, "OLDEST_SECONDS", 0.0)  # type: ignore[attr-defined]
    assert "Team bob" in board.get(BOARD).text


def test_a_persons_page_is_never_kept_nor_answered_from_what_is_kept(fair: Fair) -> None:
    fair.team("ada")
    ada = fair.signed_in("ada")
    stranger = TestClient(ada.app, base_url="http://fair.test")
    assert "Sign in" in stranger.get(BOARD).text
    own = ada.get(BOARD)
    assert "<bdi>ada</bdi>" in own.text
    assert own.headers["cache-control"] == "private, no-store"
    assert "etag" not in own.headers
    assert "<bdi>ada</bdi>" not in stranger.get(BOARD).text
    assert stranger.get("/account", follow_redirects=False).status_code == 303


def test_what_is_kept_stays_within_bounds(fair: Fair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "MOST_ANSWERS", 3)
    client = fair.client()
    for number in range(6):
        client.get(f"{BOARD}?page={number + 1}")
    client.get(f"{BOARD}?x={'y' * 400}")
    client.get("/nowhere")
    assert [key[2] for key in kept_by(client)] == [b"page=4", b"page=5", b"page=6"]


def kept_by(client: TestClient) -> list[tuple[bytes, ...]]:
    """The keys of the app's shelf."""
    layer = client.app.middleware_stack  # type: ignore[attr-defined]
    while layer is not None and not isinstance(layer, shelf.Shelf):
        layer = getattr(layer, "app", None)
    return list(layer.kept) if layer is not None else []
