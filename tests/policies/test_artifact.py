"""A reference on disk is the table that was written, to the last bit."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.errors import ReferenceMismatch
from tether.policies.artifact import TABLE, read_artifact, write_artifact
from tether.policies.reference import ReferenceIdentity, ReferenceTable, Score

SINGLE = st.floats(width=32, allow_nan=False, allow_infinity=False)
SCORES = st.builds(
    Score,
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(0, 2**40),
    st.none() | st.lists(SINGLE, max_size=5).map(tuple),
)


@given(st.dictionaries(st.text(max_size=12), SCORES, max_size=20))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, scores: dict[str, Score]) -> None:
    folder = tmp_path_factory.mktemp("reference")
    table = ReferenceTable(ReferenceIdentity("self", {"weights": "abc"}, {"dtype": "float32"}), scores)
    write_artifact(folder, table, source={"model": "m"})
    again, manifest = read_artifact(folder)
    assert again.scores == scores
    assert again.identity == table.identity
    assert manifest["rows"] == len(scores)


def test_the_file_is_plain_parquet_that_validates(tmp_path: Path) -> None:
    scores = {f"key-{i}": Score(-i / 3, i, None if i % 3 else (float(np.float32(i / 7)),)) for i in range(40)}
    write_artifact(tmp_path, ReferenceTable(ReferenceIdentity("self", {}), scores), source={})
    table = pq.read_table(tmp_path / TABLE)
    table.validate(full=True)
    assert table.column("tokens").null_count == 26
    assert sorted(table.column("key").to_pylist()) == sorted(scores)


def test_a_changed_table_is_refused_by_name(tmp_path: Path) -> None:
    write_artifact(tmp_path, ReferenceTable(ReferenceIdentity("self", {}), {"a": Score(1.0, 2)}), source={})
    with (tmp_path / TABLE).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ReferenceMismatch, match=r"table\.parquet: missing or changed"):
        read_artifact(tmp_path)
