# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
MINUTES ?= 1
PROFILES ?= simulator dashboards

.PHONY: setup demo test check up down images bench bench-services bench-ranker chaos results clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup ## a click stream joined, learned, indexed and ranked, in one process
	$(BIN)/instep demo --minutes $(MINUTES) --out build/demo

test: setup ## every test and every example in the docs
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: setup ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

up: ## everything of docker-compose.yml, until it is healthy; PROFILES=simulator leaves the dashboards out
	deploy/up.sh $(PROFILES)

down: ## ends it; what is learned stays in its volumes
	deploy/compose.sh --profile simulator --profile dashboards down

images: ## stand-ins for the images of docker-compose.yml, where there is no registry; Debian, root
	deploy/images/build.sh

bench: setup ## what we claim about speed, into build/bench.json
	$(BIN)/python -m benchmarks

bench-services: setup ## the workers on a Kafka and a Redis of their own, into build/bench-services.json
	$(BIN)/python -m benchmarks.services

bench-ranker: setup ## ranking by itself, over HTTP, and while publications come, into build/bench-ranker.json
	$(BIN)/python -m benchmarks.ranker

chaos: setup ## every worker killed 20 times on a Kafka and a Redis of its own; takes about ten minutes
	$(BIN)/python -m benchmarks.chaos

R := build/results
study = $(BIN)/instep study $(foreach n,0 1 2,$(R)/$(1)$(n)) --out $(R)/$(2) --spool $(R)/spool --seeds 1 --warmup 0.5

results: setup ## the figures of docs/results.md on simulated worlds; goes on where it was stopped
	for n in 0 1 2; do for drift in none moved arrivals; do \
	  $(BIN)/instep simulate $(R)/$$drift$$n --seed $$n --drift $$drift || exit 2; done; done
	$(call study,none,models) --study models
	$(call study,none,staleness) --study staleness
	$(call study,none,search) --study search
	$(call study,none,bits) --study bits
	$(call study,none,k) --study k
	$(call study,none,length) --study length
	$(call study,moved,moved) --study staleness
	$(call study,none,id) --study staleness --set coded=1
	$(call study,arrivals,cold) --study cold

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
