"""What a voice says piece by piece is, put together, the completion; nothing is said that is taken back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import tiny_model, tiny_tokenizer
from tether.errors import ResourceError
from tether.generation.choice import sample_seeds
from tether.generation.conversation import Spoken
from tether.generation.engines import Sampling, completion_text, decoder, generate_ids, stream_ids
from tether.generation.prompts import Prompt
from tether.generation.speaker import Speaker, who_answers
from tether.generation.streams import Dial, Source
from tether.generation.voices import LocalVoice, ServerVoice, _sure

STOPS = frozenset({1})
PROMPT = Prompt("chat", ({"role": "user", "content": "Can you help me?"},))


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker(tiny_model(), tiny_tokenizer(), STOPS, "tiny", {})


def told(saying: Any) -> tuple[list[str], Spoken]:
    pieces: list[str] = []
    while True:
        try:
            pieces.append(next(saying))
        except StopIteration as end:
            return pieces, end.value


@pytest.mark.parametrize("dialled", [False, True])
def test_streamed_tokens_are_those_of_the_engine(dialled: bool) -> None:
    model = tiny_model()
    dial = Dial(2.0, Source(tiny_model(seed=1))) if dialled else None
    for seed in range(5):
        sampling = Sampling(max_new_tokens=20, temperature=0.8, top_k=50)
        (expected,) = generate_ids(model, [[7, 8, 9]], sampling, stop_ids=STOPS, seeds=[seed], dial=dial)
        stream = stream_ids(model, [7, 8, 9], sampling, stop_ids=STOPS, seed=seed, dial=dial)
        pieces, stopped_by = told(stream)
        assert pieces == expected.ids
        assert stopped_by == expected.stopped_by  # pyright: ignore


def test_two_streams_read_in_turn_are_each_their_own_and_leave_gradients_on() -> None:
    import torch

    model, sampling = tiny_model(), Sampling(max_new_tokens=10)
    alone = [told(stream_ids(model, [7, s], sampling, stop_ids=STOPS, seed=s))[0] for s in (3, 4)]
    streams = [stream_ids(model, [7, s], sampling, stop_ids=STOPS, seed=s) for s in (3, 4)]
    together: list[list[int]] = [[], []]
    for _ in range(10):
        for place, stream in enumerate(streams):
            token = next(stream, None)
            assert torch.is_grad_enabled()
            if token is not None:
                together[place].append(token)
    assert together == alone


@pytest.mark.parametrize("stop", [(), ("e",), ("the", "e q")])
def test_the_pieces_of_a_local_answer_make_the_completion(speaker: Speaker, stop: tuple[str, ...]) -> None:
    voice = LocalVoice(speaker)
    decode = decoder(speaker.tokenizer)
    ids = voice._renderer.prompt_ids(PROMPT.content)
    for seed in range(6):
        sampling = Sampling(max_new_tokens=30, stop=stop, seed=seed)
        pieces, spoken = told(voice.answer(PROMPT, sampling, 1))
        own = sample_seeds(seed, [PROMPT.key], 2, who=who_answers(speaker))[1]
        (result,) = generate_ids(speaker.model, [ids], sampling, stop_ids=STOPS, seeds=[own], decode=decode)
        assert "".join(pieces) == spoken.text == completion_text(result.ids, decode, STOPS, stop)
        assert spoken.ended == result.ended


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
)
def test_nothing_is_said_that_a_stop_text_takes_back(text: str, stops: list[str]) -> None:
    def cut(said: str) -> str:
        return said[: min((p for s in stops if (p := said.find(s)) >= 0), default=len(said))]

    final = cut(text)
    for end in range(len(text) + 1):
        if cut(text[:end]) == text[:end]:
            assert final.startswith(_sure(text[:end], tuple(stops)))


def test_half_a_character_is_held_back() -> None:
    assert _sure("caf\ufffd", ()) == "caf"


def test_a_server_streams_its_answer() -> None:
    pytest.importorskip("openai", reason="the server extra is not installed")
    from tests.servers import Stub, completion, serving
    from tether.generation.client import Server
    from tether.generation.hosted import Hosted

    def reply(body: Any) -> Any:
        made = completion(None, "one two END three")
        made["choices"][0]["finish_reason"] = "stop"
        return made

    stub = Stub(reply)
    with serving(stub) as url:
        voice = ServerVoice(Hosted(Server(url, wait=0.0, sleep=lambda _: None, attempts=2), "m"))
        pieces, spoken = told(voice.answer(PROMPT, Sampling(), 0))
        assert pieces == ["one ", "two ", "END ", "three"]
        assert spoken == Spoken("m", "one two END three", True)
        assert stub.requests[0]["body"]["stream"] is True
        stub.faults = ["500"]
        assert told(voice.answer(PROMPT, Sampling(stop=("END",)), 0))[1].text == "one two "
        for fault, words in (("cut", "broke off"), ("401", "HTTP 401")):
            stub.faults = [fault]
            with pytest.raises(ResourceError, match=words):
                told(voice.answer(PROMPT, Sampling(), 0))
