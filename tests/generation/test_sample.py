"""The file of completions: in order, the same after any interruption, never mixed with another run's."""

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from tests.tiny import save_model, tiny_model
from tether.cli.main import main
from tether.config.generate import GenerateConfig
from tether.errors import DataError, ModelError, RunFolderError, UsageError
from tether.generation.choice import sample_seeds
from tether.generation.completions import meta_path
from tether.generation.engines import Sampling, completion_text, decoder, generate_ids
from tether.generation.prompts import read_prompts
from tether.generation.sample import generate
from tether.generation.speaker import machine, open_speaker, who_answers
from tether.tokens.render import Renderer

TEXTS = [
    "Hello there",
    "How do I bake bread?",
    "What",
    "The quick brown fox jumps",
    "No.",
    "Can you help me",
    "In 2026",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models with one tokenizer, one with another, an adapter of the first, and prompts."""
    root = tmp_path_factory.mktemp("models")
    for name, seed, vocabulary in (("a", 0, 384), ("b", 1, 384), ("other", 0, 300)):
        save_model(root / name, tiny_model(seed=seed, vocab_size=vocabulary), chat=True)
    base = tiny_model()
    base.name_or_path = base.config._name_or_path = str(root / "a")
    adapter = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    adapter.peft_config["default"].base_model_name_or_path = str(root / "a")
    adapter.save_pretrained(root / "adapter")
    (root / "p.txt").write_text("\n".join(TEXTS) + "\n")
    rows = [{"prompt": [{"role": "user", "content": text}], "id": f"row-{i}"} for i, text in enumerate(TEXTS)]
    (root / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def config_of(folders: Path, out: Path, **options: Any) -> GenerateConfig:
    given_ = {
        "model": str(folders / "a"),
        "prompts": str(folders / "p.txt"),
        "out": str(out),
        "max_new_tokens": 6,
        "batch_size": 1,
        "num_samples": 2,
        "device": "cpu",
    }
    return GenerateConfig.model_validate(given_ | options)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_are_what_the_engine_says_in_order(folders: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    record = generate(
        config_of(folders, tmp_path / "o.jsonl", prompts=str(folders / "p.jsonl")),
        lambda done, total, tokens, seconds: seen.append((done, total)),
    )
    rows = rows_of(tmp_path / "o.jsonl")
    assert [(row["id"], row["sample"]) for row in rows] == [
        (f"row-{i}", n) for i in range(7) for n in range(2)
    ]
    assert seen == [(4, 14), (8, 14), (12, 14), (14, 14)]
    speaker = open_speaker(str(folders / "a"), machine("cpu", "float32"))
    prompts = read_prompts(folders / "p.jsonl")
    renderer = Renderer(speaker.tokenizer, speaker.stop_ids)
    ids = [renderer.prompt_ids(prompt.content) for prompt in prompts for _ in range(2)]
    seeds = sample_seeds(0, [prompt.key for prompt in prompts], 2, who=who_answers(speaker))
    results = generate_ids(
        speaker.model, ids, Sampling(max_new_tokens=6), stop_ids=speaker.stop_ids, seeds=seeds
    )
    decode = decoder(speaker.tokenizer)
    for row, result in zip(rows, results, strict=True):
        assert row["completion"] == completion_text(result.ids, decode, speaker.stop_ids)
        assert (row["tokens"], row["ended"], row["stopped_by"]) == (
            len(result.ids),
            result.ended,
            result.stopped_by,
        )
        assert (row["seed"], row["model"]) == (0, str(folders / "a"))
        assert row["prompt"][0]["role"] == "user"
    assert (record.rows, record.prompts, record.continued, record.left_out) == (14, 7, 0, ())
    assert record.tokens == pytest.approx(sum(row["tokens"] for row in rows) / 14)
    assert record.ended + record.cut_at_limit + record.cut_at_context == pytest.approx(1)


@pytest.fixture(scope="module")
def whole(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What an uninterrupted run writes, per dtype."""
    root = tmp_path_factory.mktemp("whole")

    def run(dtype: str) -> Path:
        out = root / f"{dtype}.jsonl"
        if not out.exists():
            generate(config_of(folders, out, dtype=dtype, batch_size=2, max_new_tokens=16))
        return out

    return run


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_a_run_cut_at_any_byte_ends_like_one_that_was_not(
    folders: Path, tmp_path: Path, whole: Callable[[str], Path], share: float, dtype: str
) -> None:
    expected = whole(dtype).read_bytes()
    out = tmp_path / "o.jsonl"
    shutil.copy(meta_path(whole(dtype)), meta_path(out))
    kept = expected[: round(share * len(expected))]
    out.write_bytes(kept)
    record = generate(config_of(folders, out, dtype=dtype, batch_size=2, max_new_tokens=16))
    assert out.read_bytes() == expected
    assert record.continued == kept.count(b"\n")
    assert (record.tokens_per_second is None) == (record.continued == 14)


def test_a_continued_run_makes_the_batches_of_an_uninterrupted_one(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches decide rounding, and in bf16 rounding decides samples."""
    import tether.generation.sample as module

    real, calls = module.generate_ids, []

    def noted(model: Any, prompts: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(prompts)
        return real(model, prompts, *args, **kwargs)

    monkeypatch.setattr(module, "generate_ids", noted)
    out = tmp_path / "o.jsonl"
    generate(config_of(folders, out))
    first = list(calls)
    lines = out.read_bytes().splitlines(keepends=True)
    for kept, skipped in ((0, 0), (3, 0), (4, 1), (11, 2), (14, 4)):
        calls.clear()
        out.write_bytes(b"".join(lines[:kept]))
        generate(config_of(folders, out))
        assert calls == first[skipped:]
        assert out.read_bytes() == b"".join(lines)


def test_the_batch_size_may_change_when_a_run_goes_on_and_changes_nothing(
    folders: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o.jsonl"
    generate(config_of(folders, out))
    expected = out.read_bytes()
    out.write_bytes(expected[: len(expected) // 2])
    generate(config_of(folders, out, batch_size=5))
    assert out.read_bytes() == expected


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"temperature": 0.5}, "sampling.temperature was 1.0 and is 0.5 now"),
        ({"stop": ("e",)}, "sampling.stop was"),
        ({"num_samples": 3}, "num_samples was 2 and is 3 now"),
        ({"model": "b"}, "model.weights was"),
        ({"model": "adapter"}, "model.adapter was None and is"),
        ({"prompts": "p.jsonl"}, "prompts.digest was"),
        ({"dtype": "bfloat16"}, "dtype was 'float32'"),
        ({"reference": "b", "dial": 2.0}, "reference.weights was None"),
    ],
)
def test_a_file_made_from_something_else_is_not_continued(
    folders: Path, tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    out = tmp_path / "o.jsonl"
    generate(config_of(folders, out))
    before = out.read_bytes()
    paths = {
        name: str(folders / value)
        for name, value in change.items()
        if name in ("model", "prompts", "reference")
    }
    with pytest.raises(RunFolderError, match=field) as caught:
        generate(config_of(folders, out, **(change | paths)))
    assert "--overwrite" in str(caught.value) and out.read_bytes() == before
    assert generate(config_of(folders, out, overwrite=True, **(change | paths))).continued == 0
    assert out.read_bytes() != before


def test_a_file_that_is_not_ours_is_left_alone(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    out.write_text("precious\n")
    with pytest.raises(RunFolderError, match=r"has no o.jsonl.meta.json beside it"):
        generate(config_of(folders, out))
    assert out.read_text() == "precious\n"
    out.unlink()
    generate(config_of(folders, out))
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(lines[1] + lines[0])
    with pytest.raises(
        RunFolderError, match=r"o.jsonl:1: holds 'p.txt:1' sample 1, which is not the row due"
    ):
        generate(config_of(folders, out))
    out.write_bytes(b"{}\n")
    with pytest.raises(RunFolderError, match=r"o.jsonl:1: not a row of ours"):
        generate(config_of(folders, out))
    meta_path(out).write_text("{}")
    with pytest.raises(RunFolderError, match="not readable by this version"):
        generate(config_of(folders, out))
    with pytest.raises(RunFolderError, match="existing folder"):
        generate(config_of(folders, tmp_path / "none" / "o.jsonl"))


def test_two_processes_cannot_write_one_file(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    with out.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(RunFolderError, match="another process is writing it"):
            generate(config_of(folders, out))


def test_an_adapter_folder_answers_with_its_bases_tokenizer(folders: Path, tmp_path: Path) -> None:
    generate(config_of(folders, tmp_path / "o.jsonl"))
    generate(config_of(folders, tmp_path / "adapted.jsonl", model=str(folders / "adapter")))
    plain, adapted = (
        [row["completion"] for row in rows_of(tmp_path / n)] for n in ("o.jsonl", "adapted.jsonl")
    )
    assert plain != adapted and all(adapted)


def test_the_dial_of_a_file(folders: Path, tmp_path: Path) -> None:
    def completions(name: str, **options: Any) -> list[str]:
        generate(config_of(folders, tmp_path / name, **options))
        return [row["completion"] for row in rows_of(tmp_path / name)]

    a, b = str(folders / "a"), str(folders / "b")
    assert completions("one", reference=b, dial=1.0) == completions("a")
    assert completions("zero", reference=b, dial=0.0) == completions("b", model=b)
    assert completions("half", reference=b, dial=0.5) == completions("turned", model=b, reference=a, dial=0.5)
    with pytest.raises(ModelError, match="needs one vocabulary"):
        completions("other", reference=str(folders / "other"), dial=0.5)


def test_every_model_has_noise_of_its_own_and_the_same_weights_the_same(
    folders: Path, tmp_path: Path
) -> None:
    opened = {name: open_speaker(str(folders / name), machine("cpu", "float32")) for name in ("a", "b")}
    shutil.copytree(folders / "a", tmp_path / "copy")
    copy = open_speaker(str(tmp_path / "copy"), machine("cpu", "float32"))
    a, b = opened["a"], opened["b"]
    names = [who_answers(a), who_answers(b), who_answers(a, b, 0.5), who_answers(a, b, 2)]
    assert len(set(names)) == 4
    seeds = [sample_seeds(0, ["p"], 3, who=name) for name in ("", *names)]
    assert len({seed for some in seeds for seed in some}) == 15
    assert (
        who_answers(copy)
        == names[0]
        == who_answers(a, b, 1)
        == who_answers(b, a, 0)
        == who_answers(a, copy, 3)
    )
    assert who_answers(b, a, 0.7) == who_answers(a, b, 1 - 0.7)


def test_long_prompts_are_refused_or_left_out_by_name(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("short\n" + "word " * 600 + "\nshort too\n")
    options: dict[str, Any] = {"prompts": str(tmp_path / "long.txt"), "num_samples": 1}
    with pytest.raises(DataError, match=r"long.txt:2: the prompt has \d+ tokens .* \(1 of 3 prompts"):
        generate(config_of(folders, tmp_path / "o.jsonl", **options))
    assert not (tmp_path / "o.jsonl").exists()
    record = generate(config_of(folders, tmp_path / "o.jsonl", skip_long=True, **options))
    assert (record.left_out, record.rows) == (("long.txt:2",), 2)


def test_a_device_that_is_not_there_is_refused(folders: Path, tmp_path: Path) -> None:
    for device in ("cuda:99", "abacus"):
        with pytest.raises(UsageError, match=f"device: .*{device}"):
            generate(config_of(folders, tmp_path / "o.jsonl", device=device))


def test_the_command_prints_one_json_document_and_exits_with_its_status(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "generate",
        str(folders / "a"),
        "--prompts",
        str(folders / "p.txt"),
        "--out",
        str(tmp_path / "o.jsonl"),
    ]
    words += ["--max-tokens", "4", "--stop", "zz", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["rows"], document["prompts"], document["continued"]) == (7, 7, 0)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "7 completions of 7 prompts (7 of them by an earlier run)"
    assert told[-1] == f"written: {tmp_path / 'o.jsonl'}" and all(len(line) <= 80 for line in told[:-1])
    for wrong, status in ((["--top-p", "0"], 2), (["--seed", "5"], 3), (["--dial", "2"], 2)):
        with pytest.raises(SystemExit) as ended:
            main([*words, *wrong])
        assert ended.value.code == status
        assert capsys.readouterr().err.splitlines()[-1].startswith("tether: ")


def test_a_stop_signal_keeps_what_was_written(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tether.generation.sample as module

    real, calls = module.generate_ids, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "generate_ids", interrupted)
    out = tmp_path / "o.jsonl"
    words = ["generate", str(folders / "a"), "--prompts", str(folders / "p.txt"), "--out", str(out)]
    words += ["--max-tokens", "4", "--batch-size", "1", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert len(rows_of(out)) == 4
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert len(rows_of(out)) == 7
