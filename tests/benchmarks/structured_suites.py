"""Measures how faithfully constrained answers follow JSON schemas, on two public suites.

    python -m tests.benchmarks.structured_suites DIRECTORY [EVERY]

DIRECTORY holds clones of https://github.com/guidance-ai/jsonschemabench as ``JSONSchemaBench`` (ten sets of
schemas from GitHub, Kubernetes and others, with instances) and of
https://github.com/json-schema-org/JSON-Schema-Test-Suite as ``JSON-Schema-Test-Suite`` (draft 2020-12, without the
optional tests). With EVERY = n only each n-th schema of the former is measured. Columns, all but the last two in
numbers of schemas:

    accepted          the others are refused before generation, with a keyword, its place and a remedy
    wrongly accepted  some invalid instance can be generated; parsing the answer still refuses it
    wrongly refused   some valid instance cannot be generated
    median, most      process time to compile a schema and compute the first mask, in ms

Before and after formats became annotations (2026-11-26, llguidance 1.9.1, two busy cores):

                        schemas   accepted   wrongly accepted  wrongly refused  median     most
    Github_trivial          444    418   421        1      1           1     1      1.0  1.1    21    24
    Github_easy            1943   1858  1909        1      3           1     1      1.3  1.5    12    10
    Github_medium          1976   1732  1845        0      0          17    17      2.4  2.5    26    25
    Github_hard            1240   1033  1104        0      3          31    33      5.9  6.4    94    96
    Github_ultra            164    116   123        0      0           9     9     21.8 23.9   161   155
    Glaiveai2K             1707   1680  1681        0      0           0     0      1.5  1.5     8    13
    JsonSchemaStore         491    268   278        0      3          17    18      4.2  4.9  3742  3946
    Kubernetes             1064   1047  1064        0      0           1     1      2.3  2.7   419   512
    Snowplow                403    395   396        0      0           0     0      2.4  2.5    22    23
    WashingtonPost          125    101   101        0      0           1     1      2.2  2.5    30    42
    JSON-Schema-Test-Suite  383    232   241        0      0          12    14      0.7  1.1    23    25
    all                    9940   8880  9163        2     10          90    95      1.9  2.0  3742  3946

JSONSchemaBench's cloudformation.schema.json was not at hand. Of the wrongly accepted, two are written 12345.0,
which is no integer in draft 4, and generated as 12345; nearly all others have a format that is checked in the
answer instead of being enforced. Nearly all of the wrongly refused have keys in another order than their schema.
Of what is refused of JSONSchemaBench most are oneOf whose variants overlap.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptoss_mlx.errors import InvalidRequest
from gptoss_mlx.structured.constraint import Constraint
from gptoss_mlx.tokenizer import Tokenizer
from tests import DEMO

SETS = (
    *("Github_trivial", "Github_easy", "Github_medium", "Github_hard", "Github_ultra"),
    *("Glaiveai2K", "JsonSchemaStore", "Kubernetes", "Snowplow", "WashingtonPost"),
)


@dataclass
class Table:
    """The figures of one set."""

    name: str
    schemas: int = 0
    accepted: int = 0
    wrongly_accepted: int = 0
    wrongly_refused: int = 0
    seconds: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        times = [second * 1e3 for second in self.seconds] or [0.0]
        return (
            f"{self.name:24} {self.schemas:7} {self.accepted:8} {self.schemas - self.accepted:7} "
            f"{self.wrongly_accepted:16} {self.wrongly_refused:15} {statistics.median(times):6.1f} "
            f"{max(times):6.0f}"
        )


HEADER = f"{'':24} schemas accepted refused wrongly accepted wrongly refused median   most"


def cases(directory: Path, every: int) -> Iterator[tuple[str, Any, list[tuple[Any, bool]]]]:
    """The name of a set, a schema, and instances with their validity."""
    bench = directory / "JSONSchemaBench" / "maskbench" / "data"
    for name in SETS:
        for path in sorted(bench.glob(f"{name}---*.json"))[::every]:
            case = json.loads(path.read_bytes())
            yield name, case["schema"], [(test["data"], test["valid"]) for test in case["tests"]]
    for path in sorted((directory / "JSON-Schema-Test-Suite" / "tests" / "draft2020-12").glob("*.json")):
        for group in json.loads(path.read_bytes()):
            yield (
                "JSON-Schema-Test-Suite",
                group["schema"],
                [(test["data"], test["valid"]) for test in group["tests"]],
            )


def as_generated(value: Any, orders: list[list[str]]) -> Any:
    """The value as it would be generated: keys in the schema's order, whole numbers without a fraction."""
    if isinstance(value, list):
        return [as_generated(item, orders) for item in value]
    if isinstance(value, dict):
        # The order of the object in the schema that has most of the keys.
        order = max(orders, key=lambda names: len(value.keys() & names), default=[])
        names = sorted(value, key=lambda name: order.index(name) if name in order else len(order))
        return {name: as_generated(value[name], orders) for name in names}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def property_orders(schema: Any) -> Iterator[list[str]]:
    """The names of the properties of every object in a schema, and of its constants."""
    if isinstance(schema, dict):
        for names in (schema.get("properties"), schema.get("const")):
            yield list(names) if isinstance(names, dict) else []
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from property_orders(part)


def generates(constraint: Constraint, tokenizer: Tokenizer, text: str) -> bool:
    """Whether every token of the text is allowed and the answer may end after it."""
    matcher = constraint.matcher(tokenizer)
    for token in tokenizer.encode(text):
        if not matcher.allows(token):
            return False
        matcher.advance(token)
    return matcher.can_end


def measure(table: Table, schema: Any, instances: list[tuple[Any, bool]], tokenizer: Tokenizer) -> None:
    """Adds one schema to a table."""
    table.schemas += 1
    started = time.process_time()
    try:
        constraint = Constraint.from_schema(schema)
        constraint.matcher(tokenizer).mask()
    except InvalidRequest as error:
        table.reasons[str(error)] += 1
        return
    finally:
        table.seconds.append(time.process_time() - started)
    table.accepted += 1
    orders = list(property_orders(schema))
    found = {True: False, False: False}
    for value, valid in instances:
        text = json.dumps(as_generated(value, orders), ensure_ascii=False, separators=(",", ":"))
        try:
            allowed = generates(constraint, tokenizer, text)
        except InvalidRequest:
            allowed = False
        found[valid] |= allowed != valid
    table.wrongly_accepted += found[False]
    table.wrongly_refused += found[True]


def main() -> None:
    directory, every = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    tokenizer = Tokenizer.from_directory(DEMO)
    tables: dict[str, Table] = {}
    for name, schema, instances in cases(directory, every):
        measure(tables.setdefault(name, Table(name)), schema, instances, tokenizer)
    print(HEADER)
    total = Table("all")
    for table in tables.values():
        print(table)
        for column in ("schemas", "accepted", "wrongly_accepted", "wrongly_refused", "seconds", "reasons"):
            setattr(total, column, getattr(total, column) + getattr(table, column))
    print(total)
    for reason, count in total.reasons.most_common(40):
        print(f"{count:6} {reason[:150]}", file=sys.stderr)


if __name__ == "__main__":
    main()
