// BatchNorm, Scale, a sum with another blob, and ReLU as one operation, forward and backward.
//
// Values lie as (rows, channels), the channels of one place side by side: (N, C), or (N, C, H, W) in the memory format
// channels_last. They are taken in lines of a multiple of the channels, of 64 values at once where possible, so that
// vectors of values meet the same channels in each line. What these passes cost is memory: each reads as little as it
// can. Sums go from the last line to the first, and what is computed with them from the first to the last, since what
// the pass or the layer before has touched last is still near. Every thread has its own lines, the same in all passes,
// and adds in their order, so that the result depends on the number of threads alone.

#include "common.h"

#include <cmath>
#include <numeric>

namespace {

// Rows are added up in single precision in blocks of this many values, and the blocks in double precision.
const int64_t BLOCK = 1 << 13;
// Values whose sums are in registers at the same time.
const int64_t TILE = 4 * LANES;
const int64_t WIDEST = 1 << 13;

// How the values are divided into lines; what is left over is less than a line.
struct Lines {
    int64_t width, count, rest;
    Lines(int64_t rows, int64_t channels) : width(std::lcm(channels, TILE)) {
        if (width > WIDEST) width = channels;
        count = rows * channels / width;
        rest = rows * channels % width;
    }
};

// A number per channel, for each value of a line.
std::vector<float> spread(const float *values, int64_t channels, int64_t width) {
    std::vector<float> out(width);
    for (int64_t j = 0; j < width; j += channels) std::copy(values, values + channels, out.begin() + j);
    return out;
}

void gather(const Sixteen *sums, double *to) {
    float values[TILE];
    for (int64_t v = 0; v < TILE / LANES; ++v) store16(values + v * LANES, sums[v]);
    for (int64_t j = 0; j < TILE; ++j) to[j] += values[j];
}

// Adds up two numbers for each value by channel. `add` gets where the value stands, where in a line, and both sums; for
// one value or sixteen.
template <class Add>
void sums(int64_t rows, int64_t channels, double *first, double *second, const Add &add) {
    const Lines lines(rows, channels);
    const int64_t width = lines.width, block = std::max<int64_t>(1, BLOCK / width);
    const int threads = threads_for(rows * channels);
    std::vector<double> parts(static_cast<size_t>(threads) * 2 * width, 0.0);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        // There may be fewer threads than were asked for: OMP_THREAD_LIMIT, OMP_DYNAMIC, a region in another one.
        const int me = omp_get_thread_num(), given = omp_get_num_threads();
        double *one = parts.data() + static_cast<int64_t>(me) * 2 * width, *two = one + width;
        const auto alone = [&](int64_t line, int64_t column, int64_t end) {
            for (int64_t j = column; j < end; ++j) {
                float s = 0.0f, q = 0.0f;
                add(line * width + j, j, s, q);
                one[j] += s;
                two[j] += q;
            }
        };
        if (me == given - 1) alone(lines.count, 0, lines.rest);
        const int64_t first_line = lines.count * me / given;
        for (int64_t end = lines.count * (me + 1) / given; end > first_line; end -= block) {
            const int64_t start = std::max(first_line, end - block);
            int64_t column = 0;
            for (; column + TILE <= width; column += TILE) {
                Sixteen s[TILE / LANES] = {}, q[TILE / LANES] = {};
                for (int64_t line = start; line < end; ++line)
#pragma GCC unroll 4
                    for (int64_t v = 0; v < TILE / LANES; ++v)
                        add(line * width + column + v * LANES, column + v * LANES, s[v], q[v]);
                gather(s, one + column);
                gather(q, two + column);
            }
            for (int64_t line = start; column < width && line < end; ++line) alone(line, column, width);
        }
    }
    std::fill(first, first + channels, 0.0);
    std::fill(second, second + channels, 0.0);
    for (int64_t each = 0; each < threads; ++each)
        for (int64_t j = 0; j < width; j += channels)
            for (int64_t c = 0; c < channels; ++c) {
                first[c] += parts[2 * each * width + j + c];
                second[c] += parts[(2 * each + 1) * width + j + c];
            }
}

