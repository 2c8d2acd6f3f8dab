"""How long a wrong command takes to be refused, and a run to come to its first image: one checkout beside another.

.venv/bin/python benchmarks/startup.py --before CHECKOUT [--after .] [--times 5] [--only WORDS] [--out FILE]

Each figure is of a whole process, from its start to its end, of `cuts3d` with the same interpreter and one of the two
checkouts; the two take turns. The wrong command lines are those of tests/support/wrong_commands.py. Beside them:

    first image      a run of one photo with the embedded weights, until it opens the photo: it ends there
    one photo        the same run to its end: what is imported later counts, too

Needs MMDetection, and the embedded weights in the cache (`cuts3d weights fetch`). Columns, a line a case: seconds of
wall time and of processor time (median), and the ratio after / before of each pair: median, least and greatest.
`answer` tells whether both said the same, that is, found the same mistake first. A ratio of processor times hardly
depends on what else the machine does.
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.wrong_commands import LOOKS, QUICK, WRONG, places, words_of  # noqa: E402

# `cuts3d`, and a process that ends when it opens the file that its first argument names.
COMMAND = "from pipeline.cli import main; main()"
UNTIL_OPEN = (
    """
import os, sys
name = sys.argv.pop(1)
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].endswith(name):
        os._exit(0)
sys.addaudithook(hook)
"""
    + COMMAND
)

REFUSAL, FIRST_IMAGE = 1 / 5, 1 / 2  # the bars: ratios after / before at most
AT_ONCE = 1.0  # second of processor time: what took less before had nothing to win


@dataclass(frozen=True)
class Case:
    """name. words: of the command line, see `words_of`. bar: of the ratio; None where nothing is asked. until: the file
    at whose opening the process ends.
    """

    name: str
    words: str
    bar: float | None = None
    until: str = ""


@dataclass(frozen=True)
class Took:
    """Of one process: seconds of wall and processor time, its exit status and last line."""

    wall: float
    cpu: float
    answer: tuple[int, str]


RUN = "run --images {one} --out {new}"
CASES = (
    *(Case(wrong.words, wrong.words, None if wrong in LOOKS else REFUSAL) for wrong in WRONG),
    *(Case(words, words) for words in QUICK),
    Case("first image", RUN, FIRST_IMAGE, "one.jpg"),
    Case("one photo", RUN),
)
FIELDS = (
    *("case", "times", "before_s", "after_s", "ratio", "ratio_least", "ratio_greatest"),
    *("before_cpu_s", "after_cpu_s", "cpu_ratio", "cpu_ratio_least", "cpu_ratio_greatest", "bar", "answer"),
)


def took(checkout: Path, case: Case, found: dict[str, str]) -> Took:
    """One process. Nothing that it made is left."""
    code, first = (UNTIL_OPEN, [case.until]) if case.until else (COMMAND, [])
    command = [sys.executable, "-c", code, *first, *words_of(case.words, found)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, cwd=found["empty"], stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        said.seek(0)
        lines = said.read().strip().splitlines()
    shutil.rmtree(found["new"], ignore_errors=True)
    last = lines[-1] if lines and case.bar == REFUSAL else ""
    return Took(wall, usage.ru_utime + usage.ru_stime, (os.waitstatus_to_exitcode(status), last))


def row(case: Case, pairs: list[tuple[Took, Took]]) -> dict[str, object]:
    """A line of the table."""
    answers = {one.answer for pair in pairs for one in pair}
    wall = [after.wall / before.wall for before, after in pairs]
    cpu = [after.cpu / before.cpu for before, after in pairs]
    values = {
        "before_s": statistics.median(before.wall for before, _ in pairs),
        "after_s": statistics.median(after.wall for _, after in pairs),
        "before_cpu_s": statistics.median(before.cpu for before, _ in pairs),
        "after_cpu_s": statistics.median(after.cpu for _, after in pairs),
    }
    for name, ratios in (("ratio", wall), ("cpu_ratio", cpu)):
        values |= {name: statistics.median(ratios), f"{name}_least": min(ratios), f"{name}_greatest": max(ratios)}
    rounded = {name: f"{value:.3f}" for name, value in values.items()}
    is_asked = case.bar is not None and values["before_cpu_s"] > AT_ONCE
    bar = f"{case.bar:g}" if is_asked else ""
    return {
        "case": case.name,
        "times": len(pairs),
        **rounded,
        "bar": bar,
        "answer": "same" if len(answers) == 1 else "differs",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="checkout to compare with")
    parser.add_argument("--after", type=Path, default=ROOT, help="checkout that is to be faster")
    parser.add_argument("--times", type=int, default=5, help="processes of each")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--photo", type=Path, help="of the run; default: one that is drawn")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/startup.csv")
    arguments = parser.parse_args()
    missed = []
    with tempfile.TemporaryDirectory() as folder, arguments.out.open("w", newline="") as file:
        found = places(Path(folder))
        found["one"] = f"{folder}/one.jpg"
        shutil.copy(arguments.photo or f"{found['photos']}/000.png", found["one"])
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        table.writeheader()
        checkouts = [arguments.before.resolve(), arguments.after.resolve()]
        for checkout in checkouts:  # what was not in memory yet is then
            took(checkout, CASES[-1], found)
        for case in CASES:
            if arguments.only not in case.name:
                continue
            pairs = [(took(checkouts[0], case, found), took(checkouts[1], case, found)) for _ in range(arguments.times)]
            line = row(case, pairs)
            table.writerow(line)
            file.flush()
            print(*line.values(), sep="\t", flush=True)
            if line["bar"] and float(str(line["ratio"])) > float(str(line["bar"])):
                missed.append(case.name)
    print(f"above their bars: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
