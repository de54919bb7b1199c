#!/usr/bin/env bash
# Writes the full record of a CPU, piece by piece into one file, the most telling pieces first. Every piece has a time limit;
# the same command continues where the last one stopped, on the same machine and commit. Arguments: the record's file, then
# options of every piece, for example --peer FOLDER.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
output="${1:?usage: benchmarks/cpu_record.sh RECORD.json [options of lbp bench]}"
shift
python="${PYTHON:-python3}"
piece() { "$python" -m lbp bench "$@" --output "$output" > "${output%.json}.$1.txt" || echo "bench $*: exit $?" >&2; }
piece methods --batch 1 --time-limit 20 --run-limit 13 "$@"
piece training --time-limit 20 --run-limit 6 "$@"
piece methods --batch 1 --batch 16 --time-limit 20 --run-limit 8 "$@"
piece ops --repeats 5 --run-limit 11 "$@"
piece growth --time-limit 20 --run-limit 4 "$@"
piece methods --batch 1 --batch 16 --batch 256 --time-limit 20 --run-limit 5 "$@"