// Calls `work` with where each value stands, where in a line, and a value of the type that it has to compute with.
template <class Work>
void all(int64_t rows, int64_t channels, const Work &work) {
    const Lines lines(rows, channels);
    const int threads = threads_for(rows * channels);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const int me = omp_get_thread_num(), given = omp_get_num_threads();
        const int64_t width = lines.width;
        for (int64_t line = lines.count * me / given; line < lines.count * (me + 1) / given; ++line) {
            int64_t j = 0;
            for (; j + LANES <= width; j += LANES) work(line * width + j, j, Sixteen{});
            for (; j < width; ++j) work(line * width + j, j, 0.0f);
        }
        if (me == given - 1)
            for (int64_t j = 0; j < lines.rest; ++j) work(lines.count * width + j, j, 0.0f);
    }
}

template <class T>
void statistics(const T *x, int64_t rows, int64_t channels, float *mean, float *variance) {
    // Relative to the first row, so that a mean far from 0 takes no digits from the variance.
    std::vector<float> shift(channels);
    for (int64_t c = 0; c < channels; ++c) shift[c] = load(x + c);
    const std::vector<float> wide = spread(shift.data(), channels, Lines(rows, channels).width);
    const float *from = wide.data();
    std::vector<double> total(channels), squares(channels);
    sums(rows, channels, total.data(), squares.data(), [=](int64_t at, int64_t column, auto &s, auto &q) {
        using V = std::decay_t<decltype(s)>;
        const V value = take<V>(x + at) - take<V>(from + column);
        s += value;
        q += value * value;
    });
    for (int64_t c = 0; c < channels; ++c) {
        const double middle = total[c] / rows;
        mean[c] = static_cast<float>(shift[c] + middle);
        const double found = squares[c] / rows - middle * middle;
        // Written so that a nan stays one.
        variance[c] = static_cast<float>(found < 0.0 ? 0.0 : found);
    }
}

// What normalises a value: (x - mean) * factor + bias; the numbers of each value of a line.
class Normal {
public:
    Normal(int64_t rows, int64_t channels, const float *mean, const float *factor, const float *bias) {
        const int64_t width = Lines(rows, channels).width;
        means_ = spread(mean, channels, width);
        factors_ = spread(factor, channels, width);
        biases_ = spread(bias, channels, width);
        m_ = means_.data();
        f_ = factors_.data();
        b_ = biases_.data();
    }
    template <class V> V centred(V x, int64_t column) const { return x - take<V>(m_ + column); }
    template <class V> V times(V x, int64_t column) const { return x * take<V>(f_ + column); }
    template <class V> V operator()(V x, int64_t column) const {
        return times(centred(x, column), column) + take<V>(b_ + column);
    }

private:
    std::vector<float> means_, factors_, biases_;
    const float *m_, *f_, *b_;
};

template <class T, bool ADDS, bool CUTS>
void apply(const T *x, const T *other, int64_t rows, int64_t channels, const Normal &normal, T *y) {
    all(rows, channels, [=, &normal](int64_t at, int64_t column, auto like) {
        using V = decltype(like);
        V value = normal(take<V>(x + at), column);
        if (ADDS) value += take<V>(other + at);
        // Written so that a nan stays one.
        if (CUTS) value = value < 0.0f ? V{} : value;
        put(y + at, value);
    });
}

template <class T>
void forward(const T *x, const T *other, int64_t rows, int64_t channels, const Normal &normal, int cuts, T *y) {
    if (other && cuts) apply<T, true, true>(x, other, rows, channels, normal, y);
    else if (other) apply<T, true, false>(x, other, rows, channels, normal, y);
    else if (cuts) apply<T, false, true>(x, other, rows, channels, normal, y);
    else apply<T, false, false>(x, other, rows, channels, normal, y);
}

// Which values a ReLU has let pass: all without one; those whose result is above 0, by the result, which a sum has to
// keep, or computed once more.
enum Passing { ALL, BY_RESULT, BY_BOTTOM };

