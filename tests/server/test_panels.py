"""A panel of language models: calibrated as in `judge run`, and ranked only if every judge has qualified."""

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
from smalltale.judging.judge import Judge, JudgeUnusable, Question, Reply, ScriptedJudge
from smalltale.judging.panel import Calibration
from smalltale.judging.registry import judge_identity
from smalltale.judging.report import panel_rows
from smalltale.judging.rubric import load_rubric
from smalltale.judging.run import judge_submission
from smalltale.ranking.entries import read_entry, read_rows
from smalltale.server.database.models import JudgementRow, Score, Submission
from smalltale.server.editions.editions import EditionDraft, get_rules, import_edition, read_edition
from smalltale.server.editions.validate import check_edition
from smalltale.server.judging import panels
from smalltale.server.judging.panel import Story
from smalltale.server.leaderboard.leaderboard import build_leaderboards
from smalltale.server.submissions.visibility import load_story_page, view_submission
from smalltale.server.worker import run_worker

from .conftest import START, Hackathon, submission_csv

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


def answer_json(question: Question, base: int) -> str:
    """An answer with scores that differ from story to story."""
    score = base + len(question.messages[1].content) % 3
    scores = dict.fromkeys(PAPER.criteria, score)
    return json.dumps({"check": question.nonce, "assessment": "Read.", **scores, "age": "C"})


def create_judges(names: Sequence[str]) -> list[Judge]:
    """Scripts with the names and endpoints of language models."""
    judges: list[Judge] = []
    for name in names:
        judge, endpoint = judge_identity(name)
        base = 7 if judge == "mild" else 2
        judges.append(
            ScriptedJudge(
                lambda question, low=base: answer_json(question, low), name=judge, endpoint=endpoint
            )
        )
    return judges


@pytest.fixture(autouse=True)
def scripted_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def open_judges(names: Sequence[str]) -> Iterator[list[Judge]]:
        yield create_judges(names)

    monkeypatch.setattr(panels, "open_judges", open_judges)


def set_panel(hackathon: Hackathon, calibrations: dict[str, Calibration]) -> None:
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


def run_judging(hackathon: Hackathon) -> int:
    return run_worker(hackathon.database, panels.open_panel, threading.Event(), until_idle=True)


def test_the_servers_panel_scores_a_submission_as_judge_run_does(
    hackathon: Hackathon, tmp_path: Path
) -> None:
    set_panel(hackathon, CALIBRATIONS)
    submission = hackathon.submit(hackathon.add_team("ada"))
    assert run_judging(hackathon) == 1
    (tmp_path / "stories.csv").write_bytes(submission_csv())
    calibrations = {calibration.judge: calibration for calibration in CALIBRATIONS.values()}
    judge_submission(
        tmp_path / "stories.csv",
        create_judges([MILD, HARSH]),
        PAPER,
        tmp_path / "out",
        calibrations=calibrations,
    )
    expected = read_entry(tmp_path / "out")
    with hackathon.database.read() as session:
        score = session.get_one(Score, (submission.id, "paper-1", "all"))
        assert (score.judged, score.expected, score.qualified) == (48, 48, True)
        assert score.mean == pytest.approx(expected.mean)
        assert (score.low, score.high) == pytest.approx((expected.low, expected.high))
        assert score.disagreement == pytest.approx(expected.disagreement)
        overall = [judgement.overall for judgement in session.scalars(select(JudgementRow))]
        assert score.mean != pytest.approx(sum(filter(None, overall)) / len(overall), abs=0.1), (
            "the plain mean of a mild and a harsh judge is another number"
        )
        view = view_submission(
            session, submission.id, hackathon.add_person("boss", admin=True), hackathon.clock()
        )
        page = load_story_page(session, view, order="best")
        assert [story.mean for story in page.stories] == sorted(
            (story.mean or 0.0 for story in page.stories), reverse=True
        )
        best = page.stories[0]
        assert best.mean == pytest.approx(
            sum((judgement.calibrated or 0.0) * (judgement.weight or 0.0) for judgement in best.judgements)
        )


