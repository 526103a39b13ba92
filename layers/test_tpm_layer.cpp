#include <algorithm>
#include <cmath>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include "boost/filesystem.hpp"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"

#include "caffe/blob.hpp"
#include "caffe/common.hpp"
#include "caffe/layers/tpm_layer.hpp"
#include "caffe/net.hpp"
#include "caffe/util/io.hpp"
#include "caffe/util/math_functions.hpp"

#include "caffe/test/test_caffe_main.hpp"

namespace caffe {

// Displacement and path the plain way: double throughout, one sum after
// another, over all the samples at once.
class TPMReference {
 public:
  explicit TPMReference(const int kernels) : kernels_(kernels) {}

  template <typename Dtype>
  void Add(const Blob<Dtype>& weight) {
    samples_.push_back(vector<double>(weight.cpu_data(),
        weight.cpu_data() + weight.count()));
  }

  int num_samples() const { return samples_.size(); }

  // Kernel `kernels` is the whole weight.
  double Displacement(const int kernel) const {
    return Distance(kernel, samples_.size() - 1, 0);
  }

  double Path(const int kernel) const {
    double path = 0;
    for (int j = 1; j < num_samples(); ++j) {
      path += Distance(kernel, j, j - 1);
    }
    return path;
  }

 private:
  double Distance(const int kernel, const int a, const int b) const {
    const int dim = samples_[0].size() / kernels_;
    const int from = kernel < kernels_ ? kernel * dim : 0;
    const int to = kernel < kernels_ ? from + dim : samples_[0].size();
    double sum = 0;
    for (int i = from; i < to; ++i) {
      sum += (samples_[a][i] - samples_[b][i]) *
          (samples_[a][i] - samples_[b][i]);
    }
    return std::sqrt(sum);
  }

  const int kernels_;
  vector<vector<double> > samples_;
};

template <typename TypeParam>
class TPMLayerTest : public MultiDeviceTest<TypeParam> {
  typedef typename TypeParam::Dtype Dtype;

 protected:
  // 27 weights a kernel: three whole vectors of lanes and a remainder.
  TPMLayerTest() : weight_(new Blob<Dtype>(5, 3, 3, 3)) {
    Caffe::set_random_seed(1701);
    top_vec_.push_back(&top_);
    FillGaussian(weight_.get());
  }

  void FillGaussian(Blob<Dtype>* blob) {
    caffe_rng_gaussian<Dtype>(blob->count(), Dtype(0), Dtype(1),
        blob->mutable_cpu_data());
  }

  // Moves the weight by noise of the given size, as an update of a solver does.
  void Wander(const Dtype size) {
    Blob<Dtype> step(weight_->shape());
    FillGaussian(&step);
    caffe_axpy(step.count(), size, step.cpu_data(),
        weight_->mutable_cpu_data());
  }

  LayerParameter Param(const string& tpm_options) {
    LayerParameter param;
    CHECK(google::protobuf::TextFormat::ParseFromString(
        "name: 'watch' type: 'TPM' phase: TRAIN param { name: 'w' } "
        "tpm_param { " + tpm_options + " }", &param));
    if (!param.tpm_param().has_shape()) {
      for (int i = 0; i < weight_->num_axes(); ++i) {
        param.mutable_tpm_param()->mutable_shape()->add_dim(weight_->shape(i));
      }
    }
    return param;
  }

  shared_ptr<TPMLayer<Dtype> > Layer(const LayerParameter& param) {
    shared_ptr<TPMLayer<Dtype> > layer(new TPMLayer<Dtype>(param));
    layer->SetUp(bottom_vec_, top_vec_);
    layer->blobs()[0]->ShareData(*weight_);
    return layer;
  }

  // What the solver does with the layer: forward, and the weight moves.
  void Iterate(TPMLayer<Dtype>* layer, const int iterations,
      const int iter_size = 1) {
    for (int t = 0; t < iterations; ++t) {
      for (int i = 0; i < iter_size; ++i) {
        layer->Forward(bottom_vec_, top_vec_);
      }
      Wander(0.01);
    }
  }

  void CopyState(TPMLayer<Dtype>* from, TPMLayer<Dtype>* to) {
    const int num_blobs = from->blobs().size();
    for (int i = 1; i < num_blobs; ++i) {
      to->blobs()[i]->CopyFrom(*from->blobs()[i]);
    }
  }

