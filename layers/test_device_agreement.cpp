#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "boost/algorithm/string.hpp"
#include "gtest/gtest.h"

#include "caffe/common.hpp"
#include "caffe/net.hpp"
#include "caffe/util/upgrade_proto.hpp"

#include "caffe/test/test_caffe_main.hpp"

namespace caffe {

// Whole nets on the GPU, by the engines they have there by default, held to
// the same nets on the CPU: every blob, and the gradient of every parameter.
// The nets are the files named by CAFFE_TEST_NETS, separated by colons, and
// bring their own data (DummyData). A build for the CPU holds it to itself.
// Without nets, or in a build for GPUs without a device, nothing is held to
// anything, and the test says that it is skipped. tools/test_gpu and
// tools/test_caffe want a line for each net, and take no skipped test.
class DeviceAgreementTest : public ::testing::Test {
 protected:
  static void SetMode(const bool gpu) {
    Caffe::set_mode(gpu ? Caffe::GPU : Caffe::CPU);
    // Fillers, and DummyData on both devices, draw from the host's numbers.
    Caffe::set_random_seed(1701);
  }

  static NetParameter Read(const string& file) {
    NetParameter param;
    ReadNetParamsFromTextFileOrDie(file, &param);
    param.mutable_state()->set_phase(TRAIN);
    for (int i = 0; i < param.layer_size(); ++i) {
      if (param.layer(i).type() == "Dropout") {
        // What is dropped differs from device to device.
        param.mutable_layer(i)->mutable_dropout_param()->set_dropout_ratio(0);
      }
    }
    return param;
  }

  static double Norm(const float* x, const int count) {
    double sum = 0;
    for (int i = 0; i < count; ++i) { sum += double(x[i]) * x[i]; }
    return std::sqrt(sum);
  }

  static double Distance(const float* x, const float* y, const int count) {
    double sum = 0;
    for (int i = 0; i < count; ++i) {
      sum += (double(x[i]) - y[i]) * (double(x[i]) - y[i]);
    }
    return std::sqrt(sum);
  }

  // This gtest counts a test that was skipped among those that passed.
  static void Skip(const string& reason) {
    std::cout << "[  SKIPPED ] DeviceAgreementTest.TestNets: " << reason
        << std::endl;
  }

  void Compare(const string& file, const bool gpu) {
    const NetParameter param = Read(file);
    SetMode(false);
    Net<float> expected(param);
    NetParameter weights;
    expected.ToProto(&weights);
    SetMode(false);
    expected.ClearParamDiffs();
    const float loss = expected.ForwardBackward();

    SetMode(gpu);
    Net<float> net(param);
    net.CopyTrainedLayersFrom(weights);
    SetMode(gpu);
    net.ClearParamDiffs();
    EXPECT_NEAR(loss, net.ForwardBackward(), 1e-3 * std::abs(loss));
    EXPECT_GT(loss, 0);

    double blobs = 0;
    ASSERT_EQ(expected.blobs().size(), net.blobs().size());
    for (int i = 0; i < net.blobs().size(); ++i) {
      const Blob<float>& a = *expected.blobs()[i];
      const Blob<float>& b = *net.blobs()[i];
      ASSERT_EQ(a.shape_string(), b.shape_string());
      const double norm = Norm(a.cpu_data(), a.count());
      const double off = Distance(a.cpu_data(), b.cpu_data(), a.count()) /
          std::max(norm, 1e-20);
      EXPECT_LT(off, 1e-3) << "blob " << net.blob_names()[i];
      blobs = std::max(blobs, off);
    }
    // A gradient that is zero but for rounding is held to the largest.
    double largest = 0;
    for (int i = 0; i < expected.learnable_params().size(); ++i) {
      const Blob<float>& a = *expected.learnable_params()[i];
      largest = std::max(largest, Norm(a.cpu_diff(), a.count()));
    }
    EXPECT_GT(largest, 0);
    double gradients = 0;
    for (int i = 0; i < expected.learnable_params().size(); ++i) {
      const Blob<float>& a = *expected.learnable_params()[i];
      const Blob<float>& b = *net.learnable_params()[i];
      const double norm = Norm(a.cpu_diff(), a.count());
      const double off = Distance(a.cpu_diff(), b.cpu_diff(), a.count()) /
          std::max(norm, 1e-3 * largest);
      EXPECT_LT(off, 1e-3) << "parameter " << i;
      gradients = std::max(gradients, off);
    }
    std::cout << "[ MEASURED ] " << file << ": " << (gpu ? "GPU" : "CPU")
        << " is off the CPU by " << blobs << " (blobs), " << gradients
        << " (gradients) at most, relatively" << std::endl;
  }
};

TEST_F(DeviceAgreementTest, TestNets) {
  const char* names = std::getenv("CAFFE_TEST_NETS");
  if (names == NULL || *names == 0) {
    Skip("CAFFE_TEST_NETS names no nets");
    return;
  }
  vector<string> files;
  boost::split(files, names, boost::is_any_of(":"));
#ifdef CPU_ONLY
  const bool gpu = false;
#else
  int found = 0;
  if (cudaGetDeviceCount(&found) != cudaSuccess || found == 0) {
    Skip("no CUDA device");
    return;
  }
  const bool gpu = true;
#endif
  for (int i = 0; i < files.size(); ++i) { Compare(files[i], gpu); }
  Caffe::set_mode(Caffe::CPU);
}

}  // namespace caffe
