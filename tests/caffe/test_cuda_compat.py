"""How layers/cuda_compat.hpp chooses among cuDNN's proposals: compiled with the names that it uses, in a program."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Its compiler and glog are those of Caffe.
pytestmark = pytest.mark.caffe

RUNTIME = """
typedef int cudaDeviceAttr; typedef int cudaError_t; const int cudaSuccess = 0;
inline int cudaDeviceGetAttribute(int*, int, int) { return 0; }
"""
# Arguments: the limit, then for each proposal its algorithm, whether it is supported, whether it is deterministic, and
# what it needs under the descriptor (-1: it does not work there). It prints the status and the algorithm.
PROGRAM = """
#include "cuda_compat.hpp"
#include <iostream>
#include <map>
int main(int argc, char** argv) {
  std::map<int, int> needs;
  std::vector<cudnnConvolutionFwdAlgoPerf_t> proposals;
  for (int i = 2; i + 3 < argc; i += 4) {
    cudnnConvolutionFwdAlgoPerf_t one = {};
    one.algo = static_cast<cudnnConvolutionFwdAlgo_t>(std::atoi(argv[i]));
    one.status = std::atoi(argv[i + 1]) ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
    one.determinism = std::atoi(argv[i + 2]) ? CUDNN_DETERMINISTIC : CUDNN_NON_DETERMINISTIC;
    // Of another arithmetic: not to be believed.
    one.memory = 0;
    needs[one.algo] = std::atoi(argv[i + 3]);
    proposals.push_back(one);
  }
  cudnnConvolutionFwdAlgo_t algorithm = static_cast<cudnnConvolutionFwdAlgo_t>(7);
  const cudnnStatus_t status = caffe::cudnn::Choose(proposals, std::atoi(argv[1]),
      CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, "forward",
      [&](const cudnnConvolutionFwdAlgo_t choice, size_t* size) {
        if (needs.count(choice) && needs[choice] < 0) { return CUDNN_STATUS_NOT_SUPPORTED; }
        *size = needs[choice];
        return CUDNN_STATUS_SUCCESS;
      }, &algorithm);
  std::cout << (status == CUDNN_STATUS_SUCCESS) << " " << algorithm;
}
"""


@pytest.fixture(scope="module")
def choose(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compat")
    (folder / "cuda_runtime.h").write_text(RUNTIME)
    (folder / "choose.cpp").write_text(PROGRAM)
    command = ["c++", "-std=c++17", "-Wall", "-Werror", "-DUSE_CUDNN", "-I", ROOT / "layers", "-I", folder]
    # The getters that call cuDNN are compiled and not linked: nothing here calls them.
    command += ["-I", ROOT / "tools/cuda_names/cudnn", folder / "choose.cpp", "-o", folder / "choose", "-lglog"]
    subprocess.run(command, check=True)

    def run(limit, *proposals, **env):
        words = [str(word) for word in (limit, *(part for proposal in proposals for part in proposal))]
        env = {**os.environ, "GLOG_logtostderr": "1", **env}
        done = subprocess.run([folder / "choose", *words], env=env, capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    return run


@pytest.mark.parametrize(
    ("limit", "proposals", "chosen"),
    [
        (8, [(3, 1, 1, 5), (4, 1, 1, 0)], 3),  # the first that fits
        (8, [(3, 1, 1, 9), (4, 1, 1, 8)], 4),
        (8, [(3, 1, 1, 30), (4, 1, 1, 20), (5, 1, 1, 25)], 4),  # none fits: the least
        (8, [(3, 0, 1, 1), (4, 1, 1, 2)], 4),
        (8, [(3, 1, 1, -1), (4, 1, 1, 2)], 4),  # proposed, but not for this arithmetic
        (8, [(3, 1, 1, -1), (3, 1, 1, -1)], 0),  # nothing proposed will do
        (8, [], 0),
    ],
)
def test_choice(choose, limit, proposals, chosen):
    assert choose(limit, *proposals) == (f"1 {chosen}", "")


def test_deterministic_ones_alone_when_asked(choose):
    proposals = [(3, 1, 0, 5), (4, 1, 1, 6)]
    assert choose(8, *proposals)[0] == "1 3"
    assert choose(8, *proposals, CAFFE_CUDNN_DETERMINISTIC="1")[0] == "1 4"
    assert choose(8, proposals[0], CAFFE_CUDNN_DETERMINISTIC="1")[0] == "1 0"


def test_no_algorithm_is_told_with_what_to_do(choose):
    out, error = choose(8, (0, 1, 1, -1))
    assert out == "0 0"
    assert "cuDNN has no algorithm for the forward pass of this convolution: give the layer engine: CAFFE" in error
    error = choose(8, (0, 1, 1, -1), CAFFE_CUDNN_DETERMINISTIC="1")[1]
    assert "cuDNN has no deterministic algorithm" in error and "unset CAFFE_CUDNN_DETERMINISTIC, or give" in error


# cuDNN's functions, which say what the arguments ask for, and fail where the descriptors are not those of their pass in
# its order. Arguments: the pass, the limit, how many proposals there may be, then (algorithm, needs) of each proposal.
STAND_IN = """
#include "cuda_compat.hpp"
#include <algorithm>
#include <iostream>
#include <utility>
namespace {
std::vector<std::pair<int, long> > proposed;
int most = 0, failing = 0, asked = 0;
template <typename T> T Tag(const long number) { return reinterpret_cast<T>(number); }
template <typename T> bool Is(const T pointer, const long number) { return pointer == Tag<T>(number); }
cudnnStatus_t MaxCount(cudnnHandle_t handle, int* count) {
  *count = most;
  return Is(handle, 9) && failing != 1 ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
}
template <typename Perf> cudnnStatus_t Propose(const bool right, const int room, int* count, Perf* out) {
  if (!right || room != most || failing == 2) { return CUDNN_STATUS_NOT_SUPPORTED; }
  *count = proposed.size();
  for (size_t i = 0; i < proposed.size(); ++i) {
    out[i] = Perf();
    out[i].algo = static_cast<decltype(out[i].algo)>(proposed[i].first);
    // Slower and slower, with what another arithmetic would need.
    out[i].time = i;
    out[i].memory = 1;
    out[i].determinism = CUDNN_DETERMINISTIC;
  }
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t Size(const bool right, const int algorithm, size_t* size) {
  ++asked;
  if (!right) { return CUDNN_STATUS_NOT_SUPPORTED; }
  *size = 5;
  for (const auto& one : proposed) {
    if (one.first != algorithm) { continue; }
    if (one.second < 0) { return CUDNN_STATUS_NOT_SUPPORTED; }
    *size = one.second;
    break;
  }
  return CUDNN_STATUS_SUCCESS;
}
}  // namespace
// Descriptors: 1 the input, 2 the weight, 3 the convolution, 4 the output; 9 the handle.
cudnnStatus_t cudnnGetConvolutionForwardAlgorithmMaxCount(cudnnHandle_t h, int* n) { return MaxCount(h, n); }
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithmMaxCount(cudnnHandle_t h, int* n) { return MaxCount(h, n); }
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithmMaxCount(cudnnHandle_t h, int* n) { return MaxCount(h, n); }
cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t h, const cudnnTensorDescriptor_t x,
    const cudnnFilterDescriptor_t w, const cudnnConvolutionDescriptor_t c, const cudnnTensorDescriptor_t y,
    const int room, int* count, cudnnConvolutionFwdAlgoPerf_t* out) {
  return Propose(Is(h, 9) && Is(x, 1) && Is(w, 2) && Is(c, 3) && Is(y, 4), room, count, out);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t h, const cudnnTensorDescriptor_t x,
    const cudnnTensorDescriptor_t dy, const cudnnConvolutionDescriptor_t c, const cudnnFilterDescriptor_t dw,
    const int room, int* count, cudnnConvolutionBwdFilterAlgoPerf_t* out) {
  return Propose(Is(h, 9) && Is(x, 1) && Is(dy, 4) && Is(c, 3) && Is(dw, 2), room, count, out);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t h, const cudnnFilterDescriptor_t w,
    const cudnnTensorDescriptor_t dy, const cudnnConvolutionDescriptor_t c, const cudnnTensorDescriptor_t dx,
    const int room, int* count, cudnnConvolutionBwdDataAlgoPerf_t* out) {
  return Propose(Is(h, 9) && Is(w, 2) && Is(dy, 4) && Is(c, 3) && Is(dx, 1), room, count, out);
}
cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t h, const cudnnTensorDescriptor_t x,
    const cudnnFilterDescriptor_t w, const cudnnConvolutionDescriptor_t c, const cudnnTensorDescriptor_t y,
    cudnnConvolutionFwdAlgo_t algorithm, size_t* size) {
  return Size(Is(h, 9) && Is(x, 1) && Is(w, 2) && Is(c, 3) && Is(y, 4), algorithm, size);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t h, const cudnnTensorDescriptor_t x,
    const cudnnTensorDescriptor_t dy, const cudnnConvolutionDescriptor_t c, const cudnnFilterDescriptor_t dw,
    cudnnConvolutionBwdFilterAlgo_t algorithm, size_t* size) {
  return Size(Is(h, 9) && Is(x, 1) && Is(dy, 4) && Is(c, 3) && Is(dw, 2), algorithm, size);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t h, const cudnnFilterDescriptor_t w,
    const cudnnTensorDescriptor_t dy, const cudnnConvolutionDescriptor_t c, const cudnnTensorDescriptor_t dx,
    cudnnConvolutionBwdDataAlgo_t algorithm, size_t* size) {
  return Size(Is(h, 9) && Is(w, 2) && Is(dy, 4) && Is(c, 3) && Is(dx, 1), algorithm, size);
}
int main(int argc, char** argv) {
  const std::string pass = argv[1];
  const size_t limit = std::atol(argv[2]);
  most = std::atoi(argv[3]);
  failing = std::atoi(argv[4]);
  for (int i = 5; i + 1 < argc; i += 2) { proposed.emplace_back(std::atoi(argv[i]), std::atol(argv[i + 1])); }
  const cudnnHandle_t h = Tag<cudnnHandle_t>(9);
  const cudnnTensorDescriptor_t x = Tag<cudnnTensorDescriptor_t>(1), y = Tag<cudnnTensorDescriptor_t>(4);
  const cudnnFilterDescriptor_t w = Tag<cudnnFilterDescriptor_t>(2);
  const cudnnConvolutionDescriptor_t c = Tag<cudnnConvolutionDescriptor_t>(3);
  cudnnStatus_t status;
  int chosen = -1;
  // As Caffe's layers call them.
  if (pass == "forward") {
    cudnnConvolutionFwdAlgo_t algorithm;
    status = cudnnGetConvolutionForwardAlgorithm(h, x, w, c, y, CUDNN_CONVOLUTION_FWD_SPECIFY_WORKSPACE_LIMIT, limit,
        &algorithm);
    chosen = algorithm;
  } else if (pass == "filter") {
    cudnnConvolutionBwdFilterAlgo_t algorithm;
    status = cudnnGetConvolutionBackwardFilterAlgorithm(h, x, y, c, w,
        CUDNN_CONVOLUTION_BWD_FILTER_SPECIFY_WORKSPACE_LIMIT, limit, &algorithm);
    chosen = algorithm;
  } else {
    cudnnConvolutionBwdDataAlgo_t algorithm;
    status = cudnnGetConvolutionBackwardDataAlgorithm(h, w, y, c, x,
        CUDNN_CONVOLUTION_BWD_DATA_SPECIFY_WORKSPACE_LIMIT, limit, &algorithm);
    chosen = algorithm;
  }
  if (status == CUDNN_STATUS_SUCCESS) { std::cout << chosen << " asked " << asked; } else { std::cout << "failed"; }
}
"""
VERSIONS = {"8.9": ("90000", "8907", "3000", "9"), "9.28": ("90000", "92800", "3000", "3000")}


@pytest.fixture(scope="module", params=VERSIONS)
def getters(request, tmp_path_factory):
    """The three getters over a stand-in of cuDNN, as its headers number versions and errors."""
    folder = tmp_path_factory.mktemp("getters")
    (folder / "cuda_runtime.h").write_text(RUNTIME)
    (folder / "getters.cpp").write_text(STAND_IN)
    version, number, unsupported, error = VERSIONS[request.param]
    names = (ROOT / "tools/cuda_names/cudnn/cudnn.h").read_text()
    assert names.count(version) == names.count(unsupported) == 1
    (folder / "cudnn.h").write_text(names.replace(version, number).replace(unsupported, error))
    command = ["c++", "-std=c++17", "-Wall", "-Wno-maybe-uninitialized", "-Werror", "-DUSE_CUDNN"]
    command += ["-I", folder, "-I", ROOT / "layers", folder / "getters.cpp", "-o", folder / "getters", "-lglog"]
    subprocess.run(command, check=True)

    def run(which, limit, *proposals, room=8, failing=0):
        words = [which, limit, room, failing, *(part for proposal in proposals for part in proposal)]
        done = subprocess.run([folder / "getters", *map(str, words)], capture_output=True, text=True, check=True)
        return done.stdout

    return run


PASSES = {"forward": 0, "filter": 1, "data": 1}


@pytest.mark.parametrize("which", PASSES)
def test_getters_of_each_pass(getters, which):
    # The first that fits; nothing after it is asked for.
    assert getters(which, 8, (3, 30), (4, 8), (5, 1)) == "4 asked 2"
    # None fits: the one that needs least.
    assert getters(which, 8, (3, 30), (4, 10), (5, 20)) == "4 asked 3"
    # What is proposed first may not work with the convolution's arithmetic.
    assert getters(which, 8, (3, -1), (4, 2)) == "4 asked 2"
    # As many as there is room for.
    assert getters(which, 8, (3, 9), (4, 2), room=2) == "4 asked 2"
    # Nothing is proposed, or works: the deterministic one.
    assert getters(which, 8) == f"{PASSES[which]} asked 1"
    assert getters(which, 8, (6, -1), (5, -1)) == f"{PASSES[which]} asked 3"
    # Whole sizes beyond 4 GiB.
    assert getters(which, 5 << 30, (3, 6 << 30), (4, 5 << 30)) == "4 asked 2"


@pytest.mark.parametrize("which", PASSES)
def test_errors_of_cudnn_are_handed_on(getters, which):
    assert getters(which, 8, (3, 1), failing=1) == "failed"
    assert getters(which, 8, (3, 1), failing=2) == "failed"
