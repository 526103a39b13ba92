#include <limits>
#include <vector>

#include "caffe/layers/tpm_layer.hpp"
#include "caffe/util/math_functions.hpp"

namespace caffe {

namespace {

// Kernels of the usual nets have 27 to 4,608 weights.
const int kThreads = 128;

// Cells of a row of the result, as in tpm_layer.hpp.
enum { D, P_HIGH, P_LOW, CELLS };

// What a forward leaves behind when its samples are taken.
template <typename Dtype>
struct TPMEnd {
  // The counter: where iterations done (a pair) and forwards done of the next
  // one go, and the values.
  Dtype* done;
  Dtype done_cells[3];
  // Samples of the window sampled last (a pair), NULL when none was.
  Dtype* samples;
  Dtype sample_cells[2];
  // The row of the whole weight in the latest window, NULL when none has
  // started, and the top that gets its ratio.
  const Dtype* whole;
  Dtype* top;
  Dtype nan;
};

template <typename Dtype>
__device__ void WriteEnd(const TPMEnd<Dtype>& end) {
  for (int i = 0; i < 3; ++i) { end.done[i] = end.done_cells[i]; }
  if (end.samples != NULL) {
    end.samples[0] = end.sample_cells[0];
    end.samples[1] = end.sample_cells[1];
  }
  const double path = end.whole == NULL ? 0 :
      double(end.whole[P_HIGH]) + double(end.whole[P_LOW]);
  // As on the CPU: undefined without a path, never above 1, NaN stays NaN.
  const double tpm = path == 0 ? end.nan : end.whole[D] / path;
  *end.top = tpm > 1 ? 1 : tpm;
}

template <typename Dtype>
__global__ void TPMEndKernel(const TPMEnd<Dtype> end) {
  WriteEnd(end);
}

// A row of the result after a sample with these squared lengths.
template <typename Dtype>
__device__ void WriteRow(const double square, const double step_square,
    Dtype* row) {
  const double path = double(row[P_HIGH]) + double(row[P_LOW]) +
      sqrt(step_square);
  row[D] = sqrt(square);
  row[P_HIGH] = path;
  row[P_LOW] = path - double(row[P_HIGH]);
}

// Sums both arrays of kThreads values into their first ones, always in the
// same order. All threads of the block call it.
__device__ void SumInBlock(double* a, double* b) {
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      a[threadIdx.x] += a[threadIdx.x + half];
      b[threadIdx.x] += b[threadIdx.x + half];
    }
  }
  __syncthreads();
}

// A block for each kernel of the weight; the block that finishes last adds
// their sums up for the whole weight and ends the forward. Sums are double.
template <typename Dtype>
__global__ void TPMSampleKernel(const int dim, const Dtype* weight,
    const Dtype* start, Dtype* previous, Dtype* result, double* block_sums,
    unsigned int* blocks_done, const TPMEnd<Dtype> end) {
  __shared__ double squares[kThreads];
  __shared__ double step_squares[kThreads];
  __shared__ bool is_last;
  const size_t offset = static_cast<size_t>(blockIdx.x) * dim;
  double square = 0;
  double step_square = 0;
  for (int i = threadIdx.x; i < dim; i += kThreads) {
    const Dtype now = weight[offset + i];
    const double moved = double(now) - double(start[offset + i]);
    const double stepped = double(now) - double(previous[offset + i]);
    previous[offset + i] = now;
    square += moved * moved;
    step_square += stepped * stepped;
  }
  squares[threadIdx.x] = square;
  step_squares[threadIdx.x] = step_square;
  SumInBlock(squares, step_squares);
  if (threadIdx.x == 0) {
    WriteRow(squares[0], step_squares[0], result + blockIdx.x * CELLS);
    block_sums[2 * blockIdx.x] = squares[0];
    block_sums[2 * blockIdx.x + 1] = step_squares[0];
    // The sums are to be seen by whoever sees the count.
    __threadfence();
    is_last = atomicAdd(blocks_done, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last) { return; }
  // Not from a cache that may be older than what other blocks wrote.
  const volatile double* all_sums = block_sums;
  square = 0;
  step_square = 0;
  for (int k = threadIdx.x; k < gridDim.x; k += kThreads) {
    square += all_sums[2 * k];
    step_square += all_sums[2 * k + 1];
  }
  squares[threadIdx.x] = square;
  step_squares[threadIdx.x] = step_square;
  SumInBlock(squares, step_squares);
  if (threadIdx.x == 0) {
    WriteRow(squares[0], step_squares[0], result + gridDim.x * CELLS);
    *blocks_done = 0;
    WriteEnd(end);
  }
}

}  // namespace

