"""Caffe's files: `prototxt` for nets and solvers as text, `weights` for snapshots, records and means as bytes.

Only this room knows what the files look like. Documents, arrays and small dataclasses leave it, never protobuf
messages.
"""
