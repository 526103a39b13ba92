#ifndef CAFFE_TPM_LAYER_HPP_
#define CAFFE_TPM_LAYER_HPP_

#include <string>
#include <vector>

#include "caffe/blob.hpp"
#include "caffe/common.hpp"
#include "caffe/layer.hpp"
#include "caffe/syncedmem.hpp"
#include "caffe/proto/caffe.pb.h"

namespace caffe {

/**
 * @brief Watches how the weight of another layer moves while it is trained.
 *
 * Over a window of iterations [a, b], sampled every `interval` iterations at
 * @f$ t_0 < t_1 < ... < t_N @f$, a weight vector @f$ w @f$ has the displacement
 * @f$ D = ||w(t_N) - w(t_0)||_2 @f$, the path
 * @f$ P = \sum_j ||w(t_j) - w(t_{j-1})||_2 @f$ and @f$ TPM = D / P @f$: 1 when
 * it moved in a straight line, low when it wandered, undefined when it did not
 * move. The layer keeps D and P for every kernel (a slice along the first axis
 * of the weight) and for the whole weight. Its top is the TPM of the whole
 * weight in the latest window, NaN while that is undefined, so that the solver
 * prints it with the other outputs of the train net.
 *
 * The layer has no bottom. It sees the weight by sharing it: the watched layer
 * and this one, which comes after it, name it alike. It never writes the weight
 * or any gradient, so training is the same with and without it.
 *
 * Every TRAIN forward counts, iter_size of them make an iteration, and w(t) is
 * sampled at the first forward of iteration t, when t updates have been made.
 * A snapshot of iteration t is written before that forward: the state in it
 * covers the samples up to t - 1, and w(t) is the snapshot's own weight.
 * In the TEST phase the layer does nothing and its top is NaN.
 *
 * On a GPU nothing waits for the device: the host counts in a copy of the
 * counter, and each forward launches one kernel, which also writes counter and
 * top.
 * The value reaches the host when the solver displays it.
 *
 * State, kept in blobs so that it lives in snapshots. Blobs 1 to 4 always have
 * lr_mult 0 and decay_mult 0. W windows, K kernels:
 *   -# (shape) the watched weight, shared
 *   -# (shape) the weight at the first sample of the latest window sampled
 *   -# (shape) the weight at the latest sample
 *   -# @f$ (W \times (K + 1) \times 3) @f$ a row for each kernel and a last
 *      one for the whole weight: D, the path's high part, its low part. The
 *      path is a double, high + low: one float would lose short steps.
 *   -# @f$ (W + 1 \times 8) @f$ whole numbers; a "pair" is two cells, value
 *      modulo 2^24 and value divided by 2^24, as a float is exact to 2^24 only
 *      - row 0: layout version (0: no forward yet, else 1), pair t = iterations
 *        done, forwards done of iteration t, iter_size, 0, 0, 0
 *      - row 1 + w: pairs samples taken, start_iter, stop_iter, interval
 *
 * Loaded state goes on counting where it stopped, which is right for a resumed
 * run; weights loaded to train anew bring it too. A window may differ from the
 * one recorded in the state only while it has yet to start.
 */
template <typename Dtype>
class TPMLayer : public Layer<Dtype> {
 public:
  /**
   * @param param provides TPMParameter tpm_param, with TPMLayer options:
   *   - start_iter, stop_iter (one each for every window, ascending). A window
   *     may start at the iteration at which the one before it stops.
   *   - interval (\b optional, default 1). Iterations between two samples.
   *   - iter_size (\b optional, default 1). The solver's iter_size.
   *   - shape. The shape of the watched weight.
   * and param(0).name, which the watched layer gives to its weight too.
   */
  explicit TPMLayer(const LayerParameter& param)
      : Layer<Dtype>(param), unshared_(NULL), first_forward_(true) {}
  virtual void LayerSetUp(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top);
  virtual void Reshape(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top);

