"""A chat template comes with a model and runs on every row: try it out where it can do no harm.

Templates are programs. transformers renders them in a sandbox that stops them from reaching files, not from
looping for ever or building a string of two gigabytes. So each is rendered once in a process of its own,
under limits, before it is rendered here.
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tether.errors import ModelError

SECONDS = 2
"""Processor time a template may take for all probe conversations."""
OUTPUT = 1_000_000
"""Characters a probe conversation (of about a hundred) may become."""
MEMORY = 1 << 30
"""Bytes of address space of the process."""
WALL = 60
"""Seconds on the clock after which the process is ended, whatever it does."""

CHILD = Path(__file__).with_name("template_child.py")


def probe_template(tokenizer: PreTrainedTokenizerBase, name: str = "the tokenizer") -> None:
    """Render the tokenizer's chat templates on small conversations, under limits of time, memory and output.

    Raises:
        ModelError: a template does not parse, or goes beyond a limit.

    """
    templates: dict[str, str] | str | None = tokenizer.chat_template
    named = {"default": templates} if isinstance(templates, str) else templates or {}
    variables = json.dumps(dict(tokenizer.special_tokens_map), sort_keys=True)
    for template in named.values():
        refusal = _probe(template, variables)
        if refusal is not None:
            raise ModelError(f"{name}: the chat template {refusal}; use a model whose template you trust")


@cache
def _probe(template: str, variables: str) -> str | None:
    order = {
        "template": template,
        "variables": json.loads(variables),
        "conversations": _conversations(),
        "seconds": SECONDS,
        "bytes": MEMORY,
        "output": OUTPUT,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(CHILD)],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=WALL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"was not rendered in {WALL} s (limit {SECONDS} s)"
    if done.returncode != 0 or not done.stdout:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        if done.returncode > 0:
            return f"could not be tried out: {last[0]}"
        return f"was not rendered in {SECONDS} s of processor time"
    outcome = json.loads(done.stdout)
    return {
        "ok": None,
        "syntax": f"does not parse: {outcome['detail']}",
        "memory": f"needs more than {MEMORY >> 20} MiB for a conversation of two sentences",
        "output": f"makes {outcome['detail']} characters of a conversation of two sentences (limit {OUTPUT})",
    }[outcome["result"]]


def _conversations() -> list[dict[str, Any]]:
    user = {"role": "user", "content": "How do I bake bread?"}
    assistant = {"role": "assistant", "content": "Mix flour, water, salt and yeast, then wait and bake it."}
    system = {"role": "system", "content": "You are a baker."}
    lists = [[], [user], [user, assistant], [system, user, assistant, user], [user, assistant] * 8 + [user]]
    return [
        {"messages": messages, "add_generation_prompt": generation, "tools": None, "documents": None}
        for messages in lists
        for generation in (True, False)
    ]
