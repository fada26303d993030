"""A panel of language models: calibrated as `judge run` does it, and ranking only where every judge has qualified."""

from __future__ import annotations

import contextlib
import json
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from sqlalchemy import select

from smalltale.errors import RecipeError, SmalltaleError
from smalltale.files import write_json
from smalltale.judging.folder import read_rows
from smalltale.judging.judge import Judge, JudgeUnusable, Question, Reply, ScriptedJudge
from smalltale.judging.panel import Calibration
from smalltale.judging.registry import judge_identity
from smalltale.judging.report import panel_rows
from smalltale.judging.rubric import load_rubric
from smalltale.judging.run import judge_submission
from smalltale.ranking.entries import read_entry
from smalltale.server.database.models import JudgementRow, Score, Submission
from smalltale.server.editions.editions import EditionDraft, get_rules, import_edition, read_edition
from smalltale.server.editions.validate import check_edition
from smalltale.server.judging import panels
from smalltale.server.judging.panel import Story
from smalltale.server.leaderboard.leaderboard import build_leaderboards
from smalltale.server.submissions.visibility import load_story_page, view_submission
from smalltale.server.worker import run_worker

from .conftest import START, Hackathon
from .conftest import submission_csv as hand_in_file

MILD, HARSH = "http://127.0.0.1:1/v1#mild", "http://127.0.0.1:1/v1#harsh"
PAPER = load_rubric("paper")


def calibration(name: str, mean: float, sd: float, weight: float, *, qualified: bool = True) -> Calibration:
    judge, endpoint = judge_identity(name)
    return Calibration(
        judge=judge,
        endpoint=endpoint,
        rubric_hash=PAPER.hash,
        mean=mean,
        sd=sd,
        weight=weight,
        qualified=qualified,
    )


CALIBRATIONS = {MILD: calibration(MILD, 8.0, 0.5, 0.3), HARSH: calibration(HARSH, 3.0, 1.0, 0.9)}


def marked(question: Question, base: int) -> str:
    """Marks that differ from story to story."""
    mark = base + len(question.messages[1].content) % 3
    scores = dict.fromkeys(PAPER.criteria, mark)
    return json.dumps({"check": question.nonce, "assessment": "Read.", **scores, "age": "C"})


def judges_of(names: Sequence[str]) -> list[Judge]:
    """Scripts that answer to the names and endpoints of real judges."""
    made: list[Judge] = []
    for name in names:
        judge, endpoint = judge_identity(name)
        base = 7 if judge == "mild" else 2
        made.append(ScriptedJudge(lambda asked, low=base: marked(asked, low), name=judge, endpoint=endpoint))
    return made


@pytest.fixture(autouse=True)
def scripted_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def opened(names: Sequence[str]) -> Iterator[list[Judge]]:
        yield judges_of(names)

    monkeypatch.setattr(panels, "open_judges", opened)


def with_panel(hackathon: Hackathon, calibrations: dict[str, Calibration]) -> None:
    """Give the edition a panel of two language models."""
    draft = EditionDraft(
        slug="first",
        title="The First",
        toml=hackathon.edition.toml,
        rules=get_rules(hackathon.edition),
        judges=[MILD, HARSH],
        calibrations=calibrations,
        rubric="paper",
        panel="paper-1",
        sets=[],
    )
    hackathon.edition = import_edition(hackathon.database, draft)


def judged(hackathon: Hackathon) -> int:
    from threading import Event

    return run_worker(hackathon.database, panels.open_panel, Event(), until_idle=True)


def test_the_servers_panel_scores_a_hand_in_as_judge_run_does(hackathon: Hackathon, tmp_path: Path) -> None:
    with_panel(hackathon, CALIBRATIONS)
    row = hackathon.submit(hackathon.add_team("ada"))
    assert judged(hackathon) == 1
    (tmp_path / "hand-in.csv").write_bytes(hand_in_file())
    known = {each.judge: each for each in CALIBRATIONS.values()}
    judge_submission(
        tmp_path / "hand-in.csv", judges_of([MILD, HARSH]), PAPER, tmp_path / "out", calibrations=known
    )
    expected = read_entry(tmp_path / "out")
    with hackathon.database.read() as session:
        score = session.get_one(Score, (row.id, "paper-1", "all"))
        assert (score.judged, score.expected, score.qualified) == (48, 48, True)
        assert score.mean == pytest.approx(expected.mean)
        assert (score.low, score.high) == pytest.approx((expected.low, expected.high))
        assert score.disagreement == pytest.approx(expected.disagreement)
        raw = [each.overall for each in session.scalars(select(JudgementRow))]
        assert score.mean != pytest.approx(sum(filter(None, raw)) / len(raw), abs=0.1), (
            "plain means of a mild and a harsh judge are another figure"
        )
        view = view_submission(session, row.id, hackathon.add_person("boss", admin=True), hackathon.clock())
        page = load_story_page(session, view, order="best")
        assert [each.mean for each in page.stories] == sorted(
            (each.mean or 0.0 for each in page.stories), reverse=True
        )
        shown = page.stories[0]
        assert shown.mean == pytest.approx(
            sum((each.calibrated or 0.0) * (each.weight or 0.0) for each in shown.judgements)
        )


