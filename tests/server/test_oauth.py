"""Sign-in through a provider, against an OAuth server of our own on loopback."""

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
from smalltale.server.web.oauth import OAuthProvider, load_providers

from .conftest import Hackathon


class OAuthServer(BaseHTTPRequestHandler):
    """Exchanges the code `good` for a token if the PKCE verifier matches the challenge, and returns the user."""

    challenge = ""
    user: dict[str, object] = {"id": 7, "login": "Ada.Lovelace"}  # noqa: RUF012

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        digest = hashlib.sha256(form["code_verifier"][0].encode()).digest()
        is_valid = base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == self.challenge
        self.respond(
            {"access_token": "t", "token_type": "bearer"}
            if is_valid and form["code"] == ["good"]
            else {"error": "invalid_grant"}
        )

    def do_GET(self) -> None:
        self.respond(self.user if self.headers["Authorization"] == "Bearer t" else {})

    def respond(self, body: dict[str, object]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def client(hackathon: Hackathon) -> Iterator[TestClient]:
    """A visitor of a server with one provider."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), OAuthServer)
    threading.Thread(target=server.serve_forever).start()
    base = f"http://127.0.0.1:{server.server_port}"
    provider = OAuthProvider(
        name="github",
        client_id="id",
        client_secret="secret",
        authorize_url="https://elsewhere.test/authorize",
        token_url=f"{base}/token",
        user_url=f"{base}/user",
        scope="read:user",
        id_key="id",
        name_key="login",
    )
    yield TestClient(
        create_app(hackathon.database, providers={"github": provider}), base_url="http://hackathon.test"
    )
    server.shutdown()
    server.server_close()


def start_sign_in(client: TestClient) -> str:
    """Start a sign-in at the provider; returns the state of the request."""
    assert "Sign in with GitHub" in client.get("/sign-in").text
    response = client.get("/sign-in/github", follow_redirects=False)
    query = parse_qs(urlsplit(response.headers["location"]).query)
    OAuthServer.challenge = query["code_challenge"][0]
    assert query["redirect_uri"] == ["http://hackathon.test/sign-in/github/callback"]
    return query["state"][0]


def test_a_person_signs_in_by_a_provider_twice_with_one_account(
    hackathon: Hackathon, client: TestClient
) -> None:
    for _ in range(2):
        state = start_sign_in(client)
        assert (
            client.get(
                f"/sign-in/github/callback?code=good&state={state}", follow_redirects=False
            ).status_code
            == 303
        )
        assert "ada-lovelace" in client.get("/").text
    with hackathon.database.read() as session:
        assert [
            (person.handle, person.provider, person.provider_id) for person in session.scalars(select(Person))
        ] == [("ada-lovelace", "github", "7")]


def test_a_taken_handle_gets_a_suffix(hackathon: Hackathon, client: TestClient) -> None:
    hackathon.add_person("ada-lovelace")
    client.get(f"/sign-in/github/callback?code=good&state={start_sign_in(client)}")
    assert "ada-lovelace-gi" in client.get("/").text


def test_a_callback_that_this_browser_did_not_start_is_refused(client: TestClient) -> None:
    state = start_sign_in(client)
    assert client.get("/sign-in/github/callback?code=good&state=other").status_code == 403
    assert client.get(f"/sign-in/github/callback?state={state}").status_code == 403
    client.cookies.clear()
    assert client.get(f"/sign-in/github/callback?code=good&state={state}").status_code == 403


def test_a_provider_that_refuses_is_reported_on_a_page(client: TestClient) -> None:
    response = client.get(f"/sign-in/github/callback?code=bad&state={start_sign_in(client)}")
    assert response.status_code == 502
    assert "did not say who you are" in response.text
    assert client.get("/sign-in/unknown").status_code == 404


def test_providers_need_an_id_and_a_secret() -> None:
    assert list(
        load_providers(
            {"SMALLTALE_HUGGINGFACE_ID": "a", "SMALLTALE_HUGGINGFACE_SECRET": "b", "SMALLTALE_GITHUB_ID": "c"}
        )
    ) == ["huggingface"]
