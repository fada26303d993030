"""Uploaded models: who may upload, which files, the verdict of a worker, and where it is shown."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import uvicorn
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from smalltale.errors import SmalltaleError
from smalltale.files import sha256_file
from smalltale.server.accounts import accounts
from smalltale.server.client import send_model
from smalltale.server.database.models import Audit, Job, ModelChunk, Person, Submission, Verification
from smalltale.server.errors import RequestProblem
from smalltale.server.judging.queue import LEASE_SECONDS, LeaseLost, lease_job
from smalltale.server.leaderboard.leaderboard import build_leaderboards
from smalltale.server.verification import model_uploads, verification
from smalltale.server.verification.model_checks import VerificationResult, verify_model
from smalltale.server.verification.model_uploads import UploadedFile
from smalltale.server.verification.verification import (
    receive_model,
    request_model,
    verify_folder,
    verify_upload,
)
from smalltale.server.web.app import create_app

from .conftest import PROMPTS, START, Hackathon, read_form_token, submission_csv

FINAL_PROMPTS = [f"F {prompt}" for prompt in PROMPTS]
COUNTED = 1_668
VERIFIED = VerificationResult(
    verdict="verified", counted=COUNTED, reasons=[], stories={"verdict": "plausible"}
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of 1,668 counted parameters, with a file that is not uploaded."""
    from smalltale.model.serialization import write_model
    from smalltale.model.transformer import ModelConfig, Transformer

    folder = tmp_path_factory.mktemp("model")
    shape = ModelConfig(vocabulary=16, layers=2, width=8, heads=2, context=16)
    write_model(folder, shape, Transformer(shape).state_dict(), {})
    (folder / "tokenizer.json").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"pickle")
    return folder


@dataclass(frozen=True)
class Writer:
    """A trained model, with its stories for the final prompts."""

    folder: Path
    counted: int
    stories: bytes
    sampling: str


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """A model trained on fables for two seconds."""
    import torch
    from torch.nn import functional as F

    from smalltale.corpus.fable.generator import generate_stories
    from smalltale.generation.generate import generate_completions
    from smalltale.generation.language_model import NativeModel
    from smalltale.generation.sampler import GenerationConfig
    from smalltale.model.serialization import write_model
    from smalltale.model.transformer import ModelConfig, Transformer
    from smalltale.submission import write_submission
    from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer

    torch.manual_seed(0)
    texts = list(generate_stories(1, 120))
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocabulary=400))
    shape = ModelConfig(vocabulary=tokenizer.vocabulary_size, layers=2, width=64, heads=2, context=128)
    model = Transformer(shape)
    rows = torch.tensor(
        [([tokenizer.end_id, *ids] + [tokenizer.end_id] * 65)[:65] for ids in tokenizer.encode_batch(texts)]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        batch = rows[torch.randperm(len(rows))[:24]]
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1).float(), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("writer")
    write_model(folder, shape, model.eval().state_dict(), {})
    tokenizer.save(folder)
    config = GenerationConfig(samples=4, max_tokens=40, temperature=0.8, dtype="float32", seed=3)
    completions = generate_completions(NativeModel(model, tokenizer, torch.float32), FINAL_PROMPTS, config)
    write_submission(folder / "stories.csv", completions, {})
    return Writer(
        folder=folder,
        counted=sum(parameter.numel() for parameter in model.parameters()),
        stories=(folder / "stories.csv").read_bytes(),
        sampling=json.dumps(asdict(config)),
    )


def read_model(folder: Path, **changes: bytes) -> list[UploadedFile]:
    """The folder's three model files, some with other contents."""
    contents = {
        name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json", "tokenizer.json")
    }
    contents |= {name.replace("_", "."): content for name, content in changes.items()}
    return [
        UploadedFile(name=name, size=len(content), content=io.BytesIO(content))
        for name, content in contents.items()
    ]


def submit_final(
    hackathon: Hackathon,
    model: Path,
    handle: str = "ada",
    *,
    content: bytes | None = None,
    **declared: object,
) -> tuple[Person, Submission]:
    """Create a team with a final submission by this model."""
    hackathon.clock.now = START
    person = hackathon.add_team(handle)
    hackathon.clock.now = hackathon.edition.ends - (hackathon.edition.ends - hackathon.edition.starts) / 100
    declared = {
        "counted_parameters": str(COUNTED),
        "model_hash": sha256_file(model / "model.safetensors"),
        **declared,
    }
    content = content or submission_csv(prompts=FINAL_PROMPTS)
    return person, hackathon.submit(person, kind="final", content=content, **declared)


