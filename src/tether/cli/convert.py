"""`tether convert`: rows of any known format in another one, and what that one cannot say."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tether.cli.output import console, print_json
from tether.data.convert import ConvertRecord
from tether.data.convert import convert as convert_rows


def convert(
    data: str,
    out: Path,
    /,
    *,
    to: str,
    lossy: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write rows in another format, for another trainer or a colleague.

    Parameters
    ----------
    data
        File, folder or pattern of rows in any format tether check knows.
    out
        File to write: .jsonl, .json, .csv, .tsv (.gz too) or .parquet.
    to
        trl, openai, nemo-rl, llama-factory, axolotl, kto, hh or tether (keeps everything);
        or any format name of docs/data.md.
    lossy
        Leave out what the format cannot say, and count it; otherwise that is refused.
    overwrite
        Replace a file that exists.
    as_json
        Print one JSON document.
    quiet
        Print nothing.

    """
    record = convert_rows(data, out, to, lossy=lossy, overwrite=overwrite)
    if as_json:
        print_json(record)
    elif not quiet:
        _print(record)
    return 0


def _print(record: ConvertRecord) -> None:
    lines = [f"{record.out}: {record.written:,} rows written as {record.format}; {record.read:,} read"]
    if record.left_out:
        reasons = ", ".join(f"{count:,} {kind}" for kind, count in record.left_out.items())
        lines.append(f"left out: {reasons}")
    lines += [f"lost: {line}" for line in record.problems]
    for line in lines:
        # Row ids and values come from the file: control characters must not reach the terminal.
        console().print("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))