  void ExpectSameState(TPMLayer<Dtype>* expected, TPMLayer<Dtype>* layer) {
    ASSERT_EQ(expected->blobs().size(), layer->blobs().size());
    for (int i = 1; i < expected->blobs().size(); ++i) {
      ASSERT_TRUE(expected->blobs()[i]->shape() == layer->blobs()[i]->shape());
      for (int j = 0; j < expected->blobs()[i]->count(); ++j) {
        EXPECT_EQ(expected->blobs()[i]->cpu_data()[j],
            layer->blobs()[i]->cpu_data()[j]) << "blob " << i << " at " << j;
      }
    }
  }

  void ExpectResult(TPMLayer<Dtype>* layer, const int window,
      const TPMReference& reference, const double relative = 1e-6) {
    const Blob<Dtype>& result = *layer->blobs()[3];
    const Blob<Dtype>& counter = *layer->blobs()[4];
    ASSERT_EQ(3, result.num_axes());
    ASSERT_EQ(weight_->shape(0) + 1, result.shape(1));
    ASSERT_EQ(3, result.shape(2));
    EXPECT_EQ(reference.num_samples(),
        counter.cpu_data()[(window + 1) * counter.shape(1)]);
    const Dtype* row = result.cpu_data() + window * result.count(1);
    for (int k = 0; k < result.shape(1); ++k, row += 3) {
      const double displacement = reference.Displacement(k);
      const double path = reference.Path(k);
      EXPECT_GT(path, 0);
      EXPECT_NEAR(row[0], displacement, relative * displacement) << k;
      EXPECT_NEAR(double(row[1]) + double(row[2]), path, relative * path) << k;
    }
  }

  // The largest relative difference from double, of D and P of all kernels.
  double WorstDifference(TPMLayer<Dtype>* layer,
      const TPMReference& reference) {
    const Dtype* row = layer->blobs()[3]->cpu_data();
    double worst = 0;
    for (int k = 0; k <= weight_->shape(0); ++k, row += 3) {
      const double path = double(row[1]) + double(row[2]);
      worst = std::max(worst, std::abs(row[0] / reference.Displacement(k) - 1));
      worst = std::max(worst, std::abs(path / reference.Path(k) - 1));
    }
    return worst;
  }

  Dtype tpm() { return top_.cpu_data()[0]; }

  shared_ptr<Blob<Dtype> > weight_;
  Blob<Dtype> top_;
  vector<Blob<Dtype>*> bottom_vec_;
  vector<Blob<Dtype>*> top_vec_;
};

TYPED_TEST_CASE(TPMLayerTest, TestDtypesAndDevices);

TYPED_TEST(TPMLayerTest, TestSetUp) {
  typedef typename TypeParam::Dtype Dtype;
  shared_ptr<TPMLayer<Dtype> > layer = this->Layer(this->Param(
      "start_iter: 2 stop_iter: 8 start_iter: 8 stop_iter: 20"));
  EXPECT_EQ(0, this->top_.num_axes());
  EXPECT_EQ(1, this->top_.count());
  ASSERT_EQ(5, layer->blobs().size());
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(layer->blobs()[i]->shape() == this->weight_->shape());
  }
  EXPECT_EQ("2 6 3 (36)", layer->blobs()[3]->shape_string());
  EXPECT_EQ("3 8 (24)", layer->blobs()[4]->shape_string());
  // The state is safe from the solver without a word in the prototxt.
  ASSERT_EQ(5, layer->layer_param().param_size());
  EXPECT_FALSE(layer->layer_param().param(0).has_lr_mult());
  for (int i = 1; i < 5; ++i) {
    EXPECT_EQ(0, layer->layer_param().param(i).lr_mult());
    EXPECT_EQ(0, layer->layer_param().param(i).decay_mult());
  }
}

TYPED_TEST(TPMLayerTest, TestAgainstReference) {
  typedef typename TypeParam::Dtype Dtype;
  const int kIntervals[] = {1, 3, 10};
  for (int n = 0; n < 3; ++n) {
    const int interval = kIntervals[n];
    ostringstream options;
    options << "start_iter: 4 stop_iter: 36 interval: " << interval;
    shared_ptr<TPMLayer<Dtype> > layer =
        this->Layer(this->Param(options.str()));
    TPMReference reference(5);
    for (int t = 0; t < 45; ++t) {
      if (t >= 4 && t <= 36 && (t - 4) % interval == 0) {
        reference.Add(*this->weight_);
      }
      layer->Forward(this->bottom_vec_, this->top_vec_);
      if (reference.num_samples() < 2) {
        EXPECT_TRUE(std::isnan(this->tpm())) << t;
      } else {
        const double expected = reference.Displacement(5) / reference.Path(5);
        EXPECT_NEAR(this->tpm(), expected, 1e-6) << t;
      }
      this->Wander(0.01);
    }
    this->ExpectResult(layer.get(), 0, reference);
  }
}

