"""Pure functions from log-probs to losses, in one table.

`compute` is all a trainer calls; `OBJECTIVES` says what each name is, needs and differs in from TRL.
"""

from tether.objectives.objective import Objective
from tether.objectives.scores import without_reference
from tether.objectives.table import (
    OBJECTIVES,
    check,
    check_labels,
    compute,
    couples,
    needs_live_reference,
    needs_mismatched,
    needs_reference,
    needs_reference_tokens,
    next_state,
    units,
    warnings,
    zero_margin,
)

__all__ = [
    "OBJECTIVES",
    "Objective",
    "check",
    "check_labels",
    "compute",
    "couples",
    "needs_live_reference",
    "needs_mismatched",
    "needs_reference",
    "needs_reference_tokens",
    "next_state",
    "units",
    "warnings",
    "without_reference",
    "zero_margin",
]
