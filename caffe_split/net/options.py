"""The options of a layer: what its prototxt says, else Caffe's default."""

from __future__ import annotations

from typing import Any

from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.proto2 import with_forks
from caffe_split.formats.prototxt.schema import FieldType, MessageType


class Options:
    """One message of options; of one that is not written, every field has its default.

    The fields are those of Caffe and those of forks that layer types read (`forks.proto`).

    `get` gives a value or its default, `all` the values of a repeated field, `sub` and `subs` the messages within.
    """

    def __init__(self, type_name: str, messages: list[prototxt.Message]) -> None:
        self._type: MessageType = with_forks().messages[type_name]
        self._messages = messages
        # The engine's layers ask at every iteration, and the text of a net that runs does not change.
        self._values: dict[str, Any] = {}

    @classmethod
    def of(cls, layer: prototxt.Message, name: str) -> Options:
        """The options `name` of a layer's message, e.g. `convolution_param`."""
        field = with_forks().messages["LayerParameter"].fields[name]
        return cls(_message_name(field), layer.subs(name))

    def has(self, name: str) -> bool:
        """Whether the field is written."""
        return any(message.has(name) for message in self._messages)

    def get(self, name: str) -> Any:
        """The value of the last occurrence, else the schema's default."""
        if name not in self._values:
            value = self._type.fields[name].default
            self._values[name] = next(reversed(self.all(name)), value)
        return self._values[name]

    def all(self, name: str) -> list[Any]:
        """All values of a repeated field."""
        known = self._type.fields[name]
        fields = (field for message in self._messages for field in message.all_fields(name))
        return [value for field in fields for value in field.values(known)]

    def each(self) -> list[Options]:
        """The options of each occurrence by itself, for messages that a layer may have several times."""
        return [Options(self._type.name, [message]) for message in self._messages]

    def sub(self, name: str) -> Options:
        """A message within; every field of an absent one has its default."""
        found = [inner for message in self._messages for inner in message.subs(name)]
        return Options(_message_name(self._type.fields[name]), found)

    def subs(self, name: str) -> list[Options]:
        """All messages of a repeated field."""
        kind = _message_name(self._type.fields[name])
        return [Options(kind, [inner]) for message in self._messages for inner in message.subs(name)]


def _message_name(field: FieldType) -> str:
    assert field.message is not None
    return field.message.name


def shape_of(options: Options) -> tuple[int, ...]:
    """The lengths of a BlobShape."""
    return tuple(int(length) for length in options.all("dim"))
