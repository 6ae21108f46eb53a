"""What a batch says of itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Batch, Kind, Tag, TagTable

TABLE = TagTable("press-1", "main", Kind.FLOAT, tuple(Tag(f"tag_{number}", "x") for number in range(6)))


@given(st.lists(st.integers(0, 5), max_size=8))
def test_a_batch_is_distinct_where_no_tag_occurs_twice(tags: list[int]) -> None:
    full = Batch.full(TABLE, np.zeros(6), 1)
    assert full.distinct
    assert full.take(np.array(tags, dtype=np.intp)).distinct == (len(set(tags)) == len(tags))
