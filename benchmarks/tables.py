"""Writes the figures of the tables on the pages from the records, so that a figure has one source.

    python benchmarks/tables.py            # after a new record
    python benchmarks/tables.py --check    # only names the rows that differ, with exit code 1

Which rows a table has is up to its page. The first cell of its heading says what it shows, the first cells of a row
which case of the record; the other cells are written. Other tables, and figures in sentences, are left as they are.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

from lbp.bench.aims import CPU_AIMS
from lbp.bench.comparison import LEAST_REPEATS
from lbp.bench.growth import fitted_growth
from lbp.bench.record import Record, Row, read_record
from lbp.bench.tables import floor_seconds

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "benchmarks").glob("*.md")), ROOT / "docs" / "training.md")
RESULTS = ROOT / "benchmarks" / "results"
CONTENDERS = {
    "lbp": ("native",),
    "PyTorch": ("reference",),
    "torch.compile": ("reference compiled",),
    "auto_LiRPA": ("auto_LiRPA patches", "auto_LiRPA matrix"),
}


def main() -> None:
    """Writes the pages, or checks them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    differs = False
    for page in PAGES:
        old = page.read_text()
        new = filled(old)
        for before, after in zip(old.splitlines(), new.splitlines(), strict=True):
            if before != after:
                print(f"{page.relative_to(ROOT)}:\n  {before}\n  {after}")
                differs = True
        if not options.check:
            page.write_text(new)
    if options.check and differs:
        raise SystemExit(1)


def filled(page: str) -> str:
    """Returns a page with the figures that the records have.

    Raises:
        KeyError: a record has no such case.
    """
    lines = page.split("\n")
    heading: list[str] = []
    for number, line in enumerate(lines):
        if not line.startswith("|"):
            heading = []
        elif not heading:
            heading = cells(line)
        elif heading[0] in TABLES and not line.startswith("| ---"):
            lines[number] = f"| {' | '.join(TABLES[heading[0]](heading, cells(line)))} |"
    return "\n".join(lines)


def cells(line: str) -> list[str]:
    """Returns the cells of a row."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def rows_of(record: Record) -> dict[tuple[str, str, str, str], Row]:
    """Returns a record's rows by level, case, activation and contender."""
    return {row.key: row for row in record.rows}


CPU = read_record(RESULTS / "cpu-2-cores.json")
CPU_ROWS = rows_of(CPU)
H100 = read_record(RESULTS / "gpu-nvidia-h100-80gb-hbm3-bench.json")
H100_ROWS = rows_of(H100)
H100_METHODS = rows_of(read_record(RESULTS / "gpu-nvidia-h100-80gb-hbm3-methods.json"))
LARGE = json.loads((RESULTS / "large-networks-cpu-2-cores.json").read_text())["results"]
ROUNDING = json.loads((RESULTS / "rounding-cpu-2-cores.json").read_text())["networks"]
ROUNDED_CHECKPOINTS = json.loads((RESULTS / "rounding-mnist-cpu-2-cores.json").read_text())["checkpoints"]
QUICK = (RESULTS / "quick-mnist.md").read_text().splitlines()


def whole_method(level: str, batch: int) -> Callable[[list[str], list[str]], list[str]]:
    """Returns what fills rows "network and activation, number of images | method | a cell per contender"."""

    def fill(heading: list[str], row: list[str]) -> list[str]:
        found = re.fullmatch(r"(.*) (ReLU|ParamRamp)(?:, (\d+) images)?", row[0])
        if found is None:
            raise KeyError(row[0])
        network, activation, images = found.groups()
        case = f"{network} {row[1]} B={images or batch}"
        if (level, case, activation, "native") not in CPU_ROWS:
            raise KeyError(case)
        return [*row[:2], *(best((level, case, activation), CONTENDERS[name.split(",")[0]]) for name in heading[2:])]

    return fill


def best(case: tuple[str, str, str], contenders: tuple[str, ...]) -> str:
    """Returns seconds and MiB of the fastest contender; where none has a time, why; nothing if none took part."""
    rows = [CPU_ROWS[(*case, name)] for name in contenders if (*case, name) in CPU_ROWS]
    timed = [(row.timing, row.peak_bytes) for row in rows if row.timing is not None]
    if not timed:
        notes = [row.note.split(":")[0].replace("stopped after", "over") for row in rows]
        return ", ".join(dict.fromkeys(notes))
    timing, peak_bytes = min(timed, key=lambda one: one[0].median)
    few = "*" if timing.repeats < LEAST_REPEATS else ""
    return f"{seconds(timing.median)}{few} / {(peak_bytes or 0) / 2**20:,.0f}"


def op(_: list[str], row: list[str]) -> list[str]:
    """Fills "op and sizes | lbp | floor | PyTorch | PyTorch / lbp", in milliseconds."""
    found = re.fullmatch(r"(\S+)( gradient)?(.*?)(?: (ReLU|ParamRamp))?", row[0])
    assert found is not None
    name, gradient, sizes, activation = found.groups()
    case = f"{name}{' backward' if gradient else ''}{sizes}"
    ours, plain = (CPU_ROWS["ops", case, activation or "", contender] for contender in ("native", "reference"))
    floor = floor_seconds(ours, CPU.rates_of(ours))
    assert ours.timing is not None
    assert plain.timing is not None
    assert floor is not None
    times = [1e3 * time for time in (ours.timing.median, floor, plain.timing.median)]
    ratio = plain.timing.median / ours.timing.median
    return [row[0], *(f"{time:.1f}" if time < 99.95 else f"{time:.0f}" for time in times), f"{ratio:.1f}"]


