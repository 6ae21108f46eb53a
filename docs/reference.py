"""Write docs/guide/reference.md from the models of YAML keys; `make schema` runs this, a test compares.

reference.zh-CN.md is the same page, each sentence as docs/reference.zh.json has it: a new key's is English there until
somebody translates it, and this names it.

Keys that every driver shares are shown once; under a driver's name stand only its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway import options
from gateway.config import models
from gateway.names import DRIVERS, driver_spec

TARGET: Final = Path(__file__).parent / "guide/reference.md"
CHINESE: Final = Path(__file__).parent / "guide/reference.zh-CN.md"
WORDS: Final = Path(__file__).parent / "reference.zh.json"

HEAD: Final = """\
# Reference: every key

[中文](reference.zh-CN.md)

Made from the models that check your files (`make schema` writes it anew), so it says what the code does.
[The site file](site-file.md) explains how the parts go together.

A **duration** is text with a unit: `500 ms`, `1 s`, `10 min`, `1 h`, `7 d`. A **size** too: `500 kB`, `64 MB`, `2 GiB`.
A `scale` or `offset` is exact: `0.1`, or a fraction such as `1/3`. Any value may be `${env:NAME}` or `${file:PATH}`.
"""


def kind(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Say in words what a value may be."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        found = definitions[name]
        return kind(found, definitions) if found.get("type") != "object" else "keys, see below"
    if "allOf" in schema:
        return kind(schema["allOf"][0], definitions)
    if "anyOf" in schema or "oneOf" in schema:
        choices = [each for each in schema.get("anyOf", schema.get("oneOf")) if each != {"type": "null"}]
        return " or ".join(dict.fromkeys(kind(each, definitions) for each in choices))
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return " ".join(code(each) for each in schema["enum"])
    pattern = schema.get("pattern", "")
    match schema.get("type"):
        case "string" if "us|ms" in pattern:
            return "duration"
        case "string" if "[kKMG]" in pattern:
            return "size"
        case "string":
            return "text"
        case "integer":
            low, high = schema.get("minimum"), schema.get("maximum")
            return "whole number" + (f", {low} to {high}" if low is not None and high is not None else "")
        case "number":
            return "number"
        case "boolean":
            return "`true` `false`"
        case "array":
            return f"list of {kind(schema['items'], definitions)}" if isinstance(schema.get("items"), dict) else "list"
        case "object":
            return "keys by name"
        case _:
            return "any"


def code(value: object) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def default(field: FieldInfo, what: str) -> str:
    """Write a default as YAML would."""
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ((), {}, [], "") or isinstance(value, BaseModel):
        return ""
    if what.startswith("duration") and isinstance(value, int | float):
        units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"))
        return next((f"`{value / size:g} {unit}`" for size, unit in units if value >= size), "`0 s`")
    if what.startswith("size") and isinstance(value, int):
        units = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B"))
        return next(f"`{value / size:g} {unit}`" for size, unit in units if value >= size)
    return code(value)


def table(model: type[BaseModel], above: type[BaseModel] | None = None, skip: tuple[str, ...] = ()) -> str:
    """Give the table of a model's keys; with `above`, only those that it adds or says anew."""
    whole = model.model_json_schema()
    definitions = whole.get("$defs", {})
    rows = []
    for name, field in model.model_fields.items():
        known = above.model_fields.get(name) if above else None
        if name in skip or (known is not None and known.description == field.description):
            continue
        key = field.alias or name
        what = kind(whole["properties"][key], definitions)
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        rows.append(f"| `{key}` | {what} | {default(field, what)} | {text} |")
    return "\n".join(("| key | value | default | |", "|---|---|---|---|", *rows)) if rows else "No keys of its own."


