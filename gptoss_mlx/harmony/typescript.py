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
There are two differences. In openai-harmony a line break inside a description ends its ``//`` comment, and the
rest reads as schema; here every line of a description is a comment. And openai-harmony writes ``any`` for what it
does not read (``$ref``, ``anyOf``, ``allOf``, ``const``, ``null``, an ``enum`` without a type); here only this
``any`` is replaced, by correct TypeScript.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from .content import Schema, ToolNamespace

__all__ = ["compact_json", "lines_of", "resolve", "schema_to_typescript", "tools_section"]

# The most characters that references add to one schema, and how many types may be inside one another.
_MAX_REFERENCED = 2**16
_MAX_NESTED = 64
_SCALARS = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean"}
_OBJECT_KEYS = ("properties", "patternProperties", "additionalProperties")
_BOUNDS = (
    *("format", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties"),
)
_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)
_WORDS = re.compile(r"\w+(\[\])*")
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
    # A Schema parses its text at every access.
    plain = schema.to_dict() if isinstance(schema, Schema) else schema
    return _Notation(plain).render(plain, indent)


class _Notation:
    """Renders one schema as openai-harmony does.

    Args:
        root: the schema that references refer to.
    """

    def __init__(self, root: Any) -> None:
        self._beyond = _Beyond(root)

    def render(self, schema: Any, indent: str) -> str:
        """The type for a schema inside the root."""
        return self._type_and_notes(schema, indent)[0]

    def _type_and_notes(self, schema: Any, indent: str) -> tuple[str, list[str]]:
        if _gives_up(schema):
            return self._beyond.render(schema, indent)
        variants, kind = schema.get("oneOf"), schema.get("type")
        if isinstance(variants, list):
            return "".join(f"\n{indent} | {self._variant(variant, indent)}" for variant in variants), []
        if isinstance(kind, list):
            return " | ".join("number" if name == "integer" else name for name in _strings(kind)), []
        if kind == "object":
            return self._object(schema, indent), []
        if kind == "array":
            return self._array(schema, indent), []
        enum = _strings(schema.get("enum")) if kind == "string" else []
        return " | ".join(f'"{value}"' for value in enum) or _SCALARS[kind], []

    def _array(self, schema: Mapping[str, Any], indent: str) -> str:
        if "items" not in schema:
            return "Array<any>"
        items = self.render(schema["items"], indent)
        return _array_of(items) if _gives_up(schema["items"]) else f"{items}[]"

    def _object(self, schema: Mapping[str, Any], indent: str) -> str:
        lines = _comments(schema.get("description"), indent)
        lines.append("{\n")
        required = set(_strings(schema.get("required")))
        properties = schema.get("properties")
        if isinstance(properties, Mapping):
            for key, value in properties.items():
                name = key if key in required else f"{key}?"
                prop = value if isinstance(value, Mapping) else {}
                lines += _leading_comments(prop, indent)
                has_variants = isinstance(prop.get("oneOf"), list)
                lines += (self._alternatives if has_variants else self._property)(name, prop, indent)
        return "".join([*lines, f"{indent}}}"])

    def _property(self, name: str, prop: Mapping[str, Any], indent: str) -> list[str]:
        comments = [f"default: {_default(prop)}"] if "default" in prop and "oneOf" not in prop else []
        text, notes = self._nullable(prop, indent + "    ")
        return [f"{indent}{name}: {text},", _trailing_comment(", ".join(comments + notes) or None, indent), "\n"]

    def _alternatives(self, name: str, prop: Mapping[str, Any], indent: str) -> list[str]:
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
            lines.append(f"{indent} | {self._commented(variant, parts, indent)}\n")
        return [*lines, f"{indent},\n"]

    def _variant(self, variant: Any, indent: str) -> str:
        """One variant of a ``oneOf`` outside a property: of an array, an argument or another variant."""
        fields = variant if isinstance(variant, Mapping) else {}
        parts = [fields["description"]] if isinstance(fields.get("description"), str) else []
        if "default" in fields:
            # Here the default of an enum has quotes, unlike a property's.
            quoted = isinstance(fields["default"], str) and _is_enum(fields)
            parts.append(f"default: {compact_json(fields['default']) if quoted else _default(fields)}")
        return self._commented(variant, parts, indent)

    def _commented(self, variant: Any, parts: list[str], indent: str) -> str:
        text, notes = self._nullable(variant, indent + "   ")
        comment = " ".join([*parts, *([", ".join(notes)] if notes else [])])
        return text + _trailing_comment(comment if parts or notes else None, indent)

    def _nullable(self, schema: Any, indent: str) -> tuple[str, list[str]]:
        text, notes = self._type_and_notes(schema, indent)
        nullable = isinstance(schema, Mapping) and schema.get("nullable") is True
        return (f"{text} | null" if nullable and "null" not in text else text), notes