TYPED_TEST(TPMLayerTest, TestInnerProductShape) {
  typedef typename TypeParam::Dtype Dtype;
  this->weight_->Reshape(vector<int>{7, 13});
  this->FillGaussian(this->weight_.get());
  shared_ptr<TPMLayer<Dtype> > layer =
      this->Layer(this->Param("start_iter: 0 stop_iter: 9"));
  TPMReference reference(7);
  for (int t = 0; t < 10; ++t) {
    reference.Add(*this->weight_);
    this->Iterate(layer.get(), 1);
  }
  this->ExpectResult(layer.get(), 0, reference);
}

// A kernel of one weight, as depthwise 1x1 has, and a bias-like vector.
TYPED_TEST(TPMLayerTest, TestVectorShape) {
  typedef typename TypeParam::Dtype Dtype;
  this->weight_->Reshape(vector<int>(1, 11));
  this->FillGaussian(this->weight_.get());
  shared_ptr<TPMLayer<Dtype> > layer =
      this->Layer(this->Param("start_iter: 0 stop_iter: 9"));
  TPMReference reference(11);
  for (int t = 0; t < 10; ++t) {
    reference.Add(*this->weight_);
    this->Iterate(layer.get(), 1);
  }
  this->ExpectResult(layer.get(), 0, reference);
}

// More kernels, and more weights in each, than a block of a GPU has threads.
TYPED_TEST(TPMLayerTest, TestManyKernels) {
  typedef typename TypeParam::Dtype Dtype;
  this->weight_->Reshape(300, 7, 5, 7);
  this->FillGaussian(this->weight_.get());
  shared_ptr<TPMLayer<Dtype> > layer =
      this->Layer(this->Param("start_iter: 0 stop_iter: 9"));
  TPMReference reference(300);
  for (int t = 0; t < 10; ++t) {
    reference.Add(*this->weight_);
    this->Iterate(layer.get(), 1);
  }
  this->ExpectResult(layer.get(), 0, reference);
  EXPECT_NEAR(this->tpm(), reference.Displacement(300) / reference.Path(300),
      1e-6);
}

TYPED_TEST(TPMLayerTest, TestSeveralWindows) {
  typedef typename TypeParam::Dtype Dtype;
  // The second starts where the first stops, the third after a pause.
  const int kStart[] = {2, 8, 25};
  const int kStop[] = {8, 20, 33};
  shared_ptr<TPMLayer<Dtype> > layer = this->Layer(this->Param("interval: 2 "
      "start_iter: 2 stop_iter: 8 start_iter: 8 stop_iter: 20 "
      "start_iter: 25 stop_iter: 33"));
  vector<TPMReference> references(3, TPMReference(5));
  for (int t = 0; t < 40; ++t) {
    int latest = -1;
    for (int w = 0; w < 3; ++w) {
      if (t >= kStart[w]) { latest = w; }
      if (t >= kStart[w] && t <= kStop[w] && (t - kStart[w]) % 2 == 0) {
        references[w].Add(*this->weight_);
      }
    }
    layer->Forward(this->bottom_vec_, this->top_vec_);
    if (latest < 0 || references[latest].num_samples() < 2) {
      EXPECT_TRUE(std::isnan(this->tpm())) << t;
    } else {
      EXPECT_NEAR(this->tpm(), references[latest].Displacement(5) /
          references[latest].Path(5), 1e-6) << t;
    }
    this->Wander(0.01);
  }
  EXPECT_EQ(4, references[0].num_samples());
  EXPECT_EQ(7, references[1].num_samples());
  EXPECT_EQ(5, references[2].num_samples());
  for (int w = 0; w < 3; ++w) {
    this->ExpectResult(layer.get(), w, references[w]);
  }
}

TYPED_TEST(TPMLayerTest, TestIterSize) {
  typedef typename TypeParam::Dtype Dtype;
  shared_ptr<TPMLayer<Dtype> > layer = this->Layer(this->Param(
      "start_iter: 3 stop_iter: 12 interval: 3 iter_size: 4"));
  TPMReference reference(5);
  for (int t = 0; t < 15; ++t) {
    if (t >= 3 && t <= 12 && t % 3 == 0) { reference.Add(*this->weight_); }
    this->Iterate(layer.get(), 1, 4);
  }
  EXPECT_EQ(4, reference.num_samples());
  this->ExpectResult(layer.get(), 0, reference);
  EXPECT_EQ(15, layer->blobs()[4]->cpu_data()[1]);
  EXPECT_EQ(0, layer->blobs()[4]->cpu_data()[3]);
}

