"""`tether generate` and `tether chat` through a real OpenAI-compatible server (make serve)."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("openai", reason="the server extra is not installed")
pytest.importorskip("fastapi", reason="transformers serve needs fastapi (make serve installs it)")
pytest.importorskip("uvicorn", reason="transformers serve needs uvicorn (make serve installs it)")

from tests.servers import transformers_serve
from tests.tiny import save_model, tiny_model
from tether.config.generate import GenerateConfig
from tether.generation.client import Server
from tether.generation.engines import Sampling
from tether.generation.hosted import Hosted
from tether.generation.prompts import Prompt
from tether.generation.sample import generate
from tether.generation.voices import ServerVoice

pytestmark = pytest.mark.serve


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    model = tiny_model(max_position_embeddings=2048)
    folder = save_model(tmp_path_factory.mktemp("served"), model, chat=True)
    with transformers_serve(folder) as url:
        yield url, folder


def test_greedy_answers_of_a_server_are_those_of_its_model(real: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = real
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in ("Hi", "Can you help me?", "No.")]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"prompts": str(tmp_path / "p.jsonl"), "temperature": 0.0, "max_new_tokens": 8}
    texts: list[list[str]] = []
    for name, who in (
        ("local", {"model": str(folder), "device": "cpu"}),
        ("remote", {"server": f"{url}#{folder}", "workers": 2}),
    ):
        out = tmp_path / f"{name}.jsonl"
        generate(GenerateConfig.model_validate(given | who | {"out": str(out)}))
        texts.append([json.loads(line)["completion"] for line in out.read_text().splitlines()])
    assert texts[0] == texts[1]


def test_a_server_streams_to_the_chat(real: tuple[str, Path]) -> None:
    url, folder = real
    voice = ServerVoice(Hosted(Server(url), str(folder)))
    prompt = Prompt("chat", ({"role": "user", "content": "Hi"},))
    saying, pieces = voice.answer(prompt, Sampling(temperature=0, max_new_tokens=8), 0), []
    with pytest.raises(StopIteration) as end:
        while True:
            pieces.append(next(saying))
    assert "".join(pieces) == end.value.value.text
    assert len(pieces) > 1 and end.value.value.model == str(folder)
