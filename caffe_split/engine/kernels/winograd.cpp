// Convolutions of 3x3 kernels with steps of one and their gradients in float32, by 16 multiplications where a direct one
// takes 36: Winograd's F(2x2, 3x3) (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015).
//
// Two by two places of the top look at a tile of four by four pixels. With g the kernel, d the tile and . the product of
// each of the sixteen values by itself,
//     top = A' [(G g G') . (B' d B)] A,   gradient of g = G' [(A gradient A') . (B' d B)] G,
// of which the products are, for each of the sixteen spots, one of two matrices: tiles by channels, channels by outputs.
// The gradient of the bottom is the convolution of the top's gradient with the mirrored kernel. All factors are 0, 1, -1
// and 1/2, so that hardly more is rounded than by a direct convolution.
//
// Values lie as (N, H, W, channels), kernels as (outputs, channels, 3, 3). Channels and outputs are multiples of 16. Some
// tiles are done at a time, so that what is laid out for them stays in the cache. Here are the products and how they are
// divided among threads; what is laid out before them and finished after them is in winograd.h.

#include "winograd.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))

namespace {

const int64_t EACH = 24, CACHED = 128 << 10;

// ROWS rows of a product of matrices in registers, WIDTH of them a row: the sum over i < count of
// left[row * row_step + i * left_step] times the values at right + i * right_step.
template <int ROWS, int WIDTH> struct Sums {
    Some all[ROWS][WIDTH] = {};
    void add(const float *left, int64_t row_step, int64_t left_step, const float *right, int64_t right_step, int64_t count) {
        for (int64_t i = 0; i < count; ++i, left += left_step, right += right_step) {
            Some factors[WIDTH];
#pragma GCC unroll 4
            for (int w = 0; w < WIDTH; ++w) factors[w] = take(right + w * WIDE);
#pragma GCC unroll 24
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
                for (int w = 0; w < WIDTH; ++w) all[r][w] += left[r * row_step] * factors[w];
        }
    }
};

// Products of tiles by channels and channels by outputs, of one spot.
template <int ROWS, int WIDTH>
void multiply(const Shape &s, const float *bottom, const float *kernels, int64_t count, float *out) {
    for (int64_t t = 0; t < count; t += ROWS) {
        Sums<ROWS, WIDTH> sums;
        sums.add(bottom + t * s.c, s.c, 1, kernels, s.o, s.c);
#pragma GCC unroll 24
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
            for (int w = 0; w < WIDTH; ++w) put(out + (t + r) * s.o + w * WIDE, sums.all[r][w]);
    }
}

// Adds the products of channels by tiles and tiles by outputs, for sixteen channels of one spot.
template <int ROWS, int WIDTH>
void multiply_back(const Shape &s, const float *bottom, const float *gradient, int64_t count, float *out) {
    for (int64_t c = 0; c < 16; c += ROWS) {
        Sums<ROWS, WIDTH> sums;
        sums.add(bottom + c, 1, s.c, gradient, s.o, count);
#pragma GCC unroll 24
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
            for (int w = 0; w < WIDTH; ++w) {
                float *to = out + (c + r) * s.o + w * WIDE;
                put(to, take(to) + sums.all[r][w]);
            }
    }
}

// The same for all outputs, as many at a time as there are registers for.
void products(const Shape &s, const float *bottom, const float *kernels, int64_t count, float *out) {
    int64_t o = 0;
    if constexpr (WIDE == 16) {
        for (; o + 64 <= s.o; o += 64) multiply<6, 4>(s, bottom, kernels + o, count, out + o);
        for (; o + 32 <= s.o; o += 32) multiply<12, 2>(s, bottom, kernels + o, count, out + o);
        for (; o < s.o; o += 16) multiply<24, 1>(s, bottom, kernels + o, count, out + o);
    } else
        for (; o < s.o; o += 16) multiply<6, 2>(s, bottom, kernels + o, count, out + o);
}

void products_back(const Shape &s, const float *bottom, const float *gradient, int64_t count, float *out) {
    int64_t o = 0;
    if constexpr (WIDE == 16) {
        for (; o + 32 <= s.o; o += 32) multiply_back<8, 2>(s, bottom, gradient + o, count, out + o);
        for (; o < s.o; o += 16) multiply_back<16, 1>(s, bottom, gradient + o, count, out + o);
    } else
        for (; o < s.o; o += 16) multiply_back<4, 2>(s, bottom, gradient + o, count, out + o);
}

// How the tiles are divided: decided once for a call, since within a parallel region OpenMP counts other threads.
struct Division {
    int64_t room, blocks;
    int threads;
    // A block is what the cache holds, and not so large that a thread has nothing to do.
    Division(const Shape &s) {
        const int64_t most = omp_get_max_threads(), held = CACHED / (SPOTS * sizeof(float) * (s.c + s.o));
        room = std::max<int64_t>(1, std::min(held, s.tiles() / most) / EACH) * EACH;
        blocks = (s.tiles() + room - 1) / room;
        threads = static_cast<int>(std::min(most, blocks));
    }
};

// What a thread lays out.
struct Room {
    Lines<float> bottom, top;
    Room(const Shape &s, int64_t room) : bottom(SPOTS * room * s.c), top(SPOTS * room * s.o) {}
};

void convolve(const Shape &s, const float *x, const float *kernels, const float *bias, float *y) {
    const Division into(s);
    const int64_t room = into.room;
#pragma omp parallel num_threads(into.threads)
    {
        const Room of(s, room);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < into.blocks; ++block) {
            const int64_t first = block * room, count = std::min(room, s.tiles() - first);
            lay_bottom(s, x, first, count, room, of.bottom.values);
            for (int64_t spot = 0; spot < SPOTS; ++spot)
                products(s, of.bottom.values + spot * room * s.c, kernels + spot * s.c * s.o, count,
                         of.top.values + spot * room * s.o);
            finish_top(s, of.top.values, first, count, room, bias, y);
        }
    }
}

}  // namespace

