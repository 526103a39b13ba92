// Pooling, forward and backward. Values lie as (N, H, W, channels); each image is the work of one thread.

#include <limits>

#include "common.h"

namespace {

struct Shape {
    int64_t n, h, w, c, kh, kw, sh, sw, ph, pw, oh, ow;
};

// The window of one place of the top: its rows and columns within the image, and what a mean is divided by.
struct Window {
    int64_t top, bottom, left, right;
    float size;
};

Shape shape_of(const int64_t *s) { return {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11]}; }

// As in Caffe, the size counts the padding, but not what lies beyond it.
Window window_of(const Shape &s, int64_t y, int64_t x) {
    const int64_t top = y * s.sh - s.ph, left = x * s.sw - s.pw;
    const int64_t bottom = std::min(top + s.kh, s.h + s.ph), right = std::min(left + s.kw, s.w + s.pw);
    return {std::max<int64_t>(top, 0), std::min(bottom, s.h), std::max<int64_t>(left, 0), std::min(right, s.w),
            static_cast<float>((bottom - top) * (right - left))};
}

// Calls `work` with the number of each image, from several threads.
template <class Work>
void images(const Shape &s, const Work &work) {
    const int threads = static_cast<int>(std::min<int64_t>(s.n, threads_for(s.n * s.h * s.w * s.c)));
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t n = 0; n < s.n; ++n) work(n);
}

// place: of each value of the top, where in its window the maximum stands; null where it is not wanted.
template <class T>
void maximum(const Shape &s, const T *x, T *y, uint8_t *place) {
    images(s, [&](int64_t n) {
        std::vector<float> most(s.c);
        std::vector<int32_t> where(s.c);
        float *m = most.data();
        int32_t *at = where.data();
        for (int64_t oy = 0; oy < s.oh; ++oy)
            for (int64_t ox = 0; ox < s.ow; ++ox) {
                const Window w = window_of(s, oy, ox);
                std::fill(most.begin(), most.end(), -std::numeric_limits<float>::infinity());
                std::fill(where.begin(), where.end(), 0);
                int32_t k = 0;
                for (int64_t iy = w.top; iy < w.bottom; ++iy)
                    for (int64_t ix = w.left; ix < w.right; ++ix, ++k) {
                        const T *from = x + ((n * s.h + iy) * s.w + ix) * s.c;
#pragma omp simd
                        for (int64_t c = 0; c < s.c; ++c) {
                            const float value = load(from + c);
                            // A nan counts as the largest, so that it is seen.
                            const bool more = value > m[c] || value != value;
                            m[c] = more ? value : m[c];
                            at[c] = more ? k : at[c];
                        }
                    }
                const int64_t to = ((n * s.oh + oy) * s.ow + ox) * s.c;
#pragma omp simd
                for (int64_t c = 0; c < s.c; ++c) store(y + to + c, m[c]);
                if (place)
                    for (int64_t c = 0; c < s.c; ++c) place[to + c] = static_cast<uint8_t>(at[c]);
            }
    });
}

template <class T>
void mean(const Shape &s, const T *x, T *y) {
    images(s, [&](int64_t n) {
        std::vector<float> sums(s.c);
        float *sum = sums.data();
        for (int64_t oy = 0; oy < s.oh; ++oy)
            for (int64_t ox = 0; ox < s.ow; ++ox) {
                const Window w = window_of(s, oy, ox);
                std::fill(sums.begin(), sums.end(), 0.0f);
                for (int64_t iy = w.top; iy < w.bottom; ++iy)
                    for (int64_t ix = w.left; ix < w.right; ++ix) {
                        const T *from = x + ((n * s.h + iy) * s.w + ix) * s.c;
#pragma omp simd
                        for (int64_t c = 0; c < s.c; ++c) sum[c] += load(from + c);
                    }
                T *to = y + ((n * s.oh + oy) * s.ow + ox) * s.c;
#pragma omp simd
                for (int64_t c = 0; c < s.c; ++c) store(to + c, sum[c] / w.size);
            }
    });
}

void add(float *to, const float *from, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

void choose(float *to, const float *from, const int32_t *where, int32_t k, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) to[i] += where[i] == k ? from[i] : 0.0f;
}

// The gradient of the bottom: of a maximum if `place` is given, else of a mean.
template <class T>
void backward(const Shape &s, const T *gradient, const uint8_t *place, T *back) {
    images(s, [&](int64_t n) {
        // In single precision, since several windows may add to one value.
        std::vector<float> sums(s.h * s.w * s.c, 0.0f), given(s.c);
        std::vector<int32_t> where(s.c);
        for (int64_t oy = 0; oy < s.oh; ++oy)
            for (int64_t ox = 0; ox < s.ow; ++ox) {
                const Window w = window_of(s, oy, ox);
                const int64_t from = ((n * s.oh + oy) * s.ow + ox) * s.c;
                const float share = place ? 1.0f : 1.0f / w.size;
                for (int64_t c = 0; c < s.c; ++c) given[c] = load(gradient + from + c) * share;
                int32_t k = 0;
                if (place)
                    for (int64_t c = 0; c < s.c; ++c) where[c] = place[from + c];
                for (int64_t iy = w.top; iy < w.bottom; ++iy)
                    for (int64_t ix = w.left; ix < w.right; ++ix, ++k) {
                        float *to = sums.data() + (iy * s.w + ix) * s.c;
                        if (place) choose(to, given.data(), where.data(), k, s.c);
                        else add(to, given.data(), s.c);
                    }
            }
        T *to = back + n * s.h * s.w * s.c;
        const float *from = sums.data();
#pragma omp simd
        for (int64_t i = 0; i < s.h * s.w * s.c; ++i) store(to + i, from[i]);
    });
}

}  // namespace

extern "C" {

// low: whether values are in bfloat16. shape: N, H, W, channels, kernel (2), stride (2), pad (2), size of the top (2).
// The kernel has at most 256 places.

void pool_maximum(int low, const int64_t *shape, const void *x, void *y, uint8_t *place) {
    if (low) maximum(shape_of(shape), static_cast<const Low *>(x), static_cast<Low *>(y), place);
    else maximum(shape_of(shape), static_cast<const float *>(x), static_cast<float *>(y), place);
}

void pool_mean(int low, const int64_t *shape, const void *x, void *y) {
    if (low) mean(shape_of(shape), static_cast<const Low *>(x), static_cast<Low *>(y));
    else mean(shape_of(shape), static_cast<const float *>(x), static_cast<float *>(y));
}

void pool_backward(int low, const int64_t *shape, const void *gradient, const uint8_t *place, void *back) {
    if (low) backward(shape_of(shape), static_cast<const Low *>(gradient), place, static_cast<Low *>(back));
    else backward(shape_of(shape), static_cast<const float *>(gradient), place, static_cast<float *>(back));
}
}
