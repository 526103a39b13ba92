"""The edits for a build with CUDA, and for one with OpenCV: rows (name, file, find, put, reason) for caffe_edits.py.

A build without them leaves these places alone, so that a fork which differs there is no trouble to it.
"""

FACTORY = "src/caffe/layer_factory.cpp"
COMMON = "src/caffe/common.cpp"
CUDA_CMAKE = "cmake/Cuda.cmake"
THREAD = "src/caffe/internal_thread.cpp"
ON_GPU = "Caffe::mode() == Caffe::GPU"


def _factory(layer: str) -> tuple:
    """A layer that takes cuDNN's engine by default; from now on where it runs on a GPU."""
    chosen = f"    engine = {layer}Parameter_Engine_CUDNN;\n#endif\n  }}\n"
    return (
        f"cudnn-on-gpu-{layer.lower()}",
        FACTORY,
        chosen,
        f"    if ({ON_GPU}) {{\n      engine = {layer}Parameter_Engine_CUDNN;\n    }}\n#endif\n  }}\n",
        "cuDNN's layers need a device when they are set up, in CPU mode too: there they are no default any longer",
    )


def _convolution(layer: str) -> tuple:
    """Convolution and Deconvolution: as `_factory`; the text up to the layer's name tells the two apart."""
    put = (
        "    if (!use_dilation) {\n"
        "      engine = ConvolutionParameter_Engine_CUDNN;\n"
        "    }\n#endif\n  }\n"
        "  if (engine == ConvolutionParameter_Engine_CAFFE) {\n"
        f"    return shared_ptr<Layer<Dtype> >(new {layer}Layer<Dtype>(param));\n"
    )
    return (
        f"cudnn-on-gpu-{layer.lower()}",
        FACTORY,
        put,
        put.replace("!use_dilation", f"!use_dilation && {ON_GPU}"),
        "as for the other layers",
    )


def _workspace(kind: str) -> tuple:
    return (
        f"cudnn-workspace-{kind}",
        f"src/caffe/layers/cudnn_{kind}_layer.cpp",
        "  size_t workspace_limit_bytes = 8*1024*1024;\n",
        "  const size_t workspace_limit_bytes = cudnn::WorkspaceLimit();\n",
        "the limit is read from CAFFE_CUDNN_WORKSPACE_MB; 8 as before where it is not set",
    )


def _aligned(kind: str) -> tuple:
    return (
        f"cudnn-aligned-{kind}",
        f"src/caffe/layers/cudnn_{kind}_layer.cpp",
        "  max_workspace = std::max(max_workspace, total_workspace_bwd_filter);\n",
        "  max_workspace = std::max(max_workspace, total_workspace_bwd_filter);\n"
        "  max_workspace = (max_workspace + 255) / 256 * 256;\n",
        "the workspaces of passes and groups lie one behind another, and each must be aligned as memory from CUDA is",
    )


def _no_memory(kind: str) -> tuple:
    allocated = "    cudaError_t err = cudaMalloc(&(this->workspaceData), workspaceSizeInBytes);\n"
    return (
        f"cudnn-no-memory-{kind}",
        f"src/caffe/layers/cudnn_{kind}_layer.cpp",
        allocated,
        f"{allocated}"
        '    CHECK(err == cudaSuccess) << cudaGetErrorString(err) << ": \'"\n'
        '        << this->layer_param_.name() << "\' wants a workspace of "\n'
        '        << workspaceSizeInBytes << " bytes on the device; take a smaller "\n'
        '        << "batch_size, or CAFFE_CUDNN_WORKSPACE_MB less than "\n'
        "        << (workspace_limit_bytes >> 20);\n",
        "what followed could not work: the next kernel's check found this error, the pointers were set all the same, "
        "and its algorithms are not deterministic",
    )


