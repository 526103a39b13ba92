// BatchNorm, Scale, a sum with another blob, and ReLU as one operation, forward and backward.
//
// Values lie as (rows, channels), the channels of one place side by side: (N, C), or (N, C, H, W) in the memory format
// channels_last. The loops run over `width` values at once, a multiple of the channels, so that the compiler makes
// vectors of them whatever the number of channels. Every thread has its own rows and adds in their order, so that the
// result depends on the number of threads alone.

#include "common.h"

#include <cmath>

namespace {

// Rows are added up in single precision in blocks of so many values, and the blocks in double precision.
const int64_t BLOCK = 1 << 13;

int64_t width_of(int64_t rows, int64_t channels) {
    int64_t width = channels;
    while (width < 64 && rows % (2 * width / channels) == 0) width *= 2;
    return width;
}

void repeat(const float *values, int64_t channels, int64_t width, std::vector<float> &out) {
    out.resize(width);
    for (int64_t j = 0; j < width; ++j) out[j] = values[j % channels];
}

// Adds up two numbers for each value, which `add` puts into two rows of sums, by channel.
template <class Add>
void sums(int64_t rows, int64_t channels, double *first, double *second, const Add &add) {
    const int64_t width = width_of(rows, channels), lines = rows * channels / width;
    const int64_t block = std::max<int64_t>(1, BLOCK / width);
    const int threads = threads_for(rows * channels);
    std::vector<double> parts(static_cast<size_t>(threads) * 2 * channels, 0.0);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        // There may be fewer threads than were asked for: OMP_THREAD_LIMIT, OMP_DYNAMIC, a region in another one.
        const int me = omp_get_thread_num(), given = omp_get_num_threads();
        double *own = parts.data() + static_cast<int64_t>(me) * 2 * channels;
        std::vector<float> low(2 * width);
        const int64_t start = lines * me / given, stop = lines * (me + 1) / given;
        for (int64_t line = start; line < stop; line += block) {
            std::fill(low.begin(), low.end(), 0.0f);
            for (int64_t each = line; each < std::min(stop, line + block); ++each)
                add(each * width, width, low.data(), low.data() + width);
            for (int64_t j = 0; j < width; ++j) {
                own[j % channels] += low[j];
                own[channels + j % channels] += low[width + j];
            }
        }
    }
    std::fill(first, first + channels, 0.0);
    std::fill(second, second + channels, 0.0);
    for (int each = 0; each < threads; ++each)
        for (int64_t c = 0; c < channels; ++c) {
            first[c] += parts[(2 * each) * channels + c];
            second[c] += parts[(2 * each + 1) * channels + c];
        }
}

// Calls `work` with the first value and the number of values of each line, from several threads.
template <class Work>
void lines_of(int64_t rows, int64_t channels, int64_t width, const Work &work) {
    const int64_t lines = rows * channels / width;
    const int threads = threads_for(rows * channels);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t line = 0; line < lines; ++line) work(line * width);
}

template <class T>
void statistics(const T *x, int64_t rows, int64_t channels, float *mean, float *variance) {
    // Relative to the first row, so that a mean far from 0 takes no digits from the variance.
    std::vector<float> shift(channels), wide;
    for (int64_t c = 0; c < channels; ++c) shift[c] = load(x + c);
    repeat(shift.data(), channels, width_of(rows, channels), wide);
    const float *from = wide.data();
    std::vector<double> total(channels), squares(channels);
    sums(rows, channels, total.data(), squares.data(), [=](int64_t at, int64_t width, float *s, float *q) {
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) {
            const float value = load(x + at + j) - from[j];
            s[j] += value;
            q[j] += value * value;
        }
    });
    for (int64_t c = 0; c < channels; ++c) {
        const double middle = total[c] / rows;
        mean[c] = static_cast<float>(shift[c] + middle);
        const double found = squares[c] / rows - middle * middle;
        // Written so that a nan stays one.
        variance[c] = static_cast<float>(found < 0.0 ? 0.0 : found);
    }
}

template <class T, bool ADDS, bool CUTS>
void apply(const T *x, const T *other, int64_t rows, int64_t channels, const float *mean, const float *factor,
           const float *bias, T *y) {
    const int64_t width = width_of(rows, channels);
    std::vector<float> means, factors, biases;
    repeat(mean, channels, width, means);
    repeat(factor, channels, width, factors);
    repeat(bias, channels, width, biases);
    const float *m = means.data(), *f = factors.data(), *b = biases.data();
    lines_of(rows, channels, width, [=](int64_t at) {
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) {
            float value = (load(x + at + j) - m[j]) * f[j] + b[j];
            if (ADDS) value += load(other + at + j);
            // Written so that a nan stays one.
            if (CUTS) value = value < 0.0f ? 0.0f : value;
            store(y + at + j, value);
        }
    });
}

