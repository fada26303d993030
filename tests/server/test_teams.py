"""Teams of at most two people, created in the first week, one per person; accounts, tokens and names."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from smalltale.server.accounts import accounts
from smalltale.server.database.models import Audit, Person, Team, TeamMember
from smalltale.server.database.session import append_audit, find_broken_audit_row, translate_audit
from smalltale.server.editions import teams
from smalltale.server.errors import RequestProblem

from .conftest import Hackathon


def send_invitation(hackathon: Hackathon, owner: Person, guest: Person) -> int:
    teams.invite_member(hackathon.database, hackathon.edition, owner, guest.handle)
    with hackathon.database.read() as session:
        return teams.list_invitations(session, hackathon.edition, guest)[0][0].id


def test_a_second_person_joins_by_invitation_but_a_third_cannot(hackathon: Hackathon) -> None:
    ada, bob, eve = hackathon.add_team("ada"), hackathon.add_person("bob"), hackathon.add_person("eve")
    first, second = send_invitation(hackathon, ada, bob), send_invitation(hackathon, ada, eve)
    teams.answer_invitation(hackathon.database, hackathon.edition, bob, first, accept=True)
    with pytest.raises(RequestProblem, match="at most 2 people"):
        teams.answer_invitation(hackathon.database, hackathon.edition, eve, second, accept=True)
    with pytest.raises(RequestProblem, match="no such invitation"):
        teams.answer_invitation(hackathon.database, hackathon.edition, eve, first, accept=True)


def test_a_person_has_one_team(hackathon: Hackathon) -> None:
    ada, bob = hackathon.add_team("ada"), hackathon.add_team("bob")
    with pytest.raises(RequestProblem, match="is already in a team"):
        teams.create_team(hackathon.database, hackathon.edition, ada, "Another", "RTX 4090")
    with pytest.raises(RequestProblem, match="is already in a team"):
        teams.invite_member(hackathon.database, hackathon.edition, ada, bob.handle)
    with hackathon.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Team)) == 2


def test_teams_lock_after_the_first_week(hackathon: Hackathon) -> None:
    ada, bob = hackathon.add_team("ada"), hackathon.add_person("bob")
    invitation = send_invitation(hackathon, ada, bob)
    hackathon.clock.advance(days=5)
    for attempt in (
        lambda: teams.create_team(hackathon.database, hackathon.edition, bob, "Late", "M1"),
        lambda: teams.invite_member(hackathon.database, hackathon.edition, ada, "bob"),
        lambda: teams.answer_invitation(hackathon.database, hackathon.edition, bob, invitation, accept=True),
        lambda: teams.leave_team(hackathon.database, hackathon.edition, ada),
    ):
        with pytest.raises(RequestProblem, match="locked at 2026-03-08 12:00 UTC"):
            attempt()


def test_a_person_may_change_teams_before_the_lock_and_an_empty_team_is_deleted(hackathon: Hackathon) -> None:
    ada, bob = hackathon.add_team("ada"), hackathon.add_team("bob")
    teams.leave_team(hackathon.database, hackathon.edition, bob)
    teams.answer_invitation(
        hackathon.database, hackathon.edition, bob, send_invitation(hackathon, ada, bob), accept=True
    )
    with hackathon.database.read() as session:
        assert session.scalar(select(func.count()).select_from(TeamMember)) == 2
        assert session.scalars(select(Team.name)).all() == ["Team ada"]


@pytest.mark.parametrize(
    ("name", "message"),
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
def test_a_deceptive_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(RequestProblem, match=message):
        accounts.clean_name(name)


def test_two_teams_cannot_have_similar_names(hackathon: Hackathon) -> None:
    hackathon.add_team("ada", name="Two Foxes")
    with pytest.raises(RequestProblem, match="or similar, exists"):
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


def test_an_invitation_creates_one_account(hackathon: Hackathon) -> None:
    code = accounts.invite_account(hackathon.database, "boss")
    with pytest.raises(RequestProblem) as raised:
        accounts.create_account(hackathon.database, code, "No Spaces", "short")
    assert [problem.field for problem in raised.value.fields] == ["handle", "password"]
    assert accounts.create_account(hackathon.database, code, "Ada", "a long password").handle == "ada"
    with pytest.raises(RequestProblem, match="unknown, used or expired"):
        accounts.create_account(hackathon.database, code, "bob", "a long password")


def test_a_token_authenticates_its_person_within_its_scopes_until_it_is_revoked(hackathon: Hackathon) -> None:
    ada, bob = hackathon.add_person("ada"), hackathon.add_person("bob")
    token = accounts.create_token(hackathon.database, ada, "laptop", ["read"])
    assert accounts.authenticate_token(hackathon.database, token, "read").id == ada.id
    with pytest.raises(RequestProblem, match="lacks the scope 'hand-in'"):
        accounts.authenticate_token(hackathon.database, token, "hand-in")
    with pytest.raises(RequestProblem, match="no such token"):
        accounts.revoke_token(hackathon.database, bob, 1)
    with pytest.raises(RequestProblem, match="choose from: read, hand-in"):
        accounts.create_token(hackathon.database, ada, "power", ["organise"])
    accounts.revoke_token(hackathon.database, ada, 1)
    with pytest.raises(RequestProblem, match="unknown or revoked"):
        accounts.authenticate_token(hackathon.database, token, "read")


def test_the_audit_log_only_grows_and_a_planted_row_is_found(hackathon: Hackathon) -> None:
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
                at=hackathon.database.now(),
                actor="eve",
                action="planted",
                subject="x",
                detail={},
                hash="0" * 64,
            )
        )
    with hackathon.database.read() as session:
        assert find_broken_audit_row(session) == last.id + 1


def test_older_terms_of_the_audit_log_are_shown_in_current_ones() -> None:
    stored = ("handed in", "hand-in 12", "disqualified", "hand-in heroes")
    assert [*map(translate_audit, stored)] == ["submitted", "submission 12", "disqualified", "hand-in heroes"]
