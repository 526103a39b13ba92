// The gradient of a convolution's weights from bfloat16 values by the processor's matrix tiles (AMX), for steps of one.
//
// Values lie as (N, H, W, channels), the gradient as floats (outputs, channels, height, width). For each tap of the window
// it is a product of two matrices with a column, or a row, for each place of the top. The tiles want the top's gradient
// with a row for each output, and the bottom with two places beside each other for each channel; a tile that begins within
// a line of the cache takes several times as long to load as one that begins with it. So the bottom is laid out twice,
// with its places paired from the first and from the second one: each tap begins at a pair of one of the two.
//
// Images are laid below each other into a frame of zeros, in which a row's pad on the right is the next row's on the left,
// and an image's pad at the bottom the next one's at the top. Places of the top counted along the frame's rows are then one
// long run, in which what a tap looks at lies a fixed number of pixels behind each place. Places of the frame without a top
// have a gradient of 0. Some rows are done at a time, so that what is laid out stays in the cache.

#include "common.h"

#if defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

namespace {

// Rows of a tile, which are as many as the pairs in a row, and places that a tile holds.
const int64_t ROWS = 16, DEEP = 2 * ROWS;
// Places of a strip of rows: fewer do not pay for what is done once a strip.
const int64_t STRIP = 512;

int64_t up(int64_t count, int64_t by) { return (count + by - 1) / by * by; }

struct Shape {
    int64_t n, h, w, c, o, kh, kw, ph, pw;
    int64_t oh() const { return h + 2 * ph - kh + 1; }
    int64_t ow() const { return w + 2 * pw - kw + 1; }
    int64_t taps() const { return kh * kw; }
    // Of the frame: rows of an image, pixels of a row.
    int64_t image() const { return h + ph; }
    int64_t row() const { return w + pw; }
    // Of a strip: rows of places, places, and pixels that they look at.
    int64_t rows() const { return std::min(n * image(), up(STRIP, row()) / row()); }
    int64_t places() const { return up(rows() * row(), DEEP); }
    int64_t pixels() const { return up(places() + kh * row() + kw, 2); }
    int64_t step(int64_t tap) const { return tap / kw * row() + tap % kw; }
};

// The tiles of this thread as long as it lives.
struct Tiles {
    Tiles() {
        struct alignas(64) {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t bytes[16] = {};
            uint8_t rows[16] = {};
        } config;
        for (int tile = 0; tile < 8; ++tile) config.bytes[tile] = 64, config.rows[tile] = ROWS;
        _tile_loadconfig(&config);
    }
    ~Tiles() { _tile_release(); }
};

// The pixels that a strip of rows from `first` on looks at. The pads beside the rows are zeros already.
void lay(const Shape &s, const Low *x, int64_t first, Low *frame) {
    for (int64_t row = 0; row < s.rows() + s.kh - 1; ++row) {
        const int64_t n = (first + row) / s.image(), y = (first + row) % s.image() - s.ph;
        Low *to = frame + (row * s.row() + s.pw) * s.c;
        if (y < 0 || n >= s.n) std::memset(to, 0, s.w * s.c * sizeof(Low));
        else std::memcpy(to, x + (n * s.h + y) * s.w * s.c, s.w * s.c * sizeof(Low));
    }
}

// The values of sixteen channels of two pixels in turns.
__m512i pair(const Low *one, const Low *two) {
    const __m512i turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                           20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(one));
    const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(two));
    return _mm512_permutexvar_epi16(turns, _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1));
}

// The frame in pairs of pixels, from pixel `first` on.
void by_pairs(const Shape &s, const Low *frame, int64_t first, Low *out) {
    for (int64_t p = first; p + 1 < s.pixels(); p += 2)
        for (int64_t c = 0; c < s.c; c += ROWS, out += DEEP)
            _mm512_store_si512(out, pair(frame + p * s.c + c, frame + (p + 1) * s.c + c));
}

