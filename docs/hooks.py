"""What the site does differently from a code host, and no more.

A page's own switch of language (`[中文](page.zh-CN.md)`, `[English](page.md)`) is left out: the site's head has one.
A line that ends in a Chinese character and goes on with one has no blank at its end.
"""

from __future__ import annotations

import re
from typing import Any, Final

SWITCH: Final = re.compile(r" ?\[(?:中文|English)\]\([^)]*\)")
BROKEN: Final = re.compile(r"(?<=[\u3001-\u9fff，。；：？！）”])\n {0,3}(?=[\u3001-\u9fff（“])")


def on_page_markdown(markdown: str, **_: Any) -> str:
    return BROKEN.sub("", SWITCH.sub("", markdown))
