"""Which layer types and fields the engine handles: the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from caffe_split.engine.spec import checks
from caffe_split.net.layers import Layer

Range = tuple[int, int]
ANY = 1 << 30


@dataclass(frozen=True)
class Kind:
    """A layer type: where its class is, what it reads of each of its option messages, how many blobs it takes.

    `ignored` maps fields of those messages to the reason why they do not matter. `check` says what else is refused,
    a sentence each.
    """

    module: str
    options: Mapping[str, str] = field(default_factory=dict)
    bottoms: Range = (1, 1)
    tops: Range = (1, 1)
    ignored: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Layer], Iterator[str]] | None = None
    is_loss: bool = False


_ENGINE = {"engine": "it chooses among Caffe's own implementations"}
_TRANSFORM = "scale mirror crop_size mean_file mean_value"
_WEIGHTED = "num_output bias_term weight_filler bias_filler"
_CONVOLUTION = f"{_WEIGHTED} pad kernel_size group stride dilation pad_h pad_w kernel_h kernel_w stride_h stride_w axis"
_LOSS = "ignore_label normalize normalization"

KINDS: dict[str, Kind] = {
    # data
    "Input": Kind("data", {"input_param": "shape"}, (0, 0), (1, ANY)),
    "DummyData": Kind("data", {"dummy_data_param": "data_filler num channels height width shape"}, (0, 0), (1, ANY)),
    "Data": Kind(
        "data",
        {
            "data_param": "source batch_size backend prefetch",
            "transform_param": f"{_TRANSFORM} force_color force_gray",
        },
        (0, 0),
        (1, 2),
        dict.fromkeys(("rand_skip", "force_encoded_color"), "Caffe's Data layer of today does not read it"),
        checks.data,
    ),
    "ImageData": Kind(
        "data",
        {
            "image_data_param": "source batch_size rand_skip shuffle new_height new_width is_color root_folder",
            "transform_param": _TRANSFORM,
        },
        (0, 0),
        (2, 2),
        dict.fromkeys(("force_color", "force_gray"), "an ImageData layer has is_color"),
        checks.image_data,
    ),
    "HDF5Data": Kind(
        "data", {"hdf5_data_param": "source batch_size shuffle"}, (0, 0), (1, ANY), check=checks.hdf5_data
    ),
    "MemoryData": Kind(
        "data",
        {"memory_data_param": "batch_size channels height width"},
        (0, 0),
        (2, 2),
        {"transform_param": "Caffe does not transform arrays that it is given"},
    ),
    # weights
    "Convolution": Kind(
        "dense",
        {"convolution_param": _CONVOLUTION},
        (1, ANY),
        (1, ANY),
        {**_ENGINE, "force_nd_im2col": "it chooses among Caffe's own implementations"},
    ),
    "Deconvolution": Kind(
        "dense",
        {"convolution_param": _CONVOLUTION},
        (1, ANY),
        (1, ANY),
        {**_ENGINE, "force_nd_im2col": "it chooses among Caffe's own implementations"},
    ),
    "InnerProduct": Kind("dense", {"inner_product_param": f"{_WEIGHTED} axis transpose"}),
    "Embed": Kind("dense", {"embed_param": f"{_WEIGHTED} input_dim"}),
    "Bias": Kind("dense", {"bias_param": "axis num_axes filler"}, (1, 2)),
    "Scale": Kind(
        "dense",
        {"scale_param": "axis num_axes filler bias_term bias_filler"},
        (1, 2),
        check=checks.scale,
    ),
    "Parameter": Kind("dense", {"parameter_param": "shape"}, (0, 0)),
    "PReLU": Kind("pointwise", {"prelu_param": "filler channel_shared"}),
    # one value at a time
    "ReLU": Kind("pointwise", {"relu_param": "negative_slope"}, ignored=_ENGINE),
    "ELU": Kind("pointwise", {"elu_param": "alpha"}),
    "Sigmoid": Kind("pointwise", {"sigmoid_param": ""}, ignored=_ENGINE),
    "TanH": Kind("pointwise", {"tanh_param": ""}, ignored=_ENGINE),
    "AbsVal": Kind("pointwise"),
    "BNLL": Kind("pointwise"),
    "Swish": Kind("pointwise", {"swish_param": "beta"}),
    "Clip": Kind("pointwise", {"clip_param": "min max"}),
    "Threshold": Kind("pointwise", {"threshold_param": "threshold"}),
    "Power": Kind("pointwise", {"power_param": "power scale shift"}),
    "Exp": Kind("pointwise", {"exp_param": "base scale shift"}),
    "Log": Kind("pointwise", {"log_param": "base scale shift"}),
    "Dropout": Kind("pointwise", {"dropout_param": "dropout_ratio"}),
    # neighbours and whole blobs
    "BatchNorm": Kind("norm", {"batch_norm_param": "use_global_stats moving_average_fraction eps"}),
    "LRN": Kind("norm", {"lrn_param": "local_size alpha beta norm_region k"}, ignored=_ENGINE),
    "MVN": Kind("norm", {"mvn_param": "normalize_variance across_channels eps"}),
    "Pooling": Kind(
        "pool",
        {
            "pooling_param": "pool kernel_size stride pad kernel_h kernel_w stride_h stride_w pad_h pad_w "
            "global_pooling round_mode"
        },
        ignored=_ENGINE,
        check=checks.one_of("pooling_param", "pool", "MAX", "AVE"),
    ),
    "Split": Kind("shape", tops=(1, ANY)),
    "Silence": Kind("shape", bottoms=(1, ANY), tops=(0, 0)),
    "Concat": Kind("shape", {"concat_param": "axis concat_dim"}, (1, ANY)),
    "Slice": Kind("shape", {"slice_param": "axis slice_dim slice_point"}, tops=(1, ANY)),
    "Flatten": Kind("shape", {"flatten_param": "axis end_axis"}),
    "Reshape": Kind("shape", {"reshape_param": "shape axis num_axes"}),
    "Crop": Kind("shape", {"crop_param": "axis offset"}, (2, 2)),
    "Tile": Kind("shape", {"tile_param": "axis tiles"}),
    "Reduction": Kind("shape", {"reduction_param": "operation axis coeff"}),
    "ArgMax": Kind("shape", {"argmax_param": "out_max_val top_k axis"}),
    "Eltwise": Kind(
        "shape",
        {"eltwise_param": "operation coeff"},
        (2, ANY),
        ignored={"stable_prod_grad": "autograd's gradient of a product is the stable one"},
    ),
    # losses and measures
    "Softmax": Kind("loss", {"softmax_param": "axis"}, ignored=_ENGINE),
    # A second top for the probabilities dies in Caffe, too, of its own check on loss_weight.
    "SoftmaxWithLoss": Kind(
        "loss", {"softmax_param": "axis", "loss_param": _LOSS}, (2, 2), (1, 1), _ENGINE, is_loss=True
    ),
    "SigmoidCrossEntropyLoss": Kind("loss", {"loss_param": _LOSS}, (2, 2), is_loss=True),
    "EuclideanLoss": Kind("loss", {}, (2, 2), ignored={"loss_param": "Caffe does not read it here"}, is_loss=True),
    "HingeLoss": Kind("loss", {"hinge_loss_param": "norm"}, (2, 2), is_loss=True),
    "InfogainLoss": Kind(
        "loss",
        {"infogain_loss_param": "source axis", "loss_param": "ignore_label normalization"},
        (2, 3),
        (1, 2),
        check=checks.infogain,
        is_loss=True,
    ),
    "MultinomialLogisticLoss": Kind("loss", {}, (2, 2), is_loss=True),
    "ContrastiveLoss": Kind("loss", {"contrastive_loss_param": "margin legacy_version"}, (3, 3), is_loss=True),
    "Accuracy": Kind("loss", {"accuracy_param": "top_k axis ignore_label"}, (2, 2), (1, 2)),
    # ours
    "TPM": Kind("tpm", {"tpm_param": "start_iter stop_iter interval iter_size shape"}, (0, 0)),
}
