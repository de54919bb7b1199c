# `make help` lists the targets. Settings, as in `make test PYTHON=python3.12`:
#   PYTHON       the Python (>= 3.11) that the virtual environment is made from           [python3]
#   VENV         the virtual environment's folder; VENV=none uses PYTHON's own packages   [.venv]
#                as they are and downloads nothing (a machine with its own torch and no network)
#   PYTEST_ARGS  more arguments for pytest
#   DEMO_ARGS    more arguments for `lbp demo`
#   CARRIED_PYTHON  version of the Python for which `make carried` downloads [3.12]
#   CARRIED_ALSO    what else it downloads, where the other machine lacks it, as "cmake ninja" []
#   PEER            a folder with auto_LiRPA's sources, from which it makes a wheel []
#   SANITIZE     OFF builds the C++ tests without sanitizers, where the compiler lacks them [ON]

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
DEMO_ARGS ?=
SANITIZE ?= ON

ifeq ($(VENV),none)
PY := $(PYTHON)
SCRIPTS := $(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
STAMPS := build/stamps
else
PY := $(abspath $(VENV))/bin/python
SCRIPTS := $(abspath $(VENV))/bin
STAMPS := $(VENV)
endif

export PATH := $(SCRIPTS):$(PATH)
# Waiting threads sleep instead of spinning, which costs little and keeps a busy machine from crawling.
export OMP_WAIT_POLICY ?= PASSIVE
# Compiling CUDA kernels ahead of time takes minutes; without a GPU here they are only launched, on a stand-in.
export LBP_CUDA ?= $(if $(wildcard /dev/nvidia0),AUTO,JIT)
# A process of tests per core, each with one thread.
IN_PARALLEL = $(shell $(PY) -c 'import xdist' 2>/dev/null && printf '%s' '-n auto')
CPP := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')

.DEFAULT_GOAL := help
.PHONY: carried help demo record test test-python test-cpp test-emulated build-tests cuda-check lint format wheel native clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@sed -n '2,/^$$/s/^#//p' $(firstword $(MAKEFILE_LIST))

demo: native ## train two small networks with certified bounds and verify them by all six methods
	lbp demo $(DEMO_ARGS)

test: test-python test-cpp test-emulated ## all tests

test-python: native ## the tests of the package
	$(PY) -m pytest $(IN_PARALLEL) $(PYTEST_ARGS)

test-cpp: build-tests ## the C++ unit tests, under AddressSanitizer and UBSan
	ctest --test-dir build/tests --output-on-failure

# A module under AddressSanitizer loads where the sanitizer's runtime came first; it in turn wants the C++ library.
SANITIZER_RUNTIME = $(if $(filter ON,$(SANITIZE)),$(foreach library,libasan.so libstdc++.so,$(shell $(CXX) -print-file-name=$(library))))

# The tests of the ops whose kernels are emulated. eta in a tensor out of range, and a row that stands nowhere, are errors
# where the host can read them; that a row gives the same bits alone and with others is what CPU kernels promise, and that
# a gradient may be written over another is an op of theirs.
EMULATED_TESTS = $(addprefix tests/ops/test_,activation.py lines_in_floating_point.py affine.py alignment.py relax.py \
	concretize.py nan.py gradient_conventions.py windows.py \
	$(addprefix forward_windows.py::test_,bounds_over_a_box bounds_over_a_ball bounds_of_layers_larger_than_a_tile)) \
	-k "not tensor_eta_outside and not stands_nowhere_is_refused and not many_rows_at_one_place and not may_overwrite"

test-emulated: native build-tests ## the CUDA kernels on the CPU, one fiber per thread, under the same sanitizers
	LD_PRELOAD="$(SANITIZER_RUNTIME)" ASAN_OPTIONS=detect_leaks=0 LBP_EMULATED=build/tests/tests/emulation \
		$(if $(PYTEST_ARGS),,LBP_EVERY_KERNEL=1) \
		$(PY) -m pytest tests/emulation $(EMULATED_TESTS) $(IN_PARALLEL) $(PYTEST_ARGS)

build-tests: $(STAMPS)/dependencies
	cmake -S . -B build/tests -G Ninja -DLBP_BUILD_NATIVE=OFF -DLBP_BUILD_TESTS=ON -DLBP_SANITIZE=$(SANITIZE) \
		-DPython_EXECUTABLE=$(PY)
	cmake --build build/tests

cuda-check: native $(STAMPS)/cuda ## compile all CUDA kernels for all architectures, by nvcc and NVRTC; needs no GPU
	$(PY) .ci/check_cuda.py nvcc
	$(PY) .ci/check_cuda.py nvrtc

# Beyond torch, nvcc, CMake, ninja, CuPy (which comes with NumPy) and pytest, for the Python of the machine with the GPU.
CARRIED = hypothesis matplotlib pillow typer rich pydantic safetensors setuptools
CARRIED_ALSO ?=
CARRIED_PYTHON ?= 3.12
PEER ?=

record: native ## the full CPU record, in some 70 minutes, into build/record.json; RECORD_ARGS="--peer FOLDER" adds auto_LiRPA
	PYTHON=$(PY) benchmarks/cpu_record.sh build/record.json $(RECORD_ARGS)

carried: $(STAMPS)/dependencies ## download into build/carried, 31 MB, what benchmarks/gpu_record.sh needs on a machine without a network
	rm -rf build/carried
	$(PY) -m pip download --quiet --dest build/carried --only-binary=:all: --python-version $(CARRIED_PYTHON) \
		$(foreach tag,2014 _2_17 _2_28,--platform manylinux$(tag)_x86_64) --constraint constraints.txt $(CARRIED) $(CARRIED_ALSO)
	$(if $(PEER),$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/carried $(PEER) appdirs graphviz)
	rm -f build/carried/numpy-*
	git rev-parse HEAD > build/carried/commit

lint: $(STAMPS)/dependencies ## style and types: ruff, mypy, clang-format
	ruff check .
	ruff format --check .
	mypy
	$(if $(CPP),clang-format --dry-run -Werror $(CPP))

format: $(STAMPS)/dependencies ## let ruff and clang-format rewrite the sources
	ruff check --fix .
	ruff format .
	$(if $(CPP),clang-format -i $(CPP))

wheel: $(STAMPS)/dependencies ## build a wheel into dist/
	rm -rf build/lib* build/bdist* dist
	$(PY) -m pip wheel --no-build-isolation --no-deps -w dist .

# Less than a second where nothing has changed.
native: $(STAMPS)/installed
	@$(PY) setup.py --quiet build_ext --inplace

$(STAMPS)/installed: $(STAMPS)/dependencies pyproject.toml setup.py
	$(PY) -m pip install --no-build-isolation --no-deps --editable .
	@touch $@

ifeq ($(VENV),none)
$(STAMPS)/dependencies:
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/cuda: $(STAMPS)/dependencies
	@touch $@
else
$(STAMPS)/cuda: $(STAMPS)/dependencies constraints-cuda.txt constraints-nvcc.txt
	$(PY) -m pip install --no-deps --requirement constraints-cuda.txt \
		$(if $(shell command -v nvcc),,--requirement constraints-nvcc.txt)
	@touch $@

$(STAMPS)/dependencies: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lbp needs Python 3.11 or newer; name one by PYTHON=")'
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian and Ubuntu: python3-venv)." >&2; exit 1; }
	$(PY) -m pip install --no-compile --requirement constraints.txt
	@$(PY) -m compileall -q -j 0 $(VENV)/lib > /dev/null || true  # as pip would by itself, but on all cores
	@touch $@
endif

clean: ## remove the virtual environment and everything that was built
	rm -rf build dist lbp.egg-info lbp/*.so $(if $(filter-out none,$(VENV)),$(VENV))
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find lbp tests -name __pycache__ -type d -prune -exec rm -rf {} +
