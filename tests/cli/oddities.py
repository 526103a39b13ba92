"""Nets and solvers of Caffe's forks, made up: fields, values, messages and types that BVLC's Caffe does not have."""

from __future__ import annotations

# Every net has a plain convolution (112 parameters, 1x4x8x8), and behind it the odd layer.
HEAD = """name: "odd"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "plain" type: "Convolution" bottom: "data" top: "plain"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
"""
PLAIN = 112


def layer(kind: str, text: str = "", top: str = "odd") -> str:
    return f'layer {{ name: "odd" type: "{kind}" bottom: "plain" top: "{top}" {text} }}\n'


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


# In a convolution's options: its weight and its top may have any shape.
CONVOLUTION = lines("""
    pad_top: 1
    pad_type: 1
    pad_type: "SAME"
    padding: SAME
    dilate: 2
    kernel_d: 3 stride_d: 1
    kernel_sizes: 5
    same: true
    separable: true
    binarize: true
    sparse_ratio: 0.5
    deformable_group: 4
    weight_norm: true
    mask_param { type: "A" share: [1, 2] }
    output_shape { dim: 16 dim: 16 }
    output_padding: 1
    crop_h: 1 crop_w: 1
    num_outputs: 8
    depth_multiplier: 1.5
    channel_mask: "a" channel_mask: "b"
""")
# In pooling_param: the size of the top is not known.
POOLING = lines("""
    round_mode: NEAREST
    round_mode: "DOWN"
    pad_l: 1
    pad_type: "same"
    pool_type: 2
    kernel_depth: 2
    output_size: 3
    torch_pooling: true
    adaptive: true
    bin_size: 4
    with_index: true
    ratio { height: 0.5 }
    spatial_bins: [1, 2]
    kernel_sizes: 2
    global_pool: true
    pooled_w: 7 pooled_h: 7
    is_floor: 1
    full_padding: false
""")
# In layers that keep their shape, whatever they are told; how many parameters they have is not known.
KEEPING = [
    ("BatchNorm", f"batch_norm_param {{ {field} }}")
    for field in lines("""
    frozen: true
    slope_filler { value: 1 }
    bn_mode: LEARN
    engine_mode: "CUDNN"
    icnet: true
    eps_outside: 0.1
    """)
] + [
    ("ReLU", "rrelu_param { lower: 0.1 upper: 0.3 }"),
    ("ReLU", "relu_param { negative_slope_max: 1 }"),
    ("Dropout", "dropout_param { keep_whole_channels: true }"),
    ("PReLU", "prelu_param { slope_max: 1 }"),
    ("Scale", "scale_param { clamp: true }"),
    ("Scale", "quantization { bits: 8 }"),
    ("LRN", "lrn_param { norm_mode: 1 }"),
    ("MVN", "mvn_param { blob_mean: 'm' }"),
    ("Softmax", "softmax_param { temperature: 2 }"),
    ("ELU", "elu_param { selu: true }"),
    ("Sigmoid", "hard: true"),
]
# Types that BVLC's Caffe does not have: in place the shape stays, else it is not known.
TYPES = lines("""
    RReLU
    MReLU
    SyncBN
    WarpCTC
    Correlation3D
    Swish6
    NormalizedBN
    Warp3D
    my.own-Layer 2
""")
# Values of known enums.
VALUES = [
    ("Pooling", "pooling_param { pool: RANGE kernel_size: 2 }"),
    ("Pooling", "pooling_param { pool: MAXX kernel_size: 2 }"),
    ("Pooling", "pooling_param { pool: 9 kernel_size: 2 }"),
    ("Pooling", "pooling_param { pool: 'MAX' kernel_size: 2 }"),
    ("Pooling", "pooling_param { pool: STOCHASTIC2 kernel_size: 2 }"),
    ("Eltwise", "eltwise_param { operation: MIN }"),
    ("Eltwise", "eltwise_param { operation: CONCAT }"),
    ("Eltwise", "eltwise_param { operation: DIV stable_prod_grad: 1 }"),
    ("LRN", "lrn_param { norm_region: ACROSS_ALL }"),
    ("Reduction", "reduction_param { operation: MAX }"),
    ("Reduction", "reduction_param { operation: L2 axis: 1 }"),
    ("SPP", "spp_param { pyramid_height: 2 pool: RANGE }"),
    (
        "Convolution",
        "convolution_param { num_output: 4 kernel_size: 1 weight_filler { variance_norm: FAN_MAX } axis: 1 dilate: 1 }",
    ),
]
# Known to change no size: the net's figures are as of BVLC's Caffe.
NO_SIZE = lines("""
    engine: "MKLDNN:CPU"
    convolution_param { engine: MKL2017 }
    convolution_param { engine: "MKL2017" }
    convolution_param { engine: MKLDNN }
    convolution_param { weight_filler { type: "orthogonal" gain: 1.4 } }
    convolution_param { weight_filler { type: "xavier" variance_norm: FAN_MAX } }
    convolution_param { weight_filler { file: "w.bin" } bias_filler { diag_val: 1 } }
    param { lr_mult: 1 mask_mult: 2 }
    param { lr_mult: 1 decay_type: "L1" } param { sparse: true }
    param { share_mode: LOOSE }
    forward_type: FLOAT16 backward_type: FLOAT16
    forward_math: FLOAT backward_math: FLOAT cudnn_math_override: 0
    debug: true
""")
NET_FIELDS = lines("""
    default_forward_type: FLOAT16 default_backward_type: FLOAT16
    default_forward_math: FLOAT
    default_conv_algos_override: "1,1,1"
    global_grad_scale: 1000 global_grad_scale_adaptive: true
    reduce_buckets: 6
    default_cudnn_math_override: 1
    eltwise_param_default: 1
    engine: "MKL2017"
    engine: MKLDNN
    compile_net_state { bn_scale_remove: true bn_scale_merge: true }
    bn_stats_batch_size: 32
    multinode { num_nodes: 4 }
    quantize: "int8"
    mem_param { optimize_test: true optimize_train: true }
    force_backwards: true
    nme: "slip"
    debug_inf: true
    profile_info { on: 1 } profile_info { on: 0 }
    optimize_mem: "all"
    state { phase: TRAIN mode: "x" }
""")
SOLVER_FIELDS = lines("""
    warmup_iter: 200 warmup_start_lr: 0.2
    local_lr_auto: true
    rampup_interval: 5 rampup_lr: 0.1
    min_lr: 0.001
    lr_policy: "plateau" plateau_winsize: 100
    lr_policy: "setp"
    lr_policy: "multifixed" stagelr: 0.1 stageiter: 100
    eval_type: "detection" ap_version: "11point"
    type: "AdamW"
    type: "LARS" larc_policy: "clip"
    solver_mode: CPU2
    solver_mode: "GPU"
    snapshot_format: LMDB
    regularization_type: "L3"
    show_per_class_result: true
    iter_step: 2
    max_itr: 100
    disabled_update { bottom: "x" }
    engine: "MKL2017"
    test_offset: 3 fetch_class_names: false
    device_ids: [0, 1]
    clip_gradients_by_value: 5
    store_blobs_in_old_format: true
""")
OLD_TYPES = lines("""
    RRELU
    MAXOUT
    NORMALIZE
    DROPCONNECT
    LOCALLY_CONNECTED
    PYTHON_LAYER
    BIAS_CHANNEL
    DSN_LOSS
    WARP_IMAGE
    RANK_ACCURACY
""")
DATA_FIELDS = lines("""
    data_param { threads: 4 parser_threads: 2 }
    data_param { cache: true shuffle: true }
    data_param { side: 20 source_label: "x" }
    data_param { batch_sampler { max_sample: 1 } }
    data_param { prefetchs: 4 }
    data_param { backend: IMAGEDB }
    data_param { encoded: true }
    data_param { source: "a" preload: true }
    data_param { db_threads: 1 } transform_param { }
    transform_param { resize_param { height: 300 width: 300 resize_mode: WARP } }
    transform_param { crop_h: 5 crop_w: 6 }
    transform_param { mean_values: 3 }
    transform_param { use_gpu_transform: true }
    transform_param { expand_param { prob: 0.5 } distort_param { hue_prob: 0.5 } }
    transform_param { emit_constraint { emit_type: CENTER } }
    transform_param { rotate: 10 scale_factors: 1.5 }
    transform_param { img_rand_resize_lower: 256 }
    annotated_data_param { label_map_file: "x" }
    bbox_seg_data_param { }
    box_param: "x"
""")
# In include and exclude: whether the layer is in the net is not known.
RULES = lines("""
    include { device: 0 }
    include { phase: TRAIN branch: "a" }
    exclude { min_iter: 5 }
    include { stages: "x" }
""")
