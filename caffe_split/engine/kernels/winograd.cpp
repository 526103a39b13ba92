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
// tiles are done at a time, so that what is laid out for them stays in the cache.

#include "common.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))

namespace {

#ifdef __AVX512F__
const int64_t WIDE = 16;
#else
const int64_t WIDE = 8;
#endif
// As many values as a register has.
typedef float Some __attribute__((vector_size(WIDE * 4), aligned(4), may_alias));
const int64_t SPOTS = 16, EACH = 24, CACHED = 128 << 10;

Some take(const float *from) { return *reinterpret_cast<const Some *>(from); }
void put(float *to, const Some &values) { *reinterpret_cast<Some *>(to) = values; }

struct Shape {
    int64_t n, h, w, c, o, ph, pw;
    int64_t oh() const { return h + 2 * ph - 2; }
    int64_t ow() const { return w + 2 * pw - 2; }
    int64_t down() const { return (oh() + 1) / 2; }
    int64_t across() const { return (ow() + 1) / 2; }
    int64_t tiles() const { return n * down() * across(); }
};

Shape shape_of(const int64_t *s) { return {s[0], s[1], s[2], s[3], s[4], s[5], s[6]}; }

// A place of the tile `index` and the tiles after it, row by row and image by image.
struct Tile {
    const Shape &s;
    int64_t n, y, x;
    Tile(const Shape &of, int64_t index)
        : s(of), n(index / (of.down() * of.across())), y(index / of.across() % of.down()), x(index % of.across()) {}
    void go(int64_t count) {
        x += count;
        if (x < s.across()) return;
        x = 0;
        if (++y < s.down()) return;
        y = 0;
        ++n;
    }
};

// G g G' of all kernels as (spot, from, to): (channels, outputs), or back (outputs, channels) with each kernel mirrored.
void lay_kernels(const Shape &s, const float *kernels, bool back, float *out) {
    const int64_t from = back ? s.o : s.c, to = back ? s.c : s.o, from_step = back ? 9 * s.c : 9, to_step = back ? 9 : 9 * s.c;
#pragma omp parallel for schedule(static) num_threads(threads_for(s.c * s.o * 9))
    for (int64_t i = 0; i < from; ++i)
        for (int64_t j = 0; j < to; j += WIDE) {
            Some g[3][3], half[4][3];
            for (int64_t k = 0; k < 9; ++k)
                for (int64_t lane = 0; lane < WIDE; ++lane)
                    g[k / 3][k % 3][lane] = kernels[i * from_step + (j + lane) * to_step + (back ? 8 - k : k)];
            for (int x = 0; x < 3; ++x) {
                half[0][x] = g[0][x];
                half[1][x] = 0.5f * (g[0][x] + g[1][x] + g[2][x]);
                half[2][x] = 0.5f * (g[0][x] - g[1][x] + g[2][x]);
                half[3][x] = g[2][x];
            }
            float *at = out + i * to + j;
            for (int y = 0; y < 4; ++y, at += 4 * from * to) {
                const Some *r = half[y];
                put(at, r[0]);
                put(at + from * to, 0.5f * (r[0] + r[1] + r[2]));
                put(at + 2 * from * to, 0.5f * (r[0] - r[1] + r[2]));
                put(at + 3 * from * to, r[2]);
            }
        }
}

// The four values of a column of B' d.
struct Column {
    Some r[4];
};

Column column(const float *const *rows, const int64_t *steps, int64_t x, int64_t width) {
    if (x < 0 || x >= width) return {};
    const Some a = take(rows[0] + x * steps[0]), b = take(rows[1] + x * steps[1]);
    const Some c = take(rows[2] + x * steps[2]), d = take(rows[3] + x * steps[3]);
    return {{a - c, b + c, c - b, b - d}};
}

// B' d B of `count` tiles as (spot, tile, channel), with `room` tiles for each spot.
void lay_bottom(const Shape &s, const float *x, int64_t first, int64_t count, int64_t room, float *out) {
    static const float zeros[WIDE] = {};
    const int64_t spot = room * s.c;
    Tile tile(s, first);
    for (int64_t t = 0, run; t < count; t += run, tile.go(run)) {
        run = std::min(count - t, s.across() - tile.x);
        for (int64_t c = 0; c < s.c; c += WIDE) {
            const float *rows[4];
            int64_t steps[4];
            for (int64_t i = 0; i < 4; ++i) {
                const int64_t y = 2 * tile.y - s.ph + i;
                const bool is_inside = y >= 0 && y < s.h;
                rows[i] = is_inside ? x + (tile.n * s.h + y) * s.w * s.c + c : zeros;
                steps[i] = is_inside ? s.c : 0;
            }
            int64_t at = 2 * tile.x - s.pw;
            Column one = column(rows, steps, at, s.w), two = column(rows, steps, at + 1, s.w);
            float *to = out + t * s.c + c;
            for (int64_t i = 0; i < run; ++i, to += s.c) {
                at += 2;
                const Column three = column(rows, steps, at, s.w), four = column(rows, steps, at + 1, s.w);
#pragma GCC unroll 4
                for (int k = 0; k < 4; ++k) {
                    float *row = to + 4 * k * spot;
                    put(row, one.r[k] - three.r[k]);
                    put(row + spot, two.r[k] + three.r[k]);
                    put(row + 2 * spot, three.r[k] - two.r[k]);
                    put(row + 3 * spot, two.r[k] - four.r[k]);
                }
                one = three;
                two = four;
            }
        }
    }
}

// Where the four places of a tile's top lie, null for those beyond its edge.
struct Places {
    int64_t first, row, o;
    bool has_right, has_below;
    Places(const Shape &s, const Tile &tile)
        : first(((tile.n * s.oh() + 2 * tile.y) * s.ow() + 2 * tile.x) * s.o), row(s.ow() * s.o), o(s.o),
          has_right(2 * tile.x + 1 < s.ow()), has_below(2 * tile.y + 1 < s.oh()) {}
};

// The top from the products, which lie as (spot, tile, output).
void finish_top(const Shape &s, const float *products, int64_t first, int64_t count, int64_t room, const float *bias, float *y) {
    const int64_t spot = room * s.o;
    Tile tile(s, first);
    for (int64_t t = 0; t < count; ++t, tile.go(1)) {
        const Places at(s, tile);
        for (int64_t o = 0; o < s.o; o += WIDE) {
            const float *from = products + t * s.o + o;
            Some up[4], low[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const Some a = take(from + j * spot), b = take(from + (4 + j) * spot);
                const Some c = take(from + (8 + j) * spot), d = take(from + (12 + j) * spot);
                up[j] = a + b + c;
                low[j] = b - c - d;
            }
            const Some more = bias ? take(bias + o) : Some{};
            float *to = y + at.first + o;
            put(to, up[0] + up[1] + up[2] + more);
            if (at.has_right) put(to + at.o, up[1] - up[2] - up[3] + more);
            if (at.has_below) put(to + at.row, low[0] + low[1] + low[2] + more);
            if (at.has_right && at.has_below) put(to + at.row + at.o, low[1] - low[2] - low[3] + more);
        }
    }
}

// A gradient A' of `count` tiles as (spot, tile, output).
void lay_gradient(const Shape &s, const float *gradient, int64_t first, int64_t count, int64_t room, float *out) {
    const int64_t spot = room * s.o;
    Tile tile(s, first);
    for (int64_t t = 0; t < count; ++t, tile.go(1)) {
        const Places at(s, tile);
        for (int64_t o = 0; o < s.o; o += WIDE) {
            const float *from = gradient + at.first + o;
            const Some a = take(from), b = at.has_right ? take(from + at.o) : Some{};
            const Some c = at.has_below ? take(from + at.row) : Some{};
            const Some d = at.has_right && at.has_below ? take(from + at.row + at.o) : Some{};
            const Some rows[4][2] = {{a, b}, {a + c, b + d}, {a - c, b - d}, {-c, -d}};
            float *to = out + t * s.o + o;
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k, to += 4 * spot) {
                put(to, rows[k][0]);
                put(to + spot, rows[k][0] + rows[k][1]);
                put(to + 2 * spot, rows[k][0] - rows[k][1]);
                put(to + 3 * spot, -rows[k][1]);
            }
        }
    }
}

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