@pytest.mark.parametrize(
    "calibrations",
    [
        {},
        {MILD: CALIBRATIONS[MILD]},
        {**CALIBRATIONS, HARSH: replace(CALIBRATIONS[HARSH], qualified=False)},
        {**CALIBRATIONS, HARSH: replace(CALIBRATIONS[HARSH], rubric_hash="0" * 16)},
    ],
    ids=["none", "one of two", "below the bar", "another rubric"],
)
def test_scores_of_an_unqualified_judge_do_not_count_for_ranking(
    hackathon: Hackathon, calibrations: dict[str, Calibration]
) -> None:
    set_panel(hackathon, calibrations)
    submission = hackathon.submit(hackathon.add_team("ada"))
    run_judging(hackathon)
    with hackathon.database.read() as session:
        (row,) = build_leaderboards(session, hackathon.edition, kind="daily", side="public")[None].rows
    assert row.standing.rank is None
    assert row.standing.entry.mean is not None
    assert "not qualified to rank" in row.standing.note
    client = hackathon.client()
    board = client.get("/e/first/leaderboard").text
    assert "These scores do not count for ranking" in board
    assert "has not passed its qualification" in client.get(f"/submissions/{submission.id}").text
    (exported,) = client.get("/e/first/leaderboard.json").json()
    assert (exported["rank"], exported["qualified"]) == (None, False)


def test_the_page_and_the_api_show_each_judges_qualification_and_weight(hackathon: Hackathon) -> None:
    calibrations = {**CALIBRATIONS, HARSH: replace(CALIBRATIONS[HARSH], qualified=False)}
    set_panel(hackathon, calibrations)
    (edition,) = hackathon.client().get("/api/v1/editions").json()
    assert [(judge["judge"], judge["qualified"]) for judge in edition["judges"]] == [
        (MILD, True),
        (HARSH, False),
    ]
    assert [judge["weight"] for judge in edition["judges"]] == pytest.approx([0.25, 0.75])
    page = hackathon.client().get("/e/first/rules").text
    assert "not passed: scores of this panel do not count for ranking" in page
    assert "0.75" in page


def test_opinions_from_before_a_judge_became_unusable_are_used() -> None:
    panel = panels.LanguageModelPanel([MILD], "paper")

    class ExpiringJudge(ScriptedJudge):
        async def answer(self, question: Question) -> Reply:
            if len(self.questions) >= 3:
                raise JudgeUnusable("the key has expired")
            return await super().answer(question)

    panel.judges_by_name[MILD] = ExpiringJudge(
        lambda question: answer_json(question, 7), name="mild", concurrency=1
    )
    opinions = list(
        panel.judge([Story(id=n, prompt="Once", sample=n, text=f"A story {n}.") for n in range(8)], MILD)
    )
    assert [opinion.completion_id for opinion in opinions] == [0, 1, 2]
    with pytest.raises(SmalltaleError, match="expired"):
        list(panel.judge([Story(id=9, prompt="Once", sample=0, text="Another story.")], MILD))


def test_half_a_surrogate_pair_and_nul_in_a_judges_words_are_replaced_for_the_database() -> None:
    panel = panels.LanguageModelPanel([MILD], "paper")

    def answer(question: Question) -> str:
        return json.dumps(
            {**json.loads(answer_json(question, 7)), "assessment": "Half \ud800 and \x00 nothing."}
        )

    panel.judges_by_name[MILD] = ScriptedJudge(answer, name="mild")
    (opinion,) = panel.judge([Story(id=1, prompt="Once", sample=0, text="A story.")], MILD)
    assert opinion.words == "Half ? and  nothing."


def write_edition(folder: Path, qualifications: object) -> Path:
    path = folder / "edition.toml"
    path.write_text(
        f"start = 2026-03-01\nend = 2026-04-07\n[edition]\nslug = 'spring'\njudges = ['{MILD}', '{HARSH}']\n"
        f"qualifications = {json.dumps(qualifications)}\n",
        encoding="utf-8",
    )
    return path


def write_qualification(path: Path, calibration: Calibration) -> None:
    fields = {"gold_mean": calibration.mean, "gold_sd": calibration.sd, "agreement": calibration.weight}
    write_json(path, {"kind": "qualification", **asdict(calibration), **fields})


