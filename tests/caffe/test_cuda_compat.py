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