extern "C" {

int winograd_ready() { return 1; }

// shape: N, H, W, channels, outputs, pad (2), each of 0 to 2. bias may be null.
void winograd_forward(const int64_t *shape, const float *x, const float *weight, const float *bias, float *y) {
    const Shape s = shape_of(shape);
    const Lines<float> kernels(SPOTS * s.c * s.o);
    lay_kernels(s, weight, false, kernels.values);
    convolve(s, x, kernels.values, bias, y);
}

void winograd_bottom(const int64_t *shape, const float *gradient, const float *weight, float *of_x) {
    const Shape s = shape_of(shape);
    const Lines<float> kernels(SPOTS * s.c * s.o);
    lay_kernels(s, weight, true, kernels.values);
    convolve({s.n, s.oh(), s.ow(), s.o, s.c, 2 - s.ph, 2 - s.pw}, gradient, kernels.values, nullptr, of_x);
}

void winograd_weights(const int64_t *shape, const float *x, const float *gradient, float *of_weight) {
    const Shape s = shape_of(shape);
    const Division into(s);
    const int64_t room = into.room, size = SPOTS * s.c * s.o;
    const Lines<float> sums(into.threads * size);
#pragma omp parallel num_threads(into.threads)
    {
        const Room of(s, room);
        float *own = sums.values + omp_get_thread_num() * size;
#pragma omp for schedule(static)
        for (int64_t block = 0; block < into.blocks; ++block) {
            const int64_t first = block * room, count = std::min(room, s.tiles() - first);
            lay_bottom(s, x, first, count, room, of.bottom.values);
            lay_gradient(s, gradient, first, count, room, of.top.values);
            for (int64_t spot = 0; spot < SPOTS; ++spot)
                for (int64_t c = 0; c < s.c; c += 16)
                    products_back(s, of.bottom.values + spot * room * s.c + c, of.top.values + spot * room * s.o, count,
                                  own + (spot * s.c + c) * s.o);
        }
    }
    finish_kernels(s, sums.values, into.threads, of_weight);
}
}

#else

extern "C" {
int winograd_ready() { return 0; }
void winograd_forward(const int64_t *, const float *, const float *, const float *, float *) {}
void winograd_bottom(const int64_t *, const float *, const float *, float *) {}
void winograd_weights(const int64_t *, const float *, const float *, float *) {}
}

#endif
