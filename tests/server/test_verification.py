"""Models that are sent with hand-ins: who may, what is taken, what a worker says of them, where it stands."""

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
from smalltale.server.accounts import accounts as people
from smalltale.server.client import send_model
from smalltale.server.database.models import Audit, Job, ModelChunk, Person, Submission, Verification
from smalltale.server.errors import RequestProblem
from smalltale.server.judging.queue import LEASE_SECONDS, LeaseLost, lease_job
from smalltale.server.leaderboard.leaderboard import build_leaderboard
from smalltale.server.verification import model_uploads as model_files
from smalltale.server.verification import verification
from smalltale.server.verification.model_checks import (
    VerificationResult,
    verify_model,
)
from smalltale.server.verification.model_uploads import UploadedFile
from smalltale.server.verification.verification import (
    receive_model,
    request_model,
    verify_folder,
    verify_upload,
)
from smalltale.server.web.app import create_app

from .conftest import PROMPTS, START, Hackathon, read_form_token, submission_csv

FINAL_PROMPTS = [f"F {each}" for each in PROMPTS]
COUNTED = 1_668
VERIFIED = VerificationResult(
    verdict="verified", counted=COUNTED, reasons=[], stories={"verdict": "plausible"}
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of 1,668 counted parameters, with a file that is not sent."""
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
    """A model that has learnt to tell stories, with what it told of the final prompts."""

    folder: Path
    counted: int
    stories: bytes
    sampling: str


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """A model that has read fables for two seconds."""
    import torch
    from torch.nn import functional as F

    from smalltale.corpus.fable.generator import generate_stories as fables
    from smalltale.generation.generate import generate_completions
    from smalltale.generation.language_model import NativeModel
    from smalltale.generation.sampler import GenerationConfig
    from smalltale.model.serialization import write_model
    from smalltale.model.transformer import ModelConfig, Transformer
    from smalltale.submission import write_submission
    from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer

    torch.manual_seed(0)
    texts = list(fables(1, 120))
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
    told = generate_completions(NativeModel(model, tokenizer, torch.float32), FINAL_PROMPTS, config)
    write_submission(folder / "stories.csv", told, {})
    return Writer(
        folder=folder,
        counted=sum(each.numel() for each in model.parameters()),
        stories=(folder / "stories.csv").read_bytes(),
        sampling=json.dumps(asdict(config)),
    )


def sent(folder: Path, **changes: bytes) -> list[UploadedFile]:
    """The folder's three files, some with other contents."""
    contents = {
        name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json", "tokenizer.json")
    }
    contents |= {name.replace("_", "."): content for name, content in changes.items()}
    return [
        UploadedFile(name=name, size=len(content), content=io.BytesIO(content))
        for name, content in contents.items()
    ]


def finalist(
    hackathon: Hackathon,
    model: Path,
    handle: str = "ada",
    *,
    content: bytes | None = None,
    **declared: object,
) -> tuple[Person, Submission]:
    """A team with a final hand-in by this model."""
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


def believed(monkeypatch: pytest.MonkeyPatch, *looks: VerificationResult) -> None:
    """Let the two processes that look at a model say this, without their ten seconds."""
    said, told = iter(looks), iter(looks)
    monkeypatch.setattr(verification, "verify_model", lambda *_, **__: next(said))
    monkeypatch.setattr(verification, "check_stories", lambda *_, **__: next(told).stories)


def state_of(hackathon: Hackathon, number: int) -> Verification:
    with hackathon.database.read() as session:
        return session.get_one(Verification, number)


def pieces(hackathon: Hackathon) -> int:
    with hackathon.database.read() as session:
        return session.scalar(select(func.count()).select_from(ModelChunk)) or 0


@pytest.mark.all
def test_a_finalists_model_is_counted_and_its_stories_are_held_against_it_by_a_worker(
    hackathon: Hackathon, writer: Writer
) -> None:
    declared = {"counted_parameters": str(writer.counted), "sampling": writer.sampling}
    person, row = finalist(hackathon, writer.folder, content=writer.stories, **declared)
    _, other = finalist(hackathon, writer.folder, "eve", **declared)
    receive_model(hackathon.database, person, row.id, sent(writer.folder))
    assert hackathon.run_worker() == 3
    found = state_of(hackathon, row.id)
    assert (found.state, found.counted, list(found.reasons)) == ("verified", writer.counted, [])
    assert found.stories["verdict"] == "plausible", found.stories
    assert found.stories["regenerated"] == found.stories["stories"] == 24
    assert pieces(hackathon) == 0
    with hackathon.database.read() as session:
        eve = session.get_one(Person, other.person_id)
    receive_model(hackathon.database, eve, other.id, sent(writer.folder))
    assert hackathon.run_worker() == 1
    found = state_of(hackathon, other.id)
    assert (found.state, found.stories["verdict"]) == ("verified", "implausible"), found.stories
    assert pieces(hackathon) == 3
    assert "would hardly have written them" in hackathon.sign_in("eve").get(f"/hand-ins/{other.id}").text


def test_a_verified_model_stands_on_the_leaderboard_and_its_bytes_are_gone(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, row = finalist(hackathon, model)
    believed(monkeypatch, VERIFIED)
    receive_model(hackathon.database, person, row.id, sent(model))
    assert hackathon.run_worker() == 2
    assert pieces(hackathon) == 0
    with hackathon.database.read() as session:
        line = build_leaderboard(
            session, hackathon.edition, kind="final", side="all", weight_class=None
        ).rows[0]
    assert (line.counted_parameters, line.verified) == (COUNTED, True)
    page = hackathon.sign_in("ada").get(f"/hand-ins/{row.id}").text
    assert "1,668 (verified)" in page
    assert "<b>Verified:</b>" in page
    assert "<b>Its stories are plausible:</b>" in page
    assert 'name="files"' not in page
    with pytest.raises(RequestProblem, match="is verified"):
        receive_model(hackathon.database, person, row.id, sent(model))


def test_a_verified_model_with_doubtful_stories_is_kept_and_can_be_looked_at_again(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, row = finalist(hackathon, model)
    organiser = hackathon.add_person("boss", admin=True)
    doubted = {"verdict": "unproven", "reasons": ["the check of the stories took more than 1800 seconds"]}
    believed(monkeypatch, replace(VERIFIED, stories=doubted), VERIFIED)
    receive_model(hackathon.database, person, row.id, sent(model))
    hackathon.run_worker()
    assert (state_of(hackathon, row.id).state, pieces(hackathon)) == ("verified", 3)
    assert "took more than 1800 seconds" in hackathon.sign_in("ada").get(f"/hand-ins/{row.id}").text
    request_model(hackathon.database, organiser, row.id)
    hackathon.run_worker()
    assert (state_of(hackathon, row.id).stories["verdict"], pieces(hackathon)) == ("plausible", 0)


def test_a_model_that_is_not_what_was_declared_is_contradicted_and_stays_claimed(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, row = finalist(hackathon, model)
    believed(
        monkeypatch,
        VerificationResult(verdict="contradicted", counted=40_000_000, reasons=["more than \x00 claimed"]),
    )
    receive_model(hackathon.database, person, row.id, sent(model))
    hackathon.run_worker()
    with hackathon.database.read() as session:
        assert session.get_one(Submission, row.id).verified_parameters is None
        assert session.scalar(select(func.count()).where(Audit.action == "model contradicted")) == 1
    assert pieces(hackathon) == 3
    page = hackathon.sign_in("ada").get(f"/hand-ins/{row.id}").text
    assert "40,000,000 counted parameters were found" in page
    assert "more than  claimed" in page
    hackathon.clock.now = hackathon.edition.ends
    seen_by_all = hackathon.client().get(f"/hand-ins/{row.id}").text
    assert "<b>Contradicted:</b>" in seen_by_all
    assert "more than" not in seen_by_all


def test_an_organiser_has_a_model_looked_at_again_and_a_team_may_send_another(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, row = finalist(hackathon, model)
    organiser = hackathon.add_person("boss", admin=True)
    looks = [VerificationResult(verdict="unproven", counted=None, reasons=["no time"])] * 2
    believed(monkeypatch, *looks, VerificationResult(verdict="verified", counted=COUNTED, reasons=[]))
    receive_model(hackathon.database, person, row.id, sent(model))
    hackathon.run_worker()
    request_model(hackathon.database, organiser, row.id)
    assert state_of(hackathon, row.id).state == "waiting"
    hackathon.run_worker()
    assert state_of(hackathon, row.id).state == "unproven"
    receive_model(hackathon.database, person, row.id, sent(model))
    assert pieces(hackathon) == 3
    hackathon.run_worker()
    assert state_of(hackathon, row.id).state == "verified"


def test_models_come_from_finalists_and_where_an_organiser_asks(hackathon: Hackathon, model: Path) -> None:
    person = hackathon.add_team("ada")
    row = hackathon.submit(person, model_hash=sha256_file(model / "model.safetensors"))
    with pytest.raises(RequestProblem, match="sent with final hand-ins"):
        receive_model(hackathon.database, person, row.id, sent(model))
    with pytest.raises(RequestProblem, match="only organisers"):
        request_model(hackathon.database, person, row.id)
    organiser = hackathon.sign_in(hackathon.add_person("boss", admin=True).handle)
    here = f"/hand-ins/{row.id}"
    asked = organiser.post(
        f"/organise{here}",
        data={"form_token": read_form_token(organiser, here), "do": "model"},
        follow_redirects=False,
    )
    assert asked.status_code == 303
    assert "The organisers ask for the model" in hackathon.sign_in("ada").get(here).text
    with pytest.raises(RequestProblem, match="no such hand-in"):
        receive_model(hackathon.database, hackathon.add_team("eve"), row.id, sent(model))
    receive_model(hackathon.database, person, row.id, sent(model))
    assert state_of(hackathon, row.id).state == "waiting"


def test_everything_wrong_with_a_model_is_told_at_once_and_nothing_is_kept(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, row = finalist(hackathon, model)
    wrong = [
        UploadedFile(name="../weights.pt", size=6, content=io.BytesIO(b"pickle")),
        UploadedFile(name="config.json", size=2, content=io.BytesIO(b"{}")),
        UploadedFile(name="config.json", size=2, content=io.BytesIO(b"{}")),
        UploadedFile(name="model.safetensors", size=16, content=io.BytesIO(b"\x80\x04pickled weights")),
    ]
    with pytest.raises(RequestProblem) as caught:
        receive_model(hackathon.database, person, row.id, wrong)
    found = "\n".join(map(str, caught.value.fields))
    for words in (
        "../weights.pt is no file of a model",
        "never a pickle",
        "tokenizer.json is missing",
        "a file is there twice",
        "model.safetensors is not a safetensors file",
    ):
        assert words in found
    other = (model / "model.safetensors").read_bytes()[:-1] + b"x"
    with pytest.raises(RequestProblem, match="send the model that wrote the stories"):
        receive_model(hackathon.database, person, row.id, sent(model, model_safetensors=other))
    monkeypatch.setattr(model_files, "MAX_OTHER_FILE_BYTES", 1)
    with pytest.raises(RequestProblem, match="at most 1 are taken"):
        receive_model(hackathon.database, person, row.id, sent(model))
    assert pieces(hackathon) == 0


def test_a_form_takes_the_files_and_says_beside_them_what_is_wrong(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "CHUNK_BYTES", 1000)
    _, row = finalist(hackathon, model)
    client, here = hackathon.sign_in("ada"), f"/hand-ins/{row.id}"

    def post(*names: str, token: str | None = None) -> tuple[int, str]:
        answer = client.post(
            f"{here}/model",
            data={"form_token": read_form_token(client, here) if token is None else token},
            files=[("files", (name, (model / name).read_bytes())) for name in names],
            follow_redirects=False,
        )
        return answer.status_code, answer.text

    status, text = post("optimizer.pt", "config.json")
    assert status == 422
    assert "optimizer.pt is no file of a model" in text
    names = ("model.safetensors", "config.json", "tokenizer.json")
    assert post(*names, token="planted")[0] == 403
    assert pieces(hackathon) == 0
    assert post(*names)[0] == 303
    assert pieces(hackathon) > 5
    assert "waits to be verified" in client.get(here).text


def with_key(hackathon: Hackathon, person: Person) -> TestClient:
    client = hackathon.client()
    token = people.create_token(hackathon.database, person, "test", ["read", "hand-in"])
    client.headers["Authorization"] = f"Bearer {token}"
    return client


def test_the_api_refuses_a_stranger_before_it_reads_a_byte(hackathon: Hackathon, model: Path) -> None:
    _, row = finalist(hackathon, model)
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield bytes(1 << 20)

    where = f"/api/v1/hand-ins/{row.id}/model"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert hackathon.client().post(where, content=endless(), headers=form).status_code == 401
    stranger = with_key(hackathon, hackathon.add_person("eve"))
    assert stranger.post(where, content=endless(), headers=form).status_code == 404
    # what is larger than a hand-in is let in here and nowhere else
    assert stranger.post("/sign-in", content=endless(), headers=form).status_code == 413


def test_a_dead_workers_verification_goes_to_a_live_one_and_the_dead_writes_nothing(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, row = finalist(hackathon, model)
    hackathon.run_worker()
    believed(
        monkeypatch, *[VerificationResult(verdict="verified", counted=n, reasons=[]) for n in (7, COUNTED)]
    )
    receive_model(hackathon.database, person, row.id, sent(model))
    dead = lease_job(hackathon.database, "dead")
    assert dead is not None
    hackathon.clock.advance(seconds=LEASE_SECONDS + 1)
    live = lease_job(hackathon.database, "live")
    assert live is not None
    with pytest.raises(LeaseLost):
        verify_upload(hackathon.database, dead, "dead", threading.Event())
    assert state_of(hackathon, row.id).state == "waiting"
    verify_upload(hackathon.database, live, "live", threading.Event())
    assert (state_of(hackathon, row.id).state, state_of(hackathon, row.id).counted) == ("verified", COUNTED)
    assert lease_job(hackathon.database, "third") is None


def test_a_model_that_was_damaged_in_the_database_is_tried_again_and_then_unproven(
    hackathon: Hackathon, model: Path
) -> None:
    person, row = finalist(hackathon, model)
    hackathon.run_worker()
    receive_model(hackathon.database, person, row.id, sent(model))
    with hackathon.database.write() as session:
        session.execute(update(ModelChunk).where(ModelChunk.file == "config.json").values(content=b"{"))
    for _ in range(5):
        assert hackathon.run_worker() == 1
        hackathon.clock.advance(minutes=5)
    found = state_of(hackathon, row.id)
    assert found.state == "unproven"
    assert found.reasons == ["config.json is not in the database as it was sent; send the model again"]
    with hackathon.database.read() as session:
        assert session.scalars(select(Job.state).where(Job.kind == "verify")).one() == "failed"
        assert session.get_one(Submission, row.id).state == "judged"


def test_judging_goes_before_verifying(hackathon: Hackathon, model: Path) -> None:
    person, row = finalist(hackathon, model)
    hackathon.run_worker()
    receive_model(hackathon.database, person, row.id, sent(model))
    finalist(hackathon, model, "bob")
    kinds = []
    while job := lease_job(hackathon.database, "w"):
        kinds.append(job.kind)
    assert kinds == ["judge", "verify"]


@pytest.mark.all
@pytest.mark.parametrize(
    ("claimed", "config", "verdict", "words"),
    [
        ({}, None, "verified", ""),
        ({"counted_parameters": COUNTED - 1}, None, "contradicted", "claims 1,667 counted parameters, 1,668"),
        ({"model_hash": "ab" * 32}, None, "contradicted", "the hand-in names the hash abab"),
        ({"weight_class": "tiny"}, None, "contradicted", "over class tiny"),
        ({}, '{"model_type": "my_own"}', "unproven", "my_own"),
    ],
)
def test_the_process_that_counts_finds_what_is_true(
    tmp_path: Path, model: Path, claimed: dict[str, object], config: str | None, verdict: str, words: str
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
        f'[[weight_classes]]\nname = "{name}"\nmax_parameters = {most}\nhardware = "any"\n'
        for name, most in (("tiny", 1000), ("small", 30_000_000))
    )
    found = verify_model(tmp_path, claim, "hardware = []\n" + rules)
    assert found.verdict == verdict, found
    assert words in "; ".join(found.reasons)


def test_an_organisers_own_look_takes_only_a_models_files_and_no_links(
    hackathon: Hackathon, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = hackathon.submit(hackathon.add_team("ada"))
    seen: list[set[str]] = []

    def look_at(folder: Path, *_: object, **__: object) -> VerificationResult:
        seen.append({each.name for each in folder.iterdir()})
        return VerificationResult(verdict="verified", counted=COUNTED, reasons=[])

    monkeypatch.setattr(verification, "verify_model", look_at)
    assert verify_folder(hackathon.database, "boss", row.id, model).verdict == "verified"
    assert seen == [{"model.safetensors", "config.json", "tokenizer.json"}]
    with hackathon.database.read() as session:
        assert session.get_one(Submission, row.id).verified_parameters == COUNTED
    with pytest.raises(SmalltaleError, match=r"has no model\.safetensors"):
        verify_folder(hackathon.database, "boss", row.id, tmp_path)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (tmp_path / name).symlink_to(model / name)
    with pytest.raises(SmalltaleError, match="contains links"):
        verify_folder(hackathon.database, "boss", row.id, tmp_path)


def test_the_command_sends_a_folders_model_and_nothing_else(
    hackathon: Hackathon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, row = finalist(hackathon, model)
    server = uvicorn.Server(
        uvicorn.Config(create_app(hackathon.database), port=0, log_level="critical", ws="none")
    )
    running = threading.Thread(target=server.run)
    running.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    token = people.create_token(hackathon.database, person, "test", ["read", "hand-in"])
    try:
        assert send_model(url, row.id, model, token)["state"] == "waiting"
        assert set(state_of(hackathon, row.id).files) == {
            "model.safetensors",
            "config.json",
            "tokenizer.json",
        }
        believed(monkeypatch, VerificationResult(verdict="verified", counted=COUNTED, reasons=[]))
        hackathon.run_worker()
        with pytest.raises(SmalltaleError, match="needs no model now"):
            send_model(url, row.id, model, token)
    finally:
        server.should_exit = True
        running.join()
