"""OpenAI's own test of gpt-oss providers against the server.

    python -m tests.clients.compatibility DIRECTORY

DIRECTORY is a checkout of openai/gpt-oss, whose ``compatibility-test`` is copied, installed with npm and run, over
chat and over Responses; streamed over chat alone, because there the client that the test installs loses what the
test reads of a response, whoever the provider is. The model is scripted: it thinks, makes the call that a case
expects, and answers. The test wants the thinking in its place and calls that fit their schema.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from tests.clients.commands import output_of
from tests.server.scripted import ScriptedGptOss, answer, call, think, turn
from tests.server.serving import listening

_PROVIDER = """export const PROVIDERS = {{
  gptoss: {{ apiBaseUrl: "{url}/v1", apiKey: "none", apiType: {kinds}, modelName: "gpt-oss",
             providerDetails: {{}} }},
}};
"""


class Cases:
    """The conduct of a model that makes the calls that the cases expect.

    Args:
        file: of the cases, one a line.
    """

    def __init__(self, file: Path) -> None:
        self.cases = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]

    def respond(self, prompt: str) -> str:
        """The turn after a prompt."""
        question = prompt.rpartition("<|start|>user<|message|>")[2]
        if " to=assistant<|channel|>" in question:
            return turn(think("There it is."), answer("Done."))
        case = next(case for case in self.cases if question.startswith(case["input"] + "<|end|>"))
        return turn(think("The tool knows it."), call(case["tool_name"], **json.loads(case["expected_arguments"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--tries", type=int, default=2)
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(shutil.copytree(arguments.directory / "compatibility-test", Path(name) / "test"))
        output_of(place, ["npm", "install", "--no-fund", "--no-audit", "--silent", "tsx"])
        cases = Cases(place / "cases.jsonl")
        with listening(ScriptedGptOss(respond=cases.respond)) as url:
            for streamed, kinds in ((False, ["responses", "chat"]), (True, ["chat"])):
                (place / "providers.ts").write_text(_PROVIDER.format(url=url, kinds=json.dumps(kinds)))
                options = ["--provider", "gptoss", "--tries", str(arguments.tries), "--strict"]
                output_of(place, ["npm", "start", "--", *options, *(["--streaming"] if streamed else [])])
                results = place / max(path.name for path in place.glob("rollout_*.jsonl"))
                runs = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
                results.unlink()
                counts = Counter(
                    (run["result"]["apiType"], run["success"]) if "result" in run else ("error", False)
                    for run in runs
                )
                failed += sum(count for (_, worked), count in counts.items() if not worked)
                for (kind, worked), count in sorted(counts.items()):
                    way = "streamed" if streamed else "whole"
                    print(f"{kind}, {way}: {count} runs {'passed' if worked else 'FAILED'}")
                print(next((json.dumps(run)[:2000] for run in runs if not run.get("success")), ""), end="")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