template <typename Dtype>
void TPMLayer<Dtype>::Forward_gpu(const vector<Blob<Dtype>*>& bottom,
    const vector<Blob<Dtype>*>& top) {
  const Dtype nan = std::numeric_limits<Dtype>::quiet_NaN();
  if (this->phase_ == TEST) {
    caffe_gpu_set(1, nan, top[0]->mutable_gpu_data());
    return;
  }
  CheckShared();
  const int num_kernels = this->blobs_[WEIGHT]->shape(0);
  // After the first forward the counter is other memory, or at the host, only
  // when something else has put it there, as sharing and loading weights do.
  const shared_ptr<SyncedMemory>& memory = this->blobs_[COUNTER]->data();
  if (memory != counter_memory_ ||
      memory->head() == SyncedMemory::HEAD_AT_CPU) {
    counter_memory_ = memory;
    Dtype* counter = this->blobs_[COUNTER]->mutable_cpu_data();
    CheckState(counter);
    host_counter_.assign(counter, counter + this->blobs_[COUNTER]->count());
    // All state to the device, whether or not a sample is due: the solver
    // updates a parameter where it lies, and its gradient lies there.
    for (int i = START; i < NUM_BLOBS; ++i) { this->blobs_[i]->gpu_data(); }
    // Zeroed when it is first used.
    block_sums_.reset(new SyncedMemory(
        2 * num_kernels * sizeof(double) + sizeof(unsigned int)));
  }
  Dtype* counter = &host_counter_[0];
  const int64_t iter = ReadPair(counter + ITER);
  TellLoaded(iter);

  Dtype* device_counter = this->blobs_[COUNTER]->mutable_gpu_data();
  TPMEnd<Dtype> end;
  end.done = device_counter + ITER;
  end.samples = NULL;
  end.sample_cells[0] = end.sample_cells[1] = 0;
  end.top = top[0]->mutable_gpu_data();
  end.nan = nan;
  const int latest = LatestWindow(iter);
  const int row_count = this->blobs_[RESULT]->count(1);
  end.whole = latest < 0 ? NULL : this->blobs_[RESULT]->gpu_data() +
      (latest + 1) * row_count - RESULT_CELLS;
  const bool is_sampled = counter[FORWARDS] == 0;
  Count(iter, counter);
  for (int i = 0; i < 3; ++i) { end.done_cells[i] = counter[ITER + i]; }

  // At most two windows are due, one that stops and one that starts here, in
  // this order. A sample's kernel ends the forward; a first sample has none.
  bool is_ended = false;
  for (int w = 0; w < num_windows() && is_sampled; ++w) {
    if (!IsDue(w, iter)) { continue; }
    const int64_t taken = SamplesBefore(w, iter, counter);
    WritePair(taken + 1, counter_row(counter, w) + SAMPLES);
    end.samples = counter_row(device_counter, w) + SAMPLES;
    end.sample_cells[0] = counter_row(counter, w)[SAMPLES];
    end.sample_cells[1] = counter_row(counter, w)[SAMPLES + 1];
    const Dtype* weight = this->blobs_[WEIGHT]->gpu_data();
    if (taken == 0) {
      const int count = this->blobs_[WEIGHT]->count();
      caffe_copy(count, weight, this->blobs_[START]->mutable_gpu_data());
      caffe_copy(count, weight, this->blobs_[PREVIOUS]->mutable_gpu_data());
      is_ended = false;
    } else {
      double* block_sums =
          static_cast<double*>(block_sums_->mutable_gpu_data());
      // NOLINT_NEXT_LINE(whitespace/operators)
      TPMSampleKernel<Dtype><<<num_kernels, kThreads>>>(
          this->blobs_[WEIGHT]->count(1), weight,
          this->blobs_[START]->gpu_data(),
          this->blobs_[PREVIOUS]->mutable_gpu_data(),
          this->blobs_[RESULT]->mutable_gpu_data() + w * row_count,
          block_sums,
          reinterpret_cast<unsigned int*>(block_sums + 2 * num_kernels),
          end);
      CUDA_POST_KERNEL_CHECK;
      is_ended = true;
    }
  }
  if (!is_ended) {
    // NOLINT_NEXT_LINE(whitespace/operators)
    TPMEndKernel<Dtype><<<1, 1>>>(end);
    CUDA_POST_KERNEL_CHECK;
  }
}

INSTANTIATE_LAYER_GPU_FORWARD(TPMLayer);

}  // namespace caffe
