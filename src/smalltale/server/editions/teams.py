"""Teams: declared with their hardware in the first week, at most so many people, one team a person, locked after it.

In: a person and what they ask. Out: Team rows, or a Problem.
Beware: the number of seats and one team a person are kept by unique keys, so two clicks at once cannot break them.
"""

from __future__ import annotations

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from smalltale.server.accounts.accounts import clean_handle, clean_name, name_key
from smalltale.server.admin import refuse_others, stated
from smalltale.server.database.models import Edition, HandIn, Member, Person, Team, TeamInvitation
from smalltale.server.database.session import Store, audit
from smalltale.server.editions.editions import rules_of
from smalltale.server.errors import FieldProblem, Problem, missing, refused


def team_of(session: Session, edition: Edition, person: Person) -> Team | None:
    """The person's team in this edition."""
    return session.scalar(
        select(Team)
        .join(Member, Member.team_id == Team.id)
        .where(Member.edition_id == edition.id, Member.person_id == person.id)
    )


def members_of(session: Session, team: Team) -> list[Person]:
    """A team's people, by seat."""
    return list(
        session.scalars(
            select(Person)
            .join(Member, Member.person_id == Person.id)
            .where(Member.team_id == team.id)
            .order_by(Member.seat)
        )
    )


def refuse_locked(store: Store, edition: Edition) -> None:
    """Raise Problem after the team lock."""
    lock = rules_of(edition).teams_lock()
    if store.now() >= lock:
        raise Problem(
            409,
            f"teams were locked at {lock:%Y-%m-%d %H:%M} UTC, {rules_of(edition).team_lock_days} days after the start; ask the organisers",
        )


def make_team(store: Store, edition: Edition, person: Person, name: str, hardware: str) -> Team:
    """A new team of one. Raises Problem with every field's problem."""
    refuse_locked(store, edition)
    problems: list[FieldProblem] = []
    cleaned = []
    for value, field, most in ((name, "name", 40), (hardware, "hardware", 200)):
        try:
            cleaned.append(clean_name(value, field, most))
        except Problem as problem:
            problems += problem.fields
    if problems:
        raise Problem(422, "this was not accepted", problems)
    name, hardware = cleaned
    slotted = rules_of(edition).class_for_hardware(hardware)
    with store.write() as session:
        team = Team(
            edition_id=edition.id,
            name=name,
            name_key=name_key(name),
            hardware=hardware,
            weight_class=slotted.name,
            declared=store.now(),
        )
        try:
            with session.begin_nested():
                session.add(team)
        except IntegrityError as error:
            raise refused(
                "name", f"a team called {name}, or much like it, exists", "choose another name", 409
            ) from error
        seat_member(session, edition, team, person)
        audit(
            session,
            store.now(),
            person.handle,
            "team made",
            name,
            hardware=hardware,
            weight_class=slotted.name,
        )
        return team


def seat_member(session: Session, edition: Edition, team: Team, person: Person) -> None:
    """Give a person a free seat. Raises Problem where the team is full or the person has a team."""
    for seat in range(rules_of(edition).team_size):
        if (
            session.scalar(select(Member.seat).where(Member.team_id == team.id, Member.seat == seat))
            is not None
        ):
            continue
        try:
            with session.begin_nested():
                session.add(Member(edition_id=edition.id, person_id=person.id, team_id=team.id, seat=seat))
        except IntegrityError as error:
            if team_of(session, edition, person) is not None:
                raise Problem(
                    409, f"{person.handle} already is in a team of this edition; leave it first"
                ) from error
            continue
        return
    raise Problem(409, f"{team.name} is full: a team has at most {rules_of(edition).team_size} people")