  virtual inline const char* type() const { return "TPM"; }
  virtual inline int ExactNumBottomBlobs() const { return 0; }
  virtual inline int ExactNumTopBlobs() const { return 1; }

 protected:
  virtual void Forward_cpu(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top);
  virtual void Forward_gpu(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top);
  virtual void Backward_cpu(const vector<Blob<Dtype>*>& top,
      const vector<bool>& propagate_down, const vector<Blob<Dtype>*>& bottom)
  {}
  virtual void Backward_gpu(const vector<Blob<Dtype>*>& top,
      const vector<bool>& propagate_down, const vector<Blob<Dtype>*>& bottom)
  {}

 private:
  enum { WEIGHT, START, PREVIOUS, RESULT, COUNTER, NUM_BLOBS };
  enum { DISPLACEMENT, PATH_HIGH, PATH_LOW, RESULT_CELLS };
  // Row 0 of the counter, then its other rows. A pair takes two cells.
  enum { VERSION, ITER, FORWARDS = 3, ITER_SIZE };
  enum { SAMPLES, START_ITER = 2, STOP_ITER = 4, INTERVAL = 6,
         COUNTER_CELLS = 8 };

  void CheckOptions() const;
  void CheckParamSpecs();
  void CheckShared() const;
  /// Makes fresh state, or checks that loaded state is of these windows.
  void CheckState(Dtype* counter);
  /// Says in the log that a loaded state goes on counting, at first.
  void TellLoaded(const int64_t iter);
  /// Whether window w is sampled at iteration iter.
  bool IsDue(const int w, const int64_t iter) const;
  /// The samples that window w had before one that is due at iteration iter.
  int64_t SamplesBefore(const int w, const int64_t iter,
      const Dtype* counter) const;
  /// Takes the samples that are due at iteration iter.
  void Sample(const int64_t iter, Dtype* counter);
  /// One forward more of iteration iter.
  void Count(const int64_t iter, Dtype* counter) const;
  /// The latest window that starts by iter, -1 when there is none.
  int LatestWindow(const int64_t iter) const;
  /// One pass over the weight: D and P of window w, and the previous copy.
  void Accumulate(const int w);
  /// TPM of the whole weight in the latest window that started by iter.
  Dtype WholeTPM(const int64_t iter);

  int64_t ReadPair(const Dtype* cells) const;
  static void WritePair(const int64_t value, Dtype* cells);
  Dtype* counter_row(Dtype* counter, const int w) const {
    return counter + (w + 1) * COUNTER_CELLS;
  }
  const Dtype* counter_row(const Dtype* counter, const int w) const {
    return counter + (w + 1) * COUNTER_CELLS;
  }
  int num_windows() const {
    return this->layer_param_.tpm_param().start_iter_size();
  }
  int64_t start_iter(const int w) const {
    return this->layer_param_.tpm_param().start_iter(w);
  }
  int64_t stop_iter(const int w) const {
    return this->layer_param_.tpm_param().stop_iter(w);
  }
  int64_t interval() const {
    return this->layer_param_.tpm_param().interval();
  }
  int64_t iter_size() const {
    return this->layer_param_.tpm_param().iter_size();
  }
  /// How messages name this layer.
  string self() const {
    return "TPM layer '" + this->layer_param_.name() + "': ";
  }

  /// The weight's memory at set-up, which sharing replaces: see CheckShared.
  const void* unshared_;
  bool first_forward_;
#ifndef CPU_ONLY
  /// The counter as the host knows it, and the memory it was read from. What
  /// is written there on the device alone (CopyFrom in GPU mode) is not seen.
  vector<Dtype> host_counter_;
  shared_ptr<SyncedMemory> counter_memory_;
  /// Device memory of the kernel: two sums for each kernel of the weight and
  /// the number of blocks that have finished.
  shared_ptr<SyncedMemory> block_sums_;
#endif
};

}  // namespace caffe

#endif  // CAFFE_TPM_LAYER_HPP_