template <class T>
void forward(const T *x, const T *other, int64_t rows, int64_t channels, const float *mean, const float *factor,
             const float *bias, int cuts, T *y) {
    if (other && cuts) apply<T, true, true>(x, other, rows, channels, mean, factor, bias, y);
    else if (other) apply<T, true, false>(x, other, rows, channels, mean, factor, bias, y);
    else if (cuts) apply<T, false, true>(x, other, rows, channels, mean, factor, bias, y);
    else apply<T, false, false>(x, other, rows, channels, mean, factor, bias, y);
}

// Of each channel: the sum of the gradient behind the ReLU, and that of its products with x - mean.
template <class T, bool CUTS>
void sums_back(const T *gradient, const T *y, const T *x, int64_t rows, int64_t channels, const float *mean,
               double *total, double *products) {
    std::vector<float> means;
    repeat(mean, channels, width_of(rows, channels), means);
    const float *m = means.data();
    sums(rows, channels, total, products, [=](int64_t at, int64_t wide, float *s, float *q) {
#pragma omp simd
        for (int64_t j = 0; j < wide; ++j) {
            const float value = load(gradient + at + j);
            const float kept = !CUTS || load(y + at + j) > 0.0f ? value : 0.0f;
            s[j] += kept;
            q[j] += kept * (load(x + at + j) - m[j]);
        }
    });
}

// The gradient of x, from the means over all rows of what `sums_back` adds up. The gradient behind the ReLU goes into
// `passed`, if given; then it is that of the other blob of the sum.
template <class T, bool CUTS>
void apply_back(const T *gradient, const T *y, const T *x, int64_t rows, int64_t channels, const float *mean,
                const float *inverse, const float *factor, const double *total, const double *products, T *passed,
                T *back) {
    const int64_t width = width_of(rows, channels);
    std::vector<float> first(channels), second(channels), third(channels);
    for (int64_t c = 0; c < channels; ++c) {
        first[c] = factor[c];
        second[c] = static_cast<float>(total[c] * factor[c]);
        third[c] = static_cast<float>(products[c] * inverse[c] * inverse[c] * factor[c]);
    }
    std::vector<float> means, slopes, along, ones;
    repeat(mean, channels, width, means);
    repeat(first.data(), channels, width, slopes);
    repeat(second.data(), channels, width, ones);
    repeat(third.data(), channels, width, along);
    const float *m = means.data(), *f = slopes.data(), *o = ones.data(), *a = along.data();
    lines_of(rows, channels, width, [=](int64_t at) {
        if (passed) {
#pragma omp simd
            for (int64_t j = 0; j < width; ++j) {
                const float value = load(gradient + at + j);
                const float kept = !CUTS || load(y + at + j) > 0.0f ? value : 0.0f;
                const float centred = load(x + at + j) - m[j];
                store(passed + at + j, kept);
                store(back + at + j, kept * f[j] - o[j] - centred * a[j]);
            }
        } else {
#pragma omp simd
            for (int64_t j = 0; j < width; ++j) {
                const float value = load(gradient + at + j);
                const float kept = !CUTS || load(y + at + j) > 0.0f ? value : 0.0f;
                store(back + at + j, kept * f[j] - o[j] - (load(x + at + j) - m[j]) * a[j]);
            }
        }
    });
}

template <class T, bool CUTS>
void backward(const T *gradient, const T *y, const T *x, int64_t rows, int64_t channels, const float *mean,
              const float *inverse, const float *factor, float *of_factor, float *of_bias, T *passed, T *back) {
    std::vector<double> total(channels), products(channels);
    sums_back<T, CUTS>(gradient, y, x, rows, channels, mean, total.data(), products.data());
    for (int64_t c = 0; c < channels; ++c) {
        of_bias[c] = static_cast<float>(total[c]);
        of_factor[c] = static_cast<float>(products[c] * inverse[c]);
        total[c] /= rows;
        products[c] /= rows;
    }
    if (back || passed)
        apply_back<T, CUTS>(gradient, y, x, rows, channels, mean, inverse, factor, total.data(), products.data(),
                            passed, back);
}

}  // namespace

