"""The one exception a user of the toolkit has to know."""

from __future__ import annotations


class CaffeSplitError(Exception):
    """A mistake in the input, or something missing, that the user can mend.

    The message says what is wrong, where, what was found and expected, and the next step. The command
    line prints it in place of a traceback and ends with status 1. Anything else that escapes is a bug
    of ours and keeps its traceback.

    >>> from caffe_split.formats import prototxt
    >>> try:
    ...     prototxt.parse("layer {\\n  name: 'conv1\\n}", filename="net.prototxt")
    ... except CaffeSplitError as error:
    ...     print(error)
    net.prototxt:2:9: the string that begins here is not closed on its line
    """
