"""Render a chat template under limits of time, memory and output. Run as a script, in a process of its own.

Standard input: one JSON object {template, variables, conversations, seconds, bytes, output}.
Standard output: one JSON object {result, detail}; `result` is ok, syntax, memory or output. A template that
takes longer than `seconds` of processor time ends the process by SIGXCPU, so no answer is an answer too.

Nothing of tether or transformers is imported: the process starts in a tenth of a second, and what the
template sees is what transformers shows it (its sandbox, its filters, its globals).
"""

import json
import math
import sys
import time
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Scope
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """The `{% generation %}` block of transformers: renders what is inside."""

    def parse(self, parser: Parser) -> Scope:
        """Return the body of the block as it stands."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return Scope(body, lineno=line)


Generation.tags = {"generation"}


def limit(seconds: int, memory: int) -> None:
    """Bound what this process may still use, where the system can."""
    try:
        import resource
    except ImportError:
        return
    used = math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, used + seconds + 1))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    except (OSError, ValueError):
        return


def environment() -> ImmutableSandboxedEnvironment:
    """Return the environment transformers renders chat templates in."""

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(
            value, ensure_ascii=options.get("ensure_ascii", False), indent=options.get("indent")
        )

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    made.filters["tojson"] = tojson
    functions: dict[str, Any] = made.globals
    functions |= {"raise_exception": refuse, "strftime_now": time.strftime}
    return made


def answer(order: dict[str, Any]) -> tuple[str, str]:
    """Render every conversation of the order; return how it went."""
    try:
        template = environment().from_string(order["template"])
    except MemoryError:
        return "memory", ""
    except jinja2.TemplateError as error:
        return "syntax", str(error)
    for conversation in order["conversations"]:
        try:
            text = template.render(**order["variables"], **conversation)
        except MemoryError:
            return "memory", ""
        except Exception:  # a template may refuse a conversation (no system role): that is its right
            continue
        if len(text) > order["output"]:
            return "output", str(len(text))
    return "ok", ""


if __name__ == "__main__":
    request = json.load(sys.stdin)
    limit(request["seconds"], request["bytes"])
    outcome, detail = answer(request)
    json.dump({"result": outcome, "detail": detail}, sys.stdout)
