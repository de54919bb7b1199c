#!/usr/bin/env bash
# Writes the full record of a CPU, piece by piece into one file, the most telling pieces first, and draws its pictures. Every piece
# has a time limit; the same command continues where the last one stopped, on the same machine and commit. A piece that fails does
# not keep the others from running, but ends the script with its exit code. Arguments: the record's file, then options of every
# piece, for example --peer FOLDER.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
output="${1:?usage: benchmarks/cpu_record.sh RECORD.json [options of lbp bench]}"
shift
python="${PYTHON:-python3}"
export COLUMNS="${COLUMNS:-220}" # of the tables, which are cut off in fewer
status=0
run() { # FILE COMMAND...: what the command prints goes to the file
  local code=0
  "$python" -m lbp bench "${@:2}" > "$1" || code=$?
  if [ "$code" -ne 0 ]; then echo "bench ${*:2}: exit $code" >&2; status=$code; fi
  if [ "$code" -eq 130 ]; then exit 130; fi
}
piece() { run "${output%.json}.$1.txt" "$@" --output "$output"; }
# Of CROWN, PyTorch needs more than half a minute on DM-Medium, and on DM-Large this package some seconds: they have limits of their
# own, as that of the other pieces cuts them off. So has CNN-7+BN, which comes last of the networks. Of more images than one the
# small networks come first.
piece methods --only DM-Large --only IBP --only CROWN-IBP --batch 16 --case-seconds 10 --repeats 9 --time-limit 20 --run-limit 5 "$@"
piece methods --only DM-Large --only IBP --only CROWN-IBP --batch 256 --case-seconds 10 --repeats 5 --time-limit 15 --run-limit 4 "$@"
piece methods --only DM-Medium --only CROWN --batch 1 --time-limit 60 --run-limit 5 "$@"
piece training --case-seconds 3 --time-limit 20 --run-limit 6 "$@"
piece training --only DM-Medium --batch 128 --case-seconds 3 --time-limit 20 --run-limit 3 "$@"
piece methods --only DM-Large --only CROWN --batch 1 --case-seconds 8 --time-limit 30 --run-limit 4 "$@"
piece methods --only CNN-7+BN --batch 1 --time-limit 12 --run-limit 4 "$@"
piece methods --batch 1 --time-limit 12 --run-limit 10 "$@"
piece ops --quick --repeats 5 --run-limit 2 "$@"
piece ops --repeats 5 --run-limit 16 "$@"
piece methods --only IBP --only CROWN-IBP --batch 16 --batch 256 --time-limit 12 --run-limit 3 "$@"
piece methods --only LBP --only CROWN-LBP --only CROWN --batch 16 --batch 256 --time-limit 12 --run-limit 4 "$@"
piece growth --time-limit 12 --run-limit 3 "$@"
run "${output%.json}.txt" --show "$output" --plots "${output%.json}-plots"
exit "$status"
