"""What every page that the project makes has to hold."""

import base64
import hashlib
import html
import re

from support.browser import Browser


def check_policy(text: str) -> None:
    """A page runs its one script and its one style, both by their digests, loads nothing, and says what it needs."""
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1])  # type: ignore[index]
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; ")
    assert "unsafe" not in policy
    markup = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:,)""", markup), "nothing from elsewhere"
    assert not re.search(r"<[^>]*\s(style|on\w+)\s*=", markup), "the policy would not let it through"
    assert "<noscript><p>This page needs JavaScript" in markup


def check_strangers(browser: Browser) -> None:
    """The page that is open runs nothing that got into it, and fetches nothing."""
    assert browser.errors() == []
    browser.run(
        """window.strangers = 0;
        document.body.insertAdjacentHTML("beforeend",
          "<img src='data:,' onerror='strangers++'><p id='stranger' style='position: fixed'></p>");
        const script = document.createElement("script");
        script.textContent = "strangers++";
        document.body.append(script);"""
    )
    fetched = browser.run("return fetch('page.html').then(() => true, () => false)")
    assert (browser.run("return window.strangers"), fetched) == (0, False)
    assert browser.run("return getComputedStyle(document.getElementById('stranger')).position") == "static"
    said = "\n".join(browser.errors())
    assert all(f"{what}-src" in said for what in ("script", "style", "connect"))
