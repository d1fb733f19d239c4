# What to type: `make demo` or `make test`. Everything lands in .venv/, target/ and dist/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin

# The interpreter: the first of these that is 3.11 or later. Override with `make PYTHON=...`.
ifndef PYTHON
PYTHON := $(shell for name in $(BIN)/python python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)
endif

AGENTMEM := $(BIN)/agentmem
INSTALLED := $(VENV)/.installed
BUILT := $(VENV)/.built
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Programs that the package brings along, as crate:program.
PROGRAMS := agentmem-pager:agentmem-supervisor agentmem-daemon:agentmemd
PROGRAMS_BUILT := $(VENV)/.programs
CARGO_TARGET := $(or $(CARGO_TARGET_DIR),target)
CARGO_SOURCES := Cargo.toml Cargo.lock .cargo/config.toml pyproject.toml \
	$(shell find crates bindings -name '*.rs' -o -name Cargo.toml)
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml)
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
# The package for Node is made where there is a Node that can load it.
NODE := $(shell node -e 'process.exit(+(parseInt(process.versions.node) < 20))' 2>/dev/null && command -v npm)
NODE_FOLDER := bindings/node
NODE_INSTALLED := $(NODE_FOLDER)/node_modules/.installed
NODE_BUILT := $(NODE_FOLDER)/dist/.built
BENCH_C := $(CARGO_TARGET)/release/bench-c
PYTHON_SOURCES := python tests spec .ci/wheel_check.py $(wildcard benchmarks examples kernel)
LOOM_TARGET := $(CARGO_TARGET)/loom

.PHONY: help setup demo test test-all test-rust test-loom test-python test-node test-kernel check check-node bench install-c bench-c bench-node \
	bench-programs wheel lock clean machine

help:
	@echo 'make demo    set up, then run the demonstration'
	@echo 'make test    set up, then pass every test (Rust, loom, Python, Node)'
	@echo 'make test-kernel   the kernel module, built and tested in a virtual machine; make test-all: that too'
	@echo 'make setup   .venv with pinned dependencies and a release build; the command is $(AGENTMEM)'
	@echo 'make check   format, lint, types, invariants'
	@echo 'make bench   all benchmarks'
	@echo 'make install-c PREFIX=/usr/local   libagentmem for C (DESTDIR is honoured); make bench-c measures it'
	@echo 'make test-node   the package for Node (bindings/node), built and tested; make bench-node measures it'
	@echo 'make wheel   an abi3 wheel in dist/'
	@echo 'make lock    renew the Python lock files (needs uv)'
	@echo 'make clean   remove all that was built'

# One line for each thing this machine lacks, with what to do about it.
machine:
	@lacking=0; \
	lacks() { echo "agentmem: $$1" >&2; lacking=1; }; \
	[ "$$(uname -s)" = Linux ] || lacks "this is $$(uname -s), and agentmem manages memory through Linux: build it on Linux (a virtual machine or WSL 2 will do)"; \
	command -v cargo >/dev/null || lacks "cargo is missing: install Rust 1.90 or later with rustup, or your distribution's package"; \
	command -v cc >/dev/null || lacks "a C compiler is missing: install gcc or clang (Debian: apt install build-essential)"; \
	if [ -z "$(PYTHON)" ]; then lacks "Python 3.11 or later is missing: install it (Debian: apt install python3 python3-venv), or name one with make PYTHON=..."; \
	elif ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then lacks "$(PYTHON) cannot make virtual environments: install its venv package (Debian: apt install python3-venv)"; fi; \
	exit $$lacking

setup: $(BUILT) $(PROGRAMS_BUILT)

$(INSTALLED): requirements/dev.txt | machine
	@echo 'agentmem: installing pinned Python dependencies into $(VENV)' >&2
	@[ -x $(BIN)/python ] || "$(PYTHON)" -m venv $(VENV)
	@$(PIP) install --require-hashes --requirement $<
	@touch $@

$(BUILT): $(INSTALLED) $(CARGO_SOURCES) | machine
	@echo 'agentmem: building the engine (release)' >&2
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --locked --quiet
	@touch $@

