"""The sample edition of `smalltale serve --demo`: invented teams, prompts, and stories from templates.

Input: an empty database. Output: an edition in its third week, judged by scripts; the pages say that all of it is invented.
"""

from __future__ import annotations

import hashlib
import random
import threading
import tomllib
from datetime import timedelta

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from smalltale.rules import aoe_day, rules_from_table
from smalltale.server.accounts.accounts import create_person, name_key
from smalltale.server.accounts.passwords import hash_password
from smalltale.server.database.models import (
    CompletionRow,
    Edition,
    Person,
    Prompt,
    PromptSet,
    Submission,
    Team,
    TeamMember,
)
from smalltale.server.database.session import Database, append_audit
from smalltale.server.editions.editions import EditionDraft, PromptSetDraft, get_rules, import_edition
from smalltale.server.judging.queue import queue_judging
from smalltale.server.judging.scripted import ScriptedPanel
from smalltale.server.worker import run_worker

PASSWORD = "tell me a story"
"""The password of the demonstration's accounts; the sign-in page shows it."""
NAMES = ("Lily", "Tom", "Mia", "Ben", "Anna", "Sam", "Zoe", "Max")
TOYS = (
    "a red kite", "a lost kitten", "a shiny button", "a talking frog", "an old map", "a tiny door", "a blue boat", "a sleepy bear",
)  # fmt: skip
PLACES = ("the park", "the garden", "the attic", "the old barn", "the kitchen", "the woods")
SENTENCES = (
    "{n} was a little scared, but also very curious.",
    "“Can we share it?” asked a small voice behind the tree.",
    "The wind blew and carried it far away, over the fence and up the hill.",
    "{n} ran as fast as two short legs could carry a child.",
    "Mom smiled and said, “Let us look for it together.”",
    "They looked under the bench, behind the bush and even inside the pond.",
    "Then a bird sang a song that sounded like the word yes.",
    "{n} had an idea and drew a big arrow in the sand.",
    "Soon every neighbour came to help, and no one went home hungry.",
    "At last {n} found what everyone was looking for and laughed out loud.",
    "From that day on, {n} always shared first and asked later.",
)
TEAMS = (
    ("Paper Lanterns", "MacBook Air M2", 11), ("Two Foxes", "GTX 1650 laptop", 8), ("Night Owls", "RTX 4070", 10), ("Tiny Giants", "MacBook Pro M3 Max", 11),
    ("Wordsmiths of Ghent", "one RTX 4090", 11), ("Eight Cats", "8x H100", 9), ("Bedtime Club", "RTX 3060 laptop", 6), ("Café Attention", "RTX 4080", 7),
    ("Slow Loris", "MacBook Air M1", 4), ("Once Upon a GPU", "2x RTX 3090", 10), ("The Looped Ones", "GTX 1060", 2), ("Ink & Gradient", "RTX 3070", 9),
)  # fmt: skip


def make_story(rng: random.Random, skill: int) -> str:
    """An invented continuation; the lower the skill (1 to 12), the more sentences are repeated."""
    name, templates, sentences = rng.choice(NAMES), list(SENTENCES), [""]
    rng.shuffle(templates)
    for template in templates[:5]:
        repeats = sentences[-1] and rng.random() >= skill / 12
        sentences.append(sentences[-1] if repeats else template.format(n=name))
    return " ".join(sentences[1:])


