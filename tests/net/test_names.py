"""Lists of names as options have them."""

from __future__ import annotations

import pytest

from caffe_split.net.names import join_names, split_names


@pytest.mark.parametrize(
    ("text", "names"),
    [("a,b", ["a", "b"]), (" a , ,b,", ["a", "b"]), (r"co\,nv,d", ["co,nv", "d"]), (r"a\b,c", [r"a\b", "c"]), ("", [])],
)
def test_a_comma_within_a_name_is_written_behind_a_backslash(text: str, names: list[str]) -> None:
    assert split_names(text) == names and split_names(join_names(names)) == names
