"""Teams of at most two, in the first week, one a person; accounts and names."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from smalltale.server.accounts import accounts as people
from smalltale.server.database.models import Audit, Member, Person, Team
from smalltale.server.database.session import audit, broken_audit_row
from smalltale.server.editions import teams
from smalltale.server.errors import Problem

from .conftest import Fair


def asked_in(fair: Fair, owner: Person, guest: Person) -> int:
    teams.invite(fair.store, fair.edition, owner, guest.handle)
    with fair.store.read() as session:
        return teams.invitations_for(session, fair.edition, guest)[0][0].id


def test_a_second_person_joins_by_invitation_and_a_third_cannot(fair: Fair) -> None:
    ada, bob, eve = fair.team("ada"), fair.person("bob"), fair.person("eve")
    first, second = asked_in(fair, ada, bob), asked_in(fair, ada, eve)
    teams.answer_invitation(fair.store, fair.edition, bob, first, accept=True)
    with pytest.raises(Problem, match="at most 2 people"):
        teams.answer_invitation(fair.store, fair.edition, eve, second, accept=True)
    with pytest.raises(Problem, match="no such invitation"):
        teams.answer_invitation(fair.store, fair.edition, eve, first, accept=True)


def test_a_person_has_one_team(fair: Fair) -> None:
    ada, bob = fair.team("ada"), fair.team("bob")
    with pytest.raises(Problem, match="already is in a team"):
        teams.make_team(fair.store, fair.edition, ada, "Another", "RTX 4090")
    with pytest.raises(Problem, match="already is in a team"):
        teams.invite(fair.store, fair.edition, ada, bob.handle)
    with fair.store.read() as session:
        assert session.scalar(select(func.count()).select_from(Team)) == 2


def test_teams_lock_after_the_first_week(fair: Fair) -> None:
    ada, bob = fair.team("ada"), fair.person("bob")
    invitation = asked_in(fair, ada, bob)
    fair.clock.advance(days=5)
    for act in (
        lambda: teams.make_team(fair.store, fair.edition, bob, "Late", "M1"),
        lambda: teams.invite(fair.store, fair.edition, ada, "bob"),
        lambda: teams.answer_invitation(fair.store, fair.edition, bob, invitation, accept=True),
        lambda: teams.leave_team(fair.store, fair.edition, ada),
    ):
        with pytest.raises(Problem, match="locked at 2026-03-08 12:00 UTC"):
            act()


def test_who_leaves_before_the_lock_may_join_another_and_an_empty_team_goes(fair: Fair) -> None:
    ada, bob = fair.team("ada"), fair.team("bob")
    teams.leave_team(fair.store, fair.edition, bob)
    teams.answer_invitation(fair.store, fair.edition, bob, asked_in(fair, ada, bob), accept=True)
    with fair.store.read() as session:
        assert session.scalar(select(func.count()).select_from(Member)) == 2
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
    with pytest.raises(Problem, match=why):
        people.clean_name(name)


def test_two_teams_cannot_have_names_that_look_the_same(fair: Fair) -> None:
    fair.team("ada", name="Two Foxes")
    with pytest.raises(Problem, match="much like it"):
        fair.team("bob", name="two  föxes".replace("ö", "o"))


def test_an_organiser_confirms_a_class_and_disqualifies_with_a_reason(fair: Fair) -> None:
    ada, boss = fair.team("ada"), fair.person("boss", admin=True)
    with pytest.raises(Problem, match="only organisers"):
        teams.organise_team(fair.store, ada, 1, weight_class="large")
    with fair.store.read() as session:
        number = session.scalars(select(Team.id)).one()
    assert teams.organise_team(fair.store, boss, number, weight_class="large").confirmed
    teams.organise_team(fair.store, boss, number, disqualified="trained on the prompts")
    with pytest.raises(Problem, match="disqualified: trained on the prompts"):
        fair.hand_in(ada)


def test_an_invitation_makes_one_account(fair: Fair) -> None:
    code = people.invite_account(fair.store, "boss")
    with pytest.raises(Problem) as caught:
        people.join(fair.store, code, "No Spaces", "short")
    assert [each.field for each in caught.value.fields] == ["handle", "password"]
    assert people.join(fair.store, code, "Ada", "a long password").handle == "ada"
    with pytest.raises(Problem, match="unknown, used or over"):
        people.join(fair.store, code, "bob", "a long password")


def test_a_token_speaks_for_its_person_within_its_scopes_until_revoked(fair: Fair) -> None:
    ada, bob = fair.person("ada"), fair.person("bob")
    token = people.make_token(fair.store, ada, "laptop", ["read"])
    assert people.person_of_token(fair.store, token, "read").id == ada.id
    with pytest.raises(Problem, match="lacks the scope 'hand-in'"):
        people.person_of_token(fair.store, token, "hand-in")
    with pytest.raises(Problem, match="no such token"):
        people.revoke_token(fair.store, bob, 1)
    with pytest.raises(Problem, match="choose of: read, hand-in"):
        people.make_token(fair.store, ada, "power", ["organise"])
    people.revoke_token(fair.store, ada, 1)
    with pytest.raises(Problem, match="unknown or revoked"):
        people.person_of_token(fair.store, token, "read")


def test_the_audit_log_only_grows_and_shows_a_changed_row(fair: Fair) -> None:
    with fair.store.write() as session:
        audit(session, fair.store.now(), "ada", "did", "this")
        audit(session, fair.store.now(), "bob", "did", "that")
    for statement in ("UPDATE audit SET actor = 'eve'", "DELETE FROM audit"):
        with pytest.raises(DBAPIError, match="only grows"), fair.store.write() as session:
            session.execute(text(statement))
    with fair.store.read() as session:
        assert broken_audit_row(session) is None
        last = session.scalars(select(Audit).order_by(Audit.id.desc()).limit(1)).one()
        session.expunge(last)
    with fair.store.write() as session:
        session.add(
            Audit(at=fair.store.now(), actor="eve", action="planted", subject="x", detail={}, hash="0" * 64)
        )
    with fair.store.read() as session:
        assert broken_audit_row(session) == last.id + 1
