# Two commands matter: `make run` starts the suite, `make test` runs everything that CI runs.
# Each does all its set-up itself and is quick the second time.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where npm is there, buf comes from its registry.
BUF := $(shell command -v npm >/dev/null 2>&1 && echo npx --yes @bufbuild/buf@1)

.PHONY: run test check fuzz fuzz-api hostile hostile-bench chaos bench bench-mom protos news clean

run: $(VENV)/.installed
	$(BIN)/bookd up

test: check
	$(BIN)/python tests/run.py --temp-directory $(VENV)/trial tests

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
ifneq ($(BUF),)
	$(BUF) lint bookd/wire/bookd.binpb --config "$$(cat protos/buf.yaml)"
else
	@echo "buf lint is skipped: there is no npm here"
endif

# Kills, cuts and starves a suite, and proves that nothing was lost: docs/reliability.md.
SCENARIO ?= mix
SECONDS ?= 120
SEED ?= $(shell date +%s)

chaos: $(VENV)/.installed-dev
	$(BIN)/python -m tests.chaos --scenario $(SCENARIO) --seconds $(SECONDS) --seed $(SEED)

# Asks the REST API what its description allows, and what it does not: so many requests for each operation and role.
REQUESTS ?= 200

fuzz-api: $(VENV)/.installed-dev
	BOOKD_FUZZ=$(REQUESTS) $(BIN)/python tests/run.py --temp-directory $(VENV)/trial tests.integration.test_openapi

# Runs each parser of what strangers send so many times, guided by coverage; what it learns stays in FUZZED. docs/security.md.
RUNS ?= 1000000
FUZZED ?= $(VENV)/fuzz
TARGETS ?= templates transcoder messages requests idempotency_keys preferences other_headers catalogues page_tokens trunk_frames sealed

fuzz: $(VENV)/.installed-fuzz
	for target in $(TARGETS); do nice -n 19 $(BIN)/python -m tests.fuzz $$target $(RUNS) $(FUZZED)/$$target || exit 1; done

# Attacks a suite as peers and clients without manners do, so many rounds.
ROUNDS ?= 5

hostile: $(VENV)/.installed-dev
	BOOKD_ROUNDS=$(ROUNDS) $(BIN)/python tests/run.py --temp-directory $(VENV)/trial tests.hostile

# Measures what others feel of such attacks; wants a machine that does nothing else. docs/security.md.
hostile-bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.hostile $(ARGS)

# Measures bookd beside its peers; wants wrk, and a machine that does nothing else. ARGS="--only read orders"
bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.run $(ARGS)

# Measures the MOM alone, as it keeps calls to a service that is down, beside JetStream and RabbitMQ.
bench-mom: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.accept $(ARGS)

protos: $(VENV)/.installed-dev
	$(BIN)/python protos/generate.py

news: $(VENV)/.installed-dev
	$(BIN)/towncrier build

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "bookd needs Python 3.11 or later: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "no venv: on Debian, apt-get install python3-venv"; exit 1; }

# In editable_mode=compat, twistd finds the plugins of a checkout; in setuptools' other modes they stay hidden.
$(VENV)/.installed: setup.cfg pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --config-settings editable_mode=compat
	@touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --config-settings editable_mode=compat
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-fuzz: setup.cfg pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,fuzz]' --config-settings editable_mode=compat
	@touch $@ $(VENV)/.installed-dev $(VENV)/.installed

$(VENV)/.installed-bench: setup.cfg pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]' --config-settings editable_mode=compat
	@touch $@ $(VENV)/.installed
