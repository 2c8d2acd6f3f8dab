#!/bin/sh
# MMEngine (and with it MMDetection) imports yapf, which keeps its grammar as pickles in the user's cache and, to be safe,
# writes them under another name and renames them.
#
# Expected: when the file gets its name, it is whole, so that any number of processes can start at once.
# Seen: it is renamed before it is flushed and closed. What fits into the buffer is not in the file then: PatternGrammar has
#   0 of its 1243 bytes. yapf 0.43.0, which mmengine 0.10.7 asks for.
# Why it matters: the ranks of a first training on a machine, or the workers of a job, import it at the same time; one that
#   reads the file then ends with `EOFError: Ran out of input`. Where the disk or the quota is full, the error of the
#   flush is swallowed, the empty file keeps its name, and every later import fails so until somebody deletes it.
# Instead: import yapf once, in one process or under a lock, before MMEngine is imported by many; on EOFError delete
#   ~/.cache/YAPF.
set -eu
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' HUP INT TERM
"${PYTHON:-python3.11}" -m venv "$temp/venv" || exit 2
"$temp/venv/bin/python" -m pip install --quiet --disable-pip-version-check yapf==0.43.0 platformdirs==4.14.5 || {
    echo "yapf_grammar_cache: packages could not be installed, so nothing was tried" >&2
    exit 2
}

cat >"$temp/show.py" <<'END'
import os
import sys
from pathlib import Path

renamed = []


def at_rename(event, arguments):
    if event == "os.rename":
        source, target = map(Path, arguments[:2])
        renamed.append((target, os.path.getsize(source)))


sys.addaudithook(at_rename)
import yapf  # noqa: E402

print("yapf", yapf.__version__)
for target, then in renamed:
    print(f"{target.name.partition('-')[0]}: {then} bytes when it gets its name, {target.stat().st_size} in the end")
END

seen=$(XDG_CACHE_HOME="$temp/cache" "$temp/venv/bin/python" -I "$temp/show.py") || true
expected='yapf 0.43.0
Grammar: 16743 bytes when it gets its name, 16743 in the end
PatternGrammar: 0 bytes when it gets its name, 1243 in the end'
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf 'yapf_grammar_cache: CHANGED. What was seen before:\n%s\n' "$expected" >&2
    exit 1
fi
echo "as before: a file that fits into the buffer has its name before it has its bytes"