def on_h100(_: list[str], row: list[str]) -> list[str]:
    """Fills "op and sizes | ReLU | ParamRamp | ReLU otherwise", in microseconds, with shares of a copy's bandwidth."""
    filled = [row[0]]
    for activation in ("ReLU", "ParamRamp"):
        ours = H100_ROWS["ops", row[0], activation, "native"]
        assert ours.timing is not None
        assert ours.moved_bytes is not None
        share = ours.moved_bytes / ours.timing.median / H100.rates_of(ours).copy
        filled.append(f"{1e6 * ours.timing.median:.0f} ({share:.0%})")
    # What PyTorch's own calls take; other functions of that record's reference are not written for speed.
    other = "reference" if row[0].startswith("ramp") else "CuPy fused"
    found = H100_ROWS.get(("ops", row[0], "ReLU", other))
    name = "PyTorch" if other == "reference" else "CuPy"
    return [*filled, "" if found is None or found.timing is None else f"{name}: {1e6 * found.timing.median:.0f}"]


def large_network(_: list[str], row: list[str]) -> list[str]:
    """Fills "network, method | seconds | resident MiB | billions of multiply-adds | of whole rows"."""
    result = LARGE[row[0].replace(" ReLU", "")]
    counts = (result["peak_rss_mib"], result["gmacs"], result["gmacs_of_whole_rows"])
    return [row[0], seconds(result["seconds"]), *(f"{count:,.0f}" for count in counts)]


def aim(_: list[str], row: list[str]) -> list[str]:
    """Fills "aim in the words of lbp bench | aim | measured | met or missed"."""
    found = {one.words: one for one in CPU_AIMS}[row[0]]
    ratio = found.measured(CPU)
    bound = f"at {'least' if found.at_least else 'most'} {found.bound:g}"
    verdict = "met" if found.is_met_by(ratio) else "missed"
    return [row[0], bound, f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}", verdict]


def growth(heading: list[str], row: list[str]) -> list[str]:
    """Fills "what grows | exponent of time, and in brackets of operations, for a method"."""
    fits = {(fit.method, fit.contender, fit.quantity): fit for fit in fitted_growth(CPU.rows)}

    def exponents(name: str) -> str:
        method, comma, variant = name.partition(", ")
        fit = fits[method, f"native{comma}{variant}", row[0].removesuffix(" size")]
        return f"{fit.time:.1f} ({fit.expected.partition(' once')[0]})"

    return [row[0], *map(exponents, heading[1:])]


def on_h100_whole(_: list[str], row: list[str]) -> list[str]:
    """Fills "method, activation | this package | PyTorch | auto_LiRPA's patches", in milliseconds, of 32 images."""
    method, activation = row[0].split(", ")
    rows = [
        H100_METHODS.get(("methods", f"DM-Large {method} B=32", activation, contender))
        for contender in ("native", "reference", "auto_LiRPA patches")
    ]
    return [row[0], *("" if one is None or one.timing is None else f"{1e3 * one.timing.median:.1f}" for one in rows)]


def rounded(_: list[str], row: list[str]) -> list[str]:
    """Fills "network | method | images | wrong, nearest | outward | processor time | wall clock | lost of a width"."""
    found = {(result["network"], result["method"]): result for result in ROUNDING}[row[0], row[1]]
    nearest, outward = (found[f"wrong {level}"].split("/") for level in ("nearest", "outward"))
    overheads = (float(found[f"{clock} overhead"].strip("+%")) for clock in ("processor", "wall-clock"))
    return [
        *row[:2],
        str(found["images"]),
        f"{int(nearest[0]):,} of {int(nearest[1]):,}",
        f"{int(outward[0]):,}",
        *(f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %" for percent in overheads),
        short(float(found["lost, relative to the width"])),
    ]


def rounded_checkpoint(_: list[str], row: list[str]) -> list[str]:
    """Fills "network | eps | method | images | verified errors | mean size of a margin | mean change | largest"."""
    results = {(one["checkpoint"], str(one["eps"]), one["method"]): one for one in ROUNDED_CHECKPOINTS}
    found = results[row[0], row[1], row[2]]
    return [
        *row[:3],
        f"{found['images']:,}",
        *(f"{found[f'verified error {level}']:.2f}" for level in ("nearest", "outward", "verify")),
        f"{found['mean size of a margin']:.2f}",
        short(found["mean change"]),
        short(found["largest change"]),
    ]


def quick(_: list[str], row: list[str]) -> list[str]:
    """Fills "eps | activation | errors" with what `quick_table.py` wrote."""
    return next(found for line in QUICK if (found := cells(line))[:2] == row[:2])


def short(number: float) -> str:
    """Returns two digits and a power of ten."""
    digits, power = f"{number:.1e}".split("e")
    return f"{digits}e{int(power)}"


def seconds(time: float) -> str:
    """Returns two digits of a time, and no more than four behind the point."""
    decimals = next((digits for digits, least in ((2, 0.0995), (3, 0.00995)) if time >= least), 4)
    return f"{time:.{decimals}f}"


TABLES = {
    "one image": whole_method("methods", 1),
    "more images": whole_method("methods", 16),
    "training step": whole_method("training", 16),
    "op, ms": op,
    "H100, us": on_h100,
    "H100, ms": on_h100_whole,
    "large network": large_network,
    "aim on two cores": aim,
    "growing": growth,
    "rounding": rounded,
    "trained network": rounded_checkpoint,
    "eps": quick,
}

if __name__ == "__main__":
    main()
