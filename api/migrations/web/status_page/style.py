"""How the page for people looks, and the policy that lets a browser load nothing else: calm, light or dark, 360 px."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
:root { color-scheme: light dark; --back: #f5f5f2; --card: #fff; --line: #dfe1dd; --text: #1c2024; --soft: #59616b;
  --rail: #e4e6e2; --ok: #1a6e3c; --busy: #1f5fae; --warn: #8a5200; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --back: #131518; --card: #1b1e23; --line: #2e333a; --text: #e7e9ec; --soft: #a4acb6;
    --rail: #30353d; --ok: #6fcf8d; --busy: #8ab8ff; --warn: #f0b65c; --bad: #ff8d83; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem .75rem 2rem; background: var(--back); color: var(--text);
  font: 1rem/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
main { max-width: 44rem; margin: 0 auto; display: grid; grid-template-columns: minmax(0, 1fr); gap: .75rem; }
header, section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; }
header dl { margin-top: .5rem; }
header { border-left: .35rem solid var(--tone); }
h1 { font-size: 1.35rem; line-height: 1.25; margin: 0; color: var(--tone); }
h2 { font-size: .8rem; letter-spacing: .05em; text-transform: uppercase; color: var(--soft); margin: 0 0 .5rem; }
p { margin: .35rem 0 0; }
ol, ul { list-style: none; margin: 0; padding: 0; }
p + ol { margin-top: .5rem; }
li + li { border-top: 1px solid var(--line); margin-top: .5rem; padding-top: .5rem; }
code, pre { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, monospace; unicode-bidi: isolate; }
pre { white-space: pre-wrap; margin: .5rem 0 0; padding: .5rem .6rem; background: var(--back); border-radius: .4rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem .9rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; }
progress { appearance: none; display: block; width: 100%; height: .55rem; border: 0; border-radius: .3rem;
  overflow: hidden; margin: .45rem 0; background: var(--rail); }
progress::-webkit-progress-bar { background: var(--rail); }
progress::-webkit-progress-value { background: var(--busy); border-radius: .3rem; }
progress::-moz-progress-bar { background: var(--busy); }
svg { display: block; width: 100%; height: .4rem; margin-top: .3rem; }
svg .rail { fill: var(--rail); }
svg .bar { fill: var(--tone); }
.ok { --tone: var(--ok); } .busy { --tone: var(--busy); } .warn { --tone: var(--warn); } .bad { --tone: var(--bad); }
.alert { border-color: var(--tone); }
.alert h2 { color: var(--tone); }
.role { color: var(--tone, var(--soft)); font-weight: 600; }
.row { display: flex; flex-wrap: wrap; gap: 0 .75rem; justify-content: space-between; align-items: baseline; }
.row > * { min-width: 0; }
.soft, footer { color: var(--soft); font-size: .875rem; }
.past { color: var(--soft); }
.big { font-size: 1.1rem; font-weight: 600; }
footer { padding: 0 .25rem; }
"""

_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

COLOURS = {"ok": "#2e9e5b", "busy": "#3b7dd8", "warn": "#d98a1f", "bad": "#d3382f"}


def icon(tone: str) -> str:
    """The tab's icon, a dot in the colour of the state, as a data URL: without one a browser asks for /favicon.ico."""
    dot = f"<circle cx='8' cy='8' r='7' fill='{COLOURS[tone].replace('#', '%23')}'/>"
    return f"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>{dot}</svg>"
