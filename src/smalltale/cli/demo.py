"""`smalltale demo`: the whole hackathon in one go, with the functions and files of the other commands."""

from __future__ import annotations

import json
import logging
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
from typer import Option

from smalltale.cli.options import Overrides, RecipeOption

if TYPE_CHECKING:
    from smalltale.config import Recipe
    from smalltale.counting.report import CountReport
    from smalltale.demo.report import DemoReport, DemoStage
    from smalltale.model.transformer import Transformer
    from smalltale.training.checkpoint import RunState
    from smalltale.training.evaluate import Evaluation

log = logging.getLogger("smalltale.demo")

PROMPTS = 8
EVALUATED_STORIES = 300
TEAM = "demo team"


def add_to(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    minutes: Annotated[float, Option(help="Minutes of training.")] = 3.0,
    out: Annotated[Path, Option(help="The folder for all results.")] = Path("runs/demo"),
    stories: Annotated[Path | None, Option(help="Training stories, instead of generated fables.")] = None,
    valid: Annotated[Path | None, Option(help="Held-out stories to evaluate on.")] = None,
    recipe: RecipeOption = "demo",
    judge: Annotated[bool, Option(help="Let the embedded judge score the stories.")] = True,
    set_: Overrides = None,
) -> None:
    """Train a model from scratch, count it, generate stories with it, judge and rank them."""
    from smalltale.config import load_recipe

    overrides = [f"training.schedule.minutes={minutes}"]
    if stories is not None:
        overrides.append(f"corpus.sources=[{json.dumps(str(stories))}]")
    if valid is not None:
        overrides.append(f"corpus.validation={json.dumps(str(valid))}")
    Demo(load_recipe(recipe, [*overrides, *(set_ or [])]), out).run(judge=judge)


