"""Teams of at most two, in the first week, one a person; accounts and names."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from smalltale.server.accounts import accounts as people
from smalltale.server.database.models import Audit, TeamMember, Person, Team
from smalltale.server.database.session import append_audit, find_broken_audit_row
from smalltale.server.editions import teams
from smalltale.server.errors import RequestProblem

from .conftest import Hackathon


def asked_in(hackathon: Hackathon, owner: Person, guest: Person) -> int:
    teams.invite_member(hackathon.database, hackathon.edition, owner, guest.handle)
    with hackathon.database.read() as session:
        return teams.list_invitations(session, hackathon.edition, guest)[0][0].id


def test_a_second_person_joins_by_invitation_and_a_third_cannot(hackathon: Hackathon) -> None:
    ada, bob, eve = hackathon.add_team("ada"), hackathon.add_person("bob"), hackathon.add_person("eve")
    first, second = asked_in(hackathon, ada, bob), asked_in(hackathon, ada, eve)
    teams.answer_invitation(hackathon.database, hackathon.edition, bob, first, accept=True)
    with pytest.raises(RequestProblem, match="at most 2 people"):
        teams.answer_invitation(hackathon.database, hackathon.edition, eve, second, accept=True)
    with pytest.raises(RequestProblem, match="no such invitation"):
        teams.answer_invitation(hackathon.database, hackathon.edition, eve, first, accept=True)


def test_a_person_has_one_team(hackathon: Hackathon) -> None:
    ada, bob = hackathon.add_team("ada"), hackathon.add_team("bob")
    with pytest.raises(RequestProblem, match="already is in a team"):
        teams.create_team(hackathon.database, hackathon.edition, ada, "Another", "RTX 4090")
    with pytest.raises(RequestProblem, match="already is in a team"):
        teams.invite_member(hackathon.database, hackathon.edition, ada, bob.handle)
    with hackathon.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Team)) == 2


def test_teams_lock_after_the_first_week(hackathon: Hackathon) -> None:
    ada, bob = hackathon.add_team("ada"), hackathon.add_person("bob")
    invitation = asked_in(hackathon, ada, bob)
    hackathon.clock.advance(days=5)
    for act in (
        lambda: teams.create_team(hackathon.database, hackathon.edition, bob, "Late", "M1"),
        lambda: teams.invite_member(hackathon.database, hackathon.edition, ada, "bob"),
        lambda: teams.answer_invitation(hackathon.database, hackathon.edition, bob, invitation, accept=True),
        lambda: teams.leave_team(hackathon.database, hackathon.edition, ada),
    ):
        with pytest.raises(RequestProblem, match="locked at 2026-03-08 12:00 UTC"):
            act()


def test_who_leaves_before_the_lock_may_join_another_and_an_empty_team_goes(hackathon: Hackathon) -> None:
    ada, bob = hackathon.add_team("ada"), hackathon.add_team("bob")
    teams.leave_team(hackathon.database, hackathon.edition, bob)
    teams.answer_invitation(
        hackathon.database, hackathon.edition, bob, asked_in(hackathon, ada, bob), accept=True
    )
    with hackathon.database.read() as session:
        assert session.scalar(select(func.count()).select_from(TeamMember)) == 2
        assert session.scalars(select(Team.name)).all() == ["Team ada"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a\u202egnp.exe", "U\\+202E"),
        ("zero\u200bwidth", "U\\+200B"),
        ("x", "it has 1 characters"),
        ("q" * 41, "it has 41 characters"),
        ("р\u0430ypal", "look-alike scripts"),
        ("!!!", "no letter or digit"),
        ("\u3164\u3164\u3164", "U\\+1160"),
    ],
)
def test_a_name_that_could_deceive_is_refused(name: str, why: str) -> None:
    with pytest.raises(RequestProblem, match=why):
        people.clean_name(name)


def test_two_teams_cannot_have_names_that_look_the_same(hackathon: Hackathon) -> None:
    hackathon.add_team("ada", name="Two Foxes")
    with pytest.raises(RequestProblem, match="much like it"):
        hackathon.add_team("bob", name="two  föxes".replace("ö", "o"))


def test_an_organiser_confirms_a_class_and_disqualifies_with_a_reason(hackathon: Hackathon) -> None:
    ada, boss = hackathon.add_team("ada"), hackathon.add_person("boss", admin=True)
    with pytest.raises(RequestProblem, match="only organisers"):
        teams.moderate_team(hackathon.database, ada, 1, weight_class="large")
    with hackathon.database.read() as session:
        number = session.scalars(select(Team.id)).one()
    assert teams.moderate_team(hackathon.database, boss, number, weight_class="large").confirmed
    teams.moderate_team(hackathon.database, boss, number, disqualified="trained on the prompts")
    with pytest.raises(RequestProblem, match="disqualified: trained on the prompts"):
        hackathon.submit(ada)


def test_an_invitation_makes_one_account(hackathon: Hackathon) -> None:
    code = people.invite_account(hackathon.database, "boss")
    with pytest.raises(RequestProblem) as caught:
        people.create_account(hackathon.database, code, "No Spaces", "short")
    assert [each.field for each in caught.value.fields] == ["handle", "password"]
    assert people.create_account(hackathon.database, code, "Ada", "a long password").handle == "ada"
    with pytest.raises(RequestProblem, match="unknown, used or expired"):
        people.create_account(hackathon.database, code, "bob", "a long password")


def test_a_token_speaks_for_its_person_within_its_scopes_until_revoked(hackathon: Hackathon) -> None:
    ada, bob = hackathon.add_person("ada"), hackathon.add_person("bob")
    token = people.create_token(hackathon.database, ada, "laptop", ["read"])
    assert people.authenticate_token(hackathon.database, token, "read").id == ada.id
    with pytest.raises(RequestProblem, match="lacks the scope 'hand-in'"):
        people.authenticate_token(hackathon.database, token, "hand-in")
    with pytest.raises(RequestProblem, match="no such token"):
        people.revoke_token(hackathon.database, bob, 1)
    with pytest.raises(RequestProblem, match="choose of: read, hand-in"):
        people.create_token(hackathon.database, ada, "power", ["organise"])
    people.revoke_token(hackathon.database, ada, 1)
    with pytest.raises(RequestProblem, match="unknown or revoked"):
        people.authenticate_token(hackathon.database, token, "read")


def test_the_audit_log_only_grows_and_shows_a_changed_row(hackathon: Hackathon) -> None:
    with hackathon.database.write() as session:
        append_audit(session, hackathon.database.now(), "ada", "did", "this")
        append_audit(session, hackathon.database.now(), "bob", "did", "that")
    for statement in ("UPDATE audit SET actor = 'eve'", "DELETE FROM audit"):
        with pytest.raises(DBAPIError, match="only grows"), hackathon.database.write() as session:
            session.execute(text(statement))
    with hackathon.database.read() as session:
        assert find_broken_audit_row(session) is None
        last = session.scalars(select(Audit).order_by(Audit.id.desc()).limit(1)).one()
        session.expunge(last)
    with hackathon.database.write() as session:
        session.add(
            Audit(
                at=hackathon.database.now(), actor="eve", action="planted", subject="x", detail={}, hash="0" * 64
            )
        )
    with hackathon.database.read() as session:
        assert find_broken_audit_row(session) == last.id + 1
