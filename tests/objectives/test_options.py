"""Options out of range are refused with the value and the limit; TRL's spellings are taken as they are."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from tether.config.objective import ObjectiveOptions

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"beta": 0.0}, "must be above 0"),
    ({"beta": -0.1}, "-0.1"),
    ({"beta": math.nan}, "finite"),
    ({"beta": math.inf}, "finite"),
    ({"label_smoothing": 0.5}, "below 0.5"),
    ({"label_smoothing": -0.01}, "at least 0"),
    ({"label_smoothing": math.nan}, "finite"),
    ({"loss_type": "sigmod"}, "did you mean sigmoid"),
    ({"loss_type": "kto_pair"}, "did you mean"),
    ({"loss_type": []}, "at least one"),
    ({"loss_type": ["sft", "sft"]}, "twice"),
    ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}, "1 values for 2 objectives"),
    ({"loss_weights": [0.0]}, "above 0"),
    ({"loss_weights": [math.nan]}, "finite"),
    ({"loss_type": "exo_pair"}, "0.001"),
    ({"ld_alpha": 1.1}, "at most 1"),
    ({"ld_alpha": -0.1}, "at least 0"),
    ({"discopop_tau": 0.0}, "above 0"),
    ({"discopop_tau": 1.5}, "at most 1"),
    ({"f_divergence_type": "jensen"}, "js_divergence"),
    ({"cpo_alpha": -1.0}, "at least 0"),
    ({"chi_po_rmax": 0.0}, "above 0"),
    ({"desirable_weight": -1.0}, "at least 0"),
    ({"betta": 0.1}, "betta"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_out_of_range_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ObjectiveOptions.model_validate(values)


def test_loss_type_is_a_name_or_a_list() -> None:
    assert ObjectiveOptions.model_validate({"loss_type": "ipo"}).loss_type == ("ipo",)
    options = ObjectiveOptions.model_validate({"loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.5]})
    assert options.weighted == (("sigmoid", 1.0), ("sft", 0.5))
    assert ObjectiveOptions().weighted == (("sigmoid", 1.0),)


def test_options_are_frozen() -> None:
    with pytest.raises(ValidationError):
        ObjectiveOptions().beta = 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_every_option_is_described_with_a_source() -> None:
    for name, field in ObjectiveOptions.model_fields.items():
        assert field.description, name
        assert isinstance(field.json_schema_extra, dict)
        assert field.json_schema_extra["source"] and field.json_schema_extra["group"] == "Objective"