TYPED_TEST(TPMLayerTest, TestFrozen) {
  typedef typename TypeParam::Dtype Dtype;
  shared_ptr<TPMLayer<Dtype> > layer =
      this->Layer(this->Param("start_iter: 0 stop_iter: 10"));
  for (int t = 0; t < 12; ++t) {
    layer->Forward(this->bottom_vec_, this->top_vec_);
    EXPECT_TRUE(std::isnan(this->tpm()));
  }
  EXPECT_EQ(11, layer->blobs()[4]->cpu_data()[8]);
  for (int i = 0; i < layer->blobs()[3]->count(); ++i) {
    EXPECT_EQ(0, layer->blobs()[3]->cpu_data()[i]);
  }
}

TYPED_TEST(TPMLayerTest, TestStraightLine) {
  typedef typename TypeParam::Dtype Dtype;
  Blob<Dtype> direction(this->weight_->shape());
  this->FillGaussian(&direction);
  shared_ptr<TPMLayer<Dtype> > layer =
      this->Layer(this->Param("start_iter: 0 stop_iter: 100"));
  for (int t = 0; t <= 100; ++t) {
    layer->Forward(this->bottom_vec_, this->top_vec_);
    caffe_axpy(direction.count(), Dtype(0.01), direction.cpu_data(),
        this->weight_->mutable_cpu_data());
    if (t > 0) {
      EXPECT_NEAR(this->tpm(), 1, 1e-5);
      EXPECT_LE(this->tpm(), 1);
    }
  }
}

// A float path would end wrong in the third digit: every step is below the
// path's last place once it has grown.
TYPED_TEST(TPMLayerTest, TestManySmallSteps) {
  typedef typename TypeParam::Dtype Dtype;
  shared_ptr<TPMLayer<Dtype> > layer =
      this->Layer(this->Param("start_iter: 0 stop_iter: 20000"));
  TPMReference reference(5);
  // One large step, then 10,000 small ones.
  reference.Add(*this->weight_);
  layer->Forward(this->bottom_vec_, this->top_vec_);
  this->Wander(1000);
  for (int t = 0; t < 10000; ++t) {
    reference.Add(*this->weight_);
    layer->Forward(this->bottom_vec_, this->top_vec_);
    this->Wander(0.001);
  }
  this->ExpectResult(layer.get(), 0, reference, 1e-6);
  const Dtype* whole = layer->blobs()[3]->cpu_data() + 5 * 3;
  const double path = double(whole[1]) + double(whole[2]);
  EXPECT_NEAR(path, reference.Path(5), 1e-10 * path);
}

// A random walk of 10,000 samples. The figure is printed for whoever compares
// a GPU with a CPU.
TYPED_TEST(TPMLayerTest, TestManySamples) {
  typedef typename TypeParam::Dtype Dtype;
  shared_ptr<TPMLayer<Dtype> > layer =
      this->Layer(this->Param("start_iter: 0 stop_iter: 9999"));
  TPMReference reference(5);
  for (int t = 0; t < 10000; ++t) {
    reference.Add(*this->weight_);
    this->Iterate(layer.get(), 1);
  }
  const double worst = this->WorstDifference(layer.get(), reference);
  std::cout << "[ MEASURED ] " << (Caffe::mode() == Caffe::GPU ? "GPU" : "CPU")
      << ", " << 8 * sizeof(Dtype) << " bits, 10,000 samples: D and P are off "
      << "by " << worst << " at most, relatively" << std::endl;
  EXPECT_LT(worst, 1e-6);
  EXPECT_GT(reference.Path(5), 0);
}

