#include <algorithm>
#include <climits>
#include <cmath>
#include <limits>
#include <vector>

#include "caffe/layers/tpm_layer.hpp"
#include "caffe/util/math_functions.hpp"

namespace caffe {

namespace {

const int64_t kPairBase = 1 << 24;
const int kLayoutVersion = 1;

// Independent sums: the compiler may not reorder one sum of doubles, and so
// could not vectorise it. Also shorter chains of rounding.
const int kLanes = 8;

}  // namespace

template <typename Dtype>
void TPMLayer<Dtype>::LayerSetUp(const vector<Blob<Dtype>*>& bottom,
    const vector<Blob<Dtype>*>& top) {
  CheckOptions();
  CheckParamSpecs();
  const BlobShape& weight_shape = this->layer_param_.tpm_param().shape();
  vector<int> result_shape(3);
  result_shape[0] = num_windows();
  result_shape[1] = weight_shape.dim(0) + 1;
  result_shape[2] = RESULT_CELLS;
  vector<int> counter_shape(2);
  counter_shape[0] = num_windows() + 1;
  counter_shape[1] = COUNTER_CELLS;
  vector<shared_ptr<Blob<Dtype> > > fresh(NUM_BLOBS);
  for (int i = 0; i < NUM_BLOBS; ++i) {
    fresh[i].reset(new Blob<Dtype>());
    if (i < RESULT) {
      fresh[i]->Reshape(weight_shape);
    } else {
      fresh[i]->Reshape(i == RESULT ? result_shape : counter_shape);
    }
  }
  if (this->blobs_.size() > 0) {
    CHECK_EQ(this->blobs_.size(), NUM_BLOBS) << self()
        << "the state it was given has another number of blobs";
    for (int i = 0; i < NUM_BLOBS; ++i) {
      CHECK(this->blobs_[i]->shape() == fresh[i]->shape()) << self()
          << "blob " << i << " of the state it was given has shape "
          << this->blobs_[i]->shape_string() << ", but this weight shape and "
          << "these windows need " << fresh[i]->shape_string();
    }
  } else {
    this->blobs_ = fresh;
    for (int i = START; i < NUM_BLOBS; ++i) {
      caffe_set(fresh[i]->count(), Dtype(0), fresh[i]->mutable_cpu_data());
    }
  }
  unshared_ = this->blobs_[WEIGHT]->data().get();
  // glog cuts the net that Caffe prints at 30,000 bytes: here a log tells the
  // windows, whatever the net's size.
  for (int w = 0; w < num_windows() && this->phase_ == TRAIN; ++w) {
    LOG_IF(INFO, Caffe::root_solver()) << self() << "window " << w << " from "
        << start_iter(w) << " to " << stop_iter(w) << ", interval "
        << interval();
  }
}

template <typename Dtype>
void TPMLayer<Dtype>::CheckOptions() const {
  const TPMParameter& param = this->layer_param_.tpm_param();
  CHECK_GT(param.shape().dim_size(), 0) << self() << "give the shape of the "
      << "watched weight, e.g. tpm_param { shape { dim: 16 dim: 3 dim: 3 "
      << "dim: 3 } }";
  for (int i = 0; i < param.shape().dim_size(); ++i) {
    CHECK_GT(param.shape().dim(i), 0) << self() << "shape: dimension " << i
        << " of the watched weight must be positive";
  }
  CHECK_GT(param.start_iter_size(), 0) << self() << "give at least one window, "
      << "e.g. tpm_param { start_iter: 40000 stop_iter: 50000 }";
  CHECK_EQ(param.start_iter_size(), param.stop_iter_size()) << self()
      << "every window needs one start_iter and one stop_iter";
  CHECK_GE(param.interval(), 1) << self() << "interval must be at least 1";
  CHECK_GE(param.iter_size(), 1) << self() << "iter_size must be at least 1";
  CHECK_LT(param.iter_size(), kPairBase) << self() << "iter_size is too large";
  for (int w = 0; w < param.start_iter_size(); ++w) {
    CHECK_LE(stop_iter(w), INT_MAX) << self() << "window " << w
        << ": the solver's iterations end at " << INT_MAX;
    CHECK_GE(stop_iter(w) - start_iter(w), interval()) << self() << "window "
        << w << " from " << start_iter(w) << " to " << stop_iter(w)
        << " does not hold two samples " << interval() << " iterations apart";
    if (w > 0) {
      CHECK_GE(start_iter(w), stop_iter(w - 1)) << self() << "window " << w
          << " starts before window " << w - 1 << " stops: order the windows "
          << "by iteration and let them not overlap";
    }
  }
}

template <typename Dtype>
void TPMLayer<Dtype>::CheckParamSpecs() {
  CHECK(this->layer_param_.param_size() > 0 &&
        this->layer_param_.param(0).name().size() > 0) << self()
      << "name the watched weight, in the watched layer and, with the same "
      << "name, here: param { name: \"conv1_w\" }";
  CHECK_LE(this->layer_param_.param_size(), NUM_BLOBS) << self()
      << "too many params";
  // Net takes the multipliers of the state from this layer's own copy of the
  // parameters, after set-up: the state is safe whatever the prototxt leaves
  // out. What it says and we could not obey is an error.
  for (int i = 1; i < NUM_BLOBS; ++i) {
    ParamSpec* spec = i < this->layer_param_.param_size() ?
        this->layer_param_.mutable_param(i) : this->layer_param_.add_param();
    CHECK(spec->name().empty()) << self() << "param " << i << " is state of "
        << "this layer alone and cannot be shared: remove its name '"
        << spec->name() << "'";
    CHECK(!spec->has_lr_mult() || spec->lr_mult() == 0) << self() << "param "
        << i << " is state, not trained: write lr_mult: 0, or leave it out";
    CHECK(!spec->has_decay_mult() || spec->decay_mult() == 0) << self()
        << "param " << i << " is state, not trained: write decay_mult: 0, "
        << "or leave it out";
    spec->set_lr_mult(0);
    spec->set_decay_mult(0);
  }
}

template <typename Dtype>
void TPMLayer<Dtype>::Reshape(const vector<Blob<Dtype>*>& bottom,
    const vector<Blob<Dtype>*>& top) {
  top[0]->Reshape(vector<int>(0));
}

template <typename Dtype>
int64_t TPMLayer<Dtype>::ReadPair(const Dtype* cells) const {
  for (int i = 0; i < 2; ++i) {
    CHECK(cells[i] >= 0 && cells[i] < kPairBase &&
          cells[i] == std::floor(cells[i])) << self()
        << "the counters in its state are damaged: " << cells[i];
  }
  return static_cast<int64_t>(cells[0]) +
      static_cast<int64_t>(cells[1]) * kPairBase;
}

template <typename Dtype>
void TPMLayer<Dtype>::WritePair(const int64_t value, Dtype* cells) {
  cells[0] = value % kPairBase;
  cells[1] = value / kPairBase;
}

template <typename Dtype>
void TPMLayer<Dtype>::CheckState(Dtype* counter) {
  const bool fresh = counter[VERSION] == 0;
  CHECK(fresh || counter[VERSION] == kLayoutVersion) << self() << "its state "
      << "has layout version " << counter[VERSION] << ", expected "
      << kLayoutVersion;
  const int64_t iter = ReadPair(counter + ITER);
  if (fresh || counter[ITER_SIZE] != iter_size()) {
    CHECK_EQ(counter[FORWARDS], 0) << self() << "iter_size cannot change in "
        << "the middle of an iteration";
    counter[VERSION] = kLayoutVersion;
    counter[ITER_SIZE] = iter_size();
  }
  for (int w = 0; w < num_windows(); ++w) {
    Dtype* row = counter_row(counter, w);
    if (!fresh && ReadPair(row + START_ITER) == start_iter(w) &&
        ReadPair(row + STOP_ITER) == stop_iter(w) &&
        ReadPair(row + INTERVAL) == interval()) {
      continue;
    }
    CHECK(start_iter(w) > iter ||
          (start_iter(w) == iter && counter[FORWARDS] == 0)) << self()
        << "window " << w << " from " << start_iter(w) << " to "
        << stop_iter(w) << ", interval " << interval() << ", starts before "
        << "iteration " << iter << " of the loaded state, which holds the "
        << "window from " << ReadPair(row + START_ITER) << " to "
        << ReadPair(row + STOP_ITER) << ", interval "
        << ReadPair(row + INTERVAL) << ". Keep the recorded windows, let new "
        << "ones start later, or rename this layer to start afresh";
    WritePair(0, row + SAMPLES);
    WritePair(start_iter(w), row + START_ITER);
    WritePair(stop_iter(w), row + STOP_ITER);
    WritePair(interval(), row + INTERVAL);
    const int row_count = this->blobs_[RESULT]->count(1);
    caffe_set(row_count, Dtype(0),
        this->blobs_[RESULT]->mutable_cpu_data() + w * row_count);
  }
}

template <typename Dtype>
void TPMLayer<Dtype>::Accumulate(const int w) {
  const int num_kernels = this->blobs_[WEIGHT]->shape(0);
  const int dim = this->blobs_[WEIGHT]->count(1);
  const Dtype* weight = this->blobs_[WEIGHT]->cpu_data();
  const Dtype* start = this->blobs_[START]->cpu_data();
  Dtype* previous = this->blobs_[PREVIOUS]->mutable_cpu_data();
  Dtype* result = this->blobs_[RESULT]->mutable_cpu_data() +
      w * this->blobs_[RESULT]->count(1);
  double whole_square = 0;
  double whole_step_square = 0;
  for (int k = 0; k <= num_kernels; ++k) {
    double square = 0;
    double step_square = 0;
    if (k < num_kernels) {
      double squares[kLanes] = {0};
      double step_squares[kLanes] = {0};
      int i = 0;
      for (; i + kLanes <= dim; i += kLanes) {
        // Through locals: previous may not be known to differ from the others.
        double moved[kLanes];
        double stepped[kLanes];
        Dtype now[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) {
          now[lane] = weight[i + lane];
          moved[lane] = double(now[lane]) - double(start[i + lane]);
          stepped[lane] = double(now[lane]) - double(previous[i + lane]);
        }
        for (int lane = 0; lane < kLanes; ++lane) {
          previous[i + lane] = now[lane];
          squares[lane] += moved[lane] * moved[lane];
          step_squares[lane] += stepped[lane] * stepped[lane];
        }
      }
      for (; i < dim; ++i) {
        const double moved = double(weight[i]) - double(start[i]);
        const double stepped = double(weight[i]) - double(previous[i]);
        previous[i] = weight[i];
        squares[0] += moved * moved;
        step_squares[0] += stepped * stepped;
      }
      for (int lane = 0; lane < kLanes; ++lane) {
        square += squares[lane];
        step_square += step_squares[lane];
      }
      whole_square += square;
      whole_step_square += step_square;
      weight += dim;
      start += dim;
      previous += dim;
    } else {
      square = whole_square;
      step_square = whole_step_square;
    }
    const double path = double(result[PATH_HIGH]) + double(result[PATH_LOW]) +
        std::sqrt(step_square);
    result[DISPLACEMENT] = std::sqrt(square);
    result[PATH_HIGH] = path;
    result[PATH_LOW] = path - result[PATH_HIGH];
    result += RESULT_CELLS;
  }
}

template <typename Dtype>
bool TPMLayer<Dtype>::IsDue(const int w, const int64_t iter) const {
  return iter >= start_iter(w) && iter <= stop_iter(w) &&
      (iter - start_iter(w)) % interval() == 0;
}

template <typename Dtype>
int64_t TPMLayer<Dtype>::SamplesBefore(const int w, const int64_t iter,
    const Dtype* counter) const {
  const int64_t taken = ReadPair(counter_row(counter, w) + SAMPLES);
  CHECK_EQ(taken, (iter - start_iter(w)) / interval()) << self()
      << "at iteration " << iter << " its state holds another number of "
      << "samples than window " << w << " has had: the state is damaged";
  return taken;
}

template <typename Dtype>
void TPMLayer<Dtype>::Sample(const int64_t iter, Dtype* counter) {
  for (int w = 0; w < num_windows(); ++w) {
    if (!IsDue(w, iter)) { continue; }
    const int64_t taken = SamplesBefore(w, iter, counter);
    if (taken == 0) {
      const int count = this->blobs_[WEIGHT]->count();
      const Dtype* weight = this->blobs_[WEIGHT]->cpu_data();
      caffe_copy(count, weight, this->blobs_[START]->mutable_cpu_data());
      caffe_copy(count, weight, this->blobs_[PREVIOUS]->mutable_cpu_data());
    } else {
      Accumulate(w);
    }
    WritePair(taken + 1, counter_row(counter, w) + SAMPLES);
  }
}

template <typename Dtype>
void TPMLayer<Dtype>::Count(const int64_t iter, Dtype* counter) const {
  counter[FORWARDS] += 1;
  if (counter[FORWARDS] == iter_size()) {
    counter[FORWARDS] = 0;
    WritePair(iter + 1, counter + ITER);
  }
}

template <typename Dtype>
int TPMLayer<Dtype>::LatestWindow(const int64_t iter) const {
  int w = num_windows() - 1;
  while (w >= 0 && start_iter(w) > iter) { --w; }
  return w;
}

template <typename Dtype>
Dtype TPMLayer<Dtype>::WholeTPM(const int64_t iter) {
  const int w = LatestWindow(iter);
  if (w < 0) { return std::numeric_limits<Dtype>::quiet_NaN(); }
  const Blob<Dtype>& result = *this->blobs_[RESULT];
  const Dtype* whole =
      result.cpu_data() + (w + 1) * result.count(1) - RESULT_CELLS;
  const double path = double(whole[PATH_HIGH]) + double(whole[PATH_LOW]);
  // Before two samples, and for a weight that does not move.
  if (path == 0) { return std::numeric_limits<Dtype>::quiet_NaN(); }
  // Rounding can put a straight line a hair above 1. (NaN stays NaN.)
  const double tpm = whole[DISPLACEMENT] / path;
  return tpm > 1 ? 1 : tpm;
}

template <typename Dtype>
void TPMLayer<Dtype>::CheckShared() const {
  // A misspelt name, or this layer before the watched one, would leave the
  // layer with a weight of its own, or make the watched layer train that one.
  CHECK(this->blobs_[WEIGHT]->data().get() != unshared_) << self() << "param '"
      << this->layer_param_.param(0).name() << "' names no weight of an "
      << "earlier layer: put this layer after the one it watches and give the "
      << "weight the same name in both";
}

template <typename Dtype>
void TPMLayer<Dtype>::TellLoaded(const int64_t iter) {
  // Weights loaded to train anew bring their count with them: let it be seen.
  LOG_IF(INFO, first_forward_ && iter > 0 && Caffe::root_solver()) << self()
      << "its state was loaded and goes on counting at iteration " << iter;
  first_forward_ = false;
}

template <typename Dtype>
void TPMLayer<Dtype>::Forward_cpu(const vector<Blob<Dtype>*>& bottom,
    const vector<Blob<Dtype>*>& top) {
  if (this->phase_ == TEST) {
    top[0]->mutable_cpu_data()[0] = std::numeric_limits<Dtype>::quiet_NaN();
    return;
  }
  CheckShared();
  Dtype* counter = this->blobs_[COUNTER]->mutable_cpu_data();
  CheckState(counter);
  const int64_t iter = ReadPair(counter + ITER);
  TellLoaded(iter);
  if (counter[FORWARDS] == 0) {
    Sample(iter, counter);
  }
  Count(iter, counter);
  top[0]->mutable_cpu_data()[0] = WholeTPM(iter);
}

#ifdef CPU_ONLY
STUB_GPU_FORWARD(TPMLayer, Forward);
#endif

INSTANTIATE_CLASS(TPMLayer);
REGISTER_LAYER_CLASS(TPM);

}  // namespace caffe
