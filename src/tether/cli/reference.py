"""`tether reference compare`: what candidate references say about your rows, before any training."""

from typing import Annotated, Any

from cyclopts import App, Parameter

from tether.cli.output import console, print_json, print_table

app = App(name="reference", help="References before training: which one says what about your rows.")


@app.command(name="compare")
def compare(
    *,
    model: Annotated[str, Parameter(help="The model that would be trained: folder or hub name.")],
    data: Annotated[str, Parameter(help="Preference rows: file, folder or glob.")],
    reference: Annotated[
        str, Parameter(help="References with commas: self,none,prior,model:PATH,artifact:PATH.")
    ],
    rows: Annotated[int, Parameter(help="Pairs scored, the first in file order.")] = 1000,
    prompts: Annotated[int, Parameter(help="Prompts answered to measure KL; 0: none.")] = 32,
    kl_max_new_tokens: Annotated[int, Parameter(help="Longest answer when measuring KL.")] = 128,
    max_length: Annotated[int, Parameter(help="Tokens of prompt + completion; longer is cut.")] = 1024,
    seed: Annotated[int, Parameter(help="Of the answers.")] = 42,
    device: Annotated[str, Parameter(help="auto, cpu, cuda or cuda:N.")] = "auto",
    json: Annotated[bool, Parameter(negative="", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, Parameter(negative="", help="No progress.")] = False,
) -> None:
    """Score the rows with the model and every reference, and say what each would bring to training."""
    from tether import api
    from tether.cli.progress import Terminal

    terminal = Terminal(quiet=quiet or json)
    try:
        found = api.compare_references(
            model,
            data,
            [name.strip() for name in reference.split(",") if name.strip()],
            rows=rows,
            prompts=prompts,
            kl_max_new_tokens=kl_max_new_tokens,
            max_length=max_length,
            seed=seed,
            device=device,
            watcher=terminal,
        )
    finally:
        terminal.close()
    if json:
        print_json(found)
        return
    print_table(
        f"{found.pairs} pairs, {found.prompts} prompts answered",
        ["", *(fact.reference for fact in found.references)],
        [[text, *(_cell(getattr(fact, name)) for fact in found.references)] for text, name in LINES],
    )
    out = console()
    for fact in found.references:
        for note in fact.notes:
            out.print(f"{fact.reference}: {note}")
    for line in found.suggestions:
        out.print(f"- {line}")


LINES = (
    ("log-ratio of chosen, nats", "log_ratio_chosen"),
    ("log-ratio of rejected", "log_ratio_rejected"),
    ("its nats per token", "log_prob_per_token"),
    ("ranks against label", "against_label"),
    ("margins, correlation", "margin_correlation"),
    ("nats per token of length", "length_slope"),
    ("... explains", "length_r_squared"),
    ("KL(model || reference)", "kl_model_reference"),
    ("KL(reference || model)", "kl_reference_model"),
)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    half = "" if value.low is None else f" ({value.low:.3g} to {value.high:.3g})"
    return f"{value.estimate:.3g}{half}"
