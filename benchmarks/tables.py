"""Writes the figures of the tables on the pages from the records, so that a figure has one source.

    python benchmarks/tables.py            # after a new record
    python benchmarks/tables.py --check    # only names the rows that differ, with exit code 1

Which rows a table has is up to its page. The first cell of its heading says what it shows, the first cells of a row
which case of the record; the other cells are written. Other tables, and figures in sentences, are left as they are.
"""

import argparse
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

from lbp.bench.aims import CPU_AIMS
from lbp.bench.comparison import LEAST_REPEATS
from lbp.bench.growth import fitted_growth
from lbp.bench.methods import OTHER_LINES
from lbp.bench.rates import Rates
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


Rows = dict[tuple[str, str, str, str], tuple[Row, Rates]]


def rows_of(*records: Record) -> Rows:
    """Returns the rows of records, with the rates of their runs, by level, case, activation and contender.

    Of two records that have a case the later one counts, also where it failed there; not where it was not run.
    """
    rows: Rows = {}
    for record in records:
        for row in record.rows:
            if row.key not in rows or not row.note.startswith("not run"):
                rows[row.key] = row, record.rates_of(row)
    return rows


CPU = read_record(RESULTS / "cpu-2-cores.json")
CPU_ROWS = rows_of(CPU)
CPU_OPS = rows_of(read_record(RESULTS / "cpu-2-cores-ops.json"))
ZEN5 = read_record(RESULTS / "cpu-2-cores-zen5.json")
# Each record has cases that the runs after it did not reach.
H100 = [
    read_record(RESULTS / f"gpu-nvidia-h100-80gb-hbm3-bench{of}.json")
    for of in ("-8fa9579", "-43e51cc", "-66368ba", "")
]
H100_ROWS = rows_of(*H100)
H100_METHODS = rows_of(read_record(RESULTS / "gpu-nvidia-h100-80gb-hbm3-methods.json"))
LARGE = json.loads((RESULTS / "large-networks-cpu-2-cores.json").read_text())["results"]
ROUNDING = json.loads((RESULTS / "rounding-cpu-2-cores.json").read_text())["networks"]
ROUNDED_CHECKPOINTS = json.loads((RESULTS / "rounding-mnist-cpu-2-cores.json").read_text())["checkpoints"]
QUICK = (RESULTS / "quick-mnist.md").read_text().splitlines()


def whole_method(
    level: str, batch: int, records: Rows = CPU_ROWS, *, per_second: int = 1
) -> Callable[[list[str], list[str]], list[str]]:
    """Returns what fills rows "network and activation, number of images | method | a cell per contender".

    Args:
        level: of the rows.
        batch: where a row has no number of images.
        records: the rows.
        per_second: units of time that a second has, 1 or 1,000.
    """

    def fill(heading: list[str], row: list[str]) -> list[str]:
        found = re.fullmatch(r"(.*) (ReLU|ParamRamp)(?:, (\d+) images)?", row[0])
        if found is None:
            raise KeyError(row[0])
        network, activation, images = found.groups()
        case = (level, f"{network} {row[1]} B={images or batch}", activation)
        if (*case, "native") not in records:
            raise KeyError(case[1])

        def cell(column: str) -> str:
            keys = [(*case, name) for name in CONTENDERS[column.split(",")[0]]]
            return best([records[key][0] for key in keys if key in records], per_second)

        return [*row[:2], *map(cell, heading[2:])]

    return fill


def best(rows: list[Row], per_second: int) -> str:
    """Returns time and MiB of the fastest contender; where none has a time, why; nothing if none took part."""
    timed = [(row.timing, row) for row in rows if row.timing is not None]
    if not timed:
        notes = [row.note.split(":")[0].replace("stopped after", "over") for row in rows]
        notes = [re.sub("from reference by (.*) of the largest.*", r"by \1", note) for note in notes]
        return ", ".join(dict.fromkeys(notes))
    timing, row = min(timed, key=lambda one: one[0].median)
    few = "*" if timing.repeats < LEAST_REPEATS else ""
    few += "†" if row.note.startswith(OTHER_LINES) else ""
    time = seconds(timing.median) if per_second == 1 else short_time(per_second * timing.median)
    return f"{time}{few} / {(row.peak_bytes or 0) / 2**20:,.0f}"