extern "C" {

// low: whether values are in bfloat16. Statistics, factors, biases and their gradients are always floats.

// The statistics of a batch: into `numbers` the means, 1 / sqrt(variance + eps), and that times the weight (null for 1),
// each one per channel. The running sums, and their own weight, are multiplied by `fraction` and get the batch's added;
// the variance as Caffe keeps it, times m / (m - 1).
void norm_batch(int low, const void *x, int64_t rows, int64_t channels, float eps, float fraction, const float *weight,
                float *numbers, float *means, float *variances, float *gathered) {
    std::vector<float> variance(channels);
    if (low) statistics(static_cast<const Low *>(x), rows, channels, numbers, variance.data());
    else statistics(static_cast<const float *>(x), rows, channels, numbers, variance.data());
    const float corrected = rows > 1 ? static_cast<float>(rows) / static_cast<float>(rows - 1) : 1.0f;
    for (int64_t c = 0; c < channels; ++c) {
        const float inverse = 1.0f / std::sqrt(variance[c] + eps);
        numbers[channels + c] = inverse;
        numbers[2 * channels + c] = weight ? inverse * weight[c] : inverse;
        means[c] = means[c] * fraction + numbers[c];
        variances[c] = variances[c] * fraction + variance[c] * corrected;
    }
    gathered[0] = gathered[0] * fraction + 1.0f;
}

// The mean and the variance of each channel, into two rows of `numbers`.
void norm_statistics(int low, const void *x, int64_t rows, int64_t channels, float *numbers) {
    if (low) statistics(static_cast<const Low *>(x), rows, channels, numbers, numbers + channels);
    else statistics(static_cast<const float *>(x), rows, channels, numbers, numbers + channels);
}

// y = (x - mean) * factor + bias, plus `other` unless that is null; where `cuts`, 0 in the place of what is below 0.
void norm_forward(int low, const void *x, const void *other, int64_t rows, int64_t channels, const float *mean,
                  const float *factor, const float *bias, int cuts, void *y) {
    if (low)
        forward(static_cast<const Low *>(x), static_cast<const Low *>(other), rows, channels, mean, factor, bias, cuts,
                static_cast<Low *>(y));
    else
        forward(static_cast<const float *>(x), static_cast<const float *>(other), rows, channels, mean, factor, bias,
                cuts, static_cast<float *>(y));
}

// inverse: 1 / sqrt(variance + eps); factor: that times the weight. passed and back may be null: not wanted.
void norm_backward(int low, const void *gradient, const void *y, const void *x, int64_t rows, int64_t channels,
                   const float *mean, const float *inverse, const float *factor, int cuts, float *of_factor,
                   float *of_bias, void *passed, void *back) {
#define GO(T, CUTS)                                                                                               \
    backward<T, CUTS>(static_cast<const T *>(gradient), static_cast<const T *>(y), static_cast<const T *>(x), rows, \
                      channels, mean, inverse, factor, of_factor, of_bias, static_cast<T *>(passed),               \
                      static_cast<T *>(back))
    if (low && cuts) GO(Low, true);
    else if (low) GO(Low, false);
    else if (cuts) GO(float, true);
    else GO(float, false);
#undef GO
}

// The two halves of norm_backward, between which other processes add their sums: two rows, of the gradient and of its
// products with x - mean. The second half gets them divided by the number of rows of all processes.
void norm_sums_back(int low, const void *gradient, const void *y, const void *x, int64_t rows, int64_t channels,
                    const float *mean, int cuts, double *sums) {
#define GO(T, CUTS)                                                                                               \
    sums_back<T, CUTS>(static_cast<const T *>(gradient), static_cast<const T *>(y), static_cast<const T *>(x), rows, \
                       channels, mean, sums, sums + channels)
    if (low && cuts) GO(Low, true);
    else if (low) GO(Low, false);
    else if (cuts) GO(float, true);
    else GO(float, false);
#undef GO
}

void norm_apply_back(int low, const void *gradient, const void *y, const void *x, int64_t rows, int64_t channels,
                     const float *mean, const float *inverse, const float *factor, int cuts, const double *means,
                     void *passed, void *back) {
#define GO(T, CUTS)                                                                                                \
    apply_back<T, CUTS>(static_cast<const T *>(gradient), static_cast<const T *>(y), static_cast<const T *>(x), rows, \
                        channels, mean, inverse, factor, means, means + channels, static_cast<T *>(passed),         \
                        static_cast<T *>(back))
    if (low && cuts) GO(Low, true);
    else if (low) GO(Low, false);
    else if (cuts) GO(float, true);
    else GO(float, false);
#undef GO
}
}
