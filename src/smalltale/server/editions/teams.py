"""Teams: declared with their hardware in the first week, at most so many people, one team a person, locked after it.

In: a person and what they ask. Out: Team rows, or a Problem.
Beware: the number of seats and one team a person are kept by unique keys, so two clicks at once cannot break them.
"""

from __future__ import annotations

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from smalltale.server.accounts.accounts import clean_handle, clean_name, name_key
from smalltale.server.admin import check_text, require_organiser
from smalltale.server.database.models import Edition, Person, Submission, Team, TeamInvitation, TeamMember
from smalltale.server.database.session import Database, append_audit
from smalltale.server.editions.editions import get_rules
from smalltale.server.errors import FieldProblem, RequestProblem, invalid_field, not_found


def find_team(session: Session, edition: Edition, person: Person) -> Team | None:
    """The person's team in this edition."""
    return session.scalar(
        select(Team)
        .join(TeamMember, TeamMember.team_id == Team.id)
        .where(TeamMember.edition_id == edition.id, TeamMember.person_id == person.id)
    )


def list_members(session: Session, team: Team) -> list[Person]:
    """A team's people, by seat."""
    return list(
        session.scalars(
            select(Person)
            .join(TeamMember, TeamMember.person_id == Person.id)
            .where(TeamMember.team_id == team.id)
            .order_by(TeamMember.seat)
        )
    )


def require_unlocked(database: Database, edition: Edition) -> None:
    """Raise Problem after the team lock."""
    lock = get_rules(edition).teams_lock()
    if database.now() >= lock:
        raise RequestProblem(
            409,
            f"teams were locked at {lock:%Y-%m-%d %H:%M} UTC, {get_rules(edition).team_lock_days} days after the start; ask the organisers",
        )


def create_team(database: Database, edition: Edition, person: Person, name: str, hardware: str) -> Team:
    """A new team of one. Raises Problem with every field's problem."""
    require_unlocked(database, edition)
    problems: list[FieldProblem] = []
    cleaned = []
    for value, field, most in ((name, "name", 40), (hardware, "hardware", 200)):
        try:
            cleaned.append(clean_name(value, field, most))
        except RequestProblem as problem:
            problems += problem.fields
    if problems:
        raise RequestProblem(422, "this was not accepted", problems)
    name, hardware = cleaned
    slotted = get_rules(edition).class_for_hardware(hardware)
    with database.write() as session:
        team = Team(
            edition_id=edition.id,
            name=name,
            name_key=name_key(name),
            hardware=hardware,
            weight_class=slotted.name,
            declared=database.now(),
        )
        try:
            with session.begin_nested():
                session.add(team)
        except IntegrityError as error:
            raise invalid_field(
                "name", f"a team called {name}, or much like it, exists", "choose another name", 409
            ) from error
        add_member(session, edition, team, person)
        append_audit(
            session,
            database.now(),
            person.handle,
            "team made",
            name,
            hardware=hardware,
            weight_class=slotted.name,
        )
        return team


def add_member(session: Session, edition: Edition, team: Team, person: Person) -> None:
    """Give a person a free seat. Raises Problem where the team is full or the person has a team."""
    for seat in range(get_rules(edition).team_size):
        if (
            session.scalar(
                select(TeamMember.seat).where(TeamMember.team_id == team.id, TeamMember.seat == seat)
            )
            is not None
        ):
            continue
        try:
            with session.begin_nested():
                session.add(
                    TeamMember(edition_id=edition.id, person_id=person.id, team_id=team.id, seat=seat)
                )
        except IntegrityError as error:
            if find_team(session, edition, person) is not None:
                raise RequestProblem(
                    409, f"{person.handle} already is in a team of this edition; leave it first"
                ) from error
            continue
        return
    raise RequestProblem(
        409, f"{team.name} is full: a team has at most {get_rules(edition).team_size} people"
    )