@pytest.mark.parametrize(
    "calibrations",
    [
        {},
        {MILD: CALIBRATIONS[MILD]},
        {**CALIBRATIONS, HARSH: replace(CALIBRATIONS[HARSH], qualified=False)},
        {**CALIBRATIONS, HARSH: replace(CALIBRATIONS[HARSH], rubric_hash="0" * 16)},
    ],
    ids=["none", "one of two", "below the bar", "another rubric's"],
)
def test_a_judge_below_the_bar_scores_and_never_ranks(
    hackathon: Hackathon, calibrations: dict[str, Calibration]
) -> None:
    with_panel(hackathon, calibrations)
    row = hackathon.submit(hackathon.add_team("ada"))
    judged(hackathon)
    with hackathon.database.read() as session:
        (line,) = build_leaderboards(session, hackathon.edition, kind="daily", side="public")[None].rows
    assert line.standing.rank is None
    assert line.standing.entry.mean is not None
    assert "not qualified to rank" in line.standing.note
    client = hackathon.client()
    board = client.get("/e/first/leaderboard").text
    assert "nobody is ranked" in board
    assert "has not passed its qualification" in client.get(f"/hand-ins/{row.id}").text
    (exported,) = client.get("/e/first/leaderboard.json").json()
    assert (exported["rank"], exported["qualified"]) == (None, False)


def test_the_page_and_the_api_name_each_judges_qualification_and_weight(hackathon: Hackathon) -> None:
    below = {**CALIBRATIONS, HARSH: replace(CALIBRATIONS[HARSH], qualified=False)}
    with_panel(hackathon, below)
    (edition,) = hackathon.client().get("/api/v1/editions").json()
    assert [(each["judge"], each["qualified"]) for each in edition["judges"]] == [
        (MILD, True),
        (HARSH, False),
    ]
    assert [each["weight"] for each in edition["judges"]] == pytest.approx([0.25, 0.75])
    page = hackathon.client().get("/e/first/rules").text
    assert "not passed: hand-ins of this panel do not rank" in page
    assert "0.75" in page


def test_a_judge_that_becomes_unusable_in_the_middle_keeps_what_it_said() -> None:
    panel = panels.LanguageModelPanel([MILD], "paper")

    class Expiring(ScriptedJudge):
        async def answer(self, question: Question) -> Reply:
            if len(self.questions) >= 3:
                raise JudgeUnusable("the key has expired")
            return await super().answer(question)

    panel.judges_by_name[MILD] = Expiring(lambda question: marked(question, 7), name="mild", concurrency=1)
    told = list(
        panel.judge([Story(id=n, prompt="Once", sample=n, text=f"A story {n}.") for n in range(8)], MILD)
    )
    assert [each.story_id for each in told] == [0, 1, 2]
    with pytest.raises(SmalltaleError, match="expired"):
        list(panel.judge([Story(id=9, prompt="Once", sample=0, text="Another story.")], MILD))


def test_half_a_character_of_a_judge_is_replaced_before_the_database_sees_it() -> None:
    panel = panels.LanguageModelPanel([MILD], "paper")

    def answer(question: Question) -> str:
        return json.dumps({**json.loads(marked(question, 7)), "assessment": "Half \ud800 and \x00 nothing."})

    panel.judges_by_name[MILD] = ScriptedJudge(answer, name="mild")
    (opinion,) = panel.judge([Story(id=1, prompt="Once", sample=0, text="A story.")], MILD)
    assert opinion.words == "Half ? and  nothing."


def edition_file(folder: Path, qualifications: object) -> Path:
    path = folder / "edition.toml"
    path.write_text(
        f"start = 2026-03-01\nend = 2026-04-07\n[edition]\nslug = 'spring'\njudges = ['{MILD}', '{HARSH}']\n"
        f"qualifications = {json.dumps(qualifications)}\n",
        encoding="utf-8",
    )
    return path


def write_qualification(path: Path, each: Calibration) -> None:
    value = asdict(each) | {"gold_mean": each.mean, "gold_sd": each.sd, "agreement": each.weight}
    write_json(path, {"kind": "qualification", **value})


def test_an_edition_names_its_judges_qualifications_and_check_says_who_may_not_rank(tmp_path: Path) -> None:
    write_qualification(tmp_path / "mild.json", CALIBRATIONS[MILD])
    draft = read_edition(edition_file(tmp_path, ["mild.json"]))
    assert dict(draft.calibrations) == {MILD: CALIBRATIONS[MILD]}
    write_qualification(tmp_path / "harsh.json", replace(CALIBRATIONS[HARSH], qualified=False))
    for files, said in ((["mild.json"], "no qualification"), (["mild.json", "harsh.json"], "has not passed")):
        found = [each.text for each in check_edition(read_edition(edition_file(tmp_path, files)), START)]
        assert any(HARSH in each and said in each for each in found)
        assert not any(MILD in each for each in found)


