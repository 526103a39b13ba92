"""Files that are often given as weights and are not: what they are, by their first bytes."""

from __future__ import annotations

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
HEAD_SIZE = 512


def name_of(head: bytes) -> str | None:
    """What a file that begins with `head` is, and what to do, when it is surely not Caffe's; else None."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file itself; fetch it with `git lfs pull`"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not a model; the download went wrong, get the file itself"
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive (a PyTorch or numpy file, maybe); unpack or convert it first"
    if head.startswith(b"\x1f\x8b"):
        return "gzip-compressed; unpack it first"
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        return "a Python pickle, which Caffe does not read"
    if head.startswith((b"layer", b"name:", b"input:", b"net:", b"base_lr:", b"#")):
        return "a prototxt (text), not weights; give the .caffemodel"
    return None
