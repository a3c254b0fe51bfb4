"""AlpacaEval's judges as they are: a folder with `configs.yaml` and a prompt file, asked of a named server.

Two things differ from the package, both on purpose. Both orders are asked instead of one drawn by chance. And
the prompt is cut into turns before the answers are put in, so that `<|im_end|>` in an answer ends nothing.
"""

import ast
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tether.errors import DataError
from tether.judging.client import Client, Server, text_of, token_logprobs
from tether.judging.judges import Opinion, Question, neutral, plain_text
from tether.judging.server import in_parallel, read_opinion

Choice = Mapping[str, Any]
Parser = Callable[[Any], object]
"""Reply (or what another parser made of it) -> 1 first better, 2 second, 0 or 1.5 none; None: not read."""

START, END = "<|im_start|>", "<|im_end|>"
PLACES = {"instruction": "prompt", "output_1": "first", "output_2": "second"}
NOT_SENT = (
    "model_name",
    "requires_chatml",
    "is_chat",
    "num_procs",
    "batch_size",
    "price_per_token",
    "is_strip",
)
"""Settings of the package's own decoder, which no server knows."""
SENT = (
    "max_tokens",
    "temperature",
    "top_p",
    "logprobs",
    "top_logprobs",
    "stop",
    "seed",
    "tools",
    "tool_choice",
)
KNOWN = ("prompt_template", "fn_completions", "completions_kwargs", "fn_completion_parser", "batch_size")
KNOWN_TOO = ("completion_parser_kwargs", "completion_key", "is_randomize_output_order", "pretty_name", "link")
DEFAULTS = {"temperature": 0.7, "top_p": 1.0}
"""What the package sends where the folder says nothing."""