def test_a_qualification_of_no_judge_of_the_edition_is_refused(tmp_path: Path) -> None:
    write_qualification(tmp_path / "other.json", replace(CALIBRATIONS[MILD], judge="other"))
    with pytest.raises(SmalltaleError, match="qualifies other at"):
        read_edition(edition_file(tmp_path, ["other.json"]))
    with pytest.raises(RecipeError, match="name files beside it"):
        read_edition(edition_file(tmp_path, "mild.json"))


def test_an_old_hand_in_is_settled_by_the_scale_it_was_judged_on(hackathon: Hackathon) -> None:
    """A new qualification changes what is judged from now on, and no score that stands."""
    with_panel(hackathon, CALIBRATIONS)
    row = hackathon.submit(hackathon.add_team("ada"))
    judged(hackathon)
    with hackathon.database.read() as session:
        before = session.get_one(Score, (row.id, "paper-1", "all")).mean
        assert session.get_one(Submission, row.id).state == "judged"
    with_panel(hackathon, {**CALIBRATIONS, MILD: replace(CALIBRATIONS[MILD], mean=2.0)})
    with hackathon.database.read() as session:
        assert session.get_one(Score, (row.id, "paper-1", "all")).mean == before


def draft_of(hackathon: Hackathon, **changed: object) -> EditionDraft:
    """The hackathon's edition, read again with something changed."""
    edition = hackathon.edition
    draft = EditionDraft(
        slug=edition.slug,
        title=edition.title,
        toml=edition.toml,
        rules=get_rules(edition),
        judges=edition.judges,
        rubric=edition.rubric,
        panel=edition.panel,
        sets=[],
    )
    return replace(draft, **changed)  # type: ignore[arg-type]


def test_a_panel_that_has_judged_keeps_its_judges_and_a_new_one_has_a_new_name(hackathon: Hackathon) -> None:
    import_edition(hackathon.database, draft_of(hackathon, judges=["scripted-c"]))
    import_edition(hackathon.database, draft_of(hackathon))
    hackathon.submit(hackathon.add_team("ada"))
    import_edition(hackathon.database, draft_of(hackathon))
    with pytest.raises(
        RecipeError, match="scripted-1 has judged as scripted-a, scripted-b by rubric scripted"
    ):
        import_edition(hackathon.database, draft_of(hackathon, judges=["scripted-c"]))
    with pytest.raises(RecipeError, match="never mixed"):
        import_edition(hackathon.database, draft_of(hackathon, judges=[MILD], rubric="paper"))
    hackathon.edition = import_edition(
        hackathon.database, draft_of(hackathon, judges=["scripted-c"], panel="scripted-2")
    )
    hackathon.submit(hackathon.add_team("bob"), content=hand_in_file("and sang"))
    run_worker(hackathon.database, panels.open_panel, threading.Event(), until_idle=True)
    with hackathon.database.read() as session:
        judged = session.execute(
            select(JudgementRow.submission_id, JudgementRow.panel, JudgementRow.judge).distinct()
        )
        assert set(map(tuple, judged)) == {
            (1, "scripted-1", "scripted-a"),
            (1, "scripted-1", "scripted-b"),
            (2, "scripted-2", "scripted-c"),
        }


def test_a_worker_with_another_version_of_the_rubric_judges_nothing() -> None:
    panels.LanguageModelPanel([MILD], "paper", version=PAPER.hash)
    with pytest.raises(SmalltaleError, match=f"version {PAPER.hash} here, and the panel judges by 0123"):
        panels.LanguageModelPanel([MILD], "paper", version="0123")


def test_report_leaderboard_and_server_show_the_same_interval_to_the_last_digit(
    hackathon: Hackathon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def varied(question: Question, base: int) -> str:
        story = question.messages[1].content.split("\n***\n")[1].partition("\n===")[0]
        draw = zlib.crc32(f"{base} {story}".encode())
        scores = {name: 2 + (draw >> 3 * place) % 8 for place, name in enumerate(PAPER.criteria)}
        return json.dumps({"check": question.nonce, "assessment": "Read.", **scores, "age": "C"})

    monkeypatch.setitem(globals(), "marked", varied)
    calibrations = {name: replace(CALIBRATIONS[name], sd=sd) for name, sd in ((MILD, 1.3), (HARSH, 0.7))}
    with_panel(hackathon, calibrations)
    row = hackathon.submit(hackathon.add_team("ada"))
    assert judged(hackathon) == 1
    (tmp_path / "stories.csv").write_bytes(hand_in_file())
    judge_submission(
        tmp_path / "stories.csv",
        judges_of([MILD, HARSH]),
        PAPER,
        tmp_path / "out",
        calibrations={calibration.judge: calibration for calibration in calibrations.values()},
    )
    (panel,) = panel_rows(read_rows(tmp_path / "out"))
    entry = read_entry(tmp_path / "out")
    with hackathon.database.read() as session:
        score = session.get_one(Score, (row.id, "paper-1", "all"))
        stored = score.mean, score.low, score.high
    assert (entry.mean, entry.low, entry.high) == stored
    assert (panel.interval.mean, panel.interval.low, panel.interval.high) == stored
