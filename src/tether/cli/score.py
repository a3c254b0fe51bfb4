"""`tether score`: a reference artifact from any causal LM with any tokenizer."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tether.cli.output import print_json, print_table
from tether.config.launch import first_process
from tether.config.train import Layout


def score(
    *,
    model: Annotated[str, Parameter(help="Model or adapter that scores: folder or hub name.")],
    data: Annotated[str, Parameter(help="File, folder or glob of rows.")],
    out: Annotated[Path, Parameter(help="Folder of the artifact.")],
    policy: Annotated[
        str | None, Parameter(help="Model whose tokenizer decides what is cut [the scorer].")
    ] = None,
    without_prompt: Annotated[
        bool, Parameter(help="Score p(completion): RefDPO's prior.", negative="")
    ] = False,
    token_values: Annotated[bool, Parameter(help="Keep per-token values too.", negative="")] = False,
    mismatched: Annotated[bool, Parameter(help="Also score what kto compares with.", negative="")] = False,
    max_length: Annotated[int, Parameter(help="Tokens of prompt + completion, as in training.")] = 1024,
    truncation_mode: Annotated[
        Literal["keep_start", "keep_end", "drop"], Parameter(help="What goes when a row is too long.")
    ] = "keep_start",
    score_turns: Annotated[
        Literal["last", "all"], Parameter(help="Assistant turns of an answer to score.")
    ] = "last",
    device: Annotated[str, Parameter(help="auto, cpu or cuda.")] = "auto",
    bf16: Annotated[bool | None, Parameter(help="bf16 compute; unset: on CUDA only.")] = None,
    layout: Annotated[Literal["auto", Layout], Parameter(help="How rows are laid out.")] = "auto",
    json: Annotated[bool, Parameter(help="Print the record as JSON.", negative="")] = False,
    quiet: Annotated[bool, Parameter(help="No progress.", negative="")] = False,
) -> int:
    """Score every completion once; `tether train --reference artifact:OUT` uses it."""
    from tether.cli.progress import Terminal
    from tether.training.scoring import score_file

    terminal = Terminal(quiet=quiet or json)
    try:
        record = score_file(
            model,
            data,
            out,
            policy=policy,
            without_prompt=without_prompt,
            token_values=token_values,
            mismatched=mismatched,
            max_length=max_length,
            truncation_mode=truncation_mode,
            score_turns=score_turns,
            device=device,
            bf16=bf16,
            layout=layout,
            watcher=terminal,
        )
    finally:
        terminal.close()
    if not first_process():
        return 0
    if json:
        print_json(record)
    elif not quiet:
        rows = [
            [name, getattr(record, name)]
            for name in ("rows", "completions", "tokens", "mean_logprob_per_token")
        ]
        rows += [[name, value] for name, value in record.scored.items()]
        print_table("", ["", str(out)], rows)
    return 0
