"""Public responses have an ETag, answer 304 and are compressed; a person's responses are private."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from .conftest import Hackathon

LEADERBOARD = "/e/first/leaderboard"


@pytest.fixture
def visitor(hackathon: Hackathon) -> TestClient:
    """A visitor who is not signed in, of a leaderboard with one team."""
    hackathon.submit(hackathon.add_team("ada"))
    hackathon.run_worker()
    return hackathon.client()


def test_only_a_page_with_a_form_sets_a_cookie(hackathon: Hackathon) -> None:
    assert "set-cookie" not in hackathon.client().get("/").headers
    assert "set-cookie" in hackathon.client().get("/sign-in").headers


def test_an_unchanged_page_is_not_sent_again(visitor: TestClient) -> None:
    first = visitor.get(LEADERBOARD)
    assert first.headers["content-encoding"] == "gzip"
    again = visitor.get(LEADERBOARD, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    plain = visitor.get(LEADERBOARD, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == first.text


def test_a_persons_page_is_private_and_never_shown_to_another_visitor(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    ada = hackathon.sign_in("ada")
    visitor = TestClient(ada.app, base_url="http://hackathon.test")
    assert "Sign in" in visitor.get(LEADERBOARD).text
    page = ada.get(LEADERBOARD)
    assert "<bdi>ada</bdi>" in page.text
    assert page.headers["cache-control"] == "private, no-store"
    assert "etag" not in page.headers
    assert "<bdi>ada</bdi>" not in visitor.get(LEADERBOARD).text
    assert visitor.get("/account", follow_redirects=False).status_code == 303


def test_a_page_with_a_form_token_is_not_compressed(hackathon: Hackathon) -> None:
    assert "content-encoding" not in hackathon.client().get("/sign-in").headers
