# Every command is one of these; CI runs the same ones. `make help` lists them.
VENV  ?= .venv
EXTRA ?= cpu
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed-$(EXTRA)
ARGS  ?=
# pytest's exit status when ARGS choose no test of one of the two halves
NONE_CHOSEN := [ $$? -eq 5 ]

export LORADOCK_HOME ?= $(CURDIR)/var
ifdef MODEL
export LORADOCK_MODEL := $(MODEL)
endif

.DEFAULT_GOAL := help
.PHONY: vllm-contract test-pythons test-lowest help venv serve test check test-fast test-long loadtest bench-engine bench-registry bench-plan soak requirements docs examples clean bench-gateway bench-serving gpu-check

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

venv: $(STAMP) ## make the virtual environment and install everything
$(STAMP): pyproject.toml requirements/cpu.txt requirements/overrides.txt scripts/install
	@scripts/install $(VENV) $(EXTRA)
	@touch $@

serve: $(STAMP) ## start gateway and engine with the example adapters (EXTRA=cuda MODEL=… for a GPU)
	@exec $(BIN)/loradock serve $(if $(MODEL),,--adapters-from adapters/examples) $(ARGS)

test: check ## everything that CI runs: checks, unit tests, end-to-end on the real engine
	@failed=0; \
	$(BIN)/pytest -m "not e2e" --numprocesses 2 --dist loadfile --durations 25 $(ARGS) || $(NONE_CHOSEN) || failed=1; \
	$(BIN)/pytest -m e2e --numprocesses 2 --dist loadscope --durations 25 $(or $(ARGS),tests/e2e) || $(NONE_CHOSEN) || failed=1; \
	$(if $(ARGS),,VENV=$(VENV) scripts/test-light --quick 3.12 3.13 lowest || failed=1;) \
	exit $$failed

test-pythons: $(STAMP) ## gateway, registry and command line on Python 3.12 and 3.13, without torch; a part: ARGS=--quick
	VENV=$(VENV) scripts/test-light $(ARGS) 3.12 3.13

test-lowest: $(STAMP) ## the same on Python 3.11 with the lowest allowed version of every dependency
	VENV=$(VENV) scripts/test-light $(ARGS) lowest

test-fast: $(STAMP) ## unit tests only, no engine
	$(BIN)/pytest -m "not e2e" $(ARGS)

test-long: $(STAMP) ## the long forms of the tests
	failed=0; \
	LONG_TESTS=1 $(BIN)/pytest --durations 25 $(ARGS) || failed=1; \
	$(if $(ARGS),,VENV=$(VENV) scripts/test-light 3.12 3.13 lowest || failed=1;) \
	exit $$failed

check: $(STAMP) ## formatting, lint, types, import rules
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

loadtest: $(STAMP) ## drive the running server: throughput, TTFT, TPOT per adapter
	$(BIN)/python -m loadtest $(ARGS)

bench-engine: $(STAMP) ## adapter speed over base speed, stock vLLM beside ours; half an hour, a quiet machine
	$(BIN)/python -m loadtest.bench $(ARGS)

gpu-check: $(STAMP) ## is it right on this machine? start, self-test, PEFT, isolation, hot load, bench; a report (EXTRA=cuda MODEL=…)
	$(BIN)/python -m loadtest.gpu_check $(ARGS)

bench-registry: $(STAMP) ## 10,000 adapters x 3 versions on SQLite and PostgreSQL: list, resolve, promote, follow, start
	$(BIN)/python -m loadtest.registry $(ARGS)

bench-plan: $(STAMP) ## what training really takes at its peak, beside what `loradock plan` says; a quarter of an hour
	$(BIN)/python -m loadtest.plan $(ARGS)

soak: $(STAMP) ## half an hour of churn on gateway and fake engine: memory, open files and tasks must stay flat
	$(BIN)/python -m loadtest.soak $(ARGS)

examples: $(STAMP) ## check, train and evaluate the example adapters, and write their figures; ARGS="home-commands" for one
	$(BIN)/python adapters/examples/make.py $(ARGS)

bench-serving: $(STAMP) ## ways to serve 1, 4 and 16 adapters beside each other: memory and throughput
	$(BIN)/python -m loadtest.serving $(ARGS)

bench-gateway: $(STAMP) ## what the gateway costs: wrk, one fake engine, directly and through gateways; needs wrk
	$(BIN)/python -m loadtest.gateway $(ARGS)

vllm-contract: $(STAMP) ## look for every name of vLLM that we use in each version's wheel (330 MB each), and write it down
	$(BIN)/python -m tests.server.engine.vllm_contract

requirements: $(STAMP) ## write requirements/*.txt anew, with hashes
	scripts/requirements $(BIN)/uv

docs: $(STAMP) ## write the generated pages of docs/ anew
	$(BIN)/python -m loradock_server.cli.docs

clean: ## remove the virtual environments and caches; var/ (all state) stays
	rm -rf $(VENV) $(VENV)-* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
