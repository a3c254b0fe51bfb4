"""`tether merge`: an adapter becomes a whole model, and the rounding is told."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tether.cli.output import print_json, print_note, print_table


def merge(
    run: Annotated[str, Parameter(help="Run folder, or adapter: folder or hub name.")],
    *,
    out: Annotated[Path, Parameter(help="Folder of the merged model.")],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], Parameter(help="Precision of the merged weights.")
    ] = "float32",
    json: Annotated[bool, Parameter(help="Print the record as JSON.", negative="")] = False,
) -> int:
    """Merge an adapter into its base and print the log-prob error of merging."""
    from tether.training.merge import merge_adapter

    record = merge_adapter(run, out, dtype=dtype)
    if json:
        print_json(record)
        return 0
    share = record.error_mean / record.adapter_effect if record.adapter_effect else 0.0
    print_table(
        "",
        ["", str(out)],
        [
            ["error of merging, mean per token", f"{record.error_mean:.2e} nats"],
            ["error of merging, worst token", f"{record.error_max:.2e} nats"],
            ["effect of the adapter, mean per token", f"{record.adapter_effect:.2e} nats"],
            ["error as a share of the effect", f"{share:.2%}"],
        ],
    )
    if record.trained_on != "none":
        print_note(
            f"trained on a base stored as {record.trained_on}; merged into the base in full: measure it"
        )
    return 0