# maturin builds the extension and nothing else. What has symbols stays in the target folder.
define build_programs
for each in $(PROGRAMS); do \
	cargo build --release --locked --quiet -p $${each%:*} --bin $${each#*:}; \
	install -D -m 755 --strip $(1)/release/$${each#*:} python/agentmem/_bin/$${each#*:}; \
done
endef

$(PROGRAMS_BUILT): $(INSTALLED) $(CARGO_SOURCES) | machine
	@echo 'agentmem: building the supervisor and the daemon (release)' >&2
	@$(call build_programs,$(CARGO_TARGET))
	@touch $@

demo: setup
	@$(AGENTMEM) demo

# The demonstration's test in Python wants the package for Node.
test: test-rust test-loom test-node test-python

test-all: test test-kernel

test-rust: setup
	cargo test --workspace --locked

# Its own target directory: the flag changes every crate, and would throw the other builds away.
test-loom: setup
	RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=$(LOOM_TARGET) cargo test -p agentmem-store --locked --release --lib loom

test-python: setup
	$(BIN)/python -m pytest

# Minutes on an emulated processor, so it is no part of `test`. Nothing is loaded into this kernel.
test-kernel: setup
	$(BIN)/python -m kernel.test.run

check: setup check-node
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(BIN)/ruff check $(PYTHON_SOURCES)
	$(BIN)/ruff format --check $(PYTHON_SOURCES)
	$(BIN)/mypy --strict python
	$(BIN)/python spec/generate_errors.py --check
	$(BIN)/python -m pytest tests/test_invariants.py

ifneq ($(NODE),)
$(NODE_INSTALLED): $(NODE_FOLDER)/package-lock.json | machine
	@echo 'agentmem: installing pinned dependencies into $(NODE_FOLDER)' >&2
	@npm ci --prefix $(NODE_FOLDER) --ignore-scripts --silent
	@touch $@

$(NODE_BUILT): $(NODE_INSTALLED) $(CARGO_SOURCES) $(wildcard $(NODE_FOLDER)/*.json $(NODE_FOLDER)/lib/*.ts) | machine
	@echo 'agentmem: building the package for Node (release)' >&2
	@npm run prepare --prefix $(NODE_FOLDER) --silent
	@touch $@

test-node: $(NODE_BUILT)
	npm test --prefix $(NODE_FOLDER) --silent

check-node: $(NODE_BUILT)
	npm run check --prefix $(NODE_FOLDER) --silent

# Embedded, then over a session with a daemon.
bench-node: $(NODE_BUILT)
	@node $(NODE_FOLDER)/bench.js
	@scratch=$$(mktemp -d); touch "$$scratch/agentmemd.toml"; \
		options=(--socket="$$scratch/socket" --config="$$scratch/agentmemd.toml"); \
		trap '$(NODE_FOLDER)/dist/agentmemd --stop "$${options[@]}"; rm -rf "$$scratch"' EXIT; \
		$(NODE_FOLDER)/dist/agentmemd --background "$${options[@]}"; \
		node $(NODE_FOLDER)/bench.js "$$scratch/socket"
bench-programs: $(NODE_BUILT)
else
test-node check-node bench-node:
	@echo 'agentmem: skipped the package for Node: no Node 20 or later with npm here' >&2
endif

bench: setup
	@$(AGENTMEM) bench all

# Lands below $(DESTDIR), and finds itself below $(PREFIX).
install-c:
	cargo build --release --locked --quiet -p agentmem-c
	@install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(LIBDIR)/pkgconfig
	@install -m 644 bindings/c/include/agentmem.h $(DESTDIR)$(PREFIX)/include
	@install -m 755 --strip $(CARGO_TARGET)/release/libagentmem.so $(DESTDIR)$(LIBDIR)/libagentmem.so.$(VERSION)
	@ln -sf libagentmem.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libagentmem.so.0
	@ln -sf libagentmem.so.0 $(DESTDIR)$(LIBDIR)/libagentmem.so
	@install -m 644 $(CARGO_TARGET)/release/libagentmem.a $(DESTDIR)$(LIBDIR)
	@strip --strip-debug $(DESTDIR)$(LIBDIR)/libagentmem.a
	@sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@VERSION@|$(VERSION)|' bindings/c/agentmem.pc.in \
		>$(DESTDIR)$(LIBDIR)/pkgconfig/agentmem.pc

$(BENCH_C): bindings/c/bench.c bindings/c/include/agentmem.h $(CARGO_SOURCES) | machine
	@cargo build --release --locked --quiet -p agentmem-c --lib
	@cc -std=c11 -O2 -Wall -Wextra -Ibindings/c/include $< $(CARGO_TARGET)/release/libagentmem.a \
		-o $@ -lpthread -lm -ldl -lrt -lgcc_s

# What `agentmem bench sessions` runs for other languages than Python: a command a line, which takes a socket.
bench-programs: $(BENCH_C)
	@echo $(abspath $(BENCH_C))
	@$(if $(NODE),echo node $(NODE_FOLDER)/bench.js)

# Embedded, then over a session with a daemon.
bench-c: setup $(BENCH_C)
	@$(BENCH_C)
	@scratch=$$(mktemp -d); touch "$$scratch/agentmemd.toml"; \
		options=(--socket="$$scratch/socket" --config="$$scratch/agentmemd.toml"); \
		trap '$(AGENTMEM) daemon --stop "$${options[@]}"; rm -rf "$$scratch"' EXIT; \
		$(AGENTMEM) daemon --background "$${options[@]}"; \
		$(BENCH_C) "$$scratch/socket"

# Its own target directory, because of the flag: messages of panics name sources of dependencies, and
# would tell the home folder of whoever built the wheel.
wheel: export CARGO_TARGET_DIR := $(abspath $(CARGO_TARGET))/wheel
wheel: export CARGO_ENCODED_RUSTFLAGS := --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=cargo
wheel: $(INSTALLED)
	@rm -rf dist
	@$(call build_programs,"$$CARGO_TARGET_DIR")
	$(BIN)/maturin build --release --locked --strip --quiet --interpreter $(BIN)/python --out dist
	@ls dist/*.whl

# No header and no index lines: a lock names packages and hashes, never where they were fetched from.
lock:
	@command -v uv >/dev/null || { echo 'agentmem: uv is missing: pip install uv, outside of .venv' >&2; exit 1; }
	cd requirements && for name in runtime dev; do \
		uv pip compile --quiet --upgrade --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
			--python-version 3.11 --python-platform x86_64-unknown-linux-gnu --output-file $$name.txt $$name.in; done

clean:
	rm -rf $(VENV) target dist results demo.png python/agentmem/*.so python/agentmem/_bin
	rm -rf $(NODE_FOLDER)/dist $(NODE_FOLDER)/node_modules
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(PYTHON_SOURCES) -name __pycache__ -prune -exec rm -rf {} +
