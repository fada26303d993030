"""Attacks on the pages: scripts, forged forms, planted cookies, guessed passwords, malformed requests."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from smalltale.server.database.models import BrowserSession
from smalltale.server.web.app import create_app
from smalltale.server.web.context import TEMPLATES

from .conftest import PASSWORD, Hackathon, form_fields, read_form_token, submission_csv, submit_form

SCRIPT = "<script>alert(1)</script>"


def test_a_script_in_a_story_a_name_or_an_address_is_escaped(hackathon: Hackathon) -> None:
    hackathon.add_team("ada", name=f"Fox {SCRIPT}")
    client = hackathon.sign_in("ada")
    page = submit_form(client, submission_csv(SCRIPT), sampling=SCRIPT)
    hackathon.run_worker()
    for path in (
        page,
        f"{page}?search={SCRIPT}",
        "/e/first/leaderboard",
        "/team",
        "/teams/1",
        f"/{SCRIPT}",
        f"/sign-in?next={SCRIPT}",
        f"/join/{SCRIPT}",
    ):
        response = client.get(path)
        assert SCRIPT not in response.text, path
        assert "script-src 'self'" in response.headers["content-security-policy"]
        assert "unsafe" not in response.headers["content-security-policy"]
    assert "&lt;script&gt;" in client.get(page).text


def test_a_form_without_our_token_or_from_another_site_is_refused(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    client, stranger = hackathon.sign_in("ada"), hackathon.client()
    foreign = read_form_token(stranger, "/sign-in")
    for data, headers in (
        ({}, {}),
        ({"form_token": foreign}, {}),
        ({"form_token": read_form_token(client, "/team")}, {"origin": "https://evil.test"}),
        ({"form_token": read_form_token(client, "/team")}, {"sec-fetch-site": "cross-site"}),
    ):
        assert client.post("/team/leave", data=data, headers=headers).status_code == 403
    assert "Team ada" in client.get("/team").text


def test_a_cookie_planted_before_sign_in_is_worthless_afterwards(hackathon: Hackathon) -> None:
    hackathon.add_person("ada")
    client = hackathon.client()
    planted = "attacker-knows-this-cookie-000000"
    client.cookies.set("smalltale", planted, domain="hackathon.test")
    client.post(
        "/sign-in",
        data={"form_token": read_form_token(client, "/sign-in"), "handle": "ada", "password": PASSWORD},
    )
    attacker = hackathon.client()
    attacker.cookies.set("smalltale", planted, domain="hackathon.test")
    assert attacker.get("/team", follow_redirects=False).status_code == 303
    with hackathon.database.read() as session:
        assert planted not in session.scalars(select(BrowserSession.token_hash)).all()


def test_signing_out_ends_the_session_on_the_server(hackathon: Hackathon) -> None:
    hackathon.add_person("ada")
    client = hackathon.sign_in("ada")
    cookie = client.cookies["smalltale"]
    client.post("/sign-out", data={"form_token": read_form_token(client, "/account")})
    again = hackathon.client()
    again.cookies.set("smalltale", cookie, domain="hackathon.test")
    assert again.get("/account", follow_redirects=False).status_code == 303


def test_scripts_cannot_read_the_cookie(hackathon: Hackathon) -> None:
    header = hackathon.client().get("/sign-in").headers["set-cookie"].lower()
    assert "httponly" in header
    assert "samesite=lax" in header


def test_failed_sign_ins_are_limited(hackathon: Hackathon) -> None:
    hackathon.add_person("ada")
    client = hackathon.client()
    data = {
        "form_token": read_form_token(client, "/sign-in"),
        "handle": "ada",
        "password": "wrong wrong wrong",
    }
    statuses = [client.post("/sign-in", data=data).status_code for _ in range(11)]
    assert statuses == [401] * 10 + [429]


def test_sign_in_redirects_to_this_site_only(hackathon: Hackathon) -> None:
    hackathon.add_person("zoe")
    for wished in ("https://evil.test/", "//evil.test", "/\\evil.test", "javascript:alert(1)"):
        client = hackathon.client()
        data = {
            "form_token": read_form_token(client, "/sign-in"),
            "handle": "zoe",
            "password": PASSWORD,
            "next": wished,
        }
        assert client.post("/sign-in", data=data, follow_redirects=False).headers["location"] == "/"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../store.py",
        "/static/%2e%2e/store.py",
        "/e/..%2f..%2fetc/rules",
        "/submissions/1'%20OR%201=1",
        "/submissions/99999999999999999999",
        "/teams/-1",
        "/e/first/leaderboard?class='%20OR%20'1'='1",
        "/e/first%00/rules",
        "/compare?a=1&b=x",
        "/e/first/leaderboard?page=0",
    ],
)
def test_malformed_addresses_are_refused_without_a_server_error(hackathon: Hackathon, path: str) -> None:
    assert hackathon.client().get(path).status_code in {400, 403, 404, 422}


@pytest.mark.parametrize(
    "path",
    [
        "/organise/teams/{}",
        "/organise/submissions/{}",
        "/organise/appeals/{}",
        "/team/invitations/{}",
        "/account/tokens/{}/revoke",
        "/submissions/{}/appeal",
        "/submissions/{}/model",
    ],
)
def test_an_id_that_no_row_has_is_refused_by_every_form(hackathon: Hackathon, path: str) -> None:
    hackathon.add_person("boss", admin=True)
    boss = hackathon.sign_in("boss")
    data = {
        "form_token": read_form_token(boss, "/organise"),
        "do": "confirm",
        "answer": "it is so",
        "reason": "it is so",
    }
    for number in ("99999999999999999999", "2147483647", "-1", "x"):
        assert boss.post(path.format(number), data=data).status_code in {404, 409, 422}


def test_a_server_error_does_not_show_its_cause(
    hackathon: Hackathon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smalltale.server.web.pages.public.list_live_workers", lambda *_: 1 / 0)
    monkeypatch.setattr("smalltale.server.web.api.api.list_panel_judges", lambda *_: 1 / 0)
    client = TestClient(
        create_app(hackathon.database), base_url="http://hackathon.test", raise_server_exceptions=False
    )
    page, response = client.get("/e/first/queue"), client.get("/api/v1/editions/first")
    assert (page.status_code, response.status_code) == (500, 500)
    assert response.headers["content-type"] == "application/problem+json"
    for failure in (page, response):
        assert "went wrong" in failure.text
        assert "ZeroDivision" not in failure.text
        assert "script-src 'self'" in failure.headers["content-security-policy"]


def test_a_search_matches_text_literally(hackathon: Hackathon) -> None:
    submission = hackathon.submit(hackathon.add_team("ada"))
    hackathon.run_worker()
    client = hackathon.client()
    assert (
        "No story contains that text"
        in client.get(f"/submissions/{submission.id}", params={"search": "' OR 1=1 --"}).text
    )
    assert (
        "No story contains that text"
        in client.get(f"/submissions/{submission.id}", params={"search": "%"}).text
    )
    assert (
        "12 on public prompts"
        in client.get(f"/submissions/{submission.id}", params={"search": "LAUGHED"}).text
    )


def test_a_too_large_upload_is_refused(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    client = hackathon.sign_in("ada")
    data = {**form_fields(), "form_token": read_form_token(client, "/submit")}
    assert client.post("/submit", data=data, files={"file": ("a.csv", b"x" * 10_300_000)}).status_code == 413


def test_changing_the_password_ends_all_other_sessions(hackathon: Hackathon) -> None:
    hackathon.add_person("ada")
    client, elsewhere = hackathon.sign_in("ada"), hackathon.sign_in("ada")

    def change(old: str, new: str) -> tuple[int, str]:
        fields = {"form_token": read_form_token(client, "/account"), "password": old, "new_password": new}
        response = client.post("/account/password", data=fields)
        return response.status_code, response.text

    status, text = change("wrong", "short")
    assert status == 422
    assert "it is not your password; type the one" in text
    assert "it has 5 characters; choose 10 to 200" in text
    status, text = change(PASSWORD, "another fine password")
    assert (status, "Password changed" in text) == (200, True)
    assert elsewhere.get("/account", follow_redirects=False).status_code == 303
    assert client.get("/account").status_code == 200
    with pytest.raises(AssertionError):
        hackathon.sign_in("ada")


def test_no_template_disables_escaping_or_has_inline_code() -> None:
    for path in TEMPLATES.iterdir():
        assert not re.search(r"\|\s*safe|autoescape|style=|<script(?! src=)|\son\w+=", path.read_text()), path
