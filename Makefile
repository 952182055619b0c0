# make demo: from a clean machine to a bundle.  make test: the whole suite.  make check: what CI runs before it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROOT_APT := $(shell [ "$$(id -u)" = 0 ] && command -v apt-get 2>/dev/null)
DEMO_PACKAGES := dataset-fashion-mnist python3-venv
EMULATOR_PACKAGES := gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm
TEST_PACKAGES := $(DEMO_PACKAGES) chromium gcc g++ libc6-dev $(EMULATOR_PACKAGES)
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
DEMO := --preset quick --dataset fashion_mnist --device stm32f746 --link lte --out runs/demo

.PHONY: demo test test-all check format lock install clean

demo: .deps-demo install
	$(BIN)/hybrid run $(DEMO)

test: .deps-test install
	$(PYTEST)

test-all: .deps-test install
	$(PYTEST) -m "slow or not slow"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements.lock | .deps-demo
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# Names and versions only, for all supported Pythons.
lock:
	uv pip compile --universal --python-version 3.10 --extra dev --prerelease if-necessary-or-explicit \
		--no-header --no-annotate --upgrade pyproject.toml -o requirements.lock

# Debian packages, where apt-get is there and the user is root; elsewhere the data set is downloaded and tests that
# miss a program say so.
.deps-demo: Makefile
ifneq ($(ROOT_APT),)
	dpkg -s $(DEMO_PACKAGES) >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $(DEMO_PACKAGES); }
endif
	touch $@

.deps-test: Makefile .deps-demo
ifneq ($(ROOT_APT),)
	dpkg -s $(TEST_PACKAGES) >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $(TEST_PACKAGES); }
endif
	touch $@

clean:
	rm -rf $(VENV) runs .deps-demo .deps-test .mypy_cache .ruff_cache .pytest_cache
