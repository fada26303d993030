"""Models that are sent with hand-ins: who may, what is taken, what a worker says of them, where it stands."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
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
from smalltale.files import sha256_of
from smalltale.server.accounts import accounts as people
from smalltale.server.client import send_model
from smalltale.server.database.models import Audit, HandIn, Job, ModelPiece, Person, Verification
from smalltale.server.errors import Problem
from smalltale.server.judging.queue import LEASE_SECONDS, LeaseLost, claim
from smalltale.server.leaderboard.leaderboard import make_board
from smalltale.server.verification import model_uploads as model_files
from smalltale.server.verification import verification
from smalltale.server.verification.model_uploads import Sent
from smalltale.server.verification.sandbox import Look, Stopped, limited, look_at
from smalltale.server.verification.verification import ask, send, verify_folder, verify_upload
from smalltale.server.web.app import create_app

from .conftest import PROMPTS, START, Fair, stories, token_on

FINAL_PROMPTS = [f"F {each}" for each in PROMPTS]
COUNTED = 1_668
VERIFIED = Look(verdict="verified", counted=COUNTED, reasons=[], stories={"verdict": "plausible"})
PYTHON = sys.executable


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

    from smalltale.corpus.fable import stories as fables
    from smalltale.generation.generate import completions
    from smalltale.generation.language_model import Ours
    from smalltale.generation.sampler import GenerationConfig
    from smalltale.model.serialization import write_model
    from smalltale.model.transformer import ModelConfig, Transformer
    from smalltale.submission import write_submission
    from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer

    torch.manual_seed(0)
    texts = list(fables(1, 120))
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocabulary=400))
    shape = ModelConfig(vocabulary=tokenizer.vocabulary, layers=2, width=64, heads=2, context=128)
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
    told = completions(Ours(model, tokenizer, torch.float32), FINAL_PROMPTS, config)
    write_submission(folder / "stories.csv", told, {})
    return Writer(
        folder=folder,
        counted=sum(each.numel() for each in model.parameters()),
        stories=(folder / "stories.csv").read_bytes(),
        sampling=json.dumps(asdict(config)),
    )


def sent(folder: Path, **changes: bytes) -> list[Sent]:
    """The folder's three files, some with other contents."""
    contents = {
        name: (folder / name).read_bytes() for name in ("model.safetensors", "config.json", "tokenizer.json")
    }
    contents |= {name.replace("_", "."): content for name, content in changes.items()}
    return [
        Sent(name=name, size=len(content), content=io.BytesIO(content)) for name, content in contents.items()
    ]


def finalist(
    fair: Fair, model: Path, handle: str = "ada", *, content: bytes | None = None, **declared: object
) -> tuple[Person, HandIn]:
    """A team with a final hand-in by this model."""
    fair.clock.now = START
    person = fair.team(handle)
    fair.clock.now = fair.edition.ends - (fair.edition.ends - fair.edition.starts) / 100
    declared = {
        "counted_parameters": str(COUNTED),
        "model_hash": sha256_of(model / "model.safetensors"),
        **declared,
    }
    content = content or stories(prompts=FINAL_PROMPTS)
    return person, fair.hand_in(person, kind="final", content=content, **declared)


def believed(monkeypatch: pytest.MonkeyPatch, *looks: Look) -> None:
    """Let the two processes that look at a model say this, without their ten seconds."""
    said, told = iter(looks), iter(looks)
    monkeypatch.setattr(verification, "look_at", lambda *_, **__: next(said))
    monkeypatch.setattr(verification, "look_at_stories", lambda *_, **__: next(told).stories)


def state_of(fair: Fair, number: int) -> Verification:
    with fair.store.read() as session:
        return session.get_one(Verification, number)


def pieces(fair: Fair) -> int:
    with fair.store.read() as session:
        return session.scalar(select(func.count()).select_from(ModelPiece)) or 0


@pytest.mark.all
def test_a_finalists_model_is_counted_and_its_stories_are_held_against_it_by_a_worker(
    fair: Fair, writer: Writer
) -> None:
    declared = {"counted_parameters": str(writer.counted), "sampling": writer.sampling}
    person, row = finalist(fair, writer.folder, content=writer.stories, **declared)
    _, other = finalist(fair, writer.folder, "eve", **declared)
    send(fair.store, person, row.id, sent(writer.folder))
    assert fair.judge() == 3
    found = state_of(fair, row.id)
    assert (found.state, found.counted, list(found.reasons)) == ("verified", writer.counted, [])
    assert found.stories["verdict"] == "plausible", found.stories
    assert found.stories["regenerated"] == found.stories["stories"] == 24
    assert pieces(fair) == 0
    with fair.store.read() as session:
        eve = session.get_one(Person, other.person_id)
    send(fair.store, eve, other.id, sent(writer.folder))
    assert fair.judge() == 1
    found = state_of(fair, other.id)
    assert (found.state, found.stories["verdict"]) == ("verified", "implausible"), found.stories
    assert pieces(fair) == 3
    assert "would hardly have written them" in fair.signed_in("eve").get(f"/hand-ins/{other.id}").text