class AlpacaJudge:
    """Asks what an AlpacaEval judge folder says, and reads the reply with the parser it names."""

    free = False

    def __init__(self, folder: Path, server: Server, model: str | None = None) -> None:
        name, settings, prompt = read_folder(folder)
        options = dict(settings.get("completions_kwargs") or {})
        self.model = model or str(options.get("model_name") or "")
        if not self.model:
            raise DataError(f"{folder}/configs.yaml: {name} names no model; write ...@URL#MODEL")
        self.name = f"alpacaeval:{folder}@{server.url}#{self.model}"
        shape = json.dumps([name, settings, prompt], sort_keys=True, default=str)
        digest = hashlib.sha256(shape.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self.identity = f"alpacaeval:{name}:{digest}@{server.url}#{self.model}"
        self._turns = chat_turns(prompt, f"{folder}: {settings['prompt_template']}")
        self._options = DEFAULTS | {key: options[key] for key in SENT if key in options}
        self._parse = parser_of(
            str(settings.get("fn_completion_parser") or "regex_parser"),
            settings.get("completion_parser_kwargs") or {},
            f"{folder}/configs.yaml",
        )
        self.reply_tokens = int(options.get("max_tokens") or 1)
        self.client = Client(server)
        self.usage = self.client.usage
        self.at_once = server.workers

    def messages(self, question: Question) -> list[dict[str, str]]:
        """Return the folder's turns with the question's texts in their places."""
        texts = {
            "instruction": plain_text(question.prompt),
            "output_1": question.first,
            "output_2": question.second,
        }
        return [{"role": role, "content": _filled(text, texts)} for role, text in self._turns]

    def __call__(self, questions: Sequence[Question]) -> list[Opinion]:
        """Return one opinion per question, asked in parallel."""
        return in_parallel(self.client, self._ask, questions)

    def _ask(self, question: Question) -> Opinion:
        answer = self.client.ask({"model": self.model, "messages": self.messages(question), **self._options})
        return read_opinion(answer, self._share)

    def _share(self, choice: Choice) -> float | None:
        try:
            found = self._parse(choice)
        except (ValueError, SyntaxError, KeyError, IndexError, TypeError, RecursionError):
            return None
        return _share_of_preference(found)


def read_folder(folder: Path) -> tuple[str, dict[str, Any], str]:
    """Return the name, settings and prompt text of a judge folder.

    Raises:
        DataError: no such folder, no `configs.yaml` with one judge, settings or a decoder not supported.

    """
    path = folder / "configs.yaml"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not readable: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(document, dict) or len(document) != 1:
        raise DataError(f"{path}: one judge with its settings is needed")
    ((name, settings),) = document.items()
    if not isinstance(settings, dict) or "prompt_template" not in settings:
        raise DataError(f"{path}: {name} has no prompt_template")
    unknown = sorted(set(settings) - {*KNOWN, *KNOWN_TOO})
    if unknown:
        raise DataError(f"{path}: {unknown[0]} is not supported; known are {', '.join([*KNOWN, *KNOWN_TOO])}")
    _check_decoder(path, settings)
    return str(name), settings, _prompt_text(folder, str(settings["prompt_template"]))


def _check_decoder(path: Path, settings: Mapping[str, Any]) -> None:
    decoder = settings.get("fn_completions", "openai_completions")
    if decoder != "openai_completions":
        raise DataError(f"{path}: fn_completions {decoder!r}: only openai_completions talks to a server")
    if settings.get("batch_size", 1) != 1:
        raise DataError(f"{path}: batch_size {settings['batch_size']}: one question a request is needed")
    unknown = sorted(set(settings.get("completions_kwargs") or {}) - {*SENT, *NOT_SENT})
    if unknown:
        raise DataError(f"{path}: completions_kwargs: {unknown[0]} is not supported")


def _prompt_text(folder: Path, template: str) -> str:
    """Find the prompt file as the package does: beside the judge folders, or in this one."""
    for path in (folder.parent / template, folder / template, folder / Path(template).name):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise DataError(f"{folder}: its prompt_template {template!r} is neither here nor beside the folder")


def chat_turns(prompt: str, where: str) -> list[tuple[str, str]]:
    """Return (role, text) of a prompt in ChatML; a prompt without turns is one of the user.

    Raises:
        DataError: turns that do not end, or a place for a text that is not there exactly once.

    """
    for place in PLACES:
        if prompt.count("{" + place + "}") != 1:
            raise DataError(f"{where}: {{{place}}} has to be in it exactly once")
    text = prompt.strip()
    if START not in text:
        return [("user", text)]
    if not text.startswith(START) or not text.endswith(END):
        raise DataError(f"{where}: turns have to begin with {START} and end with {END}")
    turns: list[tuple[str, str]] = []
    for piece in text.split(START)[1:]:
        head, _, body = piece.partition("\n")
        turns.append((head.split()[0] if head.split() else "user", body.split(END, 1)[0].strip()))
    return turns


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Put the texts into their places in one pass: a place named inside an answer stays text."""
    pattern = "|".join(re.escape("{" + name + "}") for name in values)
    return re.sub(pattern, lambda found: neutral(values[found.group()[1:-1]], quotes=True), text)


def parser_of(name: str, options: Mapping[str, Any], where: str) -> Parser:
    """Return the reply parser of this name.

    Raises:
        DataError: not a parser of pairs.

    """
    if name == "pipeline_meta_parser":
        steps = [
            parser_of(str(n), o or {}, where) for n, o in (options.get("parsers_to_kwargs") or {}).items()
        ]
        if not steps:
            raise DataError(f"{where}: pipeline_meta_parser without parsers_to_kwargs")
        return _chained(steps)
    makers: dict[str, Callable[[Mapping[str, Any]], Parser]] = {
        "logprob_parser": _logprobs,
        "regex_parser": _regex,
        "ranking_parser": _ranking,
        "json_parser": _json,
        "lmsys_parser": lambda _: _scores,
        "eval_parser": lambda _: _literal,
        "replace_parser": _replaced,
    }
    if name not in makers:
        raise DataError(f"{where}: fn_completion_parser {name!r}: known are {', '.join(makers)}")
    try:
        return makers[name](options)
    except (KeyError, TypeError, re.error) as error:
        raise DataError(f"{where}: completion_parser_kwargs of {name}: {error}") from error


def _chained(steps: Sequence[Parser]) -> Parser:
    def parse(reply: Any) -> object:
        for step in steps:
            reply = step(reply)
        return reply

    return parse


def _logprobs(options: Mapping[str, Any]) -> Parser:
    first, tokens = str(options["numerator_token"]), [str(t) for t in options["denominator_tokens"]]
    binary, place = bool(options.get("is_binarize", True)), options.get("log_prob_index", "batch")

    def parse(reply: Any) -> object:
        found = token_logprobs(reply, 0 if place == "batch" else int(place))
        known = {t: math.exp(v) for t, v in (found or {}).items() if t in {*tokens, first}}
        total = sum(known.get(token, 0.0) for token in tokens)
        if not known or total <= 0:
            return None
        if binary:
            others = [known.get(token, 0.0) for token in tokens if token != first]
            return 1 if all(known.get(first, 0.0) > other for other in others) else 2
        return 2 - known.get(first, 0.0) / total

    return parse


def _regex(options: Mapping[str, Any]) -> Parser:
    patterns = {key: re.compile(str(text)) for key, text in options["outputs_to_match"].items()}

    def parse(reply: Any) -> object:
        text, found = _text(reply), []
        while text:
            hits = [(hit.start(), hit.end(), key) for key, p in patterns.items() if (hit := p.search(text))]
            if not hits or min(hits)[1] == 0:
                break
            _, end, key = min(hits, key=lambda hit: hit[:2])
            found.append(key)
            text = text[end:]
        return found[0] if len(found) == 1 else None

    return parse


def _ranking(options: Mapping[str, Any]) -> Parser:
    name = str(options.get("model_1_name", "model_1"))

    def parse(reply: Any) -> object:
        ranks = ast.literal_eval(_text(reply)) if isinstance(reply, str | Mapping) else reply
        rank = next(entry["rank"] for entry in ranks if entry["model"] == name)
        return rank if rank in (1, 2) else None

    return parse


def _json(options: Mapping[str, Any]) -> Parser:
    key = options.get("annotation_key")

    def parse(reply: Any) -> object:
        text = _text(reply)
        fenced = re.search(r"```json(.*?)```", text, re.DOTALL)
        value = json.loads(fenced.group(1) if fenced else text)
        return value if key is None else value[key]

    return parse


def _replaced(options: Mapping[str, Any]) -> Parser:
    table, default = dict(options["replacer"]), options.get("default_replacer", "auto")

    def parse(reply: Any) -> object:
        value = _text(reply) if isinstance(reply, Mapping) else reply
        return table.get(value, value if default == "auto" else default)

    return parse


def _scores(reply: Any) -> object:
    parts = _text(reply).split("\n")[0].replace(",", " ").split()
    if len(parts) != 2:
        return None
    first, second = float(parts[0]), float(parts[1])
    return 1.5 if first == second else 1 if first > second else 2


def _literal(reply: Any) -> object:
    return ast.literal_eval(_text(reply))


def _text(reply: Any) -> str:
    text = reply if isinstance(reply, str) else text_of(reply)
    if not text.strip():
        raise ValueError("an empty reply")
    return text


def _share_of_preference(value: object) -> float | None:
    """Return the first answer's share of a preference from 1 (first) to 2 (second); 0 is an old tie."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if value == 0:
        return 0.5
    return 2 - value if 1 <= value <= 2 else None
