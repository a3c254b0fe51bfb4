"""What the terminal shows of a run, also where a number has no error."""

from tether.cli.progress import measured


def test_one_prompt_is_shown_without_an_error() -> None:
    line = {
        "kl_start": 0.5,
        "kl_start_se": None,
        "tokens": 4.0,
        "cut_share": 0.0,
        "scores/gold": 1.0,
        "scores_se/gold": 0.25,
        "scores/other": 2.0,
    }
    shown = " ".join(measured(line).split())
    assert shown == "samples KL 0.500; 4 tokens; gold 1.000 +- 0.250; other 2.000"