def create_demo_edition(database: Database) -> None:
    """Create the sample edition if the database has no edition."""
    with database.read() as session:
        if session.scalar(select(Edition.id).limit(1)) is not None:
            return
    now, rng = database.now(), random.Random(7)
    start, end = aoe_day(now - timedelta(days=16)), aoe_day(now + timedelta(days=19))
    toml = f'team_lock_days = 30\nstart = {start}\nend = {end}\n[edition]\nslug = "demo"\n'
    prompts = [
        f"Once upon a time, {name} found {toy} in {rng.choice(PLACES)}. One day,"
        for name, toy in zip(NAMES * 2, TOYS + TOYS[::-1], strict=True)
    ]
    final = [
        f"No one in {PLACES[n]} believed it, but {name} had seen {toy} that very morning."
        for n, (name, toy) in enumerate(zip(NAMES[:6], TOYS, strict=False))
    ]
    rules = rules_from_table(tomllib.loads(toml), "the demonstration")
    edition = import_edition(
        database,
        EditionDraft(
            slug="demo",
            title="The Kitchen Table Edition",
            toml=toml,
            rules=rules,
            judges=["scripted-a", "scripted-b"],
            rubric="scripted",
            panel="scripted-1",
            sets=[
                PromptSetDraft(kind="practice", appears=rules.opens(), prompts=prompts[:4], public_share=1.0),
                PromptSetDraft(kind="daily", appears=rules.opens(), prompts=prompts[4:], public_share=0.5),
                PromptSetDraft(
                    kind="final",
                    appears=rules.deadline() - timedelta(days=2),
                    prompts=final,
                    public_share=0.0,
                ),
            ],
        ),
    )
    with database.write() as session:
        password_hash = hash_password(PASSWORD)
        create_person(session, database, "organiser", password=password_hash, admin=True)
        create_person(session, database, "guest", password=password_hash)
        for number, (name, hardware, skill) in enumerate(TEAMS):
            person = create_person(
                session,
                database,
                "ada" if number == 0 else f"writer-{number}",
                password=password_hash if number == 0 else None,
            )
            create_team(session, database, edition, person, name, hardware, skill, random.Random(number))
        append_audit(session, now, "server", "sample created", "demo")
    run_worker(database, lambda _edition, _panel: ScriptedPanel(), threading.Event(), until_idle=True)


def create_team(
    session: Session,
    database: Database,
    edition: Edition,
    person: Person,
    name: str,
    hardware: str,
    skill: int,
    rng: random.Random,
) -> None:
    """One team of the sample, with four submissions on different days."""
    rules, now = get_rules(edition), database.now()
    weight_class = rules.class_for_hardware(hardware)
    team = Team(
        edition_id=edition.id,
        name=name,
        name_key=name_key(name),
        hardware=hardware,
        weight_class=weight_class.name,
        confirmed=rng.random() < 0.7,
        declared=edition.starts,
    )
    session.add(team)
    session.flush()
    session.add(TeamMember(edition_id=edition.id, person_id=person.id, team_id=team.id, seat=0))
    prompts = session.scalars(
        select(Prompt)
        .join(PromptSet, PromptSet.id == Prompt.prompt_set_id)
        .where(PromptSet.edition_id == edition.id, PromptSet.kind == "daily")
        .order_by(Prompt.position)
    ).all()
    for days_ago in sorted(rng.sample(range(1, 15), 4), reverse=True):
        received = now - timedelta(days=days_ago)
        submission = Submission(
            edition_id=edition.id,
            team_id=team.id,
            person_id=person.id,
            prompt_set_id=prompts[0].prompt_set_id,
            kind="daily",
            slot=f"{aoe_day(received)}#0",
            received=received,
            sha256=hashlib.sha256(f"{name}{days_ago}".encode()).hexdigest(),
            weight_class=weight_class.name,
            counted_parameters=(counted := int(weight_class.max_parameters * rng.uniform(0.6, 1.0))),
            verified_parameters=counted if rng.random() < 0.4 else None,
            model_hash=hashlib.sha256(name.encode()).hexdigest(),
            declaration={"data": "invented for the demonstration", "sampling": "none", "from_scratch": True},
            warnings=[],
            state="queued",
        )
        session.add(submission)
        session.flush()
        skill_then = max(1, skill - days_ago // 4)
        completions = [
            {"prompt_id": prompt.id, "sample": sample, "text": make_story(rng, skill_then)}
            for prompt in prompts
            for sample in range(rules.completions_per_prompt)
        ]
        session.execute(insert(CompletionRow).values(submission_id=submission.id), completions)
        queue_judging(session, database, submission, edition.panel)
