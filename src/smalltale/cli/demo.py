"""`smalltale demo`: the whole hackathon in one go, through the other verbs' own functions and files."""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from smalltale.config import Recipe
    from smalltale.counting.report import CountReport
    from smalltale.demo.report_page import DemoResult, Sample
    from smalltale.model.transformer import Transformer
    from smalltale.tokens.tokenizer import Tokenizer
    from smalltale.training.checkpoint import RunState

log = logging.getLogger("smalltale.demo")

PROMPTS = 8
EVALUATED_STORIES = 300
TEAM = "demo team"
PLUMBING = (
    "Plumbing only, not fit to rank: the embedded judge is SmolLM2-135M-Instruct, which judges at chance level. "
    "It shows that the path from story to score works; a real leaderboard needs a judge that qualifies."
)


def add_to(app: typer.Typer) -> None:
    """Register `demo`."""

    @app.command("demo")
    def demo(
        minutes: Annotated[float, typer.Option(help="Minutes of training.")] = 3.0,
        out: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path("runs/demo"),
        stories: Annotated[
            Path | None, typer.Option(help="Real stories to train on, instead of our fables.")
        ] = None,
        valid: Annotated[Path | None, typer.Option(help="Held-out stories to measure on.")] = None,
        recipe: Annotated[str, typer.Option(help="A recipe's name or path.")] = "demo",
        judge: Annotated[bool, typer.Option(help="Let the embedded judge score the stories.")] = True,
        set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value.")] = None,
    ) -> None:
        """Train a storyteller from scratch, count it, let it write, judge it and rank it."""
        from smalltale.config import load_recipe

        overrides = [f"training.schedule.minutes={minutes}", *source_overrides(stories, valid), *(set_ or [])]
        Demo(load_recipe(recipe, overrides), out, judge=judge).run()


def source_overrides(stories: Path | None, valid: Path | None) -> list[str]:
    """The text options as recipe overrides."""
    overrides = []
    if stories is not None:
        overrides.append(f"corpus.sources=[{json.dumps(str(stories))}]")
    if valid is not None:
        overrides.append(f"corpus.validation={json.dumps(str(valid))}")
    return overrides


