"""The environment every template is filled in: escaped, and a name that is missing is an error."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment(finalize: Callable[[Any], Any], filters: dict[str, Callable[..., Any]]) -> Environment:
    """Return an environment of the package's templates; `finalize` sees every value before it is printed."""
    made = Environment(
        loader=PackageLoader("tether.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    made.filters |= filters
    return made
