"""Rows of a data set on the Hugging Face hub, through the optional `datasets` package, when one is named."""

import importlib
from collections.abc import Iterator
from typing import Any

from tether.config.sources import HubName
from tether.data.raw import BadRow, RawRow, checked_value, without_nulls
from tether.errors import DataError
from tether.records.rows import Origin


def read_hub(named: HubName, name: str) -> Iterator[RawRow]:
    """Yield the rows of one split; nothing of the data set's own code is run.

    Raises:
        DataError: `datasets` is not installed, or the split cannot be fetched (offline, gated, misspelt).

    """
    try:
        # By import string: the package is an extra, and only a named data set needs it.
        library: Any = importlib.import_module("datasets")
    except ImportError:
        raise DataError(
            f"{named}: a data set of the hub needs the datasets package: pip install 'tether[hub]'; "
            "or name a file"
        ) from None
    try:
        rows = library.load_dataset(named.name, named.config, split=named.split)
    except Exception as error:  # the library and the network raise whatever they like
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{named}: no file here, and the hub does not give it: {reason}; "
            "check name and split, or download it and name the file"
        ) from error
    for row, value in enumerate(rows):
        origin = Origin(name, row)
        try:
            yield RawRow(
                origin, checked_value({column: without_nulls(part) for column, part in value.items()})
            )
        except BadRow as problem:
            yield RawRow(origin, None, str(problem), problem.kind)