// Rows become columns, of sixteen by sixteen values of 32 bits.
void turn(__m512i *r) {
    __m512i t[ROWS];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i)
        for (int half = 0; half < 16; half += 8) {
            t[half + i] = _mm512_shuffle_i32x4(r[half + i], r[half + i + 4], 0x88);
            t[half + i + 4] = _mm512_shuffle_i32x4(r[half + i], r[half + i + 4], 0xdd);
        }
    for (int i = 0; i < 8; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

// Where the gradient of each place of a strip lies, null for those without a top.
void find(const Shape &s, const Low *gradient, int64_t first, const Low **found) {
    for (int64_t row = 0; row < s.rows(); ++row, found += s.row()) {
        const int64_t n = (first + row) / s.image(), y = (first + row) % s.image();
        const int64_t known = n < s.n && y < s.oh() ? s.ow() : 0;
        for (int64_t x = 0; x < known; ++x) found[x] = gradient + ((n * s.oh() + y) * s.ow() + x) * s.o;
        std::fill(found + known, found + s.row(), nullptr);
    }
}

// The gradient of a strip with a row for each output.
void by_output(const Shape &s, const Low *const *found, Low *out) {
    static const Low zeros[ROWS] = {};
    for (int64_t o = 0; o < s.o; o += ROWS)
        for (int64_t p = 0; p < s.places(); p += DEEP) {
            __m512i rows[ROWS];
            for (int64_t r = 0; r < ROWS; ++r) {
                const Low *one = found[p + 2 * r], *two = found[p + 2 * r + 1];
                rows[r] = pair(one ? one + o : zeros, two ? two + o : zeros);
            }
            turn(rows);
            for (int64_t r = 0; r < ROWS; ++r) _mm512_store_si512(out + (o + r) * s.places() + p, rows[r]);
        }
}

// Some compilers do not know that loading a tile reads memory: what was stored before has to be there by now.
void all_stored() { __asm__ volatile("" ::: "memory"); }

// Adds to the sums of sixteen outputs and channels, for COUNT taps. from: each tap's pairs. sums: (COUNT, outputs, c).
template <int COUNT>
void product(const Shape &s, const Low *gradient, const Low *const *from, float *sums) {
    const int64_t places = s.places(), next = s.o * s.c, row = s.c * sizeof(float), pairs = s.c * sizeof(Low) * 2;
    all_stored();
#define FOR_EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#define LOAD(t) if constexpr (t < COUNT) { _tile_loadd(t, sums + t * next, row); }
#define ADD(t) if constexpr (t < COUNT) { _tile_loadd(7, from[t] + p * s.c, pairs); _tile_dpbf16ps(t, 6, 7); }
#define STORE(t) if constexpr (t < COUNT) { _tile_stored(t, sums + t * next, row); }
    FOR_EACH(LOAD)
    for (int64_t p = 0; p < places; p += DEEP) {
        _tile_loadd(6, gradient + p, places * sizeof(Low));
        FOR_EACH(ADD)
    }
    FOR_EACH(STORE)
#undef FOR_EACH
#undef LOAD
#undef ADD
#undef STORE
}

void add_products(const Shape &s, const Low *gradient, const Low *const *paired, float *sums) {
    for (int64_t o = 0; o < s.o; o += ROWS)
        for (int64_t c = 0; c < s.c; c += ROWS)
            for (int64_t tap = 0, count; tap < s.taps(); tap += count) {
                const int64_t left = s.taps() - tap;
                count = left >= 6 ? 6 : left >= 3 ? 3 : 1;
                const Low *from[6];
                for (int64_t t = 0; t < count; ++t) {
                    const int64_t step = s.step(tap + t);
                    from[t] = paired[step % 2] + step / 2 * 2 * s.c + 2 * c;
                }
                const auto one = count == 6 ? product<6> : count == 3 ? product<3> : product<1>;
                one(s, gradient + o * s.places(), from, sums + (tap * s.o + o) * s.c + c);
            }
}

}  // namespace

extern "C" {

// Whether this process may use the tiles; asks the system for them.
int tiles_ready() {
    const long ask = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, ask, tile_data) == 0;
}

// shape: N, H, W, channels, outputs, kernel (2), pad (2). Each pad is less than the kernel, channels and outputs are
// multiples of 16.
void tiles_weights(const int64_t *shape, const Low *x, const Low *gradient, float *of_weight) {
    const Shape s = {shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6], shape[7], shape[8]};
    const int64_t rows = s.n * s.image(), strips = (rows + s.rows() - 1) / s.rows(), count = s.taps() * s.o * s.c;
    const int threads = static_cast<int>(std::min<int64_t>(threads_for(rows * s.row() * s.c), strips));
    Lines<float> sums(threads * count);
#pragma omp parallel num_threads(threads)
    {
        const Tiles tiles;
        Lines<Low> frame(s.pixels() * s.c), even(s.pixels() * s.c), odd(s.pixels() * s.c), given(s.places() * s.o);
        const Low *const paired[] = {even.values, odd.values};
        std::vector<const Low *> found(s.places());
#pragma omp for schedule(static)
        for (int64_t strip = 0; strip < strips; ++strip) {
            lay(s, x, strip * s.rows(), frame.values);
            by_pairs(s, frame.values, 0, even.values);
            by_pairs(s, frame.values, 1, odd.values);
            find(s, gradient, strip * s.rows(), found.data());
            by_output(s, found.data(), given.values);
            add_products(s, given.values, paired, sums.values + omp_get_thread_num() * count);
        }
    }
    for (int64_t o = 0; o < s.o; ++o)
        for (int64_t c = 0; c < s.c; ++c)
            for (int64_t tap = 0; tap < s.taps(); ++tap) {
                float total = 0;
                for (int thread = 0; thread < threads; ++thread)
                    total += sums.values[thread * count + (tap * s.o + o) * s.c + c];
                of_weight[(o * s.c + c) * s.taps() + tap] = total;
            }
}
}

#else

extern "C" {
int tiles_ready() { return 0; }
void tiles_weights(const int64_t *, const Low *, const Low *, float *) {}
}

#endif