@dataclass(frozen=True)
class Demo:
    """A demo; each stage skips work whose result is in the folder already, so that a stopped demo continues."""

    recipe: Recipe
    out: Path
    stages: list[DemoStage] = field(default_factory=list)

    def run(self, *, judge: bool) -> None:
        """Run all stages, then write the report."""
        from smalltale.demo.report import read_report, write_report

        self.check_recipe()
        self.prepare_folder()
        self.run_stage("corpus", self.build_corpus)
        self.run_stage("tokenizer", self.train_tokenizer)
        self.run_stage("tokens", self.encode_corpus)
        self.run_stage("training", self.train)
        count = self.run_stage("count", self.count_parameters)
        evaluation = self.run_stage("evaluation", self.evaluate)
        self.run_stage("completions", self.generate)
        self.run_stage("check", self.check_submission)
        judged = judge and self.run_stage("judging", self.judge_submission)
        recipe = self.recipe.as_dict()
        report = read_report(self.out, recipe, self.stages, count, evaluation, judged=bool(judged))
        write_report(report, self.out / "report.html")
        (self.out / "demo.json").write_text(json.dumps(self.record(finished=True)), encoding="utf-8")
        show_report(report, self.out)

    def run_stage(self, name: str, work: Callable[[], tuple[str, Any]]) -> Any:
        """Run a stage, which returns a summary and a value; note its time and return the value."""
        from smalltale.demo.report import DemoStage

        began = time.monotonic()
        summary, value = work()
        seconds = time.monotonic() - began
        self.stages.append(DemoStage(name=name, summary=summary, seconds=seconds))
        log.info("%s: %s (%.1f s)", name, summary, seconds)
        return value

    def check_recipe(self) -> None:
        """Report a mistake in any section of the recipe before the first stage."""
        from smalltale.corpus.config import CorpusConfig
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

    def record(self, *, finished: bool) -> dict[str, Any]:
        """The content of demo.json."""
        return {"recipe": self.recipe.as_dict(), "finished": finished}

    def prepare_folder(self) -> None:
        """Continue a stopped demo of the same recipe, replace any other demo, and refuse a folder that is not a demo."""
        from smalltale.errors import FileProblem
        from smalltale.files import read_json, translate_os_errors, write_json

        path = self.out / "demo.json"
        with translate_os_errors(self.out):
            is_demo = self.out.is_dir() and (path.exists() or not any(self.out.iterdir()))
            if self.out.exists() and not is_demo:
                raise FileProblem(f"{self.out} exists and is not a demo; choose an empty folder with --out")
            if path.exists():
                if read_json(path) == self.record(finished=False):
                    log.info("continuing the demo in %s", self.out)
                    return
                shutil.rmtree(self.out)
        write_json(path, self.record(finished=False))

    def build_corpus(self) -> tuple[str, None]:
        from smalltale.corpus.build import build_corpus
        from smalltale.corpus.config import CorpusConfig
        from smalltale.files import read_json

        folder = self.out / "corpus"
        if not folder.exists():
            build_corpus(self.recipe.section("corpus", CorpusConfig), folder, self.recipe.as_dict())
        counts = read_json(folder / "meta.json")["counts"]
        return f"{counts['train_stories']:,} stories to train on, {counts['val_stories']:,} held out", None

    def train_tokenizer(self) -> tuple[str, None]:
        from smalltale.cli.tokens import train_corpus_tokenizer
        from smalltale.tokens.tokenizer import Tokenizer, TokenizerConfig

        folder = self.out / "tokenizer"
        if not folder.exists():
            config = self.recipe.section("tokenizer", TokenizerConfig)
            train_corpus_tokenizer(self.out / "corpus", folder, config, self.recipe.as_dict())
        return f"byte-level BPE, {Tokenizer.load(folder).vocabulary_size:,} tokens", None

    def encode_corpus(self) -> tuple[str, None]:
        from smalltale.files import read_json
        from smalltale.tokens.encode import encode_corpus

        folder = self.out / "tokens"
        if not folder.exists():
            encode_corpus(self.out / "corpus", self.out / "tokenizer", folder, recipe=self.recipe.as_dict())
        counts = read_json(folder / "meta.json")["counts"]
        return f"{counts['train_tokens']:,} tokens to train on", None

    def train(self) -> tuple[str, None]:
        from smalltale.cli.train import train_recipe
        from smalltale.files import read_json

        folder = self.out / "checkpoint"
        train_recipe(self.recipe, self.out / "tokens", self.out / "tokenizer", folder, self.sample_logger())
        meta = read_json(folder / "meta.json")
        counts = meta["counts"]
        minutes = meta["seconds"] / 60
        return f"{counts['steps']:,} steps, {counts['tokens']:,} tokens in {minutes:.1f} minutes", None

    def sample_logger(self) -> Callable[[Transformer, RunState], None]:
        """A callback that logs a sample story during training."""
        from smalltale.generation.generate import complete_prompts
        from smalltale.generation.sampler import GenerationConfig
        from smalltale.tokens.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(self.out / "tokenizer")
        config = replace(self.recipe.section("generation", GenerationConfig), samples=1, max_tokens=60)
        prompt = self.prompts()[0].split(".")[0] + "."

        def log_sample(model: Transformer, state: RunState) -> None:
            story = complete_prompts(model, tokenizer, [prompt], config)[0].completion
            log.info("after step %d: %s", state.step, " ".join(f"{prompt}{story}".split()))

        return log_sample

    def count_parameters(self) -> tuple[str, CountReport]:
        from smalltale.counting.count import count_parameters
        from smalltale.model.serialization import read_model
        from smalltale.rules import Rules

        count = count_parameters(read_model(self.out / "checkpoint").train())
        weight_class = Rules().class_for(count.counted)
        name = weight_class.name if weight_class else "none"
        return f"{count.counted:,} counted parameters, class {name}", count

    def evaluate(self) -> tuple[str, Evaluation]:
        from smalltale.training.checkpoint import load_checkpoint
        from smalltale.training.evaluate import evaluate

        loaded = load_checkpoint(self.out / "checkpoint")
        evaluation = evaluate(loaded.model, loaded.tokenizer, self.held_out_stories()[:EVALUATED_STORIES])
        bits_per_byte, stories = evaluation.bits_per_byte, evaluation.stories
        return f"{bits_per_byte:.4f} bits per byte on {stories:,} held-out stories", evaluation

    def held_out_stories(self) -> list[str]:
        from smalltale.corpus.corpus_folder import read_corpus

        return [document.text for document in read_corpus(self.out / "corpus", "val")]

    def prompts(self) -> list[str]:
        """The prompts, cut from held-out stories and saved in a file."""
        from smalltale.prompts import make_prompts, read_prompts, write_prompts

        path = self.out / "prompts.jsonl"
        if not path.exists():
            write_prompts(path, make_prompts(self.held_out_stories(), PROMPTS, seed=0))
        return read_prompts(path)

    def generate(self) -> tuple[str, None]:
        from smalltale.cli.generate import generate_submission
        from smalltale.generation.sampler import GenerationConfig

        path = self.out / "submission.csv"
        if not path.exists():
            config = self.recipe.section("generation", GenerationConfig)
            generate_submission(self.out / "checkpoint", self.prompts(), path, config, TEAM, "cpu")
        return f"{path.name}, {len(self.prompts())} prompts", None

    def check_submission(self) -> tuple[str, None]:
        from smalltale.errors import SmalltaleError
        from smalltale.rules import Rules
        from smalltale.submission import check_submission

        result = check_submission(self.out / "submission.csv", self.prompts(), Rules())
        if not result.accepted:
            raise SmalltaleError(f"the submission would be refused: {result.errors[0]}")
        return f"accepted: {len(result.rows)} different completions, {len(result.warnings)} warnings", None

    def judge_submission(self) -> tuple[str, bool]:
        """Score the submission with the embedded judge; without the judge's packages the demo has no scores."""
        from smalltale.cli.judge import judge_submission_file
        from smalltale.errors import MissingExtra

        try:
            submission, out = self.out / "submission.csv", self.out / "judgements"
            summary = judge_submission_file(submission, ["local"], "paper", out)
        except MissingExtra as error:
            return f"skipped: {error}", False
        return f"{summary.judged} judgements with a score; they do not count for ranking", True


def show_report(report: DemoReport, out: Path) -> None:
    """Print the stages, the leaderboard, a sample and the next commands."""
    console = Console()
    table = Table("stage", "result", "seconds", title="smalltale demo", title_justify="left")
    table.columns[2].justify = "right"
    for stage in report.stages:
        table.add_row(stage.name, Text(stage.summary), f"{stage.seconds:.1f}")
    console.print(table)
    for position, team, score, _, note in report.standings:
        rank = f"rank {position}" if position else f"no rank: {note}"
        typer.echo(f"Leaderboard: {team}, {score}, {rank}")
    sample = report.samples[0]
    console.print(Text.assemble((sample.prompt, "bold blue"), sample.completion), "")
    typer.echo(f"Report: {out / 'report.html'}")
    for purpose, command in report.next_commands:
        typer.echo(f"{purpose}\n  {command}")