def _gives_up(schema: Any) -> bool:
    """Whether openai-harmony writes ``any`` for a schema."""
    if not isinstance(schema, Mapping) or isinstance(schema.get("oneOf"), list):
        return not isinstance(schema, Mapping)
    kind = schema.get("type")
    return not _strings(kind) if isinstance(kind, list) else kind not in ("object", "array", *_SCALARS)


class _Compound(str):
    """A union or an intersection, which needs parentheses inside an intersection."""


class _Beyond:
    """Renders in TypeScript what openai-harmony does not.

    References are followed, a recursive one once and all of them up to a depth and a number of characters; beyond
    that the type is ``any``. A type is a pair: its text, and the bounds and formats for a comment behind it.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._open: list[str] = []
        self._left = _MAX_REFERENCED
        self._depth = 0

    def render(self, schema: Any, indent: str) -> tuple[str, list[str]]:
        """The type for a schema, without the description and the default that its property has."""
        if isinstance(schema, Mapping):
            schema = {key: value for key, value in schema.items() if key not in ("description", "default")}
        return self._type(schema, indent)

    def _type(self, schema: Any, indent: str) -> tuple[str, list[str]]:
        if not isinstance(schema, Mapping) or self._depth >= _MAX_NESTED:
            return ("never" if schema is False else "any"), []
        self._depth += 1
        found = self._nested(schema, indent)
        self._depth -= 1
        return found

    def _nested(self, schema: Mapping[str, Any], indent: str) -> tuple[str, list[str]]:
        if isinstance(schema.get("$ref"), str):
            return self._referenced(schema, indent)
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(values, list) and values:
            found = [(_union(list(map(compact_json, values))), _notes(schema))]
        else:
            found = [self._by_type(schema, indent)]
            for key in ("anyOf", "oneOf"):
                if isinstance(schema.get(key), list):
                    found.append(self._alternatives(schema[key], indent))
            parts = schema.get("allOf")
            found += [self._type(part, indent) for part in (parts if isinstance(parts, list) else ())]
        text = _intersection([text for text, _ in found])
        if schema.get("nullable") is True:
            text = _union([text, "null"])
        return text, list(dict.fromkeys(note for _, notes in found for note in notes))

    def _referenced(self, schema: Mapping[str, Any], indent: str) -> tuple[str, list[str]]:
        reference = schema["$ref"]
        target = resolve(self._root, reference[1:]) if reference[:2] in ("#", "#/") else None
        if target is None or reference in self._open or self._left <= 0:
            return "any", []
        if isinstance(target, Mapping):
            target = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
        self._open.append(reference)
        found = self._type(target, indent)
        self._open.pop()
        self._left -= len(found[0])
        return found

    def _by_type(self, schema: Mapping[str, Any], indent: str) -> tuple[str, list[str]]:
        kind = schema.get("type")
        if isinstance(kind, list):
            found = [self._by_type({**schema, "type": name}, indent) for name in _strings(kind)]
            return _union([text for text, _ in found]), found[0][1] if found else []
        notes = _notes(schema)
        if kind == "object" or (kind is None and any(key in schema for key in _OBJECT_KEYS)):
            return self._object(schema, indent), notes
        if kind == "array" or (kind is None and any(key in schema for key in ("items", "prefixItems"))):
            text, inner = self._array(schema, indent)
            return text, notes + [f"items {note}" for note in inner]
        return {**_SCALARS, "null": "null"}.get(str(kind), "any"), notes

    def _alternatives(self, variants: list[Any], indent: str) -> tuple[str, list[str]]:
        """A union, on one line if no variant but an object has a description."""
        found = [self._type(variant, indent) for variant in variants]
        texts = [text for text, _ in found]
        notes = [note for _, notes in found for note in notes]
        described = [
            variant.get("description") if isinstance(variant, Mapping) and "{" not in text else None
            for variant, text in zip(variants, texts, strict=True)
        ]
        if "any" in texts or not any(isinstance(text, str) for text in described):
            return _union(texts), notes
        lines = [
            f"\n{indent} | {text}{_trailing_comment(comment if isinstance(comment, str) else None, indent)}"
            for text, comment in zip(texts, described, strict=True)
        ]
        return _Compound("".join([*lines, f"\n{indent}"])), notes

    def _array(self, schema: Mapping[str, Any], indent: str) -> tuple[str, list[str]]:
        if isinstance(schema.get("prefixItems"), list):
            found = [self._type(item, indent) for item in schema["prefixItems"]]
            rest = schema.get("items", True)
            more = [] if rest is False else [f"...{_array_of(self._type(rest, indent)[0])}"]
            return f"[{', '.join([text for text, _ in found] + more)}]", []
        text, notes = self._type(schema.get("items"), indent)
        return ("Array<any>" if "items" not in schema else _array_of(text)), notes

    def _object(self, schema: Mapping[str, Any], indent: str) -> str:
        lines = [f"{line}{indent}" for line in _comments(schema.get("description"), "")]
        lines.append("{\n")
        required = _strings(schema.get("required"))
        properties = schema.get("properties")
        for key, prop in properties.items() if isinstance(properties, Mapping) else ():
            name = key if _IDENTIFIER.fullmatch(key) else compact_json(key)
            lines += self._property(name if key in required else f"{name}?", prop, [], indent)
        patterns = schema.get("patternProperties")
        for pattern, prop in patterns.items() if isinstance(patterns, Mapping) else ():
            lines += self._property("[key: string]", prop, [f"names: {compact_json(pattern)}"], indent)
        others = schema.get("additionalProperties")
        if isinstance(others, Mapping) or (others is True and not properties):
            lines += self._property("[key: string]", others, [], indent)
        return "".join([*lines, f"{indent}}}"])

    def _property(self, name: str, prop: Any, notes: list[str], indent: str) -> list[str]:
        fields = prop if isinstance(prop, Mapping) else {}
        text, more = self.render(prop, indent + "    ")
        default = [f"default: {compact_json(fields['default'])}"] if "default" in fields else []
        comment = ", ".join([*default, *notes, *more]) or None
        above = _leading_comments(
            {key: fields[key] for key in ("description", "examples") if key in fields}, indent
        )
        return [*above, f"{indent}{name}: {text},{_trailing_comment(comment, indent)}\n"]


def resolve(root: Any, pointer: str) -> Any:
    """The part of a schema that a JSON pointer such as ``/$defs/city`` names; None if there is none."""
    part = root
    for step in pointer.split("/")[1:]:
        key = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(part, Mapping) and key in part:
            part = part[key]
        elif isinstance(part, list) and key.isdecimal() and int(key) < len(part):
            part = part[int(key)]
        else:
            return None
    return part


def _union(types: list[str]) -> str:
    distinct = list(dict.fromkeys(types))
    if "any" in distinct or not distinct:
        return "any"
    return distinct[0] if len(distinct) == 1 else _Compound(" | ".join(distinct))


def _intersection(types: list[str]) -> str:
    distinct = [text for text in dict.fromkeys(types) if text != "any"]
    if len(distinct) < 2:
        return distinct[0] if distinct else "any"
    return _Compound(" & ".join(f"({text})" if isinstance(text, _Compound) else text for text in distinct))


def _array_of(text: str) -> str:
    return f"{text}[]" if _WORDS.fullmatch(text) else f"Array<{text}>"


def _notes(schema: Mapping[str, Any]) -> list[str]:
    """The bounds and the format of a type."""
    return [
        f"{key}: {schema[key] if key == 'format' else compact_json(schema[key])}"
        for key in _BOUNDS
        if key in schema and schema[key] is not False
    ]


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


def _default(schema: Mapping[str, Any]) -> str:
    """A string in quotes, but an enum's value without quotes; any other value as JSON."""
    value = schema["default"]
    if not isinstance(value, str):
        return compact_json(value)
    return value if _is_enum(schema) else f'"{value}"'


def _is_enum(schema: Mapping[str, Any]) -> bool:
    values = schema.get("enum")
    return isinstance(values, list) and bool(values)


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
