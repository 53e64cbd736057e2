# contimg: `make help` lists the targets. Every target installs what it needs first.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
DAGSTER_PORT ?= 3000
PORTAL_PORT ?= 8000
export DAGSTER_PORT PORTAL_PORT

RUNTIME := $(VENV)/.installed-runtime
TESTING := $(VENV)/.installed-test
KERNELS := $(VENV)/.compiled-kernels
PINS := pyproject.toml constraints.txt scripts/install.sh

.DEFAULT_GOAL := help
.PHONY: help install install-cluster install-test install-dev demo start cluster test chaos check audit docs format release bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 17

install: $(KERNELS) ## create .venv and install contimg with the tested versions

install-cluster: $(KERNELS) ## the same with what a host of several needs: PostgreSQL, Celery, object storage
	scripts/install.sh cluster,storage

install-test: $(TESTING) ## the same with CASA and everything the tests need

install-dev: $(TESTING) ## the same with the pre-commit hook
	scripts/install.sh test,casa,flag,cluster,dev
	$(BIN)/pre-commit install

$(RUNTIME): $(PINS)
	@echo "Installing contimg into $(VENV) (a few minutes on a new machine)" >&2
	scripts/install.sh
	@touch $@

$(TESTING): $(PINS)
	@echo "Installing contimg, CASA and the test tools into $(VENV) (a few minutes on a new machine)" >&2
	scripts/install.sh test,casa,flag,cluster
	@touch $@ $(RUNTIME)

# A kernel is not compiled anew when one of another file that it calls has changed: all are, whenever science has.
$(KERNELS): scripts/compile_kernels.py $(shell find contimg_assets/science contimg_resources -name '*.py') | $(RUNTIME)
	@echo "Compiling the numerical kernels (about two minutes, once)" >&2
	@mkdir -p .contimg
	$(BIN)/python scripts/compile_kernels.py >.contimg/compile_kernels.log 2>&1 || { tail -n 20 .contimg/compile_kernels.log >&2; exit 1; }
	@touch $@

demo: $(KERNELS) ## simulated campaign through the whole platform; DEMO_EXIT=1 stops after the last asset
	$(BIN)/python demo/run.py

start: $(KERNELS) ## the platform on your own data: Dagster on DAGSTER_PORT, portal on PORTAL_PORT
	scripts/start.sh

cluster: $(KERNELS) ## the same on PostgreSQL, Redis and two workers, until Ctrl-C; WORKERS=2
	scripts/install.sh cluster
	scripts/install_services.sh cluster
	$(BIN)/contimg cluster up --workers $${WORKERS:-2}

test: $(TESTING) $(KERNELS) ## all tests, services included
	scripts/install_services.sh
	@mkdir -p .contimg
	$(BIN)/pytest -n 2 --dist loadfile --junitxml=.contimg/test-results.xml --durations=10

chaos: $(TESTING) $(KERNELS) ## KILLS=100 processes killed at seeded points; afterwards everything must equal an undisturbed run
	KILLS=$${KILLS:-100} $(BIN)/pytest tests/chaos tests/retention tests/resources/test_uvh5_fuzz.py tests/resources/test_store_pressure.py -q -s

check: $(TESTING) ## lint, format, types, secrets, and whether Dagster can load the definitions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	scripts/find_secrets.sh
	DAGSTER_HOME="$$(scripts/dagster_home.sh .contimg/check)" $(BIN)/dagster definitions validate

audit: $(TESTING) ## known vulnerabilities of the pinned packages; lists those that its database does not answer for
	$(BIN)/pip-audit --requirement constraints.txt --disable-pip --no-deps --progress-spinner off

docs: $(TESTING) ## the documentation as a site in .contimg/site; a broken link is an error
	$(BIN)/mkdocs build --strict

release: $(TESTING) ## wheel, sdist, SBOM, checksums and (MINISIGN_KEY) their signature in dist
	scripts/release.sh

format: $(TESTING) ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(TESTING) $(KERNELS) ## side-by-side benchmarks, written to benchmarks/results
	scripts/install_services.sh bench
	@for name in $$($(BIN)/contimg bench list); do $(BIN)/contimg bench "$$name" || exit 1; done

clean: ## remove the environment and caches; data in .contimg stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