def invite(store: Store, edition: Edition, person: Person, handle: str) -> None:
    """Ask somebody into one's team. Raises Problem."""
    refuse_locked(store, edition)
    handle = clean_handle(handle)
    with store.write() as session:
        team = team_of(session, edition, person)
        if team is None:
            raise Problem(409, "you have no team yet; make one first")
        if len(members_of(session, team)) >= rules_of(edition).team_size:
            raise refused(
                "handle",
                f"{team.name} is full",
                f"a team has at most {rules_of(edition).team_size} people",
                409,
            )
        guest = session.scalar(select(Person).where(Person.handle == handle))
        if guest is None:
            raise refused(
                "handle", f"nobody here is called {handle}", "ask for the handle they signed in with", 404
            )
        if team_of(session, edition, guest) is not None:
            raise refused("handle", f"{handle} already is in a team", "ask them to leave it first", 409)
        found = session.scalar(
            select(TeamInvitation).where(
                TeamInvitation.team_id == team.id, TeamInvitation.person_id == guest.id
            )
        )
        if found is None:
            session.add(TeamInvitation(team_id=team.id, person_id=guest.id, made=store.now()))
        else:
            found.answer, found.made = None, store.now()
        audit(session, store.now(), person.handle, "invited", team.name, guest=handle)


def invitations_for(session: Session, edition: Edition, person: Person) -> list[tuple[TeamInvitation, Team]]:
    """Open invitations of a person."""
    rows = session.execute(
        select(TeamInvitation, Team)
        .join(Team, Team.id == TeamInvitation.team_id)
        .where(
            TeamInvitation.person_id == person.id,
            TeamInvitation.answer.is_(None),
            Team.edition_id == edition.id,
        )
        .order_by(TeamInvitation.id)
    )
    return [(row[0], row[1]) for row in rows]


def answer_invitation(
    store: Store, edition: Edition, person: Person, invitation_id: int, accept: bool
) -> None:
    """Accept or decline. Raises Problem."""
    refuse_locked(store, edition)
    with store.write() as session:
        found = session.get(TeamInvitation, invitation_id)
        team = session.get(Team, found.team_id) if found else None
        if (
            found is None
            or team is None
            or found.person_id != person.id
            or team.edition_id != edition.id
            or found.answer
        ):
            raise missing("invitation")
        if accept:
            seat_member(session, edition, team, person)
        found.answer = "accepted" if accept else "declined"
        audit(session, store.now(), person.handle, f"invitation {found.answer}", team.name)


def leave_team(store: Store, edition: Edition, person: Person) -> None:
    """Leave one's team before the lock; an empty team that handed nothing in disappears."""
    refuse_locked(store, edition)
    with store.write() as session:
        team = team_of(session, edition, person)
        if team is None:
            raise missing("team of yours")
        others = len(members_of(session, team)) - 1
        handed_in = session.scalar(select(func.count()).select_from(HandIn).where(HandIn.team_id == team.id))
        if not others and handed_in:
            raise Problem(
                409, f"{team.name} has handed in and you are its last member; it cannot be left empty"
            )
        session.execute(delete(Member).where(Member.edition_id == edition.id, Member.person_id == person.id))
        if not others:
            session.execute(delete(TeamInvitation).where(TeamInvitation.team_id == team.id))
            session.delete(team)
        audit(session, store.now(), person.handle, "left team", team.name)


def organise_team(
    store: Store,
    organiser: Person,
    team_id: int,
    *,
    weight_class: str | None = None,
    disqualified: str | None = None,
    reinstated: bool = False,
) -> Team:
    """Confirm a team's class, disqualify it with a reason, or take that back. Raises Problem."""
    refuse_others(organiser)
    reason = None if disqualified is None else stated(disqualified, 500, "the team reads it")
    with store.write() as session:
        team = session.get(Team, team_id)
        if team is None:
            raise missing("team")
        edition = session.get_one(Edition, team.edition_id)
        if weight_class is not None:
            if weight_class not in {each.name for each in rules_of(edition).weight_classes}:
                raise refused("weight_class", "this is no weight class", "choose one of the edition's")
            team.weight_class, team.confirmed = weight_class, True
            audit(
                session,
                store.now(),
                organiser.handle,
                "class confirmed",
                team.name,
                weight_class=weight_class,
            )
        if reason or reinstated:
            team.disqualified = reason
            action = "disqualified" if reason else "disqualification undone"
            audit(session, store.now(), organiser.handle, action, team.name, reason=reason)
        edition.revision += 1
        return team
