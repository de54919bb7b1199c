#!/usr/bin/env bash
# Builds for the GPU of this machine, tests, and measures, in under ten minutes and without a network; the record is
# benchmarks/results/gpu-<device>.json. Needs torch with CUDA, nvcc, cmake, ninja, pytest and the package's own
# dependencies in the Python that PYTHON names [python3]. Arguments are names of stages: benchmarks/gpu_record.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python3}" benchmarks/gpu_record.py "$@"
