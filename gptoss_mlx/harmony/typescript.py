"""JSON schema to the TypeScript-like notation of tools in gpt-oss's training.

    {"type": "object",                              (_: {
     "properties": {                                // The city
       "city": {"type": "string",              →    city: string,
                "description": "The city"},         unit?: "C" | "F", // default: C
       "unit": {"type": "string",                   })
                "enum": ["C", "F"],
                "default": "C"}},
     "required": ["city"]}

The notation equals openai-harmony's to the byte, with its oddities, because the model was trained on it.
There is one difference. In openai-harmony a line break inside a description ends its ``//`` comment, and the
rest reads as schema; here every line of a description is a comment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .content import ToolNamespace

__all__ = ["compact_json", "lines_of", "schema_to_typescript", "tools_section"]

# The characters that end a // comment in TypeScript.
_LINE_BREAK = re.compile("\r\n|[\n\r\u2028\u2029]")


def tools_section(namespaces: Sequence[ToolNamespace]) -> str:
    """The ``# Tools`` section of a system or developer message."""
    return "\n\n".join(["# Tools", *(_namespace(namespace) for namespace in namespaces)])


def _namespace(namespace: ToolNamespace) -> str:
    lines = [f"## {namespace.name}\n"]
    if not namespace.tools:
        # A tool without functions, such as python, is described in plain text.
        return "\n".join([*lines, *lines_of(namespace.description or "")])
    lines += [f"// {line}" for line in lines_of(namespace.description or "")]
    lines.append(f"namespace {namespace.name} {{\n")
    for tool in namespace.tools:
        lines += [f"// {line}" for line in lines_of(tool.description)]
        argument = "" if tool.parameters is None else f"_: {schema_to_typescript(tool.parameters)}"
        lines.append(f"type {tool.name} = ({argument}) => any;\n")
    lines.append(f"}} // namespace {namespace.name}")
    return "\n".join(lines)


def schema_to_typescript(schema: Any, indent: str = "") -> str:
    """The type for one schema, to follow ``key: `` or ``_: ``."""
    if not isinstance(schema, Mapping):
        return "any"
    variants = schema.get("oneOf")
    if isinstance(variants, list):
        return "".join(f"\n{indent} | {_variant(variant, indent)}" for variant in variants)
    kind = schema.get("type")
    if isinstance(kind, list):
        names = ["number" if name == "integer" else name for name in kind if isinstance(name, str)]
        return " | ".join(names) or "any"
    if kind == "object":
        return _object(schema, indent)
    if kind == "array":
        return f"{schema_to_typescript(schema['items'], indent)}[]" if "items" in schema else "Array<any>"
    if kind == "string":
        return " | ".join(f'"{value}"' for value in _strings(schema.get("enum"))) or "string"
    return {"number": "number", "integer": "number", "boolean": "boolean"}.get(str(kind), "any")


def _object(schema: Mapping[str, Any], indent: str) -> str:
    lines = _comments(schema.get("description"), indent)
    lines.append("{\n")
    required = set(_strings(schema.get("required")))
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        for key, value in properties.items():
            name = key if key in required else f"{key}?"
            prop = value if isinstance(value, Mapping) else {}
            lines += _leading_comments(prop, indent)
            lines += _alternatives(name, prop, indent) if _has_variants(prop) else _property(name, prop, indent)
    return "".join([*lines, f"{indent}}}"])


def _leading_comments(prop: Mapping[str, Any], indent: str) -> list[str]:
    """Title, description and examples, each on its own lines above the property."""
    lines = []
    if isinstance(prop.get("title"), str):
        lines += [*_comments(prop["title"], indent), f"{indent}//\n"]
    if "oneOf" not in prop:
        lines += _comments(prop.get("description"), indent)
    examples = prop.get("examples")
    if isinstance(examples, list) and examples:
        lines.append(f"{indent}// Examples:\n")
        for example in _strings(examples):
            lines += _comments(f'- "{example}"', indent)
    return lines