def op(records: Rows, per_second: int) -> Callable[[list[str], list[str]], list[str]]:
    """Returns what fills "op and sizes | lbp | floor | PyTorch | PyTorch / lbp", the times in that unit."""

    def fill(_: list[str], row: list[str]) -> list[str]:
        found = re.fullmatch(r"(\S+)( gradient)?(.*?)(?: (ReLU|ParamRamp))?", row[0])
        assert found is not None
        name, gradient, sizes, activation = found.groups()
        case = f"{name}{' backward' if gradient else ''}{sizes}"
        ours, rates = records["ops", case, activation or "", "native"]
        plain = records["ops", case, activation or "", "reference"][0]
        floor = floor_seconds(ours, rates)
        assert ours.timing is not None
        assert plain.timing is not None
        assert floor is not None
        times = [per_second * time for time in (ours.timing.median, floor, plain.timing.median)]
        return [row[0], *map(short_time, times), f"{plain.timing.median / ours.timing.median:.1f}"]

    return fill


def on_h100(heading: list[str], row: list[str]) -> list[str]:
    """Fills "op and sizes | columns by their headings", in microseconds, with shares of a copy's bandwidth.

    The columns are "ReLU", for ops without activation as well, "ParamRamp", "a copy", of as many bytes as the first,
    and "otherwise", for ReLU what CuPy's fused kernel takes, or PyTorch's own calls.
    """

    def measured(contender: str, activation: str) -> tuple[Row, Rates] | None:
        without = H100_ROWS.get(("ops", row[0], "", contender)) if activation == "ReLU" else None
        found = without or H100_ROWS.get(("ops", row[0], activation, contender))
        return None if found is None or found[0].timing is None else found

    def ours(activation: str, *, copy: bool = False) -> str:
        found = measured("native", activation)
        if found is None:
            return ""
        one, rates = found
        assert one.timing is not None
        assert one.copy_seconds is not None
        assert one.moved_bytes is not None
        time = one.copy_seconds if copy else one.timing.median
        return f"{short_time(1e6 * time)} ({one.moved_bytes / time / rates.copy:.0%})"

    def otherwise() -> str:
        # Of the backend's functions only those of ReLU alone are PyTorch's own.
        name, contender = ("PyTorch", "reference") if row[0].startswith("ramp") else ("CuPy", "CuPy fused")
        found = measured(contender, "ReLU")
        return "" if found is None or found[0].timing is None else f"{name}: {short_time(1e6 * found[0].timing.median)}"

    if measured("native", "ReLU") is None:
        raise KeyError(row[0])
    columns = {
        "ReLU": lambda: ours("ReLU"),
        "ParamRamp": lambda: ours("ParamRamp"),
        "a copy": lambda: ours("ReLU", copy=True),
        "otherwise": otherwise,
    }
    return [row[0], *(columns[column.split(",")[0]]() for column in heading[1:])]


def large_network(_: list[str], row: list[str]) -> list[str]:
    """Fills "network, method | seconds | resident MiB | billions of multiply-adds | of whole rows"."""
    result = LARGE[row[0].replace(" ReLU", "")]
    counts = (result["peak_rss_mib"], result["gmacs"], result["gmacs_of_whole_rows"])
    return [row[0], seconds(result["seconds"]), *(f"{count:,.0f}" for count in counts)]


