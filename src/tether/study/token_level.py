"""What happened to single tokens under each setting: RefDPO's figures 1 to 3 with counts and rules.

Every log-ratio is log policy - log start of a held-out completion's token, so that it means the same for
every objective and reference (RefDPO's is against its reference, which is the start model for `self`).
"""

from collections.abc import Iterable

import numpy as np

from tether.analysis import tokens
from tether.records.findings import Setting, TokenFinding, TypeFall
from tether.records.study import MEASURES
from tether.study.collect import Cell, Study
from tether.study.tables import Tokens, read_table

EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""First positions of the bins by position; the last is open."""
LOW, HIGH, BINS = -100.0, 20.0, 60
"""Range of the distribution over types where values need it, and most bins."""


def token_findings(study: Study) -> list[TokenFinding]:
    """Return one finding per setting, the tokens of all its seeds together."""
    tables = {
        setting: [read_tokens(cell) for cell in study.of(setting)]
        for setting in study.settings
        if study.of(setting)
    }
    types = {setting: _by_type(found) for setting, found in tables.items()}
    bins = _range([found.means for found in types.values()])
    followed = {
        arm: [fall[0] for fall in _falls(types, tables, _loosest(types, arm))]
        for arm in {setting.arm for setting in types}
    }
    return [
        _finding(
            study,
            setting.name,
            tables[setting],
            found,
            bins,
            _falls(types, tables, setting),
            followed[setting.arm],
        )
        for setting, found in types.items()
    ]


def _falls(
    types: dict[Setting, tokens.TypeRatios], tables: dict[Setting, list[Tokens]], setting: Setting
) -> list[tuple[int, int, float]]:
    """Return (id, count, mean) of the types that fell most; counts are of the held-out rows, once.

    Every seed reads the same rows, so a type stands in the tables of a setting once per seed.
    """
    seeds = len(tables[setting])
    found = types[setting].largest_falls(min_count=seeds * tokens.MIN_COUNT)
    return [(i, count // seeds, mean) for i, count, mean in found]


def _loosest(settings: Iterable[Setting], arm: str) -> Setting:
    return min((s for s in settings if s.arm == arm), key=lambda s: s.beta or 0.0)


def read_tokens(cell: Cell) -> Tokens:
    """Read the held-out tokens of a cell."""
    return read_table(Tokens, cell.folder / MEASURES / "tokens.parquet")


def ratios(table: Tokens) -> tokens.Array:
    """Return log policy - log start per token, nats."""
    return table.policy_logp - table.start_logp


def token_text(study: Study, token_id: int) -> str:
    """Return a token's text, its id where the study kept none."""
    return study.vocabulary.get(token_id, f"#{token_id}")


def _by_type(found: list[Tokens]) -> tokens.TypeRatios:
    return tokens.by_type(
        np.concatenate([t.token_id for t in found]), np.concatenate([ratios(t) for t in found])
    )


def _range(means: list[tokens.Array]) -> tuple[float, float, float]:
    """Return bins that hold every setting's types: a round width, one edge at 0."""
    values = np.concatenate(means) if means else np.zeros(1)
    low, high = max(float(values.min()), LOW), min(float(values.max()), HIGH)
    width = next(w for w in (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if (high - low) / w <= BINS or w == 5.0)
    return width * np.floor(min(low, 0.0) / width), width * np.ceil(max(high, width) / width), width


def _finding(
    study: Study,
    name: str,
    found: list[Tokens],
    types: tokens.TypeRatios,
    bins: tuple[float, float, float],
    falls: list[tuple[int, int, float]],
    followed: list[int],
) -> TokenFinding:
    low, high, width = bins
    ratio = np.concatenate([ratios(t) for t in found])
    role = np.concatenate([np.array(t.role) for t in found])
    position = np.concatenate([t.position for t in found])
    end = np.concatenate([t.is_end for t in found])
    spread = tokens.histogram(types.means, low=low, high=high, width=width)
    shares = spread.shares
    shares[0] += spread.below / len(types.ids)
    shares[-1] += spread.above / len(types.ids)
    roles = list(dict.fromkeys(role.tolist()))
    ends: dict[str, float | None] = {"count": float(end.sum())}
    for name_of in roles:
        kept = end & (role == name_of)
        ends[name_of] = float(ratio[kept].mean()) if bool(kept.any()) else None
    return TokenFinding(
        setting=name,
        tokens=len(ratio),
        types=len(types.ids),
        histogram=tuple((float(e), float(s)) for e, s in zip(spread.edges[:-1], shares, strict=True)),
        falls=tuple(
            TypeFall(token=token_text(study, i), token_id=i, count=n, mean=mean) for i, n, mean in falls
        ),
        followed=tuple(
            TypeFall(
                token=token_text(study, i),
                token_id=i,
                count=types.of(i)[0] // len(found),
                mean=types.of(i)[1],
            )
            for i in followed
            if types.of(i)[0]
        ),
        end=ends,
        roles={r: float(ratio[role == r].mean()) for r in roles},
        positions={
            r: tuple(
                (first, mean)
                for first, _, mean in tokens.by_position(position[role == r], ratio[role == r], EDGES)
            )
            for r in roles
        },
        large_share=tokens.large_share(ratio),
    )
