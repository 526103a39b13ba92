"""All writing to disk: a file or a folder appears whole or not at all, and never in the place of something else.

No other module opens a file for writing, makes, renames or removes anything (tests/files/test_law.py).
"""

from caffe_split.files.folders import MANIFEST, check_out, free_name, new_folder, remove_folder
from caffe_split.files.hashes import md5, sha256
from caffe_split.files.hidden import scratch
from caffe_split.files.locks import Lock, lock_file, locked
from caffe_split.files.staged import Staged, staged
from caffe_split.files.streams import open_again, stream_kind
from caffe_split.files.writing import (
    PathLike,
    append_to,
    atomic_open,
    check_ending,
    check_file,
    check_ours,
    check_parent,
    copy_file,
    link_files,
    make_folder,
    open_new,
    open_to_change,
    reason,
    remove_file,
    rename_new,
    replace_file,
    replacing,
    write_atomic,
)

__all__ = [
    "MANIFEST",
    "Lock",
    "PathLike",
    "Staged",
    "append_to",
    "atomic_open",
    "check_ending",
    "check_file",
    "check_ours",
    "check_out",
    "check_parent",
    "copy_file",
    "free_name",
    "link_files",
    "lock_file",
    "locked",
    "make_folder",
    "md5",
    "new_folder",
    "open_again",
    "open_new",
    "open_to_change",
    "reason",
    "remove_file",
    "remove_folder",
    "rename_new",
    "replace_file",
    "replacing",
    "scratch",
    "sha256",
    "staged",
    "stream_kind",
    "write_atomic",
]
