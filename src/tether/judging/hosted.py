"""The judges behind a server, built from their names; importing this needs the openai client."""

import os
from pathlib import Path

from tether.errors import UsageError
from tether.judging.alpaca import AlpacaJudge
from tether.judging.client import Server
from tether.judging.options import Asking
from tether.judging.server import ServerJudge


def hosted_judge(kind: str, rest: str, asking: Asking) -> ServerJudge | AlpacaJudge:
    """Return `server:URL#MODEL` or `alpacaeval:FOLDER@URL[#MODEL]`; `rest` is what follows the first colon.

    Raises:
        UsageError: no address or no model in it.
        DataError: the judge folder is not one, or asks for what is not supported.

    """
    if kind == "server":
        url, _, model = rest.rpartition("#")
        if not url or not model:
            raise UsageError(f"judge server:{rest}: write server:http://127.0.0.1:8000/v1#MODEL")
        return ServerJudge(_server(url, asking), model, reply_tokens=asking.reply_tokens)
    folder, _, address = rest.partition("@")
    url, _, model = (address or os.environ.get("OPENAI_BASE_URL", "")).partition("#")
    if not url:
        raise UsageError(
            f"judge alpacaeval:{rest}: no server is asked that was not named; write "
            f"alpacaeval:{folder}@http://127.0.0.1:8000/v1 or set OPENAI_BASE_URL"
        )
    return AlpacaJudge(Path(folder), _server(url, asking), model or None)


def _server(url: str, asking: Asking) -> Server:
    return Server(
        url,
        key_variable=asking.key_variable,
        timeout=asking.timeout,
        attempts=asking.attempts,
        workers=asking.workers,
    )
