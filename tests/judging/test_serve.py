"""A judge behind a real OpenAI-compatible server: `transformers serve` with a tiny model (make serve)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("openai", reason="the judge extra is not installed")
pytest.importorskip("fastapi", reason="transformers serve needs fastapi (make serve installs it)")
pytest.importorskip("uvicorn", reason="transformers serve needs uvicorn (make serve installs it)")

from tests.servers import transformers_serve
from tests.tiny import save_model, tiny_model, tiny_tokenizer
from tether.judging.client import Server
from tether.judging.judges import Question
from tether.judging.server import ServerJudge

pytestmark = pytest.mark.serve


def _always(letter: str, path: Path) -> Path:
    """A chat model that says this letter and nothing else: its output bias decides."""
    model, tokenizer = tiny_model("phi", max_position_embeddings=4096), tiny_tokenizer()
    with torch.no_grad():
        model.lm_head.bias[tokenizer.encode(letter, add_special_tokens=False)[0]] = 1e4
    return save_model(path, model, chat=True)


@pytest.fixture(scope="module")
def says_b(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    folder = _always("B", tmp_path_factory.mktemp("says-b"))
    with transformers_serve(folder) as url:
        yield url, str(folder)


def test_a_real_server_without_probabilities_is_read_by_its_letter(says_b: tuple[str, str]) -> None:
    judge = ServerJudge(Server(says_b[0], workers=2), says_b[1])
    opinions = judge([Question("2 + 2?", "4", "5"), Question("2 + 2?", "5", "4")])
    assert [opinion.share for opinion in opinions] == [0.0, 0.0]
    assert judge.usage.retries == 0


def test_a_model_the_server_does_not_have_is_a_failure_not_a_verdict(says_b: tuple[str, str]) -> None:
    (opinion,) = ServerJudge(Server(says_b[0], attempts=2), "another")([Question("2 + 2?", "4", "5")])
    assert opinion.share is None
    assert opinion.error == "HTTP 400 after 1 attempts"
