"""The organisers' pages: confirm, disqualify, judge again, answer appeals, manage accounts."""

from __future__ import annotations

import re

from sqlalchemy import update

from smalltale.server.accounts import accounts as people
from smalltale.server.database.models import Edition

from .conftest import Hackathon, read_form_token


def test_only_organisers_see_and_use_the_organisers_pages(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    hackathon.add_person("boss", admin=True)
    client, boss = hackathon.sign_in("ada"), hackathon.sign_in("boss")
    for path in ("/organise", "/organise/audit"):
        assert hackathon.client().get(path, follow_redirects=False).status_code == 303
        assert client.get(path).status_code == 403
        assert boss.get(path).status_code == 200
    assert (
        client.post(
            "/organise/teams/1",
            data={"form_token": read_form_token(client, "/team"), "do": "disqualify", "reason": "x"},
        ).status_code
        == 403
    )
    boss.post(
        "/organise/teams/1",
        data={
            "form_token": read_form_token(boss, "/organise"),
            "do": "disqualify",
            "reason": "copied stories",
        },
    )
    assert "copied stories" in client.get("/team").text
    code = re.search(
        r"/join/([\w-]+)",
        boss.post("/organise/invitations", data={"form_token": read_form_token(boss, "/organise")}).text,
    )
    assert code is not None
    assert hackathon.client().get(code[0]).status_code == 200


def test_an_appeal_is_answered_by_an_organiser(hackathon: Hackathon) -> None:
    submission = hackathon.submit(hackathon.add_team("ada"))
    hackathon.run_worker()
    hackathon.add_person("boss", admin=True)
    client, boss = hackathon.sign_in("ada"), hackathon.sign_in("boss")
    page = f"/submissions/{submission.id}"
    short = client.post(
        f"{page}/appeal", data={"form_token": read_form_token(client, page), "text": "why <b>"}
    )
    assert short.status_code == 422
    assert "it has 7 characters; write 10 to 2,000" in short.text
    assert 'This was not accepted: <a href="#text">see below</a>' in short.text
    assert ">why &lt;b&gt;</textarea>" in short.text
    appeal = {"form_token": read_form_token(client, page), "text": "The judge misread story 2."}
    client.post(f"{page}/appeal", data=appeal)
    assert client.post(f"{page}/appeal", data=appeal).status_code == 409
    assert "misread story 2" not in hackathon.client().get(page).text
    empty = boss.post(
        "/organise/appeals/1", data={"form_token": read_form_token(boss, "/organise"), "answer": " "}
    )
    assert empty.status_code == 422
    assert "it has 0 characters; write 3 to 2,000" in empty.text
    boss.post(
        "/organise/appeals/1",
        data={"form_token": read_form_token(boss, "/organise"), "answer": "It was judged again."},
    )
    assert "It was judged again." in client.get(page).text


def test_an_organisers_form_shows_its_problem_and_keeps_the_values_entered(hackathon: Hackathon) -> None:
    submission = hackathon.submit(hackathon.add_team("ada"))
    hackathon.run_worker()
    hackathon.add_person("boss", admin=True)
    boss = hackathon.sign_in("boss")

    def post(path: str, **fields: str) -> tuple[int, str]:
        response = boss.post(path, data={"form_token": read_form_token(boss, "/organise"), **fields})
        return response.status_code, response.text

    status, text = post("/organise/teams/1", do="disqualify", reason="x")
    assert (status, "it has 1 characters; write 3 to 500" in text) == (422, True)
    assert re.search(r'id="reason-1"[^>]*value="x"', text)
    assert post("/organise/teams/1", do="confirm", weight_class="nano")[0] == 422
    assert post("/organise/teams/9", do="confirm", weight_class="small")[0] == 404
    page = f"/organise/submissions/{submission.id}"
    status, text = post(page, do="judge", panel="a panel " * 20)
    assert (status, "is not a panel of The First; choose one of: scripted-1" in text) == (422, True)
    status, text = post(page, do="disqualify", reason="")
    assert (status, "it has 0 characters" in text) == (422, True)
    assert "Reinstate" in post(page, do="disqualify", reason="copied")[1]
    assert "Reinstate" not in post(page, do="reinstate")[1]
    status, text = post("/organise/accounts", handle="boss", act="close")
    assert (status, "that is your own account" in text) == (409, True)
    status, text = post("/organise/accounts", handle="unknown", act="close")
    assert (status, "no account has the handle unknown" in text, 'value="unknown"' in text) == (
        404,
        True,
        True,
    )


def test_a_closed_account_ends_its_sessions_until_it_is_reopened(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    hackathon.add_person("boss", admin=True)
    client, boss = hackathon.sign_in("ada"), hackathon.sign_in("boss")

    def change(act: str) -> None:
        boss.post(
            "/organise/accounts",
            data={"form_token": read_form_token(boss, "/organise"), "handle": "Ada", "act": act},
        )

    change("close")
    assert client.get("/team", follow_redirects=False).status_code == 303
    change("open")
    assert client.get("/team").status_code == 200
    change("promote")
    assert client.get("/organise").status_code == 200
    change("demote")
    assert client.get("/organise").status_code == 403


def test_an_organiser_sets_a_new_password_that_is_shown_once(hackathon: Hackathon) -> None:
    hackathon.add_person("ada")
    hackathon.add_person("boss", admin=True)
    client, boss = hackathon.sign_in("ada"), hackathon.sign_in("boss")

    def reset(handle: str) -> tuple[int, str]:
        fields = {"form_token": read_form_token(boss, "/organise"), "handle": handle, "act": "password"}
        response = boss.post("/organise/accounts", data=fields)
        return response.status_code, response.text

    text = reset("ada")[1]
    new_password = re.search(r'class="token">([\w-]{16})<', text)
    assert new_password is not None
    assert client.get("/account", follow_redirects=False).status_code == 303
    assert people.authenticate(hackathon.database, "ada", new_password[1]).handle == "ada"
    assert new_password[1] not in boss.get("/organise").text + boss.get("/organise/audit").text
    assert reset("unknown")[0] == 404


def test_a_new_panel_judges_every_submission_and_the_old_scores_are_kept(hackathon: Hackathon) -> None:
    submissions = [hackathon.submit(hackathon.add_team(name)) for name in ("ada", "bob")]
    hackathon.run_worker()
    hackathon.add_person("boss", admin=True)
    boss = hackathon.sign_in("boss")
    assert "has not judged" not in boss.get("/organise").text
    with hackathon.database.write() as session:
        session.execute(update(Edition).values(panel="scripted-2"))
    assert "Panel <code>scripted-2</code> has not judged 2 submissions" in boss.get("/organise").text
    for _ in range(2):
        boss.post("/organise/judging", data={"form_token": read_form_token(boss, "/organise")})
    page = hackathon.client().get(f"/submissions/{submissions[1].id}").text
    assert "Waiting to be judged again, number 2" in page
    assert hackathon.run_worker() == 2
    page = hackathon.client().get(f"/submissions/{submissions[0].id}").text
    assert "<b>scripted-2</b>" in page
    assert "?panel=scripted-1" in page
