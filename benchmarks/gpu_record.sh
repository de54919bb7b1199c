#!/usr/bin/env bash
# Builds for the GPU of this machine, tests, and measures, in under ten minutes and without a network. The records are
# benchmarks/results/gpu-<device>.json, of all stages, and beside it what was measured: -bench, -methods and -growth.
# Needs nvcc, a C++ compiler, CMake and ninja, and for the Python that PYTHON names [python3] torch with CUDA, pip and
# pytest. All else comes as wheels in build/carried, which `make carried` fills on a machine with a network (CMake and
# ninja, too, by CARRIED_ALSO="cmake ninja"; auto_LiRPA by PEER=FOLDER); they are installed into build/gpu_record.
# Without arguments all stages run: tests, then what is most telling, then what time is left for. Arguments are names of
# stages, which run alone, or --rest for what the record lacks; --help lists them, and benchmarks/gpu_record.py says more.
# Calls of --rest, one after the other, measure everything that `lbp bench` has for a GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
packages="$PWD/build/gpu_record/packages"
if compgen -G "build/carried/*.whl" > /dev/null; then
  installed="$PWD/build/gpu_record/installed" # which wheels: the next call need not install them again
  if [[ ! -d "$packages" || "$(cat "$installed" 2> /dev/null)" != "$(echo build/carried/*.whl)" ]]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$packages" \
      build/carried/*.whl
    echo build/carried/*.whl > "$installed"
  fi
  export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}" PATH="$packages/bin:$PATH"
fi
exec "$python" benchmarks/gpu_record.py "$@"