def _images(name: str, file: str) -> tuple:
    return (
        f"opencv-{name}",
        file,
        "#include <opencv2/highgui/highgui_c.h>\n",
        "#include <opencv2/imgcodecs/imgcodecs.hpp>\n"
        "#define CV_LOAD_IMAGE_COLOR cv::IMREAD_COLOR\n"
        "#define CV_LOAD_IMAGE_GRAYSCALE cv::IMREAD_GRAYSCALE\n",
        "OpenCV 4 has dropped the constants of its old C interface",
    )


CUDA_EDITS = (
    (
        "cuda-compat",
        "include/caffe/util/device_alternate.hpp",
        "#include <driver_types.h>  // cuda driver types\n",
        '#include <driver_types.h>  // cuda driver types\n#include "caffe/util/cuda_compat.hpp"\n',
        "our header with what CUDA 13 and cuDNN 8 have dropped",
    ),
    (
        "cuda-clock-rate",
        COMMON,
        "<< prop.clockRate;",
        "<< DeviceAttribute(cudaDevAttrClockRate, device);",
        "CUDA 13 has dropped the field of cudaDeviceProp; the attribute stayed",
    ),
    (
        "cuda-overlap",
        COMMON,
        "(prop.deviceOverlap ?",
        "(DeviceAttribute(cudaDevAttrGpuOverlap, device) ?",
        "as for the clock rate",
    ),
    (
        "cuda-timeout",
        COMMON,
        "(prop.kernelExecTimeoutEnabled ?",
        "(DeviceAttribute(cudaDevAttrKernelExecTimeout, device) ?",
        "as for the clock rate",
    ),
    (
        "cuda-no-device",
        "tools/caffe.cpp",
        "static void get_gpus(vector<int>* gpus) {\n",
        "static void get_gpus(vector<int>* gpus) {\n"
        "#ifndef CPU_ONLY\n"
        "  int found = 0;\n"
        "  const cudaError_t error = FLAGS_gpu.size() ?\n"
        "      cudaGetDeviceCount(&found) : cudaSuccess;\n"
        "  if (FLAGS_gpu.size() && (error != cudaSuccess || found == 0)) {\n"
        '    LOG(ERROR) << "no CUDA device" << (error == cudaSuccess ? "" : ": ")\n'
        '        << (error == cudaSuccess ? "" : cudaGetErrorString(error));\n'
        "    exit(1);\n"
        "  }\n"
        "#endif\n",
        "a machine without a device is told so in a line, not by a failed check with a stack trace",
    ),
    (
        "cuda-thread-start",
        THREAD,
        "  CUDA_CHECK(cudaGetDevice(&device));\n",
        f"  if ({ON_GPU}) {{ CUDA_CHECK(cudaGetDevice(&device)); }}\n",
        "a thread that reads data asked for the device in CPU mode too, and died there without a driver",
    ),
    (
        "cuda-thread-entry",
        THREAD,
        "  CUDA_CHECK(cudaSetDevice(device));\n",
        "  if (mode == Caffe::GPU) { CUDA_CHECK(cudaSetDevice(device)); }\n",
        "as for the start of the thread",
    ),
    (
        "cuda-folders",
        CUDA_CMAKE,
        "list(APPEND Caffe_INCLUDE_DIRS PUBLIC ${CUDA_INCLUDE_DIRS})\n"
        "list(APPEND Caffe_LINKER_LIBS PUBLIC ${CUDA_CUDART_LIBRARY}\n"
        "                                     ${CUDA_curand_LIBRARY} ${CUDA_CUBLAS_LIBRARIES})\n",
        "list(APPEND Caffe_INCLUDE_DIRS PUBLIC ${CAFFE_CUDA_INCLUDES})\n"
        "list(APPEND Caffe_LINKER_LIBS PUBLIC ${CAFFE_CUDA_LIBRARIES})\n",
        "the folders and libraries are those that the build found, which need not lie in one toolkit: CUDA 13 has "
        "its C++ library in a folder of its own, and PyPI's packages have no libcublas.so without a version",
    ),
    (
        "cuda-required",
        "cmake/Dependencies.cmake",
        'message(WARNING "-- CUDA is not detected by cmake. Building without it...")',
        'message(FATAL_ERROR "CUDA is not detected by cmake")',
        "who asks for CUDA does not get a Caffe without it",
    ),
    (
        "cudnn-version",
        CUDA_CMAKE,
        "file(READ ${CUDNN_INCLUDE}/cudnn.h CUDNN_VERSION_FILE_CONTENTS)",
        "file(READ ${CUDNN_INCLUDE}/cudnn_version.h CUDNN_VERSION_FILE_CONTENTS)",
        "cuDNN 8 has its version in a header of its own; CMake took none for too old",
    ),
    (
        "cudnn-exact",
        "include/caffe/util/cudnn.hpp",
        "      pad_h, pad_w, stride_h, stride_w, 1, 1, CUDNN_CROSS_CORRELATION,\n      dataType<Dtype>::type));\n",
        "      pad_h, pad_w, stride_h, stride_w, 1, 1, CUDNN_CROSS_CORRELATION,\n      dataType<Dtype>::type));\n"
        "#if CUDNN_VERSION_MIN(8, 0, 0)\n"
        "  CUDNN_CHECK(cudnnSetConvolutionMathType(*conv, MathType()));\n"
        "#endif\n",
        "from Ampere on cuDNN rounds the inputs of float convolutions to 10 bits by default; asked for by "
        "CAFFE_CUDNN_TF32=1 only",
    ),
    (
        "cudnn-errors",
        "include/caffe/util/cudnn.hpp",
        "inline const char* cudnnGetErrorString(cudnnStatus_t status) {\n",
        "#if !CUDNN_VERSION_MIN(8, 0, 0)\ninline const char* cudnnGetErrorString(cudnnStatus_t status) {\n",
        "Caffe's table of errors took the place of the library's function, and knows none of cuDNN 9's",
    ),
    (
        "cudnn-errors-end",
        "include/caffe/util/cudnn.hpp",
        '  return "Unknown cudnn status";\n}\n',
        '  return "Unknown cudnn status";\n}\n#endif\n',
        "as for the table's begin",
    ),
    _workspace("conv"),
    _workspace("deconv"),
    _aligned("conv"),
    _aligned("deconv"),
    _no_memory("conv"),
    _no_memory("deconv"),
    _convolution("Convolution"),
    _convolution("Deconvolution"),
    *(_factory(layer) for layer in ("Pooling", "ReLU", "Sigmoid", "Softmax", "TanH")),
    (
        "cudnn-on-gpu-lrn",
        FACTORY,
        "    engine = LRNParameter_Engine_CUDNN;\n#else\n",
        f"    engine = {ON_GPU} ?\n        LRNParameter_Engine_CUDNN : LRNParameter_Engine_CAFFE;\n#else\n",
        "as for the other layers",
    ),
)

OPENCV_EDITS = (
    (
        "opencv-find",
        "cmake/Dependencies.cmake",
        "    find_package(OpenCV REQUIRED COMPONENTS core highgui imgproc)\n",
        "    find_path(OpenCV_INCLUDE_DIRS opencv2/core/core.hpp PATH_SUFFIXES opencv4)\n"
        "    foreach(part core imgproc imgcodecs highgui)\n"
        "      find_library(OpenCV_${part} opencv_${part})\n"
        "      if(NOT OpenCV_INCLUDE_DIRS OR NOT OpenCV_${part})\n"
        '        message(FATAL_ERROR "no header or library of opencv_${part}")\n'
        "      endif()\n"
        "      list(APPEND OpenCV_LIBS ${OpenCV_${part}})\n"
        "    endforeach()\n",
        "Debian's OpenCVConfig.cmake comes with all of OpenCV only, of which four libraries are used",
    ),
    _images("io", "src/caffe/util/io.cpp"),
    _images("window-data", "src/caffe/layers/window_data_layer.cpp"),
    _images("test-io", "src/caffe/test/test_io.cpp"),
)
