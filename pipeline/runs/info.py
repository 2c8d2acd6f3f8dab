"""What a run holds: schema, configuration, counts and histograms, and the images that were set aside and why."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.runs.reader import Histogram, RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.wording import printable

SHOWN = 20  # images set aside that are listed by name; all of them are in quarantine/


def info_of(url: str | Path) -> dict[str, Any]:
    """All of it as JSON-able values; reads every shard. StoreError when there is no run or a shard is damaged."""
    run = RunFolder.open(url)
    reader = RunReader(run)
    summary = reader.summary()
    facts: dict[str, Any] = {}
    for name, value in vars(summary).items():
        if isinstance(value, Histogram):
            facts[name] = {"edges": value.edges.tolist(), "counts": value.counts.tolist()}
        else:
            facts[name] = value
    return {
        "run": run.url,
        "created": run.created,
        "fingerprint": run.fingerprint,
        "manifest_digest": run.digest,
        "versions": run.versions,
        "config": run.config,
        **facts,
        "set_aside": [asdict(image) for image in reader.quarantined()],
    }


def info_lines(info: dict[str, Any]) -> list[str]:
    """The same for people."""
    images = info["committed_images"]
    lines = [
        f"run          {info['run']}",
        f"created      {info['created']}, schema {info['schema']}, fingerprint {info['fingerprint'][:12]}",
        *_method_lines(info["config"]),
        f"images       {images} of {info['images']} in {info['committed_shards']} of {info['shards']} shards",
        f"store        {info['bytes'] / 1e6:.2f} MB, {info['bytes'] / max(images, 1) / 1e3:.1f} kB an image",
        f"masks        {info['masks']}, {info['masks'] / max(images, 1):.2f} an image",
        f"dropped      {_counts(info['drops'])}",
        f"set aside    {_counts(info['quarantine'])}",
    ]
    most = max(info["masks_per_image"].values(), default=1)
    lines.append("masks an image")
    lines += [f"  {n:>6}  {_bar(count, most)} {count}" for n, count in sorted(info["masks_per_image"].items())]
    for name, title in (
        ("score", "score"),
        ("mean_confidence", "mean confidence"),
        ("log10_area_share", "area, log10 of its share of the image"),
    ):
        lines.append(title)
        lines += _histogram_lines(info[name])
    for image in info["set_aside"][:SHOWN]:
        lines.append(printable(f"set aside    {image['id']}: {image['reason']}: {image['detail']}"))
    if len(info["set_aside"]) > SHOWN:
        lines.append(f"             and {len(info['set_aside']) - SHOWN} more, see quarantine/ in the run folder")
    return lines


def _method_lines(config: dict[str, Any]) -> list[str]:
    """What made the masks. Only cuts of this package have features and depth; of others all settings are shown."""
    recipe = config["recipe"]
    lines = [f"recipe       {recipe['name']}"]
    if "features" in config and "depth" in config:
        features, depth = config["features"], config["depth"]
        return [
            *lines,
            f"features     {features['model']} {features['kind']}, τ {recipe['affinity']['tau']}",
            f"depth        {depth['name'] if depth else 'not used'}",
        ]
    settings = {name: value for part in (recipe, config) for name, value in part.items()}
    return lines + [
        f"{name:<12} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in settings.items()
        if name not in ("name", "recipe")
    ]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none"


def _histogram_lines(histogram: dict[str, list[float]]) -> list[str]:
    counts = [int(count) for count in histogram["counts"]]
    most = max([1, *counts])
    return [
        f"  {low:>6.2f}  {_bar(count, most)} {count}"
        for low, count in zip(histogram["edges"], counts, strict=False)
        if count
    ]


def _bar(count: int, most: int) -> str:
    return "█" * max(1, round(30 * count / most)) if count else ""