@dataclass
class Demo:
    """One demo: each method is a stage, done only where its folder is not there yet."""

    recipe: Recipe
    out: Path
    judge: bool
    stages: list[tuple[str, str, float]] = field(default_factory=list)

    def run(self) -> None:
        """All stages, then the page and the closing table."""
        self.check_recipe()
        self.make_room()
        self.stage("corpus", self.corpus)
        self.stage("tokenizer", self.tokenizer)
        self.stage("tokens", self.tokens)
        self.stage("training", self.training)
        count = self.stage("count", self.count)
        bits, measured = self.stage("evaluation", self.evaluation)
        self.stage("completions", self.completions)
        self.stage("check", self.check)
        judged = self.judge and self.stage("judging", self.judging)
        if judged:
            self.stage("leaderboard", self.leaderboard)
        result = self.result(count, bits, measured, judged=bool(judged))
        from smalltale.demo.report_page import write_report

        write_report(result, self.out / "report.html")
        (self.out / "demo.json").write_text(json.dumps(self.told(finished=True)), encoding="utf-8")
        show(result, self.out)

    def check_recipe(self) -> None:
        """Name a mistake in the recipe before anything is done."""
        from smalltale.corpus.build import CorpusConfig
        from smalltale.generation.sampler import GenerationConfig
        from smalltale.model.transformer import ModelConfig
        from smalltale.tokens.tokenizer import TokenizerConfig
        from smalltale.training.config import TrainingConfig

        configs: dict[str, type] = {
            "corpus": CorpusConfig,
            "tokenizer": TokenizerConfig,
            "model": ModelConfig,
            "training": TrainingConfig,
            "generation": GenerationConfig,
        }
        for name, config in configs.items():
            self.recipe.section(name, config)

    def told(self, *, finished: bool) -> dict[str, Any]:
        """What this demo was asked to do."""
        return {"recipe": self.recipe.as_dict(), "finished": finished}

    def make_room(self) -> None:
        """Go on with a stopped demo of the same kind; start a finished one over; touch nothing else."""
        from smalltale.errors import FileProblem
        from smalltale.files import read_json, translate_os_errors, write_json

        record = self.out / "demo.json"
        with translate_os_errors(self.out):
            if self.out.exists() and (
                not self.out.is_dir() or (any(self.out.iterdir()) and not record.exists())
            ):
                raise FileProblem(
                    f"{self.out} exists and holds no demo; choose a new or empty folder with --out"
                )
            if record.exists():
                if read_json(record) == self.told(finished=False):
                    log.info("going on with the demo in %s", self.out)
                    return
                shutil.rmtree(self.out)
        write_json(record, self.told(finished=False))

    def stage(self, name: str, work: Callable[[], Any]) -> Any:
        """Run one stage and note its time. A stage's answer is (words, value) or words."""
        began = time.monotonic()
        answer = work()
        words, value = answer if isinstance(answer, tuple) else (answer, None)
        seconds = time.monotonic() - began
        self.stages.append((name, words, seconds))
        log.info("%s: %s (%.1f s)", name, words, seconds)
        return value

    def corpus(self) -> str:
        from smalltale.corpus.build import CorpusConfig, build_corpus
        from smalltale.files import read_json

        folder = self.out / "corpus"
        if not folder.exists():
            build_corpus(self.recipe.section("corpus", CorpusConfig), folder, self.recipe.as_dict())
        counts = read_json(folder / "meta.json")["counts"]
        return f"{counts['train_stories']:,} stories to learn from, {counts['val_stories']:,} held out"

    def tokenizer(self) -> str:
        from smalltale.cli.tokens import train_corpus_tokenizer
        from smalltale.tokens.tokenizer import Tokenizer, TokenizerConfig

        folder = self.out / "tokenizer"
        if not folder.exists():
            config = self.recipe.section("tokenizer", TokenizerConfig)
            train_corpus_tokenizer(self.out / "corpus", folder, config, self.recipe.as_dict())
        return f"byte-level BPE, {Tokenizer.load(folder).vocabulary_size:,} tokens"

    def tokens(self) -> str:
        from smalltale.files import read_json
        from smalltale.tokens.encode import encode_corpus

        folder = self.out / "tokens"
        if not folder.exists():
            encode_corpus(self.out / "corpus", self.out / "tokenizer", folder, recipe=self.recipe.as_dict())
        counts = read_json(folder / "meta.json")["counts"]
        return f"{counts['train_tokens']:,} tokens to learn from"

    def training(self) -> str:
        from smalltale.cli.train import train_recipe
        from smalltale.files import read_json
        from smalltale.tokens.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(self.out / "tokenizer")
        folder = self.out / "checkpoint"
        train_recipe(
            self.recipe, self.out / "tokens", self.out / "tokenizer", folder, watch=self.sampler(tokenizer)
        )
        meta = read_json(folder / "meta.json")
        return f"{meta['counts']['steps']:,} steps, {meta['counts']['tokens']:,} tokens in {meta['seconds'] / 60:.1f} minutes"

    def sampler(self, tokenizer: Tokenizer) -> Callable[[Transformer, RunState], None]:
        """What shows a sample story in the middle of training."""
        from smalltale.generation.generate import complete_prompts
        from smalltale.generation.sampler import GenerationConfig

        config = replace(self.recipe.section("generation", GenerationConfig), samples=1, max_tokens=60)
        prompt = self.prompts()[0].split(".")[0] + "."

        def sample(model: Transformer, state: RunState) -> None:
            story = complete_prompts(model, tokenizer, [prompt], config)[0].completion
            log.info("after step %d: %s", state.step, " ".join(f"{prompt}{story}".split()))

        return sample

    def count(self) -> tuple[str, CountReport]:
        from smalltale.counting.count import count_parameters
        from smalltale.model.serialization import read_model
        from smalltale.rules import Rules

        count = count_parameters(read_model(self.out / "checkpoint").train())
        found = Rules().class_for(count.counted)
        return f"{count.counted:,} counted parameters, class {found.name if found else 'none'}", count

    def evaluation(self) -> tuple[str, tuple[float, int]]:
        from smalltale.training.checkpoint import load_checkpoint
        from smalltale.training.evaluate import evaluate

        loaded = load_checkpoint(self.out / "checkpoint")
        result = evaluate(loaded.model, loaded.tokenizer, self.held_out()[:EVALUATED_STORIES])
        return f"{result.bits_per_byte:.4f} bits per byte on {result.stories} held-out stories", (
            result.bits_per_byte,
            result.stories,
        )

    def held_out(self) -> list[str]:
        from smalltale.corpus.build import read_corpus

        return [document.text for document in read_corpus(self.out / "corpus", "val")]

    def prompts(self) -> list[str]:
        """The prompts, cut from held-out stories, kept in a file."""
        from smalltale.prompts import make_prompts, read_prompts, write_prompts

        path = self.out / "prompts.jsonl"
        if not path.exists():
            write_prompts(path, make_prompts(self.held_out(), PROMPTS, seed=0))
        return read_prompts(path)

    def completions(self) -> str:
        from smalltale.cli.generate import generate_submission
        from smalltale.generation.sampler import GenerationConfig

        path = self.out / "submission.csv"
        if not path.exists():
            config = self.recipe.section("generation", GenerationConfig)
            generate_submission(self.out / "checkpoint", self.prompts(), path, config, TEAM, "cpu")
        return f"{path.name}, {len(self.prompts())} prompts"

    def check(self) -> str:
        from smalltale.errors import SmalltaleError
        from smalltale.rules import Rules
        from smalltale.submission import check_submission

        verdict = check_submission(self.out / "submission.csv", self.prompts(), Rules())
        if not verdict.accepted:
            raise SmalltaleError(f"the hand-in would be refused: {verdict.errors[0]}")
        return f"accepted: {len(verdict.rows)} different completions, {len(verdict.warnings)} warnings"

    def judging(self) -> tuple[str, bool]:
        """Let the embedded judge score the hand-in; without its packages the demo goes on without scores."""
        from smalltale.cli.judge import judge_submission_file
        from smalltale.errors import MissingExtra

        try:
            found = judge_submission_file(
                self.out / "submission.csv", ["local"], "paper", self.out / "judgements"
            )
        except MissingExtra as error:
            return f"left out: {error}", False
        return f"{found.judged} judgements with a score; plumbing only, not fit to rank", True

    def leaderboard(self) -> str:
        from smalltale.ranking.entries import read_entry
        from smalltale.ranking.standings import rank

        standing = rank([read_entry(self.out / "judgements")])[0]
        place = f"rank {standing.rank}" if standing.rank is not None else f"no rank: {standing.note}"
        mean = f"{standing.entry.mean:.2f}" if standing.entry.mean is not None else "no score"
        return f"{standing.entry.name}: {mean}, {place}"

    def result(self, count: CountReport, bits: float, measured: int, *, judged: bool) -> DemoResult:
        """Everything the page and the table show, read back from the files."""
        from smalltale.demo.report_page import DemoResult
        from smalltale.files import read_json
        from smalltale.rules import Rules
        from smalltale.training.metrics_file import read_metrics

        rules = Rules()
        weight_class = rules.class_for(count.counted) or rules.weight_class(self.recipe.weight_class)
        sources = self.recipe.tables.get("corpus", {}).get("sources", ["fable"])
        own = sources == ["fable"]
        return DemoResult(
            title="smalltale demo",
            text_name="fable, smalltale's own story grammar (not TinyStories)" if own else ", ".join(sources),
            stages=self.stages,
            metrics=read_metrics(self.out / "checkpoint"),
            bits_per_byte=bits,
            evaluated_stories=measured,
            counted_parameters=count.counted,
            weight_class=weight_class.name,
            class_budget=weight_class.max_parameters,
            count_rows=alike_together(count),
            hardware=read_json(self.out / "checkpoint" / "meta.json")["hardware"]["name"],
            samples=self.samples(),
            judge_note=PLUMBING if judged else "No scores: the embedded judge was not run.",
            next_commands=NEXT,
            **(self.scores() if judged else {}),
        )

    def samples(self) -> list[Sample]:
        """The first completion of each prompt."""
        from smalltale.demo.report_page import Sample
        from smalltale.submission import read_submission

        first: dict[str, str] = {}
        for row in read_submission(self.out / "submission.csv"):
            first.setdefault(row.prompt, row.completion)
        return [Sample(prompt=prompt, completion=completion) for prompt, completion in first.items()]

    def scores(self) -> dict[str, Any]:
        """Criteria with intervals, and the standings, as the page shows them."""
        from smalltale.ranking.entries import criterion_intervals, read_entry
        from smalltale.ranking.standings import rank

        folder = self.out / "judgements"
        rows = []
        for standing in rank([read_entry(folder)]):
            entry = standing.entry
            score = "none" if entry.mean is None else f"{entry.mean:.2f}"
            if entry.low is not None and entry.high is not None:
                score += f" ({entry.low:.2f} to {entry.high:.2f})"
            parameters = "" if entry.counted_parameters is None else f"{entry.counted_parameters:,}"
            place = "" if standing.rank is None else str(standing.rank)
            rows.append((place, entry.name, score, parameters, standing.note))
        return {"scores": criterion_intervals(folder), "standings": rows}


