# Every target prepares what it needs, from a machine that has make and Python 3.11 or newer.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= $(firstword $(foreach name,python3.11 python3 python3.12 python3.13 python3.14,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $(name))))
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Root needs no sudo; without a password at hand, sudo is no way either.
AS_ROOT := $(if $(filter 0,$(shell id -u)),env,sudo -n)
APT := DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0
MAY_INSTALL := command -v apt-get >/dev/null && $(AS_ROOT) true 2>/dev/null

SOURCES := daemon tests bench docs/make-demo-picture.py docs/make-man-page.py

# Arguments for the demo: make demo ARGS=--keep
ARGS ?=

.PHONY: help demo test lint format parts booted deb pins clean

help: ## Show this list.
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(READY) ## Run the main job in a throw-away directory; ARGS=--keep leaves it running.
	@$(BIN)/dropsign demo $(ARGS)

# Tests wait more than they compute: three at a time keep two cores busy.
test: lint parts ## Check the style and run all tests, with coverage.
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses=3 --quiet $(TESTS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report
	@if (( $$(id -u) == 0 )) || [[ "$${CI:-}" == true ]]; then $(MAKE) --no-print-directory booted; \
		else echo "the tests of the package on a booted systemd need root: sudo make booted"; fi

# On a machine of its own, which systemd boots; who is not root cannot have one.
booted: deb ## Test the package as a service, on a booted systemd.
	@rm -rf build/disk && mkdir -p build/disk
	@for boot in 1 2 3; do \
		echo "boot $$boot"; \
		tests/with-systemd $(CURDIR) env DROPSIGN_PACKAGE="$$(echo $(CURDIR)/dist/*.deb)" DROPSIGN_BOOT=$$boot \
			DROPSIGN_DISK=$(CURDIR)/build/disk $(CURDIR)/$(BIN)/python -m pytest --quiet -p no:cacheprovider tests/booted; \
	done

lint: $(READY) ## Check style, format, types and floors.
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check --quiet $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	@$(BIN)/lint-imports --no-logo

format: $(READY) ## Put the code into its form.
	$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# The programs that tests hold dropsign against. Who may not install them has those tests skipped, with the reason.
parts: $(READY)
	@missing=(); \
	for part in chromium faketime fish mandoc nginx strace openssl systemd-analyze:systemd zsh; do \
		PATH="$$PATH:/usr/sbin:/sbin" command -v "$${part%:*}" >/dev/null || missing+=("$${part#*:}"); \
	done; \
	if (( $${#missing[@]} )) && { $(MAY_INSTALL); }; then \
		echo "installing for the tests: $${missing[*]}"; \
		$(AS_ROOT) $(APT) update && \
		$(AS_ROOT) $(APT) install --no-install-recommends "$${missing[@]}" || echo "could not install all of them"; \
	fi
	@# Installed, prometheus would run as a service: only its checker is taken out of the package.
	@if ! PATH="$$PATH:$(BIN)" command -v promtool >/dev/null && command -v apt-get >/dev/null; then \
		echo "fetching promtool for the tests"; \
		{ cd $(VENV) && { $(APT) download prometheus 2>/dev/null || \
		{ $(AS_ROOT) $(APT) update && $(APT) download prometheus; }; } && \
		dpkg-deb --fsys-tarfile prometheus_*.deb | tar -xO ./usr/bin/promtool >promtool.part && \
		rm prometheus_*.deb && chmod +x promtool.part && mv promtool.part bin/promtool; } || echo "could not fetch it"; \
	fi

# Built from a copy, as Debian's tools write beside what they build.
deb: ## Build the Debian package, for the Debian that this is: dist/dropsign_VERSION_ARCHITECTURE.deb
	@command -v dh >/dev/null || { $(AS_ROOT) $(APT) update && \
		$(AS_ROOT) $(APT) install --no-install-recommends debhelper dpkg-dev python3-venv; }
	@rm -rf build/deb && mkdir -p build/deb/dropsign dist
	@cp -a CHANGELOG.md LICENSE README.md config.toml.example daemon debian docs pyproject.toml systemd build/deb/dropsign
	cd build/deb/dropsign && dpkg-buildpackage --build=binary --no-sign >../log 2>&1 || { tail -n 50 ../log; exit 1; }
	@rm -f dist/*.deb && mv build/deb/*.deb dist/ && ls dist/*.deb

# Each line names a version and the digests of its files; the package is built of nothing else.
pins: $(READY) ## Pin the package's dependencies anew.
	@$(PIP) install --group pins
	for list in pyproject.toml:requirements.txt debian/tools.in:tools.txt; do \
		$(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url \
			--no-emit-trusted-host --no-emit-find-links --no-header --output-file "debian/$${list#*:}" "$${list%:*}"; \
	done

$(READY): pyproject.toml
	@[[ -n "$(PYTHON)" ]] || { echo "dropsign needs Python 3.11 or newer; install python3" >&2; exit 1; }
	@rm -rf $(VENV); echo "preparing $(VENV) with $(PYTHON)"
	@# Debian keeps the module that makes environments in a package of its own.
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
		rm -rf $(VENV); \
		{ $(MAY_INSTALL); } || { echo "install python3-venv first" >&2; exit 1; }; \
		echo "installing python3-venv"; \
		$(AS_ROOT) $(APT) update && $(AS_ROOT) $(APT) install --no-install-recommends python3-venv; \
		/usr/bin/python3 -m venv $(VENV); }
	@# Dependency groups need pip 25.1.
	@$(PIP) install --upgrade 'pip>=25.1'
	@$(PIP) install --editable . --group dev
	@touch $@

clean: ## Remove what make made.
	rm -rf $(VENV) .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache dist build
	find daemon tests -name __pycache__ -prune -exec rm -rf {} +