def invite_member(database: Database, edition: Edition, person: Person, handle: str) -> None:
    """Ask somebody into one's team. Raises Problem."""
    require_unlocked(database, edition)
    handle = clean_handle(handle)
    with database.write() as session:
        team = find_team(session, edition, person)
        if team is None:
            raise RequestProblem(409, "you have no team yet; make one first")
        if len(list_members(session, team)) >= get_rules(edition).team_size:
            raise invalid_field(
                "handle",
                f"{team.name} is full",
                f"a team has at most {get_rules(edition).team_size} people",
                409,
            )
        guest = session.scalar(select(Person).where(Person.handle == handle))
        if guest is None:
            raise invalid_field(
                "handle", f"nobody here is called {handle}", "ask for the handle they signed in with", 404
            )
        if find_team(session, edition, guest) is not None:
            raise invalid_field("handle", f"{handle} already is in a team", "ask them to leave it first", 409)
        found = session.scalar(
            select(TeamInvitation).where(
                TeamInvitation.team_id == team.id, TeamInvitation.person_id == guest.id
            )
        )
        if found is None:
            session.add(TeamInvitation(team_id=team.id, person_id=guest.id, created=database.now()))
        else:
            found.answer, found.created = None, database.now()
        append_audit(session, database.now(), person.handle, "invited", team.name, guest=handle)


def list_invitations(session: Session, edition: Edition, person: Person) -> list[tuple[TeamInvitation, Team]]:
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
    database: Database, edition: Edition, person: Person, invitation_id: int, accept: bool
) -> None:
    """Accept or decline. Raises Problem."""
    require_unlocked(database, edition)
    with database.write() as session:
        found = session.get(TeamInvitation, invitation_id)
        team = session.get(Team, found.team_id) if found else None
        if (
            found is None
            or team is None
            or found.person_id != person.id
            or team.edition_id != edition.id
            or found.answer
        ):
            raise not_found("invitation")
        if accept:
            add_member(session, edition, team, person)
        found.answer = "accepted" if accept else "declined"
        append_audit(session, database.now(), person.handle, f"invitation {found.answer}", team.name)


def leave_team(database: Database, edition: Edition, person: Person) -> None:
    """Leave one's team before the lock; an empty team that handed nothing in disappears."""
    require_unlocked(database, edition)
    with database.write() as session:
        team = find_team(session, edition, person)
        if team is None:
            raise not_found("team of yours")
        others = len(list_members(session, team)) - 1
        handed_in = session.scalar(
            select(func.count()).select_from(Submission).where(Submission.team_id == team.id)
        )
        if not others and handed_in:
            raise RequestProblem(
                409, f"{team.name} has handed in and you are its last member; it cannot be left empty"
            )
        session.execute(
            delete(TeamMember).where(TeamMember.edition_id == edition.id, TeamMember.person_id == person.id)
        )
        if not others:
            session.execute(delete(TeamInvitation).where(TeamInvitation.team_id == team.id))
            session.delete(team)
        append_audit(session, database.now(), person.handle, "left team", team.name)


def moderate_team(
    database: Database,
    organiser: Person,
    team_id: int,
    *,
    weight_class: str | None = None,
    disqualified: str | None = None,
    reinstated: bool = False,
) -> Team:
    """Confirm a team's class, disqualify it with a reason, or take that back. Raises Problem."""
    require_organiser(organiser)
    reason = None if disqualified is None else check_text(disqualified, 500, "the team reads it")
    with database.write() as session:
        team = session.get(Team, team_id)
        if team is None:
            raise not_found("team")
        edition = session.get_one(Edition, team.edition_id)
        if weight_class is not None:
            if weight_class not in {each.name for each in get_rules(edition).weight_classes}:
                raise invalid_field("weight_class", "this is no weight class", "choose one of the edition's")
            team.weight_class, team.confirmed = weight_class, True
            append_audit(
                session,
                database.now(),
                organiser.handle,
                "class confirmed",
                team.name,
                weight_class=weight_class,
            )
        if reason or reinstated:
            team.disqualified = reason
            action = "disqualified" if reason else "disqualification undone"
            append_audit(session, database.now(), organiser.handle, action, team.name, reason=reason)
        edition.revision += 1
        return team