def test_an_edition_lists_qualification_files_and_its_check_reports_judges_without_one(
    tmp_path: Path,
) -> None:
    write_qualification(tmp_path / "mild.json", CALIBRATIONS[MILD])
    draft = read_edition(write_edition(tmp_path, ["mild.json"]))
    assert dict(draft.calibrations) == {MILD: CALIBRATIONS[MILD]}
    write_qualification(tmp_path / "harsh.json", replace(CALIBRATIONS[HARSH], qualified=False))
    for files, message in (
        (["mild.json"], "no qualification"),
        (["mild.json", "harsh.json"], "has not passed"),
    ):
        issues = [issue.text for issue in check_edition(read_edition(write_edition(tmp_path, files)), START)]
        assert any(HARSH in issue and message in issue for issue in issues)
        assert not any(MILD in issue for issue in issues)


def test_a_qualification_of_another_judge_is_refused(tmp_path: Path) -> None:
    write_qualification(tmp_path / "other.json", replace(CALIBRATIONS[MILD], judge="other"))
    with pytest.raises(SmalltaleError, match="qualifies other at"):
        read_edition(write_edition(tmp_path, ["other.json"]))
    with pytest.raises(RecipeError, match="list files relative to it"):
        read_edition(write_edition(tmp_path, "mild.json"))


def test_a_new_qualification_does_not_change_existing_scores(hackathon: Hackathon) -> None:
    set_panel(hackathon, CALIBRATIONS)
    submission = hackathon.submit(hackathon.add_team("ada"))
    run_judging(hackathon)
    with hackathon.database.read() as session:
        before = session.get_one(Score, (submission.id, "paper-1", "all")).mean
        assert session.get_one(Submission, submission.id).state == "judged"
    set_panel(hackathon, {**CALIBRATIONS, MILD: replace(CALIBRATIONS[MILD], mean=2.0)})
    with hackathon.database.read() as session:
        assert session.get_one(Score, (submission.id, "paper-1", "all")).mean == before


def draft_with(hackathon: Hackathon, **changes: object) -> EditionDraft:
    """The hackathon's edition as a draft with changes."""
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
    return replace(draft, **changes)  # type: ignore[arg-type]


def test_a_panel_that_has_judged_cannot_get_other_judges_under_its_name(hackathon: Hackathon) -> None:
    import_edition(hackathon.database, draft_with(hackathon, judges=["scripted-c"]))
    import_edition(hackathon.database, draft_with(hackathon))
    hackathon.submit(hackathon.add_team("ada"))
    import_edition(hackathon.database, draft_with(hackathon))
    with pytest.raises(
        RecipeError, match="scripted-1 has judged as scripted-a, scripted-b by rubric scripted"
    ):
        import_edition(hackathon.database, draft_with(hackathon, judges=["scripted-c"]))
    with pytest.raises(RecipeError, match="never mixed"):
        import_edition(hackathon.database, draft_with(hackathon, judges=[MILD], rubric="paper"))
    hackathon.edition = import_edition(
        hackathon.database, draft_with(hackathon, judges=["scripted-c"], panel="scripted-2")
    )
    hackathon.submit(hackathon.add_team("bob"), content=submission_csv("and sang"))
    run_judging(hackathon)
    with hackathon.database.read() as session:
        rows = session.execute(
            select(JudgementRow.submission_id, JudgementRow.panel, JudgementRow.judge).distinct()
        )
        assert set(map(tuple, rows)) == {
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

    monkeypatch.setitem(globals(), "answer_json", varied)
    calibrations = {name: replace(CALIBRATIONS[name], sd=sd) for name, sd in ((MILD, 1.3), (HARSH, 0.7))}
    set_panel(hackathon, calibrations)
    submission = hackathon.submit(hackathon.add_team("ada"))
    assert run_judging(hackathon) == 1
    (tmp_path / "stories.csv").write_bytes(submission_csv())
    judge_submission(
        tmp_path / "stories.csv",
        create_judges([MILD, HARSH]),
        PAPER,
        tmp_path / "out",
        calibrations={calibration.judge: calibration for calibration in calibrations.values()},
    )
    (panel,) = panel_rows(read_rows(tmp_path / "out"))
    entry = read_entry(tmp_path / "out")
    with hackathon.database.read() as session:
        score = session.get_one(Score, (submission.id, "paper-1", "all"))
        stored = score.mean, score.low, score.high
    assert (entry.mean, entry.low, entry.high) == stored
    assert (panel.interval.mean, panel.interval.low, panel.interval.high) == stored