def sentence(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def section(depth: int, title: str, model: type[BaseModel], **options: Any) -> str:
    return f"{'#' * depth} {title}\n\n{sentence(model)}\n\n{table(model, **options)}\n"


def drivers() -> list[str]:
    parts = []
    for name in sorted(DRIVERS):
        spec = driver_spec(name)
        parts.append(f"## Driver `{name}`\n")
        own_group = spec.groups is not options.GroupOptions
        if own_group:
            parts.append(
                section(3, f"`{name}` group, and device for its groups", spec.groups, above=options.GroupOptions)
            )
            parts += [section(4, f"`{key}`", inner) for key, inner in nested(spec.groups, options.GroupOptions)]
        told = tuple(spec.groups.model_fields) if own_group else ()
        for title, own, above in (
            ("link", spec.link, options.LinkOptions),
            ("device", spec.device, options.DeviceOptions),
            ("tag", spec.tag, options.TagOptions),
        ):
            parts.append(section(3, f"`{name}` {title}", own, above=above, skip=told if title == "device" else ()))
            parts += [section(4, f"`{key}`", inner) for key, inner in nested(own, above)]
    return parts


def nested(model: type[BaseModel], above: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    """Give the models that the model's own keys hold."""
    found = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if name not in above.model_fields and isinstance(inner, type) and issubclass(inner, BaseModel):
            found.append((field.alias or name, inner))
    return found


def reference() -> str:
    """Write the page."""
    return "\n".join(
        [
            HEAD,
            section(2, "Site file, top level", models.SiteOptions),
            section(2, "Every link", options.LinkOptions) + "\nAnd `devices`: devices by name.\n",
            section(2, "Every device", options.DeviceOptions, above=options.GroupOptions)
            + "\nAnd the keys of a poll group, `tags` (the group `default`), and `groups`: poll groups by name.\n",
            section(3, "A device's `inventory`", options.InventoryOptions),
            section(2, "Every poll group", options.GroupOptions) + "\nAnd `tags`: tags by name.\n",
            section(2, "Every tag", options.TagOptions),
            section(3, "`writable`", options.WriteRule),
            section(3, "`simulate`", options.SignalOptions),
            *drivers(),
            section(2, "The site's `inventory`", options.UnlinkedOptions),
            section(2, "`publish`", options.PublisherOptions, above=options.MqttOptions)
            + "\nAnd the keys of every MQTT connection.\n",
            section(2, "Every MQTT connection", options.MqttOptions),
            section(3, "`tls`", options.TlsOptions),
            section(2, "`journal`", options.JournalOptions),
            section(2, "`metrics`", options.MetricsOptions),
            section(2, "`log`", options.LogOptions),
            section(2, "Device templates", models.TemplateOptions) + "\nAnd the keys of a device of that driver.\n",
            section(2, "Cloud file, top level", models.CloudOptions),
            section(2, "`broker`", options.IngestOptions, above=options.MqttOptions)
            + "\nAnd the keys of every MQTT connection.\n",
            *(section(2, f"Store `{name}`", model) for name, model in options.STORES.items()),
        ]
    )


def chinese(page: str, words: Mapping[str, str]) -> str:
    """Put the page's sentences into Chinese; anchors stay those of the English headings, for links to both."""
    lines = []
    for line in page.split("\n"):
        if line.startswith(("## ", "### ", "#### ")):
            marks, _, title = line.partition(" ")
            anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            lines += [f'<a id="{anchor}"></a>', "", f"{marks} {_said(title, words)}"]
        elif line.startswith("# "):
            lines.append(f"# {_said(line[2:], words)}")
        elif line.startswith("| "):
            key, what, given, text = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            what = " 或 ".join(_said(each, words) for each in what.split(" or "))
            lines.append(f"| {_said(key, words)} | {what} | {_said(given, words)} | {_said(text, words)} |")
        else:
            lines.append("[English](reference.md)" if line.startswith("[中文]") else _said(line, words))
    return "\n".join(lines)


def untranslated(words: Mapping[str, str]) -> Iterator[str]:
    """Give the sentences that are English in the Chinese page."""
    page = chinese(reference(), words)
    for line in page.split("\n"):
        text = line.split("|")[-2].strip() if line.startswith("| ") else line
        if re.search(r"[a-z]{3,} [a-z]{2,} [a-z]{2,}", re.sub(r"`[^`]*`", "", text)) and not re.search(
            "[\u4e00-\u9fff]", text
        ):
            yield text


def _said(text: str, words: Mapping[str, str]) -> str:
    """Give a sentence in Chinese, also one with the name of a driver or with numbers in it."""
    if text in words:
        return words[text]
    for pattern, translation in words.items():
        if "{}" in pattern and len(pattern) < 60:
            found = re.fullmatch(re.escape(pattern).replace(r"\{\}", r"(`[^`]*`|-?\d+|.+)"), text)
            if found:
                return translation.format(*(words.get(each, each) for each in found.groups()))
    return text


if __name__ == "__main__":
    known = json.loads(WORDS.read_text(encoding="utf-8"))
    CHINESE.write_text(chinese(reference(), known), encoding="utf-8")
    for each in sorted(set(untranslated(known))):
        print(f"not in {WORDS.name}: {each}")
    TARGET.write_text(reference(), encoding="utf-8")