def test_a_verified_model_stands_on_the_leaderboard_and_its_bytes_are_gone(
    fair: Fair, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, row = finalist(fair, model)
    believed(monkeypatch, VERIFIED)
    send(fair.store, person, row.id, sent(model))
    assert fair.judge() == 2
    assert pieces(fair) == 0
    with fair.store.read() as session:
        line = make_board(session, fair.edition, kind="final", side="all", weight_class=None).lines[0]
    assert (line.counted_parameters, line.verified) == (COUNTED, True)
    page = fair.signed_in("ada").get(f"/hand-ins/{row.id}").text
    assert "1,668 (verified)" in page
    assert "<b>Verified:</b>" in page
    assert "<b>Its stories are plausible:</b>" in page
    assert 'name="files"' not in page
    with pytest.raises(Problem, match="is verified"):
        send(fair.store, person, row.id, sent(model))


def test_a_verified_model_with_doubtful_stories_is_kept_and_can_be_looked_at_again(
    fair: Fair, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, row = finalist(fair, model)
    organiser = fair.person("boss", admin=True)
    doubted = {"verdict": "unproven", "reasons": ["the check of the stories took more than 1800 seconds"]}
    believed(monkeypatch, replace(VERIFIED, stories=doubted), VERIFIED)
    send(fair.store, person, row.id, sent(model))
    fair.judge()
    assert (state_of(fair, row.id).state, pieces(fair)) == ("verified", 3)
    assert "took more than 1800 seconds" in fair.signed_in("ada").get(f"/hand-ins/{row.id}").text
    ask(fair.store, organiser, row.id)
    fair.judge()
    assert (state_of(fair, row.id).stories["verdict"], pieces(fair)) == ("plausible", 0)


def test_a_model_that_is_not_what_was_declared_is_contradicted_and_stays_claimed(
    fair: Fair, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, row = finalist(fair, model)
    believed(
        monkeypatch, Look(verdict="contradicted", counted=40_000_000, reasons=["more than \x00 claimed"])
    )
    send(fair.store, person, row.id, sent(model))
    fair.judge()
    with fair.store.read() as session:
        assert session.get_one(HandIn, row.id).verified_parameters is None
        assert session.scalar(select(func.count()).where(Audit.action == "model contradicted")) == 1
    assert pieces(fair) == 3
    page = fair.signed_in("ada").get(f"/hand-ins/{row.id}").text
    assert "40,000,000 counted parameters were found" in page
    assert "more than  claimed" in page
    fair.clock.now = fair.edition.ends
    seen_by_all = fair.client().get(f"/hand-ins/{row.id}").text
    assert "<b>Contradicted:</b>" in seen_by_all
    assert "more than" not in seen_by_all


def test_an_organiser_has_a_model_looked_at_again_and_a_team_may_send_another(
    fair: Fair, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, row = finalist(fair, model)
    organiser = fair.person("boss", admin=True)
    looks = [Look(verdict="unproven", counted=None, reasons=["no time"])] * 2
    believed(monkeypatch, *looks, Look(verdict="verified", counted=COUNTED, reasons=[]))
    send(fair.store, person, row.id, sent(model))
    fair.judge()
    ask(fair.store, organiser, row.id)
    assert state_of(fair, row.id).state == "waiting"
    fair.judge()
    assert state_of(fair, row.id).state == "unproven"
    send(fair.store, person, row.id, sent(model))
    assert pieces(fair) == 3
    fair.judge()
    assert state_of(fair, row.id).state == "verified"


def test_models_come_from_finalists_and_where_an_organiser_asks(fair: Fair, model: Path) -> None:
    person = fair.team("ada")
    row = fair.hand_in(person, model_hash=sha256_of(model / "model.safetensors"))
    with pytest.raises(Problem, match="sent with final hand-ins"):
        send(fair.store, person, row.id, sent(model))
    with pytest.raises(Problem, match="only organisers"):
        ask(fair.store, person, row.id)
    organiser = fair.signed_in(fair.person("boss", admin=True).handle)
    here = f"/hand-ins/{row.id}"
    asked = organiser.post(
        f"/organise{here}",
        data={"form_token": token_on(organiser, here), "do": "model"},
        follow_redirects=False,
    )
    assert asked.status_code == 303
    assert "The organisers ask for the model" in fair.signed_in("ada").get(here).text
    with pytest.raises(Problem, match="no such hand-in"):
        send(fair.store, fair.team("eve"), row.id, sent(model))
    send(fair.store, person, row.id, sent(model))
    assert state_of(fair, row.id).state == "waiting"


def test_everything_wrong_with_a_model_is_told_at_once_and_nothing_is_kept(
    fair: Fair, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, row = finalist(fair, model)
    wrong = [
        Sent(name="../weights.pt", size=6, content=io.BytesIO(b"pickle")),
        Sent(name="config.json", size=2, content=io.BytesIO(b"{}")),
        Sent(name="config.json", size=2, content=io.BytesIO(b"{}")),
        Sent(name="model.safetensors", size=16, content=io.BytesIO(b"\x80\x04pickled weights")),
    ]
    with pytest.raises(Problem) as caught:
        send(fair.store, person, row.id, wrong)
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
    with pytest.raises(Problem, match="send the model that wrote the stories"):
        send(fair.store, person, row.id, sent(model, model_safetensors=other))
    monkeypatch.setattr(model_files, "OTHERS_BYTES", 1)
    with pytest.raises(Problem, match="at most 1 are taken"):
        send(fair.store, person, row.id, sent(model))
    assert pieces(fair) == 0


def test_a_form_takes_the_files_and_says_beside_them_what_is_wrong(
    fair: Fair, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "PIECE_BYTES", 1000)
    _, row = finalist(fair, model)
    client, here = fair.signed_in("ada"), f"/hand-ins/{row.id}"

    def post(*names: str, token: str | None = None) -> tuple[int, str]:
        answer = client.post(
            f"{here}/model",
            data={"form_token": token_on(client, here) if token is None else token},
            files=[("files", (name, (model / name).read_bytes())) for name in names],
            follow_redirects=False,
        )
        return answer.status_code, answer.text

    status, text = post("optimizer.pt", "config.json")
    assert status == 422
    assert "optimizer.pt is no file of a model" in text
    names = ("model.safetensors", "config.json", "tokenizer.json")
    assert post(*names, token="planted")[0] == 403
    assert pieces(fair) == 0
    assert post(*names)[0] == 303
    assert pieces(fair) > 5
    assert "waits to be verified" in client.get(here).text


def with_key(fair: Fair, person: Person) -> TestClient:
    client = fair.client()
    token = people.make_token(fair.store, person, "test", ["read", "hand-in"])
    client.headers["Authorization"] = f"Bearer {token}"
    return client


def test_the_api_refuses_a_stranger_before_it_reads_a_byte(fair: Fair, model: Path) -> None:
    _, row = finalist(fair, model)
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield bytes(1 << 20)

    where = f"/api/v1/hand-ins/{row.id}/model"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert fair.client().post(where, content=endless(), headers=form).status_code == 401
    stranger = with_key(fair, fair.person("eve"))
    assert stranger.post(where, content=endless(), headers=form).status_code == 404
    # what is larger than a hand-in is let in here and nowhere else
    assert stranger.post("/sign-in", content=endless(), headers=form).status_code == 413


def test_a_dead_workers_verification_goes_to_a_live_one_and_the_dead_writes_nothing(
    fair: Fair, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, row = finalist(fair, model)
    fair.judge()
    believed(monkeypatch, *[Look(verdict="verified", counted=n, reasons=[]) for n in (7, COUNTED)])
    send(fair.store, person, row.id, sent(model))
    dead = claim(fair.store, "dead")
    assert dead is not None
    fair.clock.advance(seconds=LEASE_SECONDS + 1)
    live = claim(fair.store, "live")
    assert live is not None
    with pytest.raises(LeaseLost):
        verify_upload(fair.store, dead, "dead", threading.Event())
    assert state_of(fair, row.id).state == "waiting"
    verify_upload(fair.store, live, "live", threading.Event())
    assert (state_of(fair, row.id).state, state_of(fair, row.id).counted) == ("verified", COUNTED)
    assert claim(fair.store, "third") is None


def test_a_model_that_was_damaged_in_the_database_is_tried_again_and_then_unproven(
    fair: Fair, model: Path
) -> None:
    person, row = finalist(fair, model)
    fair.judge()
    send(fair.store, person, row.id, sent(model))
    with fair.store.write() as session:
        session.execute(update(ModelPiece).where(ModelPiece.file == "config.json").values(content=b"{"))
    for _ in range(5):
        assert fair.judge() == 1
        fair.clock.advance(minutes=5)
    found = state_of(fair, row.id)
    assert found.state == "unproven"
    assert found.reasons == ["config.json is not in the database as it was sent; send the model again"]
    with fair.store.read() as session:
        assert session.scalars(select(Job.state).where(Job.kind == "verify")).one() == "failed"
        assert session.get_one(HandIn, row.id).state == "judged"


def test_judging_goes_before_verifying(fair: Fair, model: Path) -> None:
    person, row = finalist(fair, model)
    fair.judge()
    send(fair.store, person, row.id, sent(model))
    finalist(fair, model, "bob")
    kinds = []
    while job := claim(fair.store, "w"):
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
        "model_hash": sha256_of(model / "model.safetensors"),
        "weight_class": "small",
        **claimed,
    }
    rules = "".join(
        f'[[weight_classes]]\nname = "{name}"\nmax_parameters = {most}\nhardware = "any"\n'
        for name, most in (("tiny", 1000), ("small", 30_000_000))
    )
    found = look_at(tmp_path, claim, "hardware = []\n" + rules)
    assert found.verdict == verdict, found
    assert words in "; ".join(found.reasons)


def test_an_organisers_own_look_takes_only_a_models_files_and_no_links(
    fair: Fair, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = fair.hand_in(fair.team("ada"))
    seen: list[set[str]] = []

    def look_at(folder: Path, *_: object, **__: object) -> Look:
        seen.append({each.name for each in folder.iterdir()})
        return Look(verdict="verified", counted=COUNTED, reasons=[])

    monkeypatch.setattr(verification, "look_at", look_at)
    assert verify_folder(fair.store, "boss", row.id, model).verdict == "verified"
    assert seen == [{"model.safetensors", "config.json", "tokenizer.json"}]
    with fair.store.read() as session:
        assert session.get_one(HandIn, row.id).verified_parameters == COUNTED
    with pytest.raises(SmalltaleError, match=r"has no model\.safetensors"):
        verify_folder(fair.store, "boss", row.id, tmp_path)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (tmp_path / name).symlink_to(model / name)
    with pytest.raises(SmalltaleError, match="holds links"):
        verify_folder(fair.store, "boss", row.id, tmp_path)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python of ours in front of the limited process: it runs what the test writes there."""
    code = tmp_path / "said.py"
    runner = tmp_path / "python"
    runner.write_text(f'#!/bin/sh\nexec {PYTHON} {code} "$@"\n')
    runner.chmod(0o755)
    monkeypatch.setattr("smalltale.server.verification.sandbox.sys.executable", str(runner))
    return code


def test_the_process_that_opens_a_model_knows_no_secret_and_asks_no_hub(
    command: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.write_text("import os; print(sorted(os.environ))")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("SMALLTALE_DATABASE", "postgresql://secret")
    known = limited([])
    assert "'PATH'" in known
    assert "'HF_HUB_OFFLINE'" in known
    assert "OPENAI" not in known
    assert "SMALLTALE" not in known


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("while True: pass", "took more than 1 seconds"),
        ("bytearray(2 << 30)", "MemoryError"),
        ("raise SystemExit('no such model')", "no such model"),
        ("pass", "stopped with status 0"),
    ],
)
def test_a_process_at_its_limits_is_one_line(command: Path, code: str, message: str) -> None:
    command.write_text(f"try:\n    {code}\nexcept MemoryError: raise SystemExit('MemoryError')")
    with pytest.raises(SmalltaleError, match=message):
        limited([], seconds=1, gibibytes=1)


def test_nothing_that_the_process_started_outlives_it_nor_a_lost_lease(command: Path, tmp_path: Path) -> None:
    child = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    pid = tmp_path / "pid"
    command.write_text(
        f"import subprocess, sys, time; subprocess.Popen([{PYTHON!r}, '-c', {child!r}, {str(pid)!r}]); time.sleep(60)"
    )
    stop = threading.Event()

    def stop_when_the_child_runs() -> None:
        for _ in range(500):
            if pid.exists() and pid.read_text():
                break
            time.sleep(0.02)
        stop.set()

    threading.Thread(target=stop_when_the_child_runs).start()
    with pytest.raises(Stopped):
        limited([], stop=stop)
    for _ in range(50):
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", pid.read_text()], capture_output=True, text=True
        ).stdout
        if not state or state.startswith("Z"):
            return
        time.sleep(0.1)
    os.kill(int(pid.read_text()), 9)
    pytest.fail("the grandchild lives on")


def test_the_command_sends_a_folders_model_and_nothing_else(
    fair: Fair, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, row = finalist(fair, model)
    server = uvicorn.Server(uvicorn.Config(create_app(fair.store), port=0, log_level="critical", ws="none"))
    running = threading.Thread(target=server.run)
    running.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    token = people.make_token(fair.store, person, "test", ["read", "hand-in"])
    try:
        assert send_model(url, row.id, model, token)["state"] == "waiting"
        assert set(state_of(fair, row.id).files) == {"model.safetensors", "config.json", "tokenizer.json"}
        believed(monkeypatch, Look(verdict="verified", counted=COUNTED, reasons=[]))
        fair.judge()
        with pytest.raises(SmalltaleError, match="needs no model now"):
            send_model(url, row.id, model, token)
    finally:
        server.should_exit = True
        running.join()
