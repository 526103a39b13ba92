"""A protobuf descriptor as one of our schemas: the other way to the same facts, for comparison."""

from __future__ import annotations

from google.protobuf import descriptor_pb2

from caffe_split.formats.prototxt.schema import INT_RANGES, EnumType, FieldType, MessageType, Schema, implicit_default

_TYPE_NAMES = {
    1: "double",
    2: "float",
    3: "int64",
    4: "uint64",
    5: "int32",
    6: "fixed64",
    7: "fixed32",
    8: "bool",
    9: "string",
    11: "message",
    12: "bytes",
    13: "uint32",
    14: "enum",
    15: "sfixed32",
    16: "sfixed64",
    17: "sint32",
    18: "sint64",
}


def from_descriptor(file) -> Schema:
    """Read a protobuf FileDescriptor into a Schema."""
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    prefix = f".{proto.package}." if proto.package else "."
    schema = Schema({}, {})
    pending = []

    def visit(message, outer: str) -> None:
        name = outer + message.name
        schema.messages[name] = MessageType(name)
        pending.append((message, name))
        for enum in message.enum_type:
            schema.enums[f"{name}.{enum.name}"] = EnumType(
                f"{name}.{enum.name}", {value.name: value.number for value in enum.value}
            )
        for nested in message.nested_type:
            visit(nested, f"{name}.")

    for enum in proto.enum_type:
        schema.enums[enum.name] = EnumType(enum.name, {value.name: value.number for value in enum.value})
    for message in proto.message_type:
        visit(message, "")
    for message, name in pending:
        for f in message.field:
            kind = _TYPE_NAMES[f.type]
            target = f.type_name[len(prefix) :]
            enum_type = schema.enums[target] if kind == "enum" else None
            repeated = f.label == 3
            default = None if repeated else implicit_default(kind, enum_type)
            if f.HasField("default_value"):
                default = parse_default(kind, f.default_value)
            schema.messages[name].fields[f.name] = FieldType(
                f.name,
                f.number,
                kind,
                repeated,
                f.label == 2,
                f.options.packed,
                default,
                f.HasField("default_value"),
                enum_type,
                schema.messages[target] if kind == "message" else None,
            )
    return schema


def parse_default(kind: str, text: str):
    """The value of a default as the schema writes it (strings and enum names without quotes)."""
    if kind in INT_RANGES:
        return int(text, 0)
    if kind == "float":
        # A descriptor gives the rounded value (0.999000013): seven digits are what a float32 can say.
        return float(f"{float(text):.7g}")
    if kind == "double":
        return float(text)
    if kind == "bool":
        return text == "true"
    if kind == "bytes":
        return text.encode("latin-1")
    return text