// G' of the sums over all threads G: (outputs, channels, 3, 3). sums: (thread, spot, channels, outputs).
void finish_kernels(const Shape &s, const float *sums, int threads, float *out) {
    const int64_t spot = s.c * s.o;
#pragma omp parallel for schedule(static) num_threads(threads_for(spot * 9))
    for (int64_t c = 0; c < s.c; ++c)
        for (int64_t o = 0; o < s.o; o += WIDE) {
            Some q[4][4], half[3][4], g[3][3];
            for (int64_t k = 0; k < SPOTS; ++k) {
                const float *from = sums + k * spot + c * s.o + o;
                Some total = take(from);
                for (int thread = 1; thread < threads; ++thread) total += take(from + thread * SPOTS * spot);
                q[k / 4][k % 4] = total;
            }
            for (int x = 0; x < 4; ++x) {
                const Some sum = 0.5f * (q[1][x] + q[2][x]);
                half[0][x] = q[0][x] + sum;
                half[1][x] = 0.5f * (q[1][x] - q[2][x]);
                half[2][x] = sum + q[3][x];
            }
            for (int y = 0; y < 3; ++y) {
                const Some sum = 0.5f * (half[y][1] + half[y][2]);
                g[y][0] = half[y][0] + sum;
                g[y][1] = 0.5f * (half[y][1] - half[y][2]);
                g[y][2] = sum + half[y][3];
            }
            for (int64_t lane = 0; lane < WIDE; ++lane)
                for (int64_t k = 0; k < 9; ++k) out[((o + lane) * s.c + c) * 9 + k] = g[k / 3][k % 3][lane];
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
