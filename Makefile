# Everything starts here: `make demo` and `make test` need only Debian 12 with Python 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# Servers lie where Debian's ordinary users do not look.
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: demo test check bench crash faults clean lock verifier

demo: $(STAMP)
	$(BIN)/exclave demo

test: $(STAMP) .system
	$(MAKE) check
	$(BIN)/python -m pytest -n 3 --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_docs.py

bench: $(STAMP) .system
	$(BIN)/python bench/run.py --quick
	$(BIN)/python bench/ocsp.py
	$(BIN)/python bench/status.py
	$(BIN)/python bench/login.py
	$(BIN)/python bench/reading.py --quick
	$(BIN)/python bench/verification.py --quick
	$(BIN)/python bench/auditor.py --quick
	$(BIN)/python bench/gateway.py --quick
	$(BIN)/python bench/many.py --quick

# The outsider's verifier as a package of its own, in dist/.
verifier: $(STAMP)
	$(BIN)/python tools/build_verifier.py

# Every durable call of a backup, a deletion and a rekey × all that can happen to it; `make test` plays a sample.
crash: $(STAMP) .system
	$(BIN)/python tests/crash/run.py

# Every step of the fault table's grid; `make test` tries some of each.
faults: $(STAMP) .system
	EXCLAVE_FAULTS=all $(BIN)/python -m pytest -n 2 --dist worksteal tests/faults

$(STAMP): requirements.lock pyproject.toml tools/setup.sh
	PYTHON=$(PYTHON) VENV=$(VENV) sh tools/setup.sh
	touch $@

# What the tests need of the system, installed when it is missing (as root).
.system: tools/system.sh
	sh tools/system.sh

# Renew the pinned versions: exact, with hashes, without addresses.
lock:
	$(BIN)/pip install -q pip-tools
	$(BIN)/pip-compile -q --strip-extras --extra dev --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --no-emit-trusted-host --no-header --allow-unsafe -o requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
