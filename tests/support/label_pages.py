"""Pages of labels, read and looked at in a browser."""

import json
import re
from pathlib import Path
from typing import Any

from support.browser import Browser


def read_page(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    text = file.read_text("utf-8")
    scripts = dict(re.findall(r'<script type="application/json" id="([^"]+)">([^<]*)</script>', text))
    index = json.loads(scripts.pop("index"))
    return index, [json.loads(scripts[f"image-{n}"]) for n in range(len(index["images"]))]


def names(browser: Browser) -> list[str]:
    """File names on the cards, in the order of the list."""
    return browser.run(
        "return [...document.querySelectorAll('.place')]"
        ".sort((a, b) => a.dataset.position - b.dataset.position).map((p) => p.querySelector('.name').textContent)"
    )


def choose(browser: Browser, id_: str, value: str) -> None:
    browser.run(
        "const c = document.getElementById(arguments[0]); c.value = arguments[1];"
        "for (const name of ['input', 'change']) c.dispatchEvent(new Event(name))",
        id_,
        value,
    )


def colours(browser: Browser, selector: str) -> dict[str, int]:
    """How often each colour, "r,g,b,a", is on a canvas."""
    return browser.run(
        "const c = document.querySelector(arguments[0]); if (!c) return {};"
        "const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, found = {};"
        "for (let i = 0; i < data.length; i += 4) {"
        "  const key = data.slice(i, i + 4).join(); found[key] = (found[key] ?? 0) + 1; } return found",
        selector,
    )


def is_near(found: str, colour: tuple[int, int, int]) -> bool:
    """Canvases keep premultiplied colours: with alpha these are off by a little."""
    return all(abs(int(a) - b) <= 3 for a, b in zip(found.split(","), colour, strict=False))


def colour_at(browser: Browser, selector: str, row: float, column: float) -> str:
    """What a canvas has at a place, each from 0 to 1 of its height and width: "r,g,b,a"."""
    return browser.run(
        "const c = document.querySelector(arguments[0]);"
        "return c.getContext('2d').getImageData(arguments[2] * c.width, arguments[1] * c.height, 1, 1).data.join()",
        selector,
        row,
        column,
    )