template <Passing BY, class V, class T>
V kept(V value, const T *y, const T *x, int64_t at, int64_t column, const Normal &normal) {
    if (BY == ALL) return value;
    return (BY == BY_RESULT ? take<V>(y + at) : normal(take<V>(x + at), column)) > 0.0f ? value : V{};
}

// Of each channel: the sum of the gradient behind the ReLU, and that of its products with x - mean. The gradient is the
// sum of two if `second` is given. Behind the ReLU it goes into `passed`, if given.
template <class T, Passing BY, bool TWO>
void sums_back(const T *gradient, const T *second, const T *y, const T *x, int64_t rows, int64_t channels,
               const Normal &normal, T *passed, double *total, double *products) {
    sums(rows, channels, total, products, [=, &normal](int64_t at, int64_t column, auto &s, auto &q) {
        using V = std::decay_t<decltype(s)>;
        V value = take<V>(gradient + at);
        if (TWO) value += take<V>(second + at);
        value = kept<BY>(value, y, x, at, column, normal);
        if (passed) put(passed + at, value);
        s += value;
        q += value * normal.centred(take<V>(x + at), column);
    });
}

// The gradient of x, from the means over all rows of what `sums_back` adds up.
template <class T, Passing BY>
void apply_back(const T *gradient, const T *x, int64_t rows, int64_t channels, const Normal &normal,
                const float *inverse, const float *factor, const double *means, T *back) {
    std::vector<float> ones(channels), along(channels);
    for (int64_t c = 0; c < channels; ++c) {
        ones[c] = static_cast<float>(means[c] * factor[c]);
        along[c] = static_cast<float>(means[channels + c] * inverse[c] * inverse[c] * factor[c]);
    }
    const int64_t width = Lines(rows, channels).width;
    ones = spread(ones.data(), channels, width);
    along = spread(along.data(), channels, width);
    const float *o = ones.data(), *a = along.data();
    all(rows, channels, [=, &normal](int64_t at, int64_t column, auto like) {
        using V = decltype(like);
        const V value = kept<BY>(take<V>(gradient + at), static_cast<const T *>(nullptr), x, at, column, normal);
        const V centred = normal.centred(take<V>(x + at), column);
        put(back + at, static_cast<V>(normal.times(value, column) - take<V>(o + column) - centred * take<V>(a + column)));
    });
}

template <class T>
void both_sums(const T *gradient, const T *second, const T *y, const T *x, int64_t rows, int64_t channels,
               const Normal &normal, int cuts, T *passed, double *sums) {
    double *products = sums + channels;
#define GO(BY, TWO) sums_back<T, BY, TWO>(gradient, second, y, x, rows, channels, normal, passed, sums, products)
    if (!cuts && second) GO(ALL, true);
    else if (!cuts) GO(ALL, false);
    else if (y && second) GO(BY_RESULT, true);
    else if (y) GO(BY_RESULT, false);
    else if (second) GO(BY_BOTTOM, true);
    else GO(BY_BOTTOM, false);
#undef GO
}

template <class T>
void both_back(const T *gradient, const T *x, int64_t rows, int64_t channels, const Normal &normal,
               const float *inverse, const float *factor, int cuts, const double *means, const T *passed, T *back) {
    if (passed) apply_back<T, ALL>(passed, x, rows, channels, normal, inverse, factor, means, back);
    else if (cuts) apply_back<T, BY_BOTTOM>(gradient, x, rows, channels, normal, inverse, factor, means, back);
    else apply_back<T, ALL>(gradient, x, rows, channels, normal, inverse, factor, means, back);
}

}  // namespace