def set_results(monkeypatch: pytest.MonkeyPatch, *results: VerificationResult) -> None:
    """Replace the two sandboxed checks, which take ten seconds, by these results."""
    count_results, story_results = iter(results), iter(results)
    monkeypatch.setattr(verification, "verify_model", lambda *_, **__: next(count_results))
    monkeypatch.setattr(verification, "check_stories", lambda *_, **__: next(story_results).stories)


def get_verification(hackathon: Hackathon, submission_id: int) -> Verification:
    with hackathon.database.read() as session:
        return session.get_one(Verification, submission_id)


def count_chunks(hackathon: Hackathon) -> int:
    with hackathon.database.read() as session:
        return session.scalar(select(func.count()).select_from(ModelChunk)) or 0


@pytest.mark.all
def test_a_worker_counts_a_finalists_model_and_checks_its_stories(
    hackathon: Hackathon, writer: Writer
) -> None:
    declared = {"counted_parameters": str(writer.counted), "sampling": writer.sampling}
    person, submission = submit_final(hackathon, writer.folder, content=writer.stories, **declared)
    _, other_submission = submit_final(hackathon, writer.folder, "eve", **declared)
    receive_model(hackathon.database, person, submission.id, read_model(writer.folder))
    assert hackathon.run_worker() == 3
    result = get_verification(hackathon, submission.id)
    assert (result.state, result.counted, list(result.reasons)) == ("verified", writer.counted, [])
    assert result.stories["verdict"] == "plausible", result.stories
    assert result.stories["regenerated"] == result.stories["stories"] == 24
    assert count_chunks(hackathon) == 0
    with hackathon.database.read() as session:
        eve = session.get_one(Person, other_submission.person_id)
    receive_model(hackathon.database, eve, other_submission.id, read_model(writer.folder))
    assert hackathon.run_worker() == 1
    result = get_verification(hackathon, other_submission.id)
    assert (result.state, result.stories["verdict"]) == ("verified", "implausible"), result.stories
    assert count_chunks(hackathon) == 3
    assert (
        "very unlikely to have written them"
        in hackathon.sign_in("eve").get(f"/submissions/{other_submission.id}").text
    )