def aims_of(record: Record) -> Callable[[list[str], list[str]], list[str]]:
    """Returns what fills rows "aim in the words of lbp bench | aim | measured | met or missed"."""

    def fill(_: list[str], row: list[str]) -> list[str]:
        found = {one.words: one for one in CPU_AIMS}[row[0]]
        ratio = found.measured(record)
        bound = f"at {'least' if found.at_least else 'most'} {found.bound:g}"
        verdict = "met" if found.is_met_by(ratio) else "missed"
        repeats = found.fewest_repeats(record)
        few = "*" if repeats is not None and repeats < LEAST_REPEATS else ""
        return [row[0], bound, (f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}") + few, verdict]

    return fill


def count(heading: list[str], row: list[str]) -> list[str]:
    """Fills "count of | a column per record", with how many rows are such as the first cell says."""
    counted = COUNTS[row[0]]
    return [row[0], *(f"{counted(COUNTED[column]):,}" for column in heading[1:])]


def ratios(records: Rows, contender: str, *levels: str) -> list[float]:
    """Returns a contender's times over those of this package, where both have one."""
    found = []
    for (level, case, activation, name), (row, _) in records.items():
        ours = records.get((level, case, activation, "native"))
        if level not in levels or name != contender or ours is None:
            continue
        if row.timing is not None and ours[0].timing is not None:
            found.append(row.timing.median / ours[0].timing.median)
    return found


def counting(
    contenders: tuple[str, ...], *levels: str, least: float = 0.0, below: float = math.inf
) -> Callable[[Rows], int]:
    """Returns what counts the ratios of contenders that lie in a range."""
    return lambda records: sum(
        least <= ratio < below for name in contenders for ratio in ratios(records, name, *levels)
    )


def growth(heading: list[str], row: list[str]) -> list[str]:
    """Fills "what grows | exponent of time for a method, and in brackets of its operations", or of memory."""
    fits = {(fit.method, fit.contender, fit.quantity): fit for fit in fitted_growth(CPU.rows)}
    of_memory = heading[0] == "memory of what grows"

    def exponents(name: str) -> str:
        method, comma, variant = name.partition(", ")
        fit = fits[method, f"native{comma}{variant}", row[0].removesuffix(" size")]
        if of_memory:
            return "" if fit.memory is None else f"{fit.memory:.1f} ({of_large_images(fit.expected_memory)})"
        return f"{fit.time:.1f} ({of_large_images(fit.expected)})"

    def of_large_images(expected: str) -> str:
        return re.sub(" once [^,]*", "", expected)

    return [row[0], *map(exponents, heading[1:])]


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


def short_time(time: float) -> str:
    """Returns a time with one digit behind the point, from 100 on with none."""
    return f"{time:.1f}" if time < 99.95 else f"{time:,.0f}"


def seconds(time: float) -> str:
    """Returns two digits of a time, and no more than four behind the point."""
    decimals = next((digits for digits, least in ((2, 0.0995), (3, 0.00995)) if time >= least), 4)
    return f"{time:.{decimals}f}"


PLAIN, COMPILED, PEER = (CONTENDERS[name] for name in ("PyTorch", "torch.compile", "auto_LiRPA"))
WHOLE = ("methods", "training")
COUNTS: dict[str, Callable[[Rows], int]] = {
    "ops and shapes, with PyTorch": counting(PLAIN, "ops"),
    "of these, PyTorch takes at least twice our time": counting(PLAIN, "ops", least=2),
    "PyTorch takes less than 0.95 of our time": counting(PLAIN, "ops", below=0.95),
    "PyTorch takes less than 0.9 of our time": counting(PLAIN, "ops", below=0.9),
    "ops and shapes, with torch.compile": counting(COMPILED, "ops"),
    "of these, it takes less than 0.95 of our time": counting(COMPILED, "ops", below=0.95),
    "methods and training steps, with PyTorch": counting(PLAIN, *WHOLE),
    "of these, PyTorch takes less than our time": counting(PLAIN, *WHOLE, below=1),
    "methods and training steps, with torch.compile": counting(COMPILED, *WHOLE),
    "of these, it takes less than our time": counting(COMPILED, *WHOLE, below=1),
    "methods and training steps, with auto_LiRPA in a mode": counting(PEER, *WHOLE),
    "of these, it takes less time": counting(PEER, *WHOLE, below=1),
}
COUNTED = {"two cores": CPU_ROWS, "two cores, ops alone": CPU_OPS, "H100": {**H100_ROWS, **H100_METHODS}}

TABLES = {
    "count of": count,
    "one image": whole_method("methods", 1),
    "more images": whole_method("methods", 16),
    "training step": whole_method("training", 16),
    "op, ms": op(CPU_ROWS, 1_000),
    "H100, us": on_h100,
    "H100 op, us": op(H100_ROWS, 1_000_000),
    "H100, images": whole_method("methods", 32, H100_METHODS, per_second=1_000),
    "H100, one image": whole_method("methods", 1, H100_METHODS, per_second=1_000),
    "H100, training": whole_method("training", 128, H100_METHODS, per_second=1_000),
    "large network": large_network,
    "aim on two cores": aims_of(CPU),
    "aim on two cores of Zen 5": aims_of(ZEN5),
    "Zen 5, one image": whole_method("methods", 1, rows_of(ZEN5), per_second=1_000),
    "growing": growth,
    "memory of what grows": growth,
    "rounding": rounded,
    "trained network": rounded_checkpoint,
    "eps": quick,
}

if __name__ == "__main__":
    main()