def alike_together(count: CountReport) -> list[tuple[str, str, int, int, int]]:
    """The count's rows for a page: weights that differ only in their layer's number are one row."""
    groups: dict[tuple[str, str, int], list[tuple[int, int]]] = {}
    for row in count.rows:
        name = re.sub(r"\.\d+\.", ".*.", row.name)
        groups.setdefault((name, row.shape, row.uses), []).append((row.unique, row.counted))
    return [
        (
            f"{name} ({len(found)} layers)" if len(found) > 1 else name,
            shape,
            sum(unique for unique, _ in found),
            uses,
            sum(counted for _, counted in found),
        )
        for (name, shape, uses), found in groups.items()
    ]


NEXT = [
    (
        "Prepare the real stories, fetched from the Hugging Face Hub:",
        "smalltale corpus build small --out runs/corpus",
    ),
    ("Look at what this machine trains in an hour, by weight class:", "smalltale doctor"),
    (
        "Train a real entry (after `tokens train` and `tokens encode`), on a GPU if there is one:",
        "smalltale train small --tokens runs/tokens --tokenizer runs/tokenizer --minutes 60 --out runs/small",
    ),
]


def show(result: DemoResult, out: Path) -> None:
    """The closing table."""
    console = Console()
    table = Table("stage", "result", "seconds", title="smalltale demo", title_justify="left")
    table.columns[2].justify = "right"
    for stage, words, seconds in result.stages:
        table.add_row(stage, Text(words), f"{seconds:.1f}")
    console.print(table)
    sample = result.samples[0]
    console.print(Text.assemble((sample.prompt, "bold blue"), sample.completion), "")
    console.print(
        f"Everything as a page: {out / 'report.html'}", markup=False, highlight=False, soft_wrap=True
    )
    for words, command in result.next_commands:
        console.print(f"{words}\n  {command}", markup=False, highlight=False, soft_wrap=True)
