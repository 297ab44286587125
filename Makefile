# SPDX-License-Identifier: LGPL-2.1-or-later

PREFIX ?= /usr/local
DESTDIR ?=
PYTHON ?= python3
SUITE ?= trixie
# Two at a time: tests wait for hosts more than they compute (tests/sharing.py says who gets which).
PARALLEL ?= --numprocesses=2 --dist=loadscope --no-loadscope-reorder

# The daemon runs on the distribution's python3, whatever is first in PATH: its python3-systemd belongs to that.
ifeq ($(origin PYTHON),file)
INSTALL_PYTHON ?= /usr/bin/python3
else
INSTALL_PYTHON ?= $(PYTHON)
endif

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
PYTEST := $(VENV_PYTHON) -m pytest

# Neither the user's site-packages nor PYTHON* variables have a say, and no .pyc of root's stays in the sources.
INSTALLER = $(INSTALL_PYTHON) -sEB -m scripts.install --prefix '$(PREFIX)' --destdir '$(DESTDIR)'

define check_python
@$(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
    echo "machined needs Python 3.11 or newer, and '$(1)' is not (name another: make … PYTHON=python3.13)" >&2; \
    exit 1; }
endef

.DEFAULT_GOAL := help
.PHONY: help venv test bench check lint format lock demo host-shell install uninstall clean

help: ## this list
	@echo 'make TARGET [VARIABLE=VALUE…], where TARGET is:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | while IFS="$$(printf '\t')" read -r target text; do \
	    printf '  %-12s %s\n' "$$target" "$$text"; done

demo: venv ## show machined at work in a test host, built on the first run (root; DEMO_ARGS=--here: on this host)
	$(VENV_PYTHON) -m tests.demo $(DEMO_ARGS)

host-shell: venv ## a shell in a test host with machined installed (root; SUITE=trixie or sid)
	$(VENV_PYTHON) -m tests.host shell $(SUITE)

test: venv ## all tests: linters, types, unit, bus and, as root, whole hosts (PYTEST_ARGS=…)
	@scripts/need dbus-daemon:dbus-daemon mkfs.btrfs:btrfs-progs
	$(PYTEST) $(PARALLEL) $(PYTEST_ARGS)

bench: venv ## machined beside the stock daemon of the same test host, timed (root; SUITE=trixie or sid, BENCH_ARGS=…)
	$(VENV_PYTHON) -m tests.bench --suite $(SUITE) $(BENCH_ARGS)

check: venv ## the quick ones: linters, types, unit and bus tests (PYTEST_ARGS=…)
	@scripts/need dbus-daemon:dbus-daemon
	$(PYTEST) -m 'not integration and not vm and not slow' $(PYTEST_ARGS)

lint: venv ## linters, types and layers only
	$(PYTEST) -q tests/test_linters.py tests/test_layers.py

format: venv ## format the sources, and mend what ruff can
	$(VENV_PYTHON) -m ruff format .
	$(VENV_PYTHON) -m ruff check --fix .

lock: ## write the lock files anew from pyproject.toml (needs uv)
	$(PYTHON) -m scripts.lock

venv: $(VENV)/.complete ## the environment for all of the above, in .venv (PYTHON=python3)

$(VENV)/.complete: requirements-dev.lock
	$(call check_python,$(PYTHON))
	@scripts/need venv=$(PYTHON):python3-venv
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV_PYTHON) -m pip install -qq --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: \
	    --requirement requirements-dev.lock
	@touch $@

install: ## install and take over from systemd-machined (root; PREFIX=/usr/local DESTDIR= PYTHON= MACHINED_WHEELS=)
	$(call check_python,$(INSTALL_PYTHON))
	@$(INSTALLER) --wheels '$(MACHINED_WHEELS)' install

uninstall: ## remove what install has put there, give back to systemd-machined (root; PURGE=1: autostart links too)
	$(call check_python,$(INSTALL_PYTHON))
	@$(INSTALLER) $(if $(PURGE),--purge) uninstall

clean: ## remove what was made in the source tree
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
