"""Words of messages."""

import pytest

from weaktr.errors import counted, named


@pytest.mark.parametrize(
    ("number", "what", "words"),
    [
        (0, "images", "0 images"),
        (2, "classes of a few pixels", "2 classes of a few pixels"),
        (1, "classes of a few pixels", "1 class of a few pixels"),
        (1, "copies of one image", "1 copy of one image"),
        (1, "images without a mask", "1 image without a mask"),
        (1, "names", "1 name"),
    ],
)
def test_what_is_counted_is_singular_for_one(number, what, words):
    assert counted(number, what) == words


def test_what_helps_is_told_once_and_the_rest_is_counted():
    faults = ["a is wrong; mend it", "b is wrong; mend it", "c is worse; throw it away", "d", "e"]
    assert named(faults, 3) == "\n  a is wrong; mend it\n  b is wrong\n  c is worse; throw it away\n  … and 2 more"
    assert named(faults[:1], 3) == "\n  a is wrong; mend it" and named([], 3) == ""
