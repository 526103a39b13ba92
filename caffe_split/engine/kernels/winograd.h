// The transforms of Winograd's convolutions, for winograd.cpp, which says what they are: kernels, tiles of the bottom and
// of the gradient are laid out as factors, and the top and the gradient of the kernels are finished from the products.
#pragma once

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
const int64_t SPOTS = 16;

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

#endif