TYPED_TEST(TPMLayerTest, TestResume) {
  typedef typename TypeParam::Dtype Dtype;
  const LayerParameter param = this->Param("interval: 2 iter_size: 2 "
      "start_iter: 3 stop_iter: 15 start_iter: 15 stop_iter: 31");
  // Before, in and between windows, and after the last.
  const int kResume[] = {0, 3, 4, 9, 15, 16, 30, 33};
  for (int n = 0; n < 8; ++n) {
    Caffe::set_random_seed(1701);
    this->FillGaussian(this->weight_.get());
    shared_ptr<TPMLayer<Dtype> > through = this->Layer(param);
    this->Iterate(through.get(), 40, 2);
    const Dtype tpm = this->tpm();

    Caffe::set_random_seed(1701);
    this->FillGaussian(this->weight_.get());
    shared_ptr<TPMLayer<Dtype> > first = this->Layer(param);
    this->Iterate(first.get(), kResume[n], 2);
    shared_ptr<TPMLayer<Dtype> > second = this->Layer(param);
    this->CopyState(first.get(), second.get());
    this->Iterate(second.get(), 40 - kResume[n], 2);
    this->ExpectSameState(through.get(), second.get());
    EXPECT_EQ(tpm, this->tpm());
  }
}

#ifndef CPU_ONLY
// On a GPU the solver updates a parameter where it lies: state that was at the
// host would cost a transfer, and a wait for it, in every iteration.
TYPED_TEST(TPMLayerTest, TestStateStaysOnDevice) {
  typedef typename TypeParam::Dtype Dtype;
  if (Caffe::mode() != Caffe::GPU) { return; }
  shared_ptr<TPMLayer<Dtype> > layer = this->Layer(this->Param(
      "start_iter: 3 stop_iter: 6 start_iter: 6 stop_iter: 9 interval: 3"));
  // Before, in, between and after the windows.
  for (int t = 0; t < 12; ++t) {
    layer->Forward(this->bottom_vec_, this->top_vec_);
    EXPECT_EQ(SyncedMemory::HEAD_AT_GPU, this->top_.data()->head()) << t;
    for (int i = 1; i < 5; ++i) {
      EXPECT_NE(SyncedMemory::HEAD_AT_CPU, layer->blobs()[i]->data()->head())
          << "blob " << i << " at " << t;
      // What the solver does with a parameter whose gradient is zero.
      caffe_gpu_set(layer->blobs()[i]->count(), Dtype(0),
          layer->blobs()[i]->mutable_gpu_diff());
      layer->blobs()[i]->Update();
    }
    EXPECT_EQ(SyncedMemory::HEAD_AT_GPU, layer->blobs()[4]->data()->head());
    caffe_gpu_scal(this->weight_->count(), Dtype(1.5),
        this->weight_->mutable_gpu_data());
  }
  EXPECT_EQ(12, layer->blobs()[4]->cpu_data()[1]);
  // A straight line, but for rounding.
  EXPECT_NEAR(1, this->tpm(), 1e-6);
}
#endif

// As Net::ShareTrainedLayersWith does, at any time.
TYPED_TEST(TPMLayerTest, TestStateReplaced) {
  typedef typename TypeParam::Dtype Dtype;
  const LayerParameter param = this->Param("start_iter: 0 stop_iter: 30");
  shared_ptr<TPMLayer<Dtype> > first = this->Layer(param);
  this->Iterate(first.get(), 7);
  shared_ptr<TPMLayer<Dtype> > second = this->Layer(param);
  this->Iterate(second.get(), 2);
  for (int i = 1; i < 5; ++i) {
    second->blobs()[i]->ShareData(*first->blobs()[i]);
  }
  this->Iterate(second.get(), 3);
  EXPECT_EQ(10, second->blobs()[4]->cpu_data()[1]);
  EXPECT_EQ(10, second->blobs()[4]->cpu_data()[8]);
}

// The state counts past 2^24, where floats are no longer exact.
TYPED_TEST(TPMLayerTest, TestManyIterations) {
  typedef typename TypeParam::Dtype Dtype;
  const LayerParameter param = this->Param(
      "start_iter: 16777214 stop_iter: 16777224 "
      "start_iter: 2147483640 stop_iter: 2147483647");
  shared_ptr<TPMLayer<Dtype> > layer = this->Layer(param);
  layer->Forward(this->bottom_vec_, this->top_vec_);
  Dtype* counter = layer->blobs()[4]->mutable_cpu_data();
  counter[1] = 16777213;
  TPMReference reference(5);
  for (int t = 16777213; t < 16777230; ++t) {
    if (t >= 16777214 && t <= 16777224) { reference.Add(*this->weight_); }
    this->Iterate(layer.get(), 1);
  }
  this->ExpectResult(layer.get(), 0, reference);
  counter = layer->blobs()[4]->mutable_cpu_data();
  EXPECT_EQ(16777230 - (1 << 24), counter[1]);
  EXPECT_EQ(1, counter[2]);
  EXPECT_EQ(16777214, counter[8 + 2]);
  EXPECT_EQ(0, counter[8 + 3]);
  EXPECT_EQ(2147483647 % (1 << 24), counter[16 + 4]);
  EXPECT_EQ(127, counter[16 + 5]);
}