extern "C" {

// low: whether values are in bfloat16. Statistics, factors, biases and their gradients are always floats.
// numbers: four for each channel in rows, the means, 1 / sqrt(variance + eps), that times the weight, and the bias.

// The statistics of a batch, into `numbers`; weight: null for 1; bias: null for 0. The running sums, and their own
// weight, are multiplied by `fraction` and get the batch's added; the variance as Caffe keeps it, times m / (m - 1).
void norm_batch(int low, const void *x, int64_t rows, int64_t channels, float eps, float fraction, const float *weight,
                const float *bias, float *numbers, float *means, float *variances, float *gathered) {
    std::vector<float> variance(channels);
    if (low) statistics(static_cast<const Low *>(x), rows, channels, numbers, variance.data());
    else statistics(static_cast<const float *>(x), rows, channels, numbers, variance.data());
    const float corrected = rows > 1 ? static_cast<float>(rows) / static_cast<float>(rows - 1) : 1.0f;
    for (int64_t c = 0; c < channels; ++c) {
        const float inverse = 1.0f / std::sqrt(variance[c] + eps);
        numbers[channels + c] = inverse;
        numbers[2 * channels + c] = weight ? inverse * weight[c] : inverse;
        numbers[3 * channels + c] = bias ? bias[c] : 0.0f;
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
void norm_forward(int low, const void *x, const void *other, int64_t rows, int64_t channels, const float *numbers,
                  int cuts, void *y) {
    const Normal normal(rows, channels, numbers, numbers + 2 * channels, numbers + 3 * channels);
    if (low)
        forward(static_cast<const Low *>(x), static_cast<const Low *>(other), rows, channels, normal, cuts,
                static_cast<Low *>(y));
    else
        forward(static_cast<const float *>(x), static_cast<const float *>(other), rows, channels, normal, cuts,
                static_cast<float *>(y));
}

// The first half of the gradient: two rows of `sums`, of the gradient behind the ReLU and of its products with x - mean.
// second: what is added to the gradient; may be null. y: the result, where another blob was added before a ReLU; else
// null. passed: gets the gradient behind the ReLU, which is that of the other blob; may be null without either.
void norm_sums_back(int low, const void *gradient, const void *second, const void *y, const void *x, int64_t rows,
                    int64_t channels, const float *numbers, int cuts, void *passed, double *sums) {
    const Normal normal(rows, channels, numbers, numbers + 2 * channels, numbers + 3 * channels);
    if (low)
        both_sums(static_cast<const Low *>(gradient), static_cast<const Low *>(second), static_cast<const Low *>(y),
                  static_cast<const Low *>(x), rows, channels, normal, cuts, static_cast<Low *>(passed), sums);
    else
        both_sums(static_cast<const float *>(gradient), static_cast<const float *>(second),
                  static_cast<const float *>(y), static_cast<const float *>(x), rows, channels, normal, cuts,
                  static_cast<float *>(passed), sums);
}

// The second half: the gradient of x. means: the sums of the first half, of all processes, divided by their rows.
// passed: what the first half has written, if anything.
void norm_apply_back(int low, const void *gradient, const void *x, int64_t rows, int64_t channels,
                     const float *numbers, int cuts, const double *means, const void *passed, void *back) {
    const float *inverse = numbers + channels, *factor = inverse + channels;
    const Normal normal(rows, channels, numbers, factor, factor + channels);
    if (low)
        both_back(static_cast<const Low *>(gradient), static_cast<const Low *>(x), rows, channels, normal, inverse,
                  factor, cuts, means, static_cast<const Low *>(passed), static_cast<Low *>(back));
    else
        both_back(static_cast<const float *>(gradient), static_cast<const float *>(x), rows, channels, normal, inverse,
                  factor, cuts, means, static_cast<const float *>(passed), static_cast<float *>(back));
}

// Both halves for one process, with the gradients of the weight and of the bias. back may be null: not wanted.
void norm_backward(int low, const void *gradient, const void *second, const void *y, const void *x, int64_t rows,
                   int64_t channels, const float *numbers, int cuts, float *of_factor, float *of_bias, void *passed,
                   void *back) {
    std::vector<double> sums(2 * channels);
    norm_sums_back(low, gradient, second, y, x, rows, channels, numbers, cuts, passed, sums.data());
    for (int64_t c = 0; c < channels; ++c) {
        of_bias[c] = static_cast<float>(sums[c]);
        of_factor[c] = static_cast<float>(sums[channels + c] * numbers[channels + c]);
        sums[c] /= rows;
        sums[channels + c] /= rows;
    }
    if (back) norm_apply_back(low, gradient, x, rows, channels, numbers, cuts, sums.data(), passed, back);
}
}
