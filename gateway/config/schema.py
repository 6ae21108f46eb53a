"""JSON schema of site files, included files, templates and cloud files, made from the models that also check them.

For editors: the YAML language server completes keys, shows their descriptions and marks mistakes while typing, where a
file begins with `# yaml-language-server: $schema=...`. It knows less than `plantbridge check` (no addresses, nothing
across keys) and never refuses what `check` accepts; tests hold it to that. Draft 7, the newest that editors share.
"""

from __future__ import annotations

import re
import warnings
from typing import Any, Final, Literal, cast, get_args

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, PydanticJsonSchemaWarning

from gateway.config.models import CloudOptions, FragmentOptions, SiteOptions, template_model, with_links
from gateway.names import DRIVERS, driver_names, driver_spec

SchemaName = Literal["site", "fragment", "template", "cloud"]
NAMES: Final = cast("tuple[SchemaName, ...]", get_args(SchemaName))

_REFERENCE: Final = r"\$\{(env|file):"
_DURATIONS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "us"))
_SIZES: Final = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B"))


def json_schema(name: SchemaName, *, installed: bool = False) -> dict[str, Any]:
    """Make one schema. With `installed`, third-party drivers found on this machine are in it."""
    specs = [driver_spec(each) for each in (driver_names() if installed else sorted(DRIVERS))]
    models: dict[str, Any] = {
        "site": lambda: with_links(SiteOptions, "Site", specs),
        "fragment": lambda: with_links(FragmentOptions, "Fragment", specs),
        "template": lambda: template_model(specs),
        "cloud": lambda: CloudOptions,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)  # defaults that JSON cannot write are left out
        made = TypeAdapter(models[name]()).json_schema(schema_generator=GenerateJsonSchema)
    for each in (made, *made.get("$defs", {}).values()):
        _for_templates(each)
    title = f"PlantBridge {name} file"
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_tidy(made), "title": title}


def _tidy(node: Any, key: str = "") -> Any:
    """Write a schema as people read it: no made-up titles, descriptions in one line, defaults with their unit."""
    if isinstance(node, list):
        return [_tidy(each) for each in node]
    if not isinstance(node, dict):
        return node
    if key in ("properties", "$defs"):
        return {name: _tidy(each) for name, each in node.items()}
    node = {name: _tidy(each, name) for name, each in node.items() if name not in ("title", "discriminator")}
    if isinstance(node.get("description"), str):
        node["description"] = " ".join(node["description"].split())
    _defaults(node)
    _references(node)
    return _optional(node)


def _defaults(node: dict[str, Any]) -> None:
    """Write numbers of seconds and bytes as YAML does."""
    for part in (node, *node.get("anyOf", ())):
        pattern, default = part.get("pattern", ""), node.get("default")
        if isinstance(default, int | float) and not isinstance(default, bool) and pattern:
            units = _DURATIONS if "min" in pattern else _SIZES
            node["default"] = next(
                (f"{default / size:g} {unit}" for size, unit in units if default >= size), f"0 {units[-3][1]}"
            )
    if isinstance(node.get("default"), dict):
        del node["default"]  # of a whole section: its keys have their own


def _references(node: dict[str, Any]) -> None:
    """Allow ${env:NAME} and ${file:PATH} where a number or a pattern is wanted."""
    if node.get("type") in ("integer", "number", "boolean"):
        node["type"] = [node["type"], "string"]
        node["pattern"] = "^" + _REFERENCE
    elif node.get("type") == "string" and "pattern" in node and r"\$\{" not in node["pattern"]:
        node["pattern"] = f"{node['pattern']}|{_REFERENCE}"


def _optional(node: dict[str, Any]) -> dict[str, Any]:
    """Write "this or null" as one type, which editors explain better than a choice of two."""
    choice = node.get("anyOf", ())
    if {"type": "null"} in choice and node.get("default", 0) is None:
        del node["default"]
    if len(choice) != 2 or choice[1] != {"type": "null"} or "type" not in choice[0]:
        return node
    kinds = choice[0]["type"]
    flat = {**choice[0], "type": [*([kinds] if isinstance(kinds, str) else kinds), "null"]}
    if "const" in flat or "enum" in flat:
        flat["enum"] = [*([flat.pop("const")] if "const" in flat else flat["enum"]), None]
    return {**{key: value for key, value in node.items() if key != "anyOf"}, **flat}


def _either(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the alternatives of a key."""
    return node.get("anyOf") or [{"$ref": node["$ref"]}]


def _for_templates(node: dict[str, Any]) -> None:
    """A device with a template may leave out what the template says, and remove tags by null."""
    properties = node.get("properties", {})
    if "address" in properties:
        address = properties["address"]
        address["type"] = ["string", "integer"]  # Modbus: 40101
        address["examples"] = re.findall(r"`([^`]+)`", address.get("description", ""))
        node["required"] = [key for key in node.get("required", ()) if key != "address"]
    if "window" in properties and "tags" in properties:  # a publisher
        globs = {"type": "array", "items": {"type": "string"}, "description": "Globs over DEVICE/TAG."}
        properties["tags"] = {**properties["tags"], "anyOf": [*_either(properties["tags"]), globs]}
        properties["tags"].pop("$ref", None)
    elif "tags" in properties:
        short = {"type": ["string", "integer", "null"], "description": "The address alone."}
        tags = properties["tags"]["additionalProperties"]
        tags["anyOf"] = [each for each in tags["anyOf"] if each.get("type") != "string"] + [short]
    if "template" in properties and "tags" in properties:
        addressed = {"additionalProperties": {"type": ["string", "integer", "object"], "required": ["address"]}}
        whole: dict[str, Any] = {
            "properties": {
                "tags": addressed,
                "groups": {"additionalProperties": {"properties": {"tags": addressed}, "required": ["tags"]}},
            },
            "anyOf": [{"required": ["tags"]}, {"required": ["groups"]}],
        }
        required = [key for key in node.pop("required", ()) if key != "driver"]
        if "driver" in properties:
            node["required"] = ["driver"]
        if required:
            whole["required"] = required
        node["if"] = {"not": {"required": ["template"]}}
        node["then"] = whole


def written(schema: dict[str, Any]) -> str:
    """Write a schema as it is committed in config/schema."""
    import json

    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
