# Every target first makes .venv; nothing else needs to be installed by hand. `make` lists the targets.

RECIPE ?= pipeline/recipes/demo.yaml
# SET="generate.samples=8 sft.epochs=2"     values of the recipe to change, separated by spaces, with none inside
SET ?=
# FORCE="generate sft"                      stages that may be done again though it costs much, or ask again for what
#                                           failed though they are finished
FORCE ?=
# DEST=folder                               where `make publish` writes
DEST ?=
# PORT=number                               where `make serve` listens
PORT ?= 8000
# WORKERS=number                            processes that run the tests side by side, 0 for none beside the first. Two
#                                           engines do not fit into one GPU, nor three into the memory of a small machine.
WORKERS ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo 0 || echo 2)
# TORCH_INDEX=url                           PyTorch's own index, where pip's has no CPU build of torch
TORCH_INDEX ?=
# EXTRA=cpu                                 use the CPU on a machine with a GPU
EXTRA ?= auto
# PYTHON=path                               the Python that .venv is made from. A version manager may list a Python
#                                           that does not start, so each is tried; 3.11 is the one most tested.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
	&& echo $$p && break; done)

BIN := .venv/bin
READY := .venv/.ready
SEQDISTILL := $(BIN)/seqdistill
# A word for the shell, whatever stands in it.
quoted = '$(subst ','\'',$(1))'
SETTINGS = $(foreach value,$(SET),--set $(call quoted,$(value)))
OPTIONS = $(foreach stage,$(FORCE),--force $(stage)) $(SETTINGS)
# Those that run as they are; `semantic` asks for a model.
BENCHES := $(filter-out semantic,$(patsubst tests/bench/%.py,%,$(wildcard tests/bench/[a-z]*.py)))
STAGES := seed generate verify filter dedupe decontaminate mix sft export eval report

ifeq ($(DEST)$(filter publish,$(MAKECMDGOALS)),publish)
$(error Say where to: make publish DEST=folder)
endif

.DEFAULT_GOAL := help
.PHONY: help distill $(STAGES) status plan publish serve models doctor check lint test bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo 'Targets about a recipe take RECIPE=file and SET="a.b=c d.e=f", those that run stages FORCE="stage ..." too.'
	@echo $(call quoted,Now: RECIPE=$(RECIPE))

distill: $(READY) ## the whole recipe: eleven stages, a table of scores and a report
	$(SEQDISTILL) run $(call quoted,$(RECIPE)) $(OPTIONS)

# A stage's target runs the stages before it that are not fresh, then itself.
seed: ## problems; the held-out ones are drawn first
generate: ## the teacher's reasoning traces
verify: ## right, wrong or undecided, per trace
filter: ## rules on the form of traces
dedupe: ## copies and near-copies of traces
decontaminate: ## traces that repeat held-out problems
mix: ## the training examples, chosen from what passed
sft: ## audit the examples, then fine-tune the student
export: ## the checkpoint as folders to serve, with fewer bits where the recipe asks
eval: ## teacher, untouched and distilled student on held-out problems
report: ## one HTML page with everything, and its figures as JSON
$(STAGES): $(READY)
	$(SEQDISTILL) run $(call quoted,$(RECIPE)) --to $@ $(OPTIONS)

status: $(READY) ## a line per stage: fresh, stale, partial or absent
	@$(SEQDISTILL) status $(call quoted,$(RECIPE)) $(SETTINGS)

plan: $(READY) ## tokens, hours and disk, from a pilot whose completions are kept
	@$(SEQDISTILL) plan $(call quoted,$(RECIPE)) $(SETTINGS)

publish: $(READY) ## the training examples as a dataset folder: make publish DEST=folder
	$(SEQDISTILL) publish $(call quoted,$(RECIPE)) $(call quoted,$(DEST)) $(SETTINGS)

serve: $(READY) ## an OpenAI-compatible server on the exported student, until Ctrl-C: make serve PORT=8000
	$(SEQDISTILL) serve $(call quoted,$(RECIPE)) --port $(PORT) $(SETTINGS)

models: $(READY) ## fetch the demo's two models now
	$(SEQDISTILL) models fetch smollm2-135m-instruct
	$(SEQDISTILL) models fetch qwen2.5-coder-0.5b-instruct

doctor: $(READY) ## what this machine has and lacks, with the fix
	@$(SEQDISTILL) doctor

check: lint test ## lint, types and tests

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict pipeline stages

test: $(READY) ## the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

bench: $(READY) ## comparisons with other programs, side by side; for an otherwise idle machine
	@for module in $(BENCHES); do echo "== $$module"; \
		$(BIN)/python -m tests.bench.$$module || missed="$$missed $$module"; done; \
		test -z "$$missed" || { echo "missed or failed:$$missed"; exit 1; }

clean: ## remove .venv and caches; data/ is never touched
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build *.egg-info
	find pipeline stages tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@$(if $(PYTHON),,$(error No Python 3.11 to 3.14 with venv found. Install one (Debian, Ubuntu: \
	apt-get install python3 python3-venv python3-dev) or name it: make PYTHON=/path/to/python3))
	@$(PYTHON) -m pipeline.install $(EXTRA) $(TORCH_INDEX)
