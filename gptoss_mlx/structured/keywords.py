"""The keywords of JSON schema, drafts 4 to 2020-12."""

from __future__ import annotations

from typing import Final

__all__ = ["ANNOTATIONS", "ASSERTIONS", "ENGINE_FORMATS"]

ANNOTATIONS: Final = frozenset(
    {
        *("$schema", "$id", "id", "$comment", "$vocabulary", "$anchor", "$dynamicAnchor", "$defs", "definitions"),
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "nullable"),
        *("discriminator", "contentEncoding", "contentMediaType", "contentSchema"),
    }
)
"""Keywords that restrict nothing by themselves."""
ASSERTIONS: Final = frozenset(
    {
        *("$ref", "$dynamicRef", "$recursiveRef", "type", "enum", "const", "format"),
        *("allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
        *("dependentSchemas", "dependentRequired", "dependencies"),
        *("properties", "patternProperties", "additionalProperties", "unevaluatedProperties", "propertyNames"),
        *("required", "minProperties", "maxProperties", "items", "prefixItems", "additionalItems"),
        *("unevaluatedItems", "contains", "minContains", "maxContains", "minItems", "maxItems", "uniqueItems"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "pattern"),
    }
)
"""Keywords that restrict values."""
ENGINE_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"}
)
"""The formats that the engine enforces."""
