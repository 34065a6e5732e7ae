# make up     a working PKI on this machine: Python 3.11 is all it takes
# make test   everything that can fail: static checks, tests, real clients with INTEROP=1
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
ARGS   ?=
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --retries 10

# Tests talk to this machine; a proxy is for what is installed.
export no_proxy := localhost,127.0.0.1,::1,$(or $(no_proxy),$(NO_PROXY))
export NO_PROXY := $(no_proxy)

.DEFAULT_GOAL := up
.PHONY: up test check unit interop bench fuzz clean

up: $(VENV)/.installed
	$(BIN)/pkiserver up $(ARGS)

test: check unit
ifneq ($(CI)$(INTEROP),)
test: interop
endif

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests start many processes, each of which would compile everything anew without bytecode on disk.
unit interop: export PYTHONDONTWRITEBYTECODE =

unit: $(VENV)/.installed-test
	$(BIN)/pytest -n 2 tests $(ARGS)

# Real clients against a running server. What is missing of them is installed into .interop/,
# Debian's packages aside: .ci/run names those.
interop: $(VENV)/.installed-test
	$(BIN)/pytest -n 2 interop --write-results $(ARGS)

bench: $(VENV)/.installed-test
	$(BIN)/python -m interop.bench.acme
	$(BIN)/python -m interop.bench.ocsp
	$(BIN)/python -m interop.bench.crl
	$(BIN)/python -m interop.bench.scep

# Ten minutes of hostile requests against a running server: make fuzz ARGS='--targets ocsp'
fuzz: $(VENV)/.installed-test
	$(BIN)/python -m interop.fuzz.run --seconds 600 $(ARGS)

# A home with keys in it (pki/) is never touched.
clean:
	rm -rf $(VENV) .interop build dist *.egg-info
	rm -rf .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(PIP) -e '.[test]'
	touch $@ $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "pkiserver needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Checks first, real clients last, also under make -j
unit: | check
interop: | $(if $(filter test,$(MAKECMDGOALS)),unit)
