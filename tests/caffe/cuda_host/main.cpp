// The TPM layer's GPU tests over CUDA on the host; and
//   main replay cpu|gpu float|double OPTIONS KERNELS DIM SAMPLES OUT
// the layer's state after samples that are read from a file: doubles, KERNELS
// * DIM for each iteration; OUT gets blobs 1 to 4 and the top, as doubles; and
//   main train cpu|gpu SOLVER [SNAPSHOT]
// what caffe train does.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"

#include "caffe/layer_factory.hpp"
#include "caffe/layers/conv_layer.hpp"
#include "caffe/layers/tpm_layer.hpp"
#include "caffe/sgd_solvers.hpp"
#include "caffe/util/upgrade_proto.hpp"

#include "caffe/test/test_caffe_main.hpp"

namespace caffe {

cudaDeviceProp CAFFE_TEST_CUDA_PROP;

// In Caffe's layer_factory.cpp, with layers that are not here.
REGISTER_LAYER_CLASS(Convolution);

template <typename Dtype>
int Replay(char** words) {
  Caffe::set_mode(string(words[0]) == "gpu" ? Caffe::GPU : Caffe::CPU);
  LayerParameter param;
  CHECK(google::protobuf::TextFormat::ParseFromString(
      "name: 'watch' type: 'TPM' phase: TRAIN param { name: 'w' } tpm_param { "
      + string(words[2]) + " }", &param));
  Blob<Dtype> weight(std::atoi(words[3]), std::atoi(words[4]), 1, 1);
  for (int i = 0; i < 2; ++i) {
    param.mutable_tpm_param()->mutable_shape()->add_dim(weight.shape(i));
  }
  Blob<Dtype> top;
  const vector<Blob<Dtype>*> bottoms, tops(1, &top);
  TPMLayer<Dtype> layer(param);
  layer.SetUp(bottoms, tops);
  weight.Reshape(layer.blobs()[0]->shape());
  layer.blobs()[0]->ShareData(weight);
  std::ifstream samples(words[5], std::ios::binary);
  vector<double> sample(weight.count());
  while (samples.read(reinterpret_cast<char*>(&sample[0]),
      sample.size() * sizeof(double))) {
    std::copy(sample.begin(), sample.end(), weight.mutable_cpu_data());
    for (int i = 0; i < param.tpm_param().iter_size(); ++i) {
      layer.Forward(bottoms, tops);
    }
  }
  std::ofstream out(words[6], std::ios::binary);
  for (int i = 1; i < 6; ++i) {
    const Blob<Dtype>& blob = i < 5 ? *layer.blobs()[i] : top;
    const vector<double> values(blob.cpu_data(),
        blob.cpu_data() + blob.count());
    out.write(reinterpret_cast<const char*>(&values[0]),
        values.size() * sizeof(double));
  }
  return out.good() ? 0 : 1;
}

int Train(const bool gpu, const char* file, const char* snapshot) {
  SolverParameter param;
  ReadSolverParamsFromTextFileOrDie(file, &param);
  Caffe::set_mode(gpu ? Caffe::GPU : Caffe::CPU);
  SGDSolver<float> solver(param);
  solver.Solve(snapshot);
  return 0;
}

}  // namespace caffe

int main(int argc, char** argv) {
  if (argc >= 4 && std::string(argv[1]) == "train") {
    return caffe::Train(std::string(argv[2]) == "gpu", argv[3], argv[4]);
  }
  if (argc == 9 && std::string(argv[1]) == "replay") {
    FLAGS_minloglevel = 1;
    return std::string(argv[3]) == "float" ? caffe::Replay<float>(argv + 2) :
        caffe::Replay<double>(argv + 2);
  }
  ::testing::InitGoogleTest(&argc, argv);
  caffe::GlobalInit(&argc, &argv);
  return RUN_ALL_TESTS();
}
