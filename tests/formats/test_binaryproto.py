"""Files of one BlobProto: what we write is protobuf's, what protobuf writes we read, and other files are refused."""

from __future__ import annotations

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt import caffe_pb2
from caffe_split.formats.weights.binaryproto import encode_mean, read_blob

MEAN = np.random.default_rng(5).uniform(0, 255, (3, 7, 130)).astype(np.float32)


@pytest.mark.parametrize("mean", [MEAN, MEAN[:1, :1, :1], MEAN[:, ::-1, ::2], MEAN.astype(">f4")])
def test_a_mean_file_is_protobufs_byte_for_byte(mean):
    channels, height, width = mean.shape
    theirs = caffe_pb2.BlobProto(num=1, channels=channels, height=height, width=width, data=mean.ravel().tolist())
    assert encode_mean(mean) == theirs.SerializeToString()


def test_a_mean_that_was_written_comes_back_with_the_axis_of_the_old_form(tmp_path):
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(encode_mean(MEAN))
    mean = read_blob(str(path))
    assert mean.shape == (1, 3, 7, 130) and mean.dtype == np.float32 and mean.flags.writeable
    np.testing.assert_array_equal(mean[0], MEAN)


@pytest.mark.parametrize("data", [b"no blob", encode_mean(MEAN)[:-1], b"\x08\x02" + encode_mean(MEAN)[2:]])
def test_bytes_that_are_no_blob_are_refused_by_the_files_name(data, tmp_path):
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(data)
    with pytest.raises(CaffeSplitError, match=r"mean\.binaryproto: expected a BlobProto"):
        read_blob(str(path))
