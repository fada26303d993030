"""The pages as a visitor meets them: the whole way round, forms that keep what was typed, and what attackers try."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from smalltale.server.accounts import accounts as people
from smalltale.server.database.models import Edition, HandIn, Prompt, SignIn, Team
from smalltale.server.exchange.tables import written
from smalltale.server.submissions.visibility import sight
from smalltale.server.web.app import create_app
from smalltale.server.web.context import TEMPLATES

from .conftest import PASSWORD, PROMPTS, Fair, stories, token_on

SCRIPT = "<script>alert(1)</script>"


def declared(**more: str) -> dict[str, str]:
    return {
        "kind": "daily",
        "do": "hand-in",
        "weight_class": "small",
        "counted_parameters": "29000000",
        "model_hash": "cd" * 32,
        "data": "TinyStories",
        "from_scratch": "yes",
        **more,
    }


def send(client: TestClient, content: bytes, **more: str) -> str:
    """Hand in by the form; returns where it leads."""
    data = {**declared(**more), "form_token": token_on(client, "/hand-in")}
    answer = client.post(
        "/hand-in", data=data, files={"file": ("stories.csv", content)}, follow_redirects=False
    )
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def test_importing_the_web_app_never_imports_torch() -> None:
    code = "import smalltale.server.web.app, smalltale.server.worker, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0


def test_the_whole_way_from_team_to_leaderboard(fair: Fair) -> None:
    fair.person("bob")
    fair.person("ada")
    ada, bob = fair.signed_in("ada"), fair.signed_in("bob")
    made = ada.post(
        "/team",
        data={"form_token": token_on(ada, "/team"), "name": "Two Foxes", "hardware": "MacBook Air M2"},
    )
    assert "Two Foxes" in made.text
    ada.post("/team/invite", data={"form_token": token_on(ada, "/team"), "handle": "bob"})
    number = re.search(r"/team/invitations/(\d+)", bob.get("/team").text)
    assert number is not None
    bob.post(number[0], data={"form_token": token_on(bob, "/team"), "answer": "accept"})
    assert "ada, <bdi>bob</bdi>" in ada.get("/team").text.replace("<bdi>ada</bdi>", "ada")
    page = send(bob, stories())
    assert "queue" in bob.get(page).text
    assert "Two Foxes" in bob.get("/e/first/queue").text
    assert fair.judge() == 1
    assert re.search(r"Two Foxes.*?small", fair.client().get("/e/first/leaderboard?class=small").text, re.S)
    assert "Two Foxes" not in fair.client().get("/e/first/leaderboard?class=large").text
    assert fair.client().get("/e/first/leaderboard.csv").text.startswith("\ufeffrank,tied,team")


def test_a_refused_form_names_every_field_and_keeps_what_was_typed(fair: Fair) -> None:
    fair.team("ada")
    client = fair.signed_in("ada")
    data = {
        **declared(counted_parameters="lots", model_hash="zz", data='my "own" <b>text</b>'),
        "form_token": token_on(client, "/hand-in"),
    }
    answer = client.post("/hand-in", data=data, files={"file": ("stories.csv", b"prompt,completion\nx,y\n")})
    assert answer.status_code == 422
    assert "lots is not a number of parameters" in answer.text
    assert "zz is not a SHA-256" in answer.text
    assert "every prompt needs 4" in answer.text
    assert 'value="my &#34;own&#34; &lt;b&gt;text&lt;/b&gt;"' in answer.text


def test_a_test_upload_is_checked_and_not_kept(fair: Fair) -> None:
    fair.team("ada")
    client = fair.signed_in("ada")
    data = {"kind": "daily", "do": "check", "form_token": token_on(client, "/hand-in")}
    assert "passes the gate" in client.post("/hand-in", data=data, files={"file": ("a.csv", stories())}).text
    with fair.store.read() as session:
        assert session.scalar(select(func.count()).select_from(HandIn)) == 0


def test_a_script_in_a_story_a_name_or_an_address_is_shown_and_never_run(fair: Fair) -> None:
    fair.team("ada", name=f"Fox {SCRIPT}")
    client = fair.signed_in("ada")
    page = send(client, stories(SCRIPT), sampling=SCRIPT)
    fair.judge()
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
        answer = client.get(path)
        assert SCRIPT not in answer.text, path
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
    assert "&lt;script&gt;" in client.get(page).text


def test_a_form_without_our_token_or_from_another_site_is_refused(fair: Fair) -> None:
    fair.team("ada")
    client, other = fair.signed_in("ada"), fair.client()
    foreign = token_on(other, "/sign-in")
    for data, headers in (
        ({}, {}),
        ({"form_token": foreign}, {}),
        ({"form_token": token_on(client, "/team")}, {"origin": "https://evil.test"}),
        ({"form_token": token_on(client, "/team")}, {"sec-fetch-site": "cross-site"}),
    ):
        assert client.post("/team/leave", data=data, headers=headers).status_code == 403
    assert "Team ada" in client.get("/team").text


def test_a_cookie_planted_before_sign_in_is_worth_nothing_after_it(fair: Fair) -> None:
    fair.person("ada")
    client = fair.client()
    planted = "attacker-knows-this-cookie-000000"
    client.cookies.set("smalltale", planted, domain="fair.test")
    client.post(
        "/sign-in", data={"form_token": token_on(client, "/sign-in"), "handle": "ada", "password": PASSWORD}
    )
    attacker = fair.client()
    attacker.cookies.set("smalltale", planted, domain="fair.test")
    assert attacker.get("/team", follow_redirects=False).status_code == 303
    with fair.store.read() as session:
        assert planted not in session.scalars(select(SignIn.token_hash)).all()


def test_signing_out_ends_the_session_on_the_server(fair: Fair) -> None:
    fair.person("ada")
    client = fair.signed_in("ada")
    cookie = client.cookies["smalltale"]
    client.post("/sign-out", data={"form_token": token_on(client, "/account")})
    again = fair.client()
    again.cookies.set("smalltale", cookie, domain="fair.test")
    assert again.get("/account", follow_redirects=False).status_code == 303


def test_the_cookie_is_out_of_reach_of_scripts(fair: Fair) -> None:
    header = fair.client().get("/sign-in").headers["set-cookie"].lower()
    assert "httponly" in header
    assert "samesite=lax" in header


def test_passwords_cannot_be_guessed_without_end(fair: Fair) -> None:
    fair.person("ada")
    client = fair.client()
    data = {"form_token": token_on(client, "/sign-in"), "handle": "ada", "password": "wrong wrong wrong"}
    statuses = [client.post("/sign-in", data=data).status_code for _ in range(11)]
    assert statuses == [401] * 10 + [429]


def test_sign_in_leads_back_to_this_site_only(fair: Fair) -> None:
    fair.person("zoe")
    for wished in ("https://evil.test/", "//evil.test", "/\\evil.test", "javascript:alert(1)"):
        client = fair.client()
        data = {
            "form_token": token_on(client, "/sign-in"),
            "handle": "zoe",
            "password": PASSWORD,
            "next": wished,
        }
        assert client.post("/sign-in", data=data, follow_redirects=False).headers["location"] == "/"


def test_another_teams_private_stories_and_scores_stay_private_until_the_end(fair: Fair) -> None:
    fair.team("ada")
    fair.team("eve")
    ada, eve = fair.signed_in("ada"), fair.signed_in("eve")
    page = send(ada, stories("SECRET"), sampling="temperature 0.1234")
    assert eve.get(page).status_code == 404
    fair.judge()
    with fair.store.read() as session:
        private = session.scalars(
            select(Prompt.text).where(~Prompt.public, Prompt.position < 6, Prompt.text.in_(PROMPTS))
        ).all()
    seen, own = eve.get(page).text, ada.get(page).text
    assert all(each not in seen for each in private)
    assert "0.1234" not in seen
    assert all(each in own + ada.get(f"{page}?page=2").text for each in private)
    assert ada.get("/e/first/leaderboard?side=private").status_code == 403
    assert eve.get("/teams/1").status_code == 200
    fair.clock.advance(days=60)
    assert all(each in eve.get(page).text + eve.get(f"{page}?page=2").text for each in private)
    assert fair.client().get("/e/first/leaderboard?side=private").status_code == 200


def test_a_team_sees_its_own_private_stories_without_their_scores(fair: Fair) -> None:
    row = fair.hand_in(fair.team("ada"))
    fair.judge()
    with fair.store.read() as session:
        view = sight(session, row.id, None, fair.clock.now)
    assert view.scores_public_only
    text = fair.signed_in("ada").get(f"/hand-ins/{row.id}").text
    cards = text.split('<article class="story card">')[1:]
    assert all("scripted-a" not in card for card in cards if "private prompt" in card)
    assert any("scripted-a" in card for card in cards if "private prompt" not in card)


def test_the_final_prompts_appear_at_their_hour(fair: Fair) -> None:
    client = fair.client()
    assert client.get("/e/first/prompts/final.csv").status_code == 404
    fair.clock.advance(days=29)
    assert client.get("/e/first/prompts/final.csv").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../store.py",
        "/static/%2e%2e/store.py",
        "/e/..%2f..%2fetc/rules",
        "/hand-ins/1'%20OR%201=1",
        "/hand-ins/99999999999999999999",
        "/teams/-1",
        "/e/first/leaderboard?class='%20OR%20'1'='1",
        "/e/first%00/rules",
        "/compare?a=1&b=x",
        "/e/first/leaderboard?page=0",
    ],
)
def test_odd_addresses_are_refused_without_an_error_of_ours(fair: Fair, path: str) -> None:
    assert fair.client().get(path).status_code in {400, 403, 404, 422}


@pytest.mark.parametrize(
    "path",
    [
        "/organise/teams/{}",
        "/organise/hand-ins/{}",
        "/organise/appeals/{}",
        "/team/invitations/{}",
        "/account/tokens/{}/revoke",
        "/hand-ins/{}/appeal",
        "/hand-ins/{}/model",
    ],
)
def test_a_number_that_no_row_has_is_refused_in_every_form(fair: Fair, path: str) -> None:
    fair.person("boss", admin=True)
    boss = fair.signed_in("boss")
    data = {
        "form_token": token_on(boss, "/organise"),
        "do": "confirm",
        "answer": "it is so",
        "reason": "it is so",
    }
    for number in ("99999999999999999999", "2147483647", "-1", "x"):
        assert boss.post(path.format(number), data=data).status_code in {404, 409, 422}


def test_a_mistake_of_ours_is_told_without_its_words(fair: Fair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smalltale.server.web.pages.public.live_workers", lambda *_: 1 / 0)
    monkeypatch.setattr("smalltale.server.web.api.api.seats", lambda *_: 1 / 0)
    client = TestClient(create_app(fair.store), base_url="http://fair.test", raise_server_exceptions=False)
    page, answer = client.get("/e/first/queue"), client.get("/api/v1/editions/first")
    assert (page.status_code, answer.status_code) == (500, 500)
    assert answer.headers["content-type"] == "application/problem+json"
    for each in (page, answer):
        assert "went wrong" in each.text
        assert "ZeroDivision" not in each.text
        assert "script-src 'self'" in each.headers["content-security-policy"]


def test_sql_in_a_search_finds_nothing_and_breaks_nothing(fair: Fair) -> None:
    row = fair.hand_in(fair.team("ada"))
    fair.judge()
    client = fair.client()
    assert (
        "No story has that text" in client.get(f"/hand-ins/{row.id}", params={"search": "' OR 1=1 --"}).text
    )
    assert "No story has that text" in client.get(f"/hand-ins/{row.id}", params={"search": "%"}).text
    assert "12 on public prompts" in client.get(f"/hand-ins/{row.id}", params={"search": "LAUGHED"}).text


def test_an_upload_that_is_too_large_is_refused_before_it_is_read(fair: Fair) -> None:
    fair.team("ada")
    client = fair.signed_in("ada")
    data = {**declared(), "form_token": token_on(client, "/hand-in")}
    assert client.post("/hand-in", data=data, files={"file": ("a.csv", b"x" * 10_300_000)}).status_code == 413


def test_pages_of_organisers_are_theirs(fair: Fair) -> None:
    fair.team("ada")
    fair.person("boss", admin=True)
    client, boss = fair.signed_in("ada"), fair.signed_in("boss")
    for path in ("/organise", "/organise/audit"):
        assert fair.client().get(path, follow_redirects=False).status_code == 303
        assert client.get(path).status_code == 403
        assert boss.get(path).status_code == 200
    assert (
        client.post(
            "/organise/teams/1",
            data={"form_token": token_on(client, "/team"), "do": "disqualify", "reason": "x"},
        ).status_code
        == 403
    )
    boss.post(
        "/organise/teams/1",
        data={"form_token": token_on(boss, "/organise"), "do": "disqualify", "reason": "copied stories"},
    )
    assert "copied stories" in client.get("/team").text
    code = re.search(
        r"/join/([\w-]+)",
        boss.post("/organise/invitations", data={"form_token": token_on(boss, "/organise")}).text,
    )
    assert code is not None
    assert fair.client().get(code[0]).status_code == 200


def test_an_appeal_is_answered_by_an_organiser(fair: Fair) -> None:
    row = fair.hand_in(fair.team("ada"))
    fair.judge()
    fair.person("boss", admin=True)
    client, boss = fair.signed_in("ada"), fair.signed_in("boss")
    page = f"/hand-ins/{row.id}"
    short = client.post(f"{page}/appeal", data={"form_token": token_on(client, page), "text": "why <b>"})
    assert short.status_code == 422
    assert "it has 7 characters; write 10 to 2,000" in short.text
    assert 'This was not accepted: <a href="#text">see below</a>' in short.text
    assert ">why &lt;b&gt;</textarea>" in short.text
    appeal = {"form_token": token_on(client, page), "text": "The judge misread story 2."}
    client.post(f"{page}/appeal", data=appeal)
    assert client.post(f"{page}/appeal", data=appeal).status_code == 409
    assert "misread story 2" not in fair.client().get(page).text
    empty = boss.post("/organise/appeals/1", data={"form_token": token_on(boss, "/organise"), "answer": " "})
    assert empty.status_code == 422
    assert "it has 0 characters; write 3 to 2,000" in empty.text
    boss.post(
        "/organise/appeals/1",
        data={"form_token": token_on(boss, "/organise"), "answer": "It was judged again."},
    )
    assert "It was judged again." in client.get(page).text


def test_an_organisers_form_names_what_is_wrong_and_keeps_what_was_typed(fair: Fair) -> None:
    row = fair.hand_in(fair.team("ada"))
    fair.judge()
    fair.person("boss", admin=True)
    boss = fair.signed_in("boss")

    def post(path: str, **fields: str) -> tuple[int, str]:
        answer = boss.post(path, data={"form_token": token_on(boss, "/organise"), **fields})
        return answer.status_code, answer.text

    status, text = post("/organise/teams/1", do="disqualify", reason="x")
    assert (status, "it has 1 characters; write 3 to 500" in text) == (422, True)
    assert re.search(r'id="reason-1"[^>]*value="x"', text)
    assert post("/organise/teams/1", do="confirm", weight_class="nano")[0] == 422
    assert post("/organise/teams/9", do="confirm", weight_class="small")[0] == 404
    page = f"/organise/hand-ins/{row.id}"
    status, text = post(page, do="judge", panel="a panel " * 20)
    assert (status, "is no panel of The First; choose one of: scripted-1" in text) == (422, True)
    status, text = post(page, do="disqualify", reason="")
    assert (status, "it has 0 characters" in text) == (422, True)
    assert "Bring back" in post(page, do="disqualify", reason="copied")[1]
    assert "Bring back" not in post(page, do="reinstate")[1]
    status, text = post("/organise/accounts", handle="boss", act="close")
    assert (status, "that is yourself" in text) == (409, True)
    status, text = post("/organise/accounts", handle="nobody", act="close")
    assert (status, "nobody here is called nobody" in text, 'value="nobody"' in text) == (404, True, True)


def test_an_account_is_closed_at_once_and_opened_again(fair: Fair) -> None:
    fair.team("ada")
    fair.person("boss", admin=True)
    client, boss = fair.signed_in("ada"), fair.signed_in("boss")

    def change(act: str) -> None:
        boss.post(
            "/organise/accounts",
            data={"form_token": token_on(boss, "/organise"), "handle": "Ada", "act": act},
        )

    change("close")
    assert client.get("/team", follow_redirects=False).status_code == 303
    change("open")
    assert client.get("/team").status_code == 200
    change("promote")
    assert client.get("/organise").status_code == 200
    change("demote")
    assert client.get("/organise").status_code == 403


def test_a_password_is_changed_by_its_owner_and_ends_every_other_session(fair: Fair) -> None:
    fair.person("ada")
    client, elsewhere = fair.signed_in("ada"), fair.signed_in("ada")

    def change(old: str, new: str) -> tuple[int, str]:
        fields = {"form_token": token_on(client, "/account"), "password": old, "new_password": new}
        answer = client.post("/account/password", data=fields)
        return answer.status_code, answer.text

    status, text = change("wrong", "short")
    assert status == 422
    assert "it is not your password; type the one" in text
    assert "it has 5 characters; choose 10 to 200" in text
    status, text = change(PASSWORD, "another fine password")
    assert (status, "It is changed" in text) == (200, True)
    assert elsewhere.get("/account", follow_redirects=False).status_code == 303
    assert client.get("/account").status_code == 200
    with pytest.raises(AssertionError):
        fair.signed_in("ada")


def test_an_organiser_gives_a_new_password_that_is_shown_once(fair: Fair) -> None:
    fair.person("ada")
    fair.person("boss", admin=True)
    client, boss = fair.signed_in("ada"), fair.signed_in("boss")

    def reset(handle: str) -> tuple[int, str]:
        fields = {"form_token": token_on(boss, "/organise"), "handle": handle, "act": "password"}
        answer = boss.post("/organise/accounts", data=fields)
        return answer.status_code, answer.text

    text = reset("ada")[1]
    made = re.search(r'class="token">([\w-]{16})<', text)
    assert made is not None
    assert client.get("/account", follow_redirects=False).status_code == 303
    assert people.check_password(fair.store, "ada", made[1]).handle == "ada"
    assert made[1] not in boss.get("/organise").text + boss.get("/organise/audit").text
    assert reset("nobody")[0] == 404


def test_no_template_shows_what_is_not_escaped() -> None:
    for path in TEMPLATES.iterdir():
        assert not re.search(r"\|\s*safe|autoescape|style=|<script(?! src=)|\son\w+=", path.read_text()), path


def test_a_new_panel_hears_every_hand_in_at_a_click_and_the_old_scores_stay(fair: Fair) -> None:
    rows = [fair.hand_in(fair.team(name)) for name in ("ada", "bob")]
    fair.judge()
    fair.person("boss", admin=True)
    boss = fair.signed_in("boss")
    assert "not been heard" not in boss.get("/organise").text
    with fair.store.write() as session:
        session.execute(update(Edition).values(panel="scripted-2"))
    assert "2 hand-ins have not been heard by panel <code>scripted-2</code>" in boss.get("/organise").text
    for _ in range(2):
        boss.post("/organise/judging", data={"form_token": token_on(boss, "/organise")})
    page = fair.client().get(f"/hand-ins/{rows[1].id}").text
    assert "It waits to be judged again, number 2" in page
    assert fair.judge() == 2
    page = fair.client().get(f"/hand-ins/{rows[0].id}").text
    assert "<b>scripted-2</b>" in page
    assert "?panel=scripted-1" in page


def test_the_form_tells_before_anything_is_typed_that_the_day_is_used_up(fair: Fair) -> None:
    fair.hand_in(fair.team("ada"))
    client = fair.signed_in("ada")
    assert "Your team has used its 1 hand-in(s) of 2026-03-03 (AOE)" in client.get("/hand-in").text
    fair.clock.advance(days=1)
    assert "has used" not in client.get("/hand-in").text
    fair.clock.now = fair.edition.ends
    assert "closed at 2026-04-08 12:00 UTC" in fair.signed_in("ada").get("/hand-in").text


def test_exports_carry_no_formula(fair: Fair) -> None:
    rows = [{"team": '=HYPERLINK("http://evil.test")', "note": "-1+1", "mean": -1.5, "plain": "fine"}]
    assert (
        written(rows, "csv").decode("utf-8-sig").splitlines()[1]
        == '"\'=HYPERLINK(""http://evil.test"")",\'-1+1,-1.5,fine'
    )
    assert written([], "csv") == "\ufeff\r\n".encode()


def test_leaderboards_and_stories_go_out_as_csv_json_and_parquet(fair: Fair) -> None:
    row = fair.hand_in(fair.team("ada", name="=HYPERLINK foxes"), content=stories("=1+1, =HYPERLINK"))
    fair.judge()
    ada, other = fair.signed_in("ada"), fair.client()
    board, page = "/e/first/leaderboard", f"/hand-ins/{row.id}/stories"
    assert [each["team"] for each in other.get(f"{board}.json").json()] == ["=HYPERLINK foxes"]
    table = pq.read_table(io.BytesIO(other.get(f"{board}.parquet").content))
    assert table["team"].to_pylist() == ["=HYPERLINK foxes"]
    assert ",'=HYPERLINK foxes," in other.get(f"{board}.csv").text
    assert len(other.get(f"{page}.json").json()) == 12 * 2
    own = ada.get(f"{page}.json").json()
    assert len(own) == 12 * 2 + 12
    assert {each["judge"] for each in own} == {"scripted-a", "scripted-b", None}
    first = pq.read_table(io.BytesIO(other.get(f"{page}.parquet").content)).to_pylist()[0]
    assert first["completion"].startswith(" =1+1")
    assert 1 <= first["grammar"] <= 10
    assert "' =1+1" in other.get(f"{page}.csv").text
    assert other.get(f"{page}.exe").status_code == 404
    assert other.get(f"{board}.exe").status_code == 404


def test_comparing_two_hand_ins_shows_both_on_the_same_prompts(fair: Fair) -> None:
    one, two = (
        fair.hand_in(fair.team("ada"), content=stories("and sang")),
        fair.hand_in(fair.team("bob"), content=stories("and sulked")),
    )
    fair.judge()
    text = fair.client().get(f"/compare?a={one.id}&b={two.id}").text
    assert "and sang" in text
    assert "and sulked" in text
    assert "shared prompts" in text


def test_health_metrics_and_the_empty_server_answer(fair: Fair) -> None:
    fair.hand_in(fair.team("ada"))
    client = fair.client()
    assert client.get("/healthz").text == "ok\n"
    assert 'smalltale_hand_ins{state="queued"} 1' in client.get("/metrics").text
    assert client.get("/nowhere").status_code == 404
    with fair.store.write() as session:
        session.execute(update(Edition).values(title=f"T {SCRIPT}"))
        session.execute(update(Team).values(hardware=f"H {SCRIPT}"))
    assert SCRIPT not in client.get("/").text