def _property(name: str, prop: Mapping[str, Any], indent: str) -> list[str]:
    default = f"default: {_default(prop)}" if "default" in prop and "oneOf" not in prop else None
    return [f"{indent}{name}: {_nullable(prop, indent + '    ')},", _trailing_comment(default, indent), "\n"]


def _alternatives(name: str, prop: Mapping[str, Any], indent: str) -> list[str]:
    """A property with ``oneOf``: one line for each variant, below the property's own comments."""
    variants = prop["oneOf"]
    description = prop.get("description") if isinstance(prop.get("description"), str) else None
    # A description that the first variant repeats is written nowhere, as in openai-harmony.
    first = variants[0].get("description") if variants and isinstance(variants[0], Mapping) else None
    is_above = description is not None and first != description
    lines = _comments(description, indent) if is_above else []
    if "default" in prop:
        lines += _comments(f"default: {_default(prop)}", indent)
    lines.append(f"{indent}{name}:\n")
    for position, variant in enumerate(variants):
        fields = variant if isinstance(variant, Mapping) else {}
        own = fields.get("description")
        hidden = (position == 0 and is_above) or own == description
        parts = [own] if isinstance(own, str) and not hidden else []
        if "default" in fields:
            parts.append(f"default: {_default(fields)}")
        comment = _trailing_comment(" ".join(parts) if parts else None, indent)
        lines.append(f"{indent} | {_nullable(variant, indent + '   ')}{comment}\n")
    return [*lines, f"{indent},\n"]


def _variant(variant: Any, indent: str) -> str:
    """One variant of a ``oneOf`` outside a property: of an array, an argument or another variant."""
    fields = variant if isinstance(variant, Mapping) else {}
    parts = [fields["description"]] if isinstance(fields.get("description"), str) else []
    if "default" in fields:
        # Here the default of an enum has quotes, unlike a property's.
        quoted = isinstance(fields["default"], str) and _is_enum(fields)
        parts.append(f"default: {compact_json(fields['default']) if quoted else _default(fields)}")
    comment = _trailing_comment(" ".join(parts) if parts else None, indent)
    return f"{_nullable(variant, indent + '   ')}{comment}"


def _nullable(schema: Any, indent: str) -> str:
    text = schema_to_typescript(schema, indent)
    nullable = isinstance(schema, Mapping) and schema.get("nullable") is True
    return f"{text} | null" if nullable and "null" not in text else text


def _default(schema: Mapping[str, Any]) -> str:
    """A string in quotes, but an enum's value without quotes; any other value as JSON."""
    value = schema["default"]
    if not isinstance(value, str):
        return compact_json(value)
    return value if _is_enum(schema) else f'"{value}"'


def _is_enum(schema: Mapping[str, Any]) -> bool:
    values = schema.get("enum")
    return isinstance(values, list) and bool(values)


def _has_variants(prop: Mapping[str, Any]) -> bool:
    return isinstance(prop.get("oneOf"), list)


def _strings(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def lines_of(text: str) -> list[str]:
    """The lines of a text; a line break at its end does not start another line."""
    lines = _LINE_BREAK.split(text)
    return lines if lines[-1] else lines[:-1]


def _comments(text: Any, indent: str) -> list[str]:
    """A comment on its own lines."""
    if not isinstance(text, str):
        return []
    return [f"{indent}// {line}\n" for line in lines_of(text) or [""]]


def _trailing_comment(text: str | None, indent: str) -> str:
    """A comment after code; its further lines are below."""
    return "" if text is None else " // " + f"\n{indent}// ".join(_LINE_BREAK.split(text))


def compact_json(value: Any) -> str:
    """JSON without spaces, with numbers as openai-harmony's JSON library writes them."""
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return _number(float(value))
    if isinstance(value, list):
        return f"[{','.join(map(compact_json, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{compact_json(key)}:{compact_json(item)}' for key, item in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    """The shortest digits as in Python, with exponents as in Rust: 0.00001 for 1e-05, 1e16 for 1e+16."""
    text = repr(value)
    if "e" not in text:
        return text
    digits, exponent = text.split("e")
    power = int(exponent)
    if power == -5:
        sign, bare = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
        return f"{sign}0.0000{bare.replace('.', '')}"
    return f"{digits}e{power}"