TYPED_TEST(TPMLayerTest, TestTestPhase) {
  typedef typename TypeParam::Dtype Dtype;
  LayerParameter param = this->Param("start_iter: 0 stop_iter: 10");
  param.set_phase(TEST);
  TPMLayer<Dtype> layer(param);
  layer.SetUp(this->bottom_vec_, this->top_vec_);
  for (int t = 0; t < 5; ++t) {
    layer.Forward(this->bottom_vec_, this->top_vec_);
    EXPECT_TRUE(std::isnan(this->tpm()));
  }
  for (int i = 0; i < layer.blobs()[4]->count(); ++i) {
    EXPECT_EQ(0, layer.blobs()[4]->cpu_data()[i]);
  }
}

// Diverged training is told as it is and stops nothing.
TYPED_TEST(TPMLayerTest, TestNaNWeight) {
  typedef typename TypeParam::Dtype Dtype;
  shared_ptr<TPMLayer<Dtype> > layer =
      this->Layer(this->Param("start_iter: 0 stop_iter: 10"));
  this->Iterate(layer.get(), 3);
  EXPECT_FALSE(std::isnan(this->tpm()));
  this->weight_->mutable_cpu_data()[0] =
      std::numeric_limits<Dtype>::quiet_NaN();
  this->Iterate(layer.get(), 3);
  EXPECT_TRUE(std::isnan(this->tpm()));
  // The other kernels keep their values.
  EXPECT_GT(layer->blobs()[3]->cpu_data()[3], 0);
}

TYPED_TEST(TPMLayerTest, TestNewWindowAfterLoading) {
  typedef typename TypeParam::Dtype Dtype;
  shared_ptr<TPMLayer<Dtype> > first =
      this->Layer(this->Param("start_iter: 0 stop_iter: 4"));
  this->Iterate(first.get(), 10);
  shared_ptr<TPMLayer<Dtype> > second =
      this->Layer(this->Param("start_iter: 10 stop_iter: 16 interval: 3"));
  this->CopyState(first.get(), second.get());
  TPMReference reference(5);
  for (int t = 10; t < 20; ++t) {
    if (t <= 16 && (t - 10) % 3 == 0) { reference.Add(*this->weight_); }
    this->Iterate(second.get(), 1);
  }
  this->ExpectResult(second.get(), 0, reference);
}

// In a net: sharing, multipliers, and state through both snapshot formats.
TYPED_TEST(TPMLayerTest, TestNet) {
  typedef typename TypeParam::Dtype Dtype;
  const string text =
      "name: 'watched' state { phase: TRAIN } "
      "layer { name: 'data' type: 'DummyData' top: 'data' top: 'label' "
      "  dummy_data_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } "
      "    shape { dim: 4 dim: 5 dim: 4 dim: 4 } "
      "    data_filler { type: 'gaussian' } } } "
      "layer { name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv' "
      "  param { name: 'conv_w' lr_mult: 2 } param { lr_mult: 3 } "
      "  convolution_param { num_output: 5 kernel_size: 3 "
      "    weight_filler { type: 'gaussian' } } } "
      "layer { name: 'conv_tpm' type: 'TPM' top: 'conv_tpm' "
      "  param { name: 'conv_w' } tpm_param { start_iter: 1 stop_iter: 30 "
      "    shape { dim: 5 dim: 3 dim: 3 dim: 3 } } } "
      "layer { name: 'loss' type: 'EuclideanLoss' bottom: 'conv' "
      "  bottom: 'label' top: 'loss' } ";
  NetParameter param;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &param));
  Net<Dtype> net(param);
  // Weight and bias of conv, four blobs of state.
  ASSERT_EQ(6, net.learnable_params().size());
  EXPECT_EQ(2, net.params_lr()[0]);
  EXPECT_EQ(3, net.params_lr()[1]);
  for (int i = 2; i < 6; ++i) {
    EXPECT_EQ(0, net.params_lr()[i]);
    EXPECT_EQ(0, net.params_weight_decay()[i]);
  }
  const vector<shared_ptr<Blob<Dtype> > >& conv =
      net.layer_by_name("conv")->blobs();
  const vector<shared_ptr<Blob<Dtype> > >& state =
      net.layer_by_name("conv_tpm")->blobs();
  EXPECT_EQ(conv[0]->cpu_data(), state[0]->cpu_data());
  TPMReference reference(5);
  for (int t = 0; t < 10; ++t) {
    if (t > 0) { reference.Add(*conv[0]); }
    net.ClearParamDiffs();
    net.ForwardBackward();
    for (int i = 2; i < 6; ++i) {
      EXPECT_EQ(0, net.learnable_params()[i]->asum_diff());
    }
    caffe_scal(conv[0]->count(), Dtype(0.001), conv[0]->mutable_cpu_diff());
    net.Update();
  }
  this->ExpectResult(dynamic_cast<TPMLayer<Dtype>*>(
      net.layer_by_name("conv_tpm").get()), 0, reference);
  EXPECT_NEAR(net.blob_by_name("conv_tpm")->cpu_data()[0],
      reference.Displacement(5) / reference.Path(5), 1e-6);

  NetParameter proto;
  net.ToProto(&proto);
  string file;
  MakeTempFilename(&file);
  net.ToHDF5(file);
  Net<Dtype> from_proto(param);
  from_proto.CopyTrainedLayersFrom(proto);
  Net<Dtype> from_hdf5(param);
  from_hdf5.CopyTrainedLayersFromHDF5(file);
  boost::filesystem::remove(file);
  for (int i = 0; i < 5; ++i) {
    for (int j = 0; j < state[i]->count(); ++j) {
      EXPECT_EQ(state[i]->cpu_data()[j],
          from_proto.layer_by_name("conv_tpm")->blobs()[i]->cpu_data()[j]);
      EXPECT_EQ(state[i]->cpu_data()[j],
          from_hdf5.layer_by_name("conv_tpm")->blobs()[i]->cpu_data()[j]);
    }
  }
}

