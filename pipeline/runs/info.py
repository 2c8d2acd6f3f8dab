"""What a run holds: method and settings, counts and figures, and the images that were set aside and why."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.results.registry import kind_named
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.wording import counted, printable

SHOWN = 20  # images set aside that are listed by name; all of them are in quarantine/

Describe = Callable[[str, Mapping[str, Any]], Sequence[tuple[str, str]]]
"""A configuration in words and values, from the name of its method: `methods.registry.describe`."""


def info_of(url: str | Path) -> dict[str, Any]:
    """All of it as JSON-able values; reads every shard. StoreError when there is no run or a shard is damaged."""
    run = RunFolder.open(url)
    reader = RunReader(run)
    summary = asdict(reader.summary())
    survey = summary.pop("survey")
    return {
        "run": run.url,
        "method": run.method,
        "result": run.result,
        "recipe": run.recipe,
        "created": run.created,
        "fingerprint": run.fingerprint,
        "manifest_digest": run.digest,
        "versions": run.versions,
        "config": run.config,
        **summary,
        **survey,
        "set_aside": [asdict(image) for image in reader.quarantined()],
    }


def info_lines(info: Mapping[str, Any], describe: Describe) -> list[str]:
    """The same for people."""
    images, kind = info["committed_images"], kind_named(info["result"])
    set_aside = ", ".join(f"{count} {reason}" for reason, count in info["quarantine"].items())
    shards = counted(info["shards"], "shard")
    counts = {**info, "images": images, "quarantined": len(info["set_aside"])}
    lines = [
        f"run          {info['run']}",
        f"created      {info['created']}, schema {info['schema']}, fingerprint {info['fingerprint'][:12]}",
        f"recipe       {info['recipe']}",
        *(f"{word:<12} {value}" for word, value in describe(info["method"], info["config"])),
        f"images       {images} of {info['images']} in {info['committed_shards']} of {shards}",
        f"store        {info['bytes'] / 1e6:.2f} MB, {info['bytes'] / max(images, 1) / 1e3:.1f} kB per image",
        *(f"{word:<12} {value}" for word, value in kind.summary(counts)),
        f"set aside    {set_aside or 'none'}",
        *kind.survey_lines(info),
    ]
    for image in info["set_aside"][:SHOWN]:
        lines.append(printable(f"set aside    {image['id']}: {image['reason']}: {image['detail']}"))
    if len(info["set_aside"]) > SHOWN:
        lines.append(f"             and {len(info['set_aside']) - SHOWN} more, see quarantine/ in the run folder")
    return lines


def reason_lines(run: RunFolder) -> list[str]:
    """Why images are still set aside, most often first: how many for each reason, and the first of them."""
    found = RunReader(run).quarantined()
    first = {image.reason: image for image in reversed(found)}
    return [
        printable(f"set aside    {count} {reason}, the first is {first[reason].id}: {first[reason].detail}")
        for reason, count in Counter(image.reason for image in found).most_common()
    ]
