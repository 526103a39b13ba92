#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "boost/algorithm/string.hpp"
#include "boost/filesystem.hpp"
#include "gtest/gtest.h"

#include "caffe/common.hpp"
#include "caffe/net.hpp"
#include "caffe/util/upgrade_proto.hpp"

#include "caffe/test/test_caffe_main.hpp"

namespace caffe {

// Whole nets on the GPU, by the engines they have there by default, held to
// the same nets on the CPU: every blob, and the gradient of every parameter.
// The nets are the files named by CAFFE_TEST_NETS, separated by colons, and
// bring their own data (DummyData), and weights where a caffemodel of the same
// name lies beside. A build for the CPU holds it to itself.
// In float a unit that is all but zero may be on one side and off on the other,
// and one such unit moves a gradient by some thousandths: gradients are held
// loosely there. In double no unit is that near, and everything is held
// closely; that is what finds a kernel that is wrong.
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

  // How far off a net may be and was: blobs and the loss to their own size, a
  // gradient to its own or to this share of the largest, whichever is more.
  struct Off {
    double blobs_limit, gradients_limit, share;
    double blobs, gradients;
  };

  template <typename Dtype>
  static double Norm(const Dtype* x, const int count) {
    double sum = 0;
    for (int i = 0; i < count; ++i) { sum += double(x[i]) * x[i]; }
    return std::sqrt(sum);
  }

  template <typename Dtype>
  static double Distance(const Dtype* x, const Dtype* y, const int count) {
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

  template <typename Dtype>
  void Compare(const string& file, const bool gpu, Off* off) {
    // Should the process end here, its output says where.
    std::cout << "[ COMPARE  ] " << file << ", " << 8 * sizeof(Dtype) << " bits"
        << std::endl;
    const NetParameter param = Read(file);
    SetMode(false);
    Net<Dtype> expected(param);
    const boost::filesystem::path trained =
        boost::filesystem::path(file).replace_extension(".caffemodel");
    if (boost::filesystem::exists(trained)) {
      expected.CopyTrainedLayersFrom(trained.string());
    }
    NetParameter weights;
    expected.ToProto(&weights);
    SetMode(false);
    expected.ClearParamDiffs();
    const Dtype loss = expected.ForwardBackward();

    SetMode(gpu);
    Net<Dtype> net(param);
    net.CopyTrainedLayersFrom(weights);
    SetMode(gpu);
    net.ClearParamDiffs();
    EXPECT_NEAR(loss, net.ForwardBackward(),
        off->blobs_limit * std::abs(loss));
    EXPECT_GT(loss, 0);

    off->blobs = 0;
    ASSERT_EQ(expected.blobs().size(), net.blobs().size());
    for (int i = 0; i < net.blobs().size(); ++i) {
      const Blob<Dtype>& a = *expected.blobs()[i];
      const Blob<Dtype>& b = *net.blobs()[i];
      ASSERT_EQ(a.shape_string(), b.shape_string());
      const double norm = Norm(a.cpu_data(), a.count());
      const double blob = Distance(a.cpu_data(), b.cpu_data(), a.count()) /
          std::max(norm, 1e-20);
      EXPECT_LT(blob, off->blobs_limit) << "blob " << net.blob_names()[i];
      off->blobs = std::max(off->blobs, blob);
    }
    // A gradient that is zero but for rounding has no size of its own.
    double largest = 0;
    for (int i = 0; i < expected.learnable_params().size(); ++i) {
      const Blob<Dtype>& a = *expected.learnable_params()[i];
      largest = std::max(largest, Norm(a.cpu_diff(), a.count()));
    }
    EXPECT_GT(largest, 0);
    off->gradients = 0;
    for (int i = 0; i < expected.learnable_params().size(); ++i) {
      const Blob<Dtype>& a = *expected.learnable_params()[i];
      const Blob<Dtype>& b = *net.learnable_params()[i];
      const double norm = Norm(a.cpu_diff(), a.count());
      // In a net that has no weights yet everything is zero, and agrees.
      if (expected.params_lr()[i] != 0) {
        EXPECT_GT(norm, 0) << "parameter " << i << " has no gradient";
      }
      const double gradient = Distance(a.cpu_diff(), b.cpu_diff(), a.count()) /
          std::max(norm, off->share * largest);
      EXPECT_LT(gradient, off->gradients_limit) << "parameter " << i;
      off->gradients = std::max(off->gradients, gradient);
    }
  }

  void Compare(const string& file, const bool gpu) {
    Off in_float = {1e-3, 2e-2, 1e-2, NAN, NAN};
    Off in_double = {1e-8, 1e-8, 1e-3, NAN, NAN};
    Compare<float>(file, gpu, &in_float);
    Compare<double>(file, gpu, &in_double);
    std::cout << "[ MEASURED ] " << file << ": " << (gpu ? "GPU" : "CPU")
        << " is off the CPU by " << in_float.blobs << " (blobs), "
        << in_float.gradients << " (gradients) in float, " << in_double.blobs
        << ", " << in_double.gradients << " in double at most, relatively"
        << std::endl;
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