// A weight that two layers share is one weight, whose step both have made.
TYPED_TEST(TPMLayerTest, TestWeightOfTwoLayers) {
  typedef typename TypeParam::Dtype Dtype;
  const string convolution =
      "  convolution_param { num_output: 3 kernel_size: 1 bias_term: false "
      "    weight_filler { type: 'gaussian' } } } ";
  const string text =
      "name: 'siamese' state { phase: TRAIN } "
      "layer { name: 'data' type: 'DummyData' top: 'data' top: 'label' "
      "  dummy_data_param { shape { dim: 4 dim: 3 dim: 2 dim: 2 } "
      "    data_filler { type: 'gaussian' } } } "
      "layer { name: 'a' type: 'Convolution' bottom: 'data' top: 'a' "
      "  param { name: 'w' } " + convolution +
      "layer { name: 'b' type: 'Convolution' bottom: 'a' top: 'b' "
      "  param { name: 'w' } " + convolution +
      "layer { name: 'tpm' type: 'TPM' top: 'tpm' param { name: 'w' } "
      "  tpm_param { start_iter: 0 stop_iter: 30 "
      "    shape { dim: 3 dim: 3 dim: 1 dim: 1 } } } "
      "layer { name: 'loss' type: 'EuclideanLoss' bottom: 'b' "
      "  bottom: 'label' top: 'loss' } ";
  NetParameter param;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &param));
  Net<Dtype> net(param);
  // One weight, four blobs of state.
  ASSERT_EQ(5, net.learnable_params().size());
  const vector<shared_ptr<Blob<Dtype> > >& state =
      net.layer_by_name("tpm")->blobs();
  this->weight_->Reshape(3, 3, 1, 1);
  TPMReference reference(3);
  for (int t = 0; t < 10; ++t) {
    reference.Add(*net.layer_by_name("b")->blobs()[0]);
    EXPECT_EQ(net.layer_by_name("a")->blobs()[0]->cpu_data(),
        state[0]->cpu_data());
    net.ClearParamDiffs();
    net.ForwardBackward();
    caffe_scal(state[0]->count(), Dtype(0.01), state[0]->mutable_cpu_diff());
    net.Update();
  }
  this->ExpectResult(dynamic_cast<TPMLayer<Dtype>*>(
      net.layer_by_name("tpm").get()), 0, reference);
}

// What a user may get wrong, each told by name. One Dtype is enough.
class TPMLayerDeathTest : public TPMLayerTest<CPUDevice<float> > {
 protected:
  void SetUpAndForward(const string& options, const string& param = "") {
    LayerParameter layer_param = Param(options);
    if (param.size()) {
      layer_param.clear_param();
      LayerParameter more;
      CHECK(google::protobuf::TextFormat::ParseFromString(param, &more));
      layer_param.MergeFrom(more);
    }
    shared_ptr<TPMLayer<float> > layer = Layer(layer_param);
    layer->Forward(bottom_vec_, top_vec_);
  }
};

