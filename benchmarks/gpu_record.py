"""What `benchmarks/gpu.py` found out, on disk as soon as it is known: a line of CSV and one of JSON for each value.

Standard library only: the process that watches over the steps must not need what they need.
"""

import csv
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / ".gpu"
COLUMNS = ("time", "step", "case", "what", "value", "unit", "device", "torch", "commit", "seconds", "note")
# The last line of each step: ok, failed or skipped, and why.
OUTCOME = "outcome"
OK, FAILED, SKIPPED = "ok", "failed", "skipped"


@dataclass(frozen=True)
class Records:
    """Lines of one step. folder: holds gpu.csv and gpu.jsonl, to which lines are added. device: its name; torch: its
    version; both are empty when torch is not loaded. started: by `time.monotonic`, what `seconds` counts from."""

    folder: Path
    step: str
    commit: str
    device: str = ""
    torch: str = ""
    started: float = field(default_factory=time.monotonic)

    def add(self, case: str, what: str, value: float | int | str, unit: str = "", note: str = "") -> None:
        """Write a value down. case: what was measured, such as "cuts3d", empty where it is all of the step."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": self.step,
            "case": case,
            "what": what,
            "value": _rounded(value),
            "unit": unit,
            "device": self.device,
            "torch": self.torch,
            "commit": self.commit,
            "seconds": round(time.monotonic() - self.started, 1),
            "note": " ".join(note.split()),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "gpu.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        table = self.folder / "gpu.csv"
        is_new = not table.exists()
        with table.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(line)

    def outcome(self, value: str, note: str = "") -> None:
        """How the step ended."""
        self.add("", OUTCOME, value, note=note)


def _rounded(value: float | int | str) -> float | int | str:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def read_lines(folder: Path, skip: int = 0) -> list[dict[str, Any]]:
    """The lines written so far, without the first `skip`; a last one that is being written is left out."""
    try:
        text = (folder / "gpu.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()[skip:]]


def sentence(line: Mapping[str, Any]) -> str:
    """A line for the terminal."""
    case = f" {line['case']}:" if line["case"] else ""
    note = f"  ({line['note']})" if line["note"] else ""
    value = f"{line['value']:g}" if isinstance(line["value"], float) else line["value"]
    return f"{line['step']:<7}{case} {line['what']} {value} {line['unit']}{note}".rstrip()


def summary(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """How each step ended, and below it a table of what it measured: a row a value, a column a case."""
    text = []
    for step in dict.fromkeys(line["step"] for line in lines):
        own = [line for line in lines if line["step"] == step]
        ended = [line for line in own if line["what"] == OUTCOME]
        values = [line for line in own if line["what"] != OUTCOME]
        how = f"{ended[-1]['value']} {ended[-1]['note']}".strip() if ended else "did not end"
        text += [f"{step}: {how}", *_table(values), ""]
    devices = {line["device"]: line["torch"] for line in lines if line["device"]}
    text += [f"on {device}, torch {torch}" for device, torch in devices.items()]
    return text + [f"commit {commit}" for commit in dict.fromkeys(line["commit"] for line in lines)]


def _table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    cases = list(dict.fromkeys(line["case"] for line in lines))
    names = dict.fromkeys((line["what"], line["unit"]) for line in lines)
    cells = {(line["what"], line["unit"], line["case"]): line["value"] for line in lines}
    rows = [["", *cases]] if any(cases) else []
    for what, unit in names:
        found = [cells.get((what, unit, case), "-") for case in cases]
        rows.append(
            [f"{what} [{unit}]" if unit else what, *(f"{v:g}" if isinstance(v, float) else str(v) for v in found)]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(cases) + 1)] if rows else []
    return ["  " + "  ".join(_padded(row, widths)).rstrip() for row in rows]


def _padded(row: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
    first, *others = zip(row, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]


def commit() -> str:
    """Of this source, "+" for changes that are in no commit: from git, or as the bundle has it."""
    if not (ROOT / ".git").exists():
        file = BUNDLE / "commit"
        return file.read_text(encoding="utf-8").strip() if file.is_file() else "unknown"
    head = _git("rev-parse", "--short", "HEAD")
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "") if head else "unknown"


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def cpu_name() -> str:
    """ "2 cores of an X": what this process may use."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.machine()}"
