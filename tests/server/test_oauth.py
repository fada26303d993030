"""Sign-in through others, against a provider of our own on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from smalltale.server.database.models import Person
from smalltale.server.web.app import create_app
from smalltale.server.web.oauth import Provider, providers_of

from .conftest import Fair


class Vouching(BaseHTTPRequestHandler):
    """Exchanges the code `good` for a token when the PKCE verifier fits, and says who that is."""

    challenge = ""
    who: dict[str, object] = {"id": 7, "login": "Ada.Lovelace"}  # noqa: RUF012

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        digest = hashlib.sha256(form["code_verifier"][0].encode()).digest()
        fits = base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == self.challenge
        self.answer(
            {"access_token": "t", "token_type": "bearer"}
            if fits and form["code"] == ["good"]
            else {"error": "invalid_grant"}
        )

    def do_GET(self) -> None:
        self.answer(self.who if self.headers["Authorization"] == "Bearer t" else {})

    def answer(self, body: dict[str, object]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def client(fair: Fair) -> Iterator[TestClient]:
    """A visitor of a server that knows one provider."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Vouching)
    threading.Thread(target=server.serve_forever).start()
    base = f"http://127.0.0.1:{server.server_port}"
    provider = Provider(
        name="github",
        client_id="id",
        client_secret="secret",
        authorize="https://elsewhere.test/authorize",
        token=f"{base}/token",
        who=f"{base}/user",
        scope="read:user",
        id_key="id",
        name_key="login",
    )
    yield TestClient(create_app(fair.store, providers={"github": provider}), base_url="http://fair.test")
    server.shutdown()
    server.server_close()


def begin(client: TestClient) -> str:
    """Leave for the provider; returns the state it is given."""
    assert "Sign in with GitHub" in client.get("/sign-in").text
    answer = client.get("/sign-in/github", follow_redirects=False)
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    Vouching.challenge = asked["code_challenge"][0]
    assert asked["redirect_uri"] == ["http://fair.test/sign-in/github/callback"]
    return asked["state"][0]


def test_whom_a_provider_vouches_for_is_signed_in_and_known_again(fair: Fair, client: TestClient) -> None:
    for _ in range(2):
        state = begin(client)
        assert (
            client.get(
                f"/sign-in/github/callback?code=good&state={state}", follow_redirects=False
            ).status_code
            == 303
        )
        assert "ada-lovelace" in client.get("/").text
    with fair.store.read() as session:
        assert [
            (each.handle, each.provider, each.provider_id) for each in session.scalars(select(Person))
        ] == [("ada-lovelace", "github", "7")]


def test_a_taken_handle_gets_an_ending(fair: Fair, client: TestClient) -> None:
    fair.person("ada-lovelace")
    client.get(f"/sign-in/github/callback?code=good&state={begin(client)}")
    assert "ada-lovelace-gi" in client.get("/").text


def test_an_answer_that_this_browser_did_not_ask_for_is_refused(client: TestClient) -> None:
    state = begin(client)
    assert client.get("/sign-in/github/callback?code=good&state=other").status_code == 403
    assert client.get(f"/sign-in/github/callback?state={state}").status_code == 403
    client.cookies.clear()
    assert client.get(f"/sign-in/github/callback?code=good&state={state}").status_code == 403


def test_a_provider_that_does_not_vouch_is_one_clear_page(client: TestClient) -> None:
    answer = client.get(f"/sign-in/github/callback?code=bad&state={begin(client)}")
    assert answer.status_code == 502
    assert "did not say who you are" in answer.text
    assert client.get("/sign-in/nobody").status_code == 404


def test_providers_are_those_with_an_id_and_a_secret() -> None:
    assert list(
        providers_of(
            {"SMALLTALE_HUGGINGFACE_ID": "a", "SMALLTALE_HUGGINGFACE_SECRET": "b", "SMALLTALE_GITHUB_ID": "c"}
        )
    ) == ["huggingface"]