TEST_F(TPMLayerDeathTest, TestOptions) {
  const string ok = "start_iter: 10 stop_iter: 20 ";
  SetUpAndForward(ok);
  EXPECT_DEATH(SetUpAndForward(""), "'watch'.*at least one window");
  EXPECT_DEATH(SetUpAndForward("start_iter: 10"),
      "one start_iter and one stop_iter");
  EXPECT_DEATH(SetUpAndForward(ok + "interval: 0"), "interval must be");
  EXPECT_DEATH(SetUpAndForward(ok + "iter_size: 0"), "iter_size must be");
  EXPECT_DEATH(SetUpAndForward(ok + "interval: 11"),
      "from 10 to 20 does not hold two samples 11 iterations apart");
  EXPECT_DEATH(SetUpAndForward("start_iter: 20 stop_iter: 10"),
      "does not hold two samples");
  EXPECT_DEATH(SetUpAndForward("start_iter: 1 stop_iter: 3000000000"),
      "iterations end at");
  EXPECT_DEATH(SetUpAndForward(ok + "start_iter: 15 stop_iter: 30"),
      "window 1 starts before window 0 stops");
  EXPECT_DEATH(SetUpAndForward(ok + "shape { dim: 5 dim: 0 }"),
      "dimension 1 of the watched weight must be positive");
  EXPECT_DEATH(SetUpAndForward(ok + "shape { }"), "give the shape");
}

TEST_F(TPMLayerDeathTest, TestParamSpecs) {
  const string ok = "start_iter: 10 stop_iter: 20 ";
  EXPECT_DEATH(SetUpAndForward(ok, "param { lr_mult: 1 }"),
      "name the watched weight");
  SetUpAndForward(ok, "param { name: 'w' } param { lr_mult: 0 }");
  EXPECT_DEATH(SetUpAndForward(ok, "param { name: 'w' } param { lr_mult: 1 }"),
      "param 1 is state, not trained: write lr_mult: 0");
  EXPECT_DEATH(SetUpAndForward(ok, "param { name: 'w' } param { } "
      "param { decay_mult: 1 }"), "param 2 is state.*write decay_mult: 0");
  EXPECT_DEATH(SetUpAndForward(ok, "param { name: 'w' } param { name: 'v' }"),
      "cannot be shared: remove its name 'v'");
  EXPECT_DEATH(SetUpAndForward(ok, "param { name: 'w' } param { } param { } "
      "param { } param { } param { }"), "too many params");
}

TEST_F(TPMLayerDeathTest, TestNotShared) {
  TPMLayer<float> layer(Param("start_iter: 10 stop_iter: 20"));
  layer.SetUp(bottom_vec_, top_vec_);
  EXPECT_DEATH(layer.Forward(bottom_vec_, top_vec_),
      "param 'w' names no weight of an earlier layer");
}

TEST_F(TPMLayerDeathTest, TestLoadedState) {
  shared_ptr<TPMLayer<float> > first =
      Layer(Param("start_iter: 2 stop_iter: 20"));
  Iterate(first.get(), 10);
  // Other windows than those recorded, already begun.
  const char* kOthers[] = {"start_iter: 3 stop_iter: 20",
      "start_iter: 2 stop_iter: 30", "start_iter: 2 stop_iter: 20 interval: 2"};
  for (int i = 0; i < 3; ++i) {
    shared_ptr<TPMLayer<float> > second = Layer(Param(kOthers[i]));
    CopyState(first.get(), second.get());
    EXPECT_DEATH(second->Forward(bottom_vec_, top_vec_), "starts before "
        "iteration 10 of the loaded state, which holds the window from 2 to "
        "20, interval 1");
  }
  shared_ptr<TPMLayer<float> > damaged =
      Layer(Param("start_iter: 2 stop_iter: 20"));
  CopyState(first.get(), damaged.get());
  damaged->blobs()[4]->mutable_cpu_data()[1] = 10.5;
  EXPECT_DEATH(damaged->Forward(bottom_vec_, top_vec_), "are damaged: 10.5");
  damaged->blobs()[4]->mutable_cpu_data()[1] = 12;
  EXPECT_DEATH(damaged->Forward(bottom_vec_, top_vec_),
      "the state is damaged");
  damaged->blobs()[4]->mutable_cpu_data()[0] = 2;
  EXPECT_DEATH(damaged->Forward(bottom_vec_, top_vec_),
      "layout version 2, expected 1");
}

}  // namespace caffe
