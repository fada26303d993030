"""Teams of an edition: created with their hardware, joined by invitation, locked some days after the start.

Input: a person and a request. Output: Team rows, or a RequestProblem.
Note: unique keys enforce both limits, the seats of a team and one team per person, so simultaneous requests cannot exceed them.
"""

from __future__ import annotations

from sqlalchemy import delete, select
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
    """A team's members, by seat."""
    return list(
        session.scalars(
            select(Person)
            .join(TeamMember, TeamMember.person_id == Person.id)
            .where(TeamMember.team_id == team.id)
            .order_by(TeamMember.seat)
        )
    )


def require_unlocked(database: Database, edition: Edition) -> None:
    """Raise RequestProblem after the team lock."""
    lock = get_rules(edition).teams_lock()
    if database.now() >= lock:
        days = get_rules(edition).team_lock_days
        title = (
            f"teams were locked at {lock:%Y-%m-%d %H:%M} UTC, {days} days after the start; ask the organisers"
        )
        raise RequestProblem(409, title)


def create_team(database: Database, edition: Edition, person: Person, name: str, hardware: str) -> Team:
    """Create a team with one member. Raises RequestProblem with every field's problem."""
    require_unlocked(database, edition)
    problems: list[FieldProblem] = []
    cleaned = []
    for text, field, max_characters in ((name, "name", 40), (hardware, "hardware", 200)):
        try:
            cleaned.append(clean_name(text, field, max_characters))
        except RequestProblem as problem:
            problems += problem.fields
    if problems:
        raise RequestProblem(422, "this was not accepted", problems)
    name, hardware = cleaned
    weight_class = get_rules(edition).class_for_hardware(hardware)
    with database.write() as session:
        team = Team(
            edition_id=edition.id,
            name=name,
            name_key=name_key(name),
            hardware=hardware,
            weight_class=weight_class.name,
            declared=database.now(),
        )
        try:
            with session.begin_nested():
                session.add(team)
        except IntegrityError as error:
            message = f"a team called {name}, or similar, exists"
            raise invalid_field("name", message, "choose another name", 409) from error
        add_member(session, edition, team, person)
        detail = {"hardware": hardware, "weight_class": weight_class.name}
        append_audit(session, team.declared, person.handle, "team made", name, **detail)
        return team


def add_member(session: Session, edition: Edition, team: Team, person: Person) -> None:
    """Give a person a free seat. Raises RequestProblem if the team is full or the person has a team."""
    seats = get_rules(edition).team_size
    for seat in range(seats):
        if session.scalar(select(TeamMember).where(TeamMember.team_id == team.id, TeamMember.seat == seat)):
            continue
        member = TeamMember(edition_id=edition.id, person_id=person.id, team_id=team.id, seat=seat)
        try:
            with session.begin_nested():
                session.add(member)
            return
        except IntegrityError as error:
            if find_team(session, edition, person) is not None:
                title = f"{person.handle} is already in a team of this edition; leave it first"
                raise RequestProblem(409, title) from error
    raise RequestProblem(409, f"{team.name} is full: a team has at most {seats} people")


def invite_member(database: Database, edition: Edition, person: Person, handle: str) -> None:
    """Invite a person to one's team. Raises RequestProblem."""
    require_unlocked(database, edition)
    handle = clean_handle(handle)
    with database.write() as session:
        team = find_team(session, edition, person)
        if team is None:
            raise RequestProblem(409, "you have no team yet; create one first")
        if len(list_members(session, team)) >= (seats := get_rules(edition).team_size):
            fix = f"a team has at most {seats} people"
            raise invalid_field("handle", f"{team.name} is full", fix, 409)
        guest = session.scalar(select(Person).where(Person.handle == handle))
        if guest is None:
            fix = "ask the person for the handle they sign in with"
            raise invalid_field("handle", f"no account has the handle {handle}", fix, 404)
        if find_team(session, edition, guest) is not None:
            raise invalid_field("handle", f"{handle} is already in a team", "ask them to leave it first", 409)
        same_invitation = (TeamInvitation.team_id == team.id) & (TeamInvitation.person_id == guest.id)
        invitation = session.scalar(select(TeamInvitation).where(same_invitation))
        if invitation is None:
            session.add(TeamInvitation(team_id=team.id, person_id=guest.id, created=database.now()))
        else:
            invitation.answer, invitation.created = None, database.now()
        append_audit(session, database.now(), person.handle, "invited", team.name, guest=handle)


def list_invitations(session: Session, edition: Edition, person: Person) -> list[tuple[TeamInvitation, Team]]:
    """A person's open invitations, with their teams."""
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
    """Accept or decline an invitation. Raises RequestProblem."""
    require_unlocked(database, edition)
    with database.write() as session:
        invitation = session.get(TeamInvitation, invitation_id)
        team = session.get(Team, invitation.team_id) if invitation else None
        if (
            invitation is None
            or team is None
            or invitation.person_id != person.id
            or team.edition_id != edition.id
            or invitation.answer
        ):
            raise not_found("invitation")
        if accept:
            add_member(session, edition, team, person)
        invitation.answer = "accepted" if accept else "declined"
        append_audit(session, database.now(), person.handle, f"invitation {invitation.answer}", team.name)


def leave_team(database: Database, edition: Edition, person: Person) -> None:
    """Leave one's team before the lock. A team without members and submissions is deleted."""
    require_unlocked(database, edition)
    with database.write() as session:
        team = find_team(session, edition, person)
        if team is None:
            raise not_found("team of yours")
        is_last_member = len(list_members(session, team)) == 1
        has_submissions = session.scalar(select(Submission.id).where(Submission.team_id == team.id).limit(1))
        if is_last_member and has_submissions:
            raise RequestProblem(
                409, f"{team.name} has submissions and you are its last member; you cannot leave it"
            )
        session.execute(
            delete(TeamMember).where(TeamMember.edition_id == edition.id, TeamMember.person_id == person.id)
        )
        if is_last_member:
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
    """Confirm a team's weight class, disqualify the team with a reason, or reinstate it. Raises RequestProblem."""
    require_organiser(organiser)
    reason = None if disqualified is None else check_text(disqualified, 500, "the team reads it")
    with database.write() as session:
        team = session.get(Team, team_id)
        if team is None:
            raise not_found("team")
        edition = session.get_one(Edition, team.edition_id)
        if weight_class is not None:
            names = [rule.name for rule in get_rules(edition).weight_classes]
            if weight_class not in names:
                fix = f"choose one of: {', '.join(names)}"
                raise invalid_field("weight_class", "this is not a weight class of the edition", fix)
            team.weight_class, team.confirmed = weight_class, True
            detail = {"weight_class": weight_class}
            append_audit(session, database.now(), organiser.handle, "class confirmed", team.name, **detail)
        if reason or reinstated:
            team.disqualified = reason
            action = "disqualified" if reason else "disqualification undone"
            append_audit(session, database.now(), organiser.handle, action, team.name, reason=reason)
        edition.revision += 1
        return team