def test_a_verified_model_is_marked_on_the_leaderboard_and_its_files_are_deleted(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, submission = submit_final(hackathon, model)
    set_results(monkeypatch, VERIFIED)
    receive_model(hackathon.database, person, submission.id, read_model(model))
    assert hackathon.run_worker() == 2
    assert count_chunks(hackathon) == 0
    with hackathon.database.read() as session:
        row = build_leaderboards(session, hackathon.edition, kind="final", side="all")[None].rows[0]
    assert (row.standing.entry.counted_parameters, row.standing.entry.verified) == (COUNTED, True)
    page = hackathon.sign_in("ada").get(f"/submissions/{submission.id}").text
    assert "1,668 (verified)" in page
    assert "<b>Verified:</b>" in page
    assert "<b>Stories plausible:</b>" in page
    assert 'name="files"' not in page
    with pytest.raises(RequestProblem, match="is verified"):
        receive_model(hackathon.database, person, submission.id, read_model(model))


def test_a_verified_model_with_doubtful_stories_is_kept_and_can_be_verified_again(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, submission = submit_final(hackathon, model)
    organiser = hackathon.add_person("boss", admin=True)
    doubtful_stories = {
        "verdict": "unproven",
        "reasons": ["the check of the stories took more than 1800 seconds"],
    }
    set_results(monkeypatch, replace(VERIFIED, stories=doubtful_stories), VERIFIED)
    receive_model(hackathon.database, person, submission.id, read_model(model))
    hackathon.run_worker()
    assert (get_verification(hackathon, submission.id).state, count_chunks(hackathon)) == ("verified", 3)
    assert "took more than 1800 seconds" in hackathon.sign_in("ada").get(f"/submissions/{submission.id}").text
    request_model(hackathon.database, organiser, submission.id)
    hackathon.run_worker()
    assert (get_verification(hackathon, submission.id).stories["verdict"], count_chunks(hackathon)) == (
        "plausible",
        0,
    )


def test_a_model_that_contradicts_its_declaration_is_not_shown_as_verified(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, submission = submit_final(hackathon, model)
    set_results(
        monkeypatch,
        VerificationResult(verdict="contradicted", counted=40_000_000, reasons=["more than \x00 claimed"]),
    )
    receive_model(hackathon.database, person, submission.id, read_model(model))
    hackathon.run_worker()
    with hackathon.database.read() as session:
        assert session.get_one(Submission, submission.id).verified_parameters is None
        assert session.scalar(select(func.count()).where(Audit.action == "model contradicted")) == 1
    assert count_chunks(hackathon) == 3
    page = hackathon.sign_in("ada").get(f"/submissions/{submission.id}").text
    assert "it has 40,000,000 counted parameters" in page
    assert "more than  claimed" in page
    hackathon.clock.now = hackathon.edition.ends
    public_page = hackathon.client().get(f"/submissions/{submission.id}").text
    assert "<b>Contradicted:</b>" in public_page
    assert "more than" not in public_page


def test_an_organiser_may_verify_a_model_again_and_a_team_may_upload_another(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, submission = submit_final(hackathon, model)
    organiser = hackathon.add_person("boss", admin=True)
    unproven = [VerificationResult(verdict="unproven", counted=None, reasons=["no time"])] * 2
    set_results(monkeypatch, *unproven, VerificationResult(verdict="verified", counted=COUNTED, reasons=[]))
    receive_model(hackathon.database, person, submission.id, read_model(model))
    hackathon.run_worker()
    request_model(hackathon.database, organiser, submission.id)
    assert get_verification(hackathon, submission.id).state == "waiting"
    hackathon.run_worker()
    assert get_verification(hackathon, submission.id).state == "unproven"
    receive_model(hackathon.database, person, submission.id, read_model(model))
    assert count_chunks(hackathon) == 3
    hackathon.run_worker()
    assert get_verification(hackathon, submission.id).state == "verified"


def test_a_model_is_accepted_for_a_final_submission_or_on_request(hackathon: Hackathon, model: Path) -> None:
    person = hackathon.add_team("ada")
    submission = hackathon.submit(person, model_hash=sha256_file(model / "model.safetensors"))
    with pytest.raises(RequestProblem, match="models are uploaded for final submissions"):
        receive_model(hackathon.database, person, submission.id, read_model(model))
    with pytest.raises(RequestProblem, match="only organisers"):
        request_model(hackathon.database, person, submission.id)
    organiser = hackathon.sign_in(hackathon.add_person("boss", admin=True).handle)
    address = f"/submissions/{submission.id}"
    response = organiser.post(
        f"/organise{address}",
        data={"form_token": read_form_token(organiser, address), "do": "model"},
        follow_redirects=False,
    )
    assert response.status_code == 303
    assert "The organisers request the model" in hackathon.sign_in("ada").get(address).text
    with pytest.raises(RequestProblem, match="no such submission"):
        receive_model(hackathon.database, hackathon.add_team("eve"), submission.id, read_model(model))
    receive_model(hackathon.database, person, submission.id, read_model(model))
    assert get_verification(hackathon, submission.id).state == "waiting"


def test_all_problems_of_a_model_are_reported_together_and_nothing_is_stored(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, submission = submit_final(hackathon, model)
    files = [
        UploadedFile(name="../weights.pt", size=6, content=io.BytesIO(b"pickle")),
        UploadedFile(name="config.json", size=2, content=io.BytesIO(b"{}")),
        UploadedFile(name="config.json", size=2, content=io.BytesIO(b"{}")),
        UploadedFile(name="model.safetensors", size=16, content=io.BytesIO(b"\x80\x04pickled weights")),
    ]
    with pytest.raises(RequestProblem) as raised:
        receive_model(hackathon.database, person, submission.id, files)
    problems = "\n".join(map(str, raised.value.fields))
    for message in (
        "../weights.pt is not a file of a model",
        "never a pickle",
        "tokenizer.json is missing",
        "a file name occurs twice",
        "model.safetensors is not a safetensors file",
    ):
        assert message in problems
    changed = (model / "model.safetensors").read_bytes()[:-1] + b"x"
    with pytest.raises(RequestProblem, match="upload the model that wrote the stories"):
        receive_model(hackathon.database, person, submission.id, read_model(model, model_safetensors=changed))
    monkeypatch.setattr(model_uploads, "MAX_OTHER_FILE_BYTES", 1)
    with pytest.raises(RequestProblem, match="at most 1 are accepted"):
        receive_model(hackathon.database, person, submission.id, read_model(model))
    assert count_chunks(hackathon) == 0


def test_the_form_accepts_model_files_and_shows_their_problems(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_uploads, "CHUNK_BYTES", 1000)
    _, submission = submit_final(hackathon, model)
    client, address = hackathon.sign_in("ada"), f"/submissions/{submission.id}"

    def post(*names: str, token: str | None = None) -> tuple[int, str]:
        response = client.post(
            f"{address}/model",
            data={"form_token": read_form_token(client, address) if token is None else token},
            files=[("files", (name, (model / name).read_bytes())) for name in names],
            follow_redirects=False,
        )
        return response.status_code, response.text

    status, text = post("optimizer.pt", "config.json")
    assert status == 422
    assert "optimizer.pt is not a file of a model" in text
    names = ("model.safetensors", "config.json", "tokenizer.json")
    assert post(*names, token="planted")[0] == 403
    assert count_chunks(hackathon) == 0
    assert post(*names)[0] == 303
    assert count_chunks(hackathon) > 5
    assert "waiting for verification" in client.get(address).text


def api_client(hackathon: Hackathon, person: Person) -> TestClient:
    client = hackathon.client()
    token = accounts.create_token(hackathon.database, person, "test", ["read", "hand-in"])
    client.headers["Authorization"] = f"Bearer {token}"
    return client


def test_the_api_refuses_other_people_before_it_reads_the_body(hackathon: Hackathon, model: Path) -> None:
    _, submission = submit_final(hackathon, model)

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(1 << 20)

    endpoint = f"/api/v1/hand-ins/{submission.id}/model"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert hackathon.client().post(endpoint, content=endless(), headers=form).status_code == 401
    stranger = api_client(hackathon, hackathon.add_person("eve"))
    assert stranger.post(endpoint, content=endless(), headers=form).status_code == 404
    # Only this address accepts more than a submission's size.
    assert stranger.post("/sign-in", content=endless(), headers=form).status_code == 413


def test_a_dead_workers_verification_is_taken_over_and_the_dead_worker_writes_nothing(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, submission = submit_final(hackathon, model)
    hackathon.run_worker()
    set_results(
        monkeypatch, *[VerificationResult(verdict="verified", counted=n, reasons=[]) for n in (7, COUNTED)]
    )
    receive_model(hackathon.database, person, submission.id, read_model(model))
    dead = lease_job(hackathon.database, "dead")
    assert dead is not None
    hackathon.clock.advance(seconds=LEASE_SECONDS + 1)
    live = lease_job(hackathon.database, "live")
    assert live is not None
    with pytest.raises(LeaseLost):
        verify_upload(hackathon.database, dead, "dead", threading.Event())
    assert get_verification(hackathon, submission.id).state == "waiting"
    verify_upload(hackathon.database, live, "live", threading.Event())
    assert (
        get_verification(hackathon, submission.id).state,
        get_verification(hackathon, submission.id).counted,
    ) == ("verified", COUNTED)
    assert lease_job(hackathon.database, "third") is None


def test_a_model_damaged_in_the_database_is_retried_and_then_unproven(
    hackathon: Hackathon, model: Path
) -> None:
    person, submission = submit_final(hackathon, model)
    hackathon.run_worker()
    receive_model(hackathon.database, person, submission.id, read_model(model))
    with hackathon.database.write() as session:
        session.execute(update(ModelChunk).where(ModelChunk.file == "config.json").values(content=b"{"))
    for _ in range(5):
        assert hackathon.run_worker() == 1
        hackathon.clock.advance(minutes=5)
    result = get_verification(hackathon, submission.id)
    assert result.state == "unproven"
    assert result.reasons == ["config.json in the database is not what was uploaded; upload the model again"]
    with hackathon.database.read() as session:
        assert session.scalars(select(Job.state).where(Job.kind == "verify")).one() == "failed"
        assert session.get_one(Submission, submission.id).state == "judged"


def test_judging_jobs_run_before_verifications(hackathon: Hackathon, model: Path) -> None:
    person, submission = submit_final(hackathon, model)
    hackathon.run_worker()
    receive_model(hackathon.database, person, submission.id, read_model(model))
    submit_final(hackathon, model, "bob")
    kinds = []
    while job := lease_job(hackathon.database, "w"):
        kinds.append(job.kind)
    assert kinds == ["judge", "verify"]


@pytest.mark.all
@pytest.mark.parametrize(
    ("claimed", "config", "verdict", "reason"),
    [
        ({}, None, "verified", ""),
        (
            {"counted_parameters": COUNTED - 1},
            None,
            "contradicted",
            "claims 1,667 parameters, 1,668 were counted",
        ),
        ({"model_hash": "ab" * 32}, None, "contradicted", "names the hash abab"),
        ({"weight_class": "tiny"}, None, "contradicted", "over class tiny"),
        ({}, '{"model_type": "my_own"}', "unproven", "my_own"),
    ],
)
def test_the_sandboxed_count_gives_the_right_verdict(
    tmp_path: Path, model: Path, claimed: dict[str, object], config: str | None, verdict: str, reason: str
) -> None:
    for name in ("model.safetensors", "config.json"):
        shutil.copyfile(model / name, tmp_path / name)
    if config:
        (tmp_path / "config.json").write_text(config)
    claim = {
        "counted_parameters": COUNTED,
        "model_hash": sha256_file(model / "model.safetensors"),
        "weight_class": "small",
        **claimed,
    }
    rules = "".join(
        f'[[weight_classes]]\nname = "{name}"\nmax_parameters = {max_parameters}\nhardware = "any"\n'
        for name, max_parameters in (("tiny", 1000), ("small", 30_000_000))
    )
    result = verify_model(tmp_path, claim, "hardware = []\n" + rules)
    assert result.verdict == verdict, result
    assert reason in "; ".join(result.reasons)


def test_an_organisers_verification_copies_only_a_models_files_and_refuses_links(
    hackathon: Hackathon, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = hackathon.submit(hackathon.add_team("ada"))
    copied_files: list[set[str]] = []

    def record_files(folder: Path, *_: object, **__: object) -> VerificationResult:
        copied_files.append({path.name for path in folder.iterdir()})
        return VerificationResult(verdict="verified", counted=COUNTED, reasons=[])

    monkeypatch.setattr(verification, "verify_model", record_files)
    assert verify_folder(hackathon.database, "boss", submission.id, model).verdict == "verified"
    assert copied_files == [{"model.safetensors", "config.json", "tokenizer.json"}]
    with hackathon.database.read() as session:
        assert session.get_one(Submission, submission.id).verified_parameters == COUNTED
    with pytest.raises(SmalltaleError, match=r"has no model\.safetensors"):
        verify_folder(hackathon.database, "boss", submission.id, tmp_path)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (tmp_path / name).symlink_to(model / name)
    with pytest.raises(SmalltaleError, match="contains links"):
        verify_folder(hackathon.database, "boss", submission.id, tmp_path)


def test_the_client_uploads_a_folders_model_and_nothing_else(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, submission = submit_final(hackathon, model)
    server = uvicorn.Server(
        uvicorn.Config(create_app(hackathon.database), port=0, log_level="critical", ws="none")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    token = accounts.create_token(hackathon.database, person, "test", ["read", "hand-in"])
    try:
        assert send_model(url, submission.id, model, token)["state"] == "waiting"
        assert set(get_verification(hackathon, submission.id).files) == {
            "model.safetensors",
            "config.json",
            "tokenizer.json",
        }
        set_results(monkeypatch, VerificationResult(verdict="verified", counted=COUNTED, reasons=[]))
        hackathon.run_worker()
        with pytest.raises(SmalltaleError, match="needs no model now"):
            send_model(url, submission.id, model, token)
    finally:
        server.should_exit = True
        thread.join()
