"""The pages: team, submission form, leaderboard, comparison, exports, and what each visitor may see."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pyarrow.parquet as pq
from sqlalchemy import func, select, update

from smalltale.server.database.models import Edition, Prompt, Submission, Team
from smalltale.server.exchange.tables import encode_table
from smalltale.server.submissions.visibility import view_submission

from .conftest import PROMPTS, Hackathon, form_fields, read_form_token, submission_csv, submit_form

SCRIPT = "<script>alert(1)</script>"


def test_importing_the_web_app_never_imports_torch() -> None:
    code = "import smalltale.server.web.app, smalltale.server.worker, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0


def test_a_team_is_created_submits_and_appears_on_the_leaderboard(hackathon: Hackathon) -> None:
    hackathon.add_person("bob")
    hackathon.add_person("ada")
    ada, bob = hackathon.sign_in("ada"), hackathon.sign_in("bob")
    team_page = ada.post(
        "/team",
        data={"form_token": read_form_token(ada, "/team"), "name": "Two Foxes", "hardware": "MacBook Air M2"},
    )
    assert "Two Foxes" in team_page.text
    ada.post("/team/invite", data={"form_token": read_form_token(ada, "/team"), "handle": "bob"})
    invitation = re.search(r"/team/invitations/(\d+)", bob.get("/team").text)
    assert invitation is not None
    bob.post(invitation[0], data={"form_token": read_form_token(bob, "/team"), "answer": "accept"})
    assert "ada, <bdi>bob</bdi>" in ada.get("/team").text.replace("<bdi>ada</bdi>", "ada")
    page = submit_form(bob, submission_csv())
    assert "queue" in bob.get(page).text
    assert "Two Foxes" in bob.get("/e/first/queue").text
    assert hackathon.run_worker() == 1
    assert re.search(
        r"Two Foxes.*?small", hackathon.client().get("/e/first/leaderboard?class=small").text, re.S
    )
    assert "Two Foxes" not in hackathon.client().get("/e/first/leaderboard?class=large").text
    assert hackathon.client().get("/e/first/leaderboard.csv").text.startswith("\ufeffrank,tied,team")


def test_a_refused_form_shows_every_problem_and_keeps_the_values_entered(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    client = hackathon.sign_in("ada")
    data = {
        **form_fields(counted_parameters="lots", model_hash="zz", data='my "own" <b>text</b>'),
        "form_token": read_form_token(client, "/submit"),
    }
    response = client.post("/submit", data=data, files={"file": ("stories.csv", b"prompt,completion\nx,y\n")})
    assert response.status_code == 422
    assert "lots is not a number of parameters" in response.text
    assert "zz is not a SHA-256" in response.text
    assert "every prompt needs 4" in response.text
    assert 'value="my &#34;own&#34; &lt;b&gt;text&lt;/b&gt;"' in response.text


def test_a_checked_file_is_not_saved(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    client = hackathon.sign_in("ada")
    data = {"kind": "daily", "do": "check", "form_token": read_form_token(client, "/submit")}
    assert (
        "passes the check"
        in client.post("/submit", data=data, files={"file": ("a.csv", submission_csv())}).text
    )
    with hackathon.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Submission)) == 0


def test_another_teams_private_stories_and_scores_stay_private_until_the_end(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    hackathon.add_team("eve")
    ada, eve = hackathon.sign_in("ada"), hackathon.sign_in("eve")
    page = submit_form(ada, submission_csv("SECRET"), sampling="temperature 0.1234")
    assert eve.get(page).status_code == 404
    hackathon.run_worker()
    with hackathon.database.read() as session:
        private = session.scalars(
            select(Prompt.text).where(~Prompt.public, Prompt.position < 6, Prompt.text.in_(PROMPTS))
        ).all()
    eve_sees, ada_sees = eve.get(page).text, ada.get(page).text
    assert all(prompt not in eve_sees for prompt in private)
    assert "0.1234" not in eve_sees
    assert all(prompt in ada_sees + ada.get(f"{page}?page=2").text for prompt in private)
    assert ada.get("/e/first/leaderboard?side=private").status_code == 403
    assert eve.get("/teams/1").status_code == 200
    hackathon.clock.advance(days=60)
    assert all(prompt in eve.get(page).text + eve.get(f"{page}?page=2").text for prompt in private)
    assert hackathon.client().get("/e/first/leaderboard?side=private").status_code == 200


def test_a_team_sees_its_own_private_stories_without_their_scores(hackathon: Hackathon) -> None:
    submission = hackathon.submit(hackathon.add_team("ada"))
    hackathon.run_worker()
    with hackathon.database.read() as session:
        view = view_submission(session, submission.id, None, hackathon.clock.now)
    assert view.scores_public_only
    text = hackathon.sign_in("ada").get(f"/submissions/{submission.id}").text
    cards = text.split('<article class="story card">')[1:]
    assert all("scripted-a" not in card for card in cards if "private prompt" in card)
    assert any("scripted-a" in card for card in cards if "private prompt" not in card)


def test_the_final_prompts_are_released_at_their_time(hackathon: Hackathon) -> None:
    client = hackathon.client()
    assert client.get("/e/first/prompts/final.csv").status_code == 404
    hackathon.clock.advance(days=29)
    assert client.get("/e/first/prompts/final.csv").status_code == 200


def test_the_form_says_in_advance_that_the_daily_submission_is_used(hackathon: Hackathon) -> None:
    hackathon.submit(hackathon.add_team("ada"))
    client = hackathon.sign_in("ada")
    assert (
        "Your team has already submitted on 2026-03-03 (AOE); next at 04 Mar 12:00 UTC"
        in client.get("/submit").text
    )
    hackathon.clock.advance(days=1)
    assert "already submitted" not in client.get("/submit").text
    hackathon.clock.now = hackathon.edition.ends
    assert "closed at 2026-04-08 12:00 UTC" in hackathon.sign_in("ada").get("/submit").text


def test_csv_exports_contain_no_formula(hackathon: Hackathon) -> None:
    rows = [{"team": '=HYPERLINK("http://evil.test")', "note": "-1+1", "mean": -1.5, "plain": "fine"}]
    assert (
        encode_table(rows, "csv").decode("utf-8-sig").splitlines()[1]
        == '"\'=HYPERLINK(""http://evil.test"")",\'-1+1,-1.5,fine'
    )
    assert encode_table([], "csv") == "\ufeff\r\n".encode()


def test_leaderboards_and_stories_are_exported_as_csv_json_and_parquet(hackathon: Hackathon) -> None:
    submission = hackathon.submit(
        hackathon.add_team("ada", name="=HYPERLINK foxes"), content=submission_csv("=1+1, =HYPERLINK")
    )
    hackathon.run_worker()
    ada, visitor = hackathon.sign_in("ada"), hackathon.client()
    leaderboard, page = "/e/first/leaderboard", f"/submissions/{submission.id}/stories"
    assert [row["team"] for row in visitor.get(f"{leaderboard}.json").json()] == ["=HYPERLINK foxes"]
    table = pq.read_table(io.BytesIO(visitor.get(f"{leaderboard}.parquet").content))
    assert table["team"].to_pylist() == ["=HYPERLINK foxes"]
    assert ",'=HYPERLINK foxes," in visitor.get(f"{leaderboard}.csv").text
    assert len(visitor.get(f"{page}.json").json()) == 12 * 2
    own_rows = ada.get(f"{page}.json").json()
    assert len(own_rows) == 12 * 2 + 12
    assert {row["judge"] for row in own_rows} == {"scripted-a", "scripted-b", None}
    first = pq.read_table(io.BytesIO(visitor.get(f"{page}.parquet").content)).to_pylist()[0]
    assert first["completion"].startswith(" =1+1")
    assert 1 <= first["grammar"] <= 10
    assert "' =1+1" in visitor.get(f"{page}.csv").text
    assert visitor.get(f"{page}.exe").status_code == 404
    assert visitor.get(f"{leaderboard}.exe").status_code == 404


def test_comparing_two_submissions_shows_both_on_the_same_prompts(hackathon: Hackathon) -> None:
    ada, bob = (
        hackathon.submit(hackathon.add_team("ada"), content=submission_csv("and sang")),
        hackathon.submit(hackathon.add_team("bob"), content=submission_csv("and sulked")),
    )
    hackathon.run_worker()
    text = hackathon.client().get(f"/compare?a={ada.id}&b={bob.id}").text
    assert "and sang" in text
    assert "and sulked" in text
    assert "shared prompts" in text


def test_a_comparison_needs_two_submissions(hackathon: Hackathon) -> None:
    response = hackathon.client().get("/compare?a=1")
    assert (response.status_code, "Choose two submissions to compare" in response.text) == (422, True)


def test_the_addresses_of_earlier_versions_redirect_permanently(hackathon: Hackathon) -> None:
    client = hackathon.client()
    for old_address, address in (
        ("/hand-in", "/submit"),
        ("/hand-ins/7?order=best&page=2", "/submissions/7?order=best&page=2"),
        ("/hand-ins/7/stories.csv", "/submissions/7/stories.csv"),
    ):
        response = client.get(old_address, follow_redirects=False)
        assert (response.status_code, response.headers["location"]) == (308, address)


def test_health_and_metrics_answer(hackathon: Hackathon) -> None:
    hackathon.submit(hackathon.add_team("ada"))
    client = hackathon.client()
    assert client.get("/healthz").text == "ok\n"
    assert 'smalltale_hand_ins{state="queued"} 1' in client.get("/metrics").text
    assert client.get("/nowhere").status_code == 404
    with hackathon.database.write() as session:
        session.execute(update(Edition).values(title=f"T {SCRIPT}"))
        session.execute(update(Team).values(hardware=f"H {SCRIPT}"))
    assert SCRIPT not in client.get("/").text
