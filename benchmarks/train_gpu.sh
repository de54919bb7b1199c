#!/usr/bin/env bash
# benchmarks/train_gpu.py with the lbp of this tree, which must have been built (`benchmarks/gpu_record.sh build`), on a
# machine without a network: of packages it needs torch and numpy in the Python that PYTHON names [python3], and typer,
# rich, pydantic and safetensors there or in build/gpu_record/packages. Arguments are those of train_gpu.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD:$PWD/build/gpu_record/packages${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" benchmarks/train_gpu.py "$@"
