// Pooling, forward and backward. Values lie as (N, H, W, channels); each image is the work of one thread.
//
// Every value is computed once from all that it depends on: a top's from its window, and the gradient of a bottom's from
// the windows that it lies in. So sums stay in registers.

#include <limits>

#include "common.h"

namespace {

struct Shape {
    int64_t n, h, w, c, kh, kw, sh, sw, ph, pw, oh, ow;
    bool is_single() const { return kh == 1 && kw == 1 && ph == 0 && pw == 0; }
};

Shape shape_of(const int64_t *s) { return {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11]}; }

// The rows, or the columns, of one window within the image, and how many it counts for a mean: as in Caffe, the padding
// too, but not what lies beyond it.
struct Span {
    int64_t start, stop, size;
};

std::vector<Span> spans(int64_t count, int64_t length, int64_t kernel, int64_t stride, int64_t pad) {
    std::vector<Span> found;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t start = i * stride - pad, stop = std::min(start + kernel, length + pad);
        found.push_back({std::max<int64_t>(start, 0), std::min(stop, length), stop - start});
    }
    return found;
}

struct Windows {
    std::vector<Span> rows, columns;
    explicit Windows(const Shape &s)
        : rows(spans(s.oh, s.h, s.kh, s.sh, s.ph)), columns(spans(s.ow, s.w, s.kw, s.sw, s.pw)) {}
};

// Calls `work` with the number of each image, from several threads.
template <class Work>
void images(const Shape &s, const Work &work) {
    const int threads = static_cast<int>(std::min<int64_t>(s.n, threads_for(s.n * s.h * s.w * s.c)));
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t n = 0; n < s.n; ++n) work(n);
}

// Calls `work` with the first of sixteen channels, or with one channel, and a value of the type that computes them.
template <class Work>
inline void channels(int64_t count, const Work &work) {
    int64_t c = 0;
    for (; c + LANES <= count; c += LANES) work(c, Sixteen{});
    for (; c < count; ++c) work(c, 0.0f);
}

// Numbers of places within windows, one or sixteen.
typedef int32_t Places __attribute__((vector_size(64)));
typedef uint8_t Bytes __attribute__((vector_size(16), aligned(1), may_alias));
inline Places places_like(const Sixteen &) { return Places{}; }
inline int32_t places_like(float) { return 0; }
inline void put_places(uint8_t *to, const Places &where) {
    *reinterpret_cast<Bytes *>(to) = __builtin_convertvector(__builtin_convertvector(where, Halves), Bytes);
}
inline void put_places(uint8_t *to, int32_t where) { *to = static_cast<uint8_t>(where); }
inline Sixteen chosen(const uint8_t *place, int32_t k, const Sixteen &value) {
#ifdef __AVX512F__
    return (Places)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(place))) == k ? value : Sixteen{};
#else
    const Halves wide = __builtin_convertvector(*reinterpret_cast<const Bytes *>(place), Halves);
    return __builtin_convertvector(wide, Places) == k ? value : Sixteen{};
#endif
}
inline float chosen(const uint8_t *place, int32_t k, float value) { return *place == k ? value : 0.0f; }

// place: of each value of the top, where in its window the maximum stands; null where it is not wanted.
template <class T>
void maximum(const Shape &s, const T *x, T *y, uint8_t *place) {
    const Windows all(s);
    images(s, [&](int64_t n) {
        int64_t to = n * s.oh * s.ow * s.c;
        for (const Span &rows : all.rows)
            for (const Span &columns : all.columns) {
                channels(s.c, [&](int64_t c, auto like) {
                    using V = decltype(like);
                    V most = V{} - std::numeric_limits<float>::infinity();
                    auto where = places_like(like);
                    int32_t k = 0;
                    for (int64_t iy = rows.start; iy < rows.stop; ++iy)
                        for (int64_t ix = columns.start; ix < columns.stop; ++ix, ++k) {
                            const V value = take<V>(x + ((n * s.h + iy) * s.w + ix) * s.c + c);
                            // A nan counts as the largest, so that it is seen.
                            const auto more = (value > most) | (value != value);
                            most = more ? value : most;
                            where = more ? places_like(like) + k : where;
                        }
                    put(y + to + c, most);
                    if (place) put_places(place + to + c, where);
                });
                to += s.c;
            }
    });
}

template <class T>
void mean(const Shape &s, const T *x, T *y) {
    const Windows all(s);
    images(s, [&](int64_t n) {
        int64_t to = n * s.oh * s.ow * s.c;
        for (const Span &rows : all.rows)
            for (const Span &columns : all.columns) {
                const float size = static_cast<float>(rows.size * columns.size);
                channels(s.c, [&](int64_t c, auto like) {
                    using V = decltype(like);
                    V sum{};
                    for (int64_t iy = rows.start; iy < rows.stop; ++iy)
                        for (int64_t ix = columns.start; ix < columns.stop; ++ix)
                            sum += take<V>(x + ((n * s.h + iy) * s.w + ix) * s.c + c);
                    put(y + to + c, static_cast<V>(sum / size));
                });
                to += s.c;
            }
    });
}

// A window that a pixel lies in: where it stands in the top of one image, the pixel's place in it, and its share.
struct Member {
    int64_t from;
    int32_t place;
    float share;
};

// The windows of all pixels of an image, and where those of each begin.
struct Members {
    std::vector<Member> all;
    std::vector<int64_t> starts{0};
    explicit Members(const Shape &s) {
        const Windows windows(s);
        for (int64_t iy = 0; iy < s.h; ++iy)
            for (int64_t ix = 0; ix < s.w; ++ix) {
                // From the first window that may reach to the pixel.
                const int64_t top = std::max<int64_t>(0, (iy + s.ph - s.kh + s.sh) / s.sh);
                const int64_t left = std::max<int64_t>(0, (ix + s.pw - s.kw + s.sw) / s.sw);
                for (int64_t oy = top; oy < s.oh && windows.rows[oy].start <= iy; ++oy)
                    for (int64_t ox = left; ox < s.ow && windows.columns[ox].start <= ix; ++ox) {
                        const Span &rows = windows.rows[oy], &columns = windows.columns[ox];
                        if (iy >= rows.stop || ix >= columns.stop) continue;
                        const int64_t k = (iy - rows.start) * (columns.stop - columns.start) + ix - columns.start;
                        all.push_back({(oy * s.ow + ox) * s.c, static_cast<int32_t>(k),
                                       1.0f / static_cast<float>(rows.size * columns.size)});
                    }
                starts.push_back(static_cast<int64_t>(all.size()));
            }
    }
};

// The gradient of the bottom: of a maximum if `place` is given, else of a mean.
template <bool LARGEST, class T>
void backward(const Shape &s, const T *gradient, const uint8_t *place, T *back) {
    const Members members(s);
    images(s, [&](int64_t n) {
        const T *given = gradient + n * s.oh * s.ow * s.c;
        const uint8_t *places = LARGEST ? place + n * s.oh * s.ow * s.c : nullptr;
        T *to = back + n * s.h * s.w * s.c;
        for (int64_t pixel = 0; pixel < s.h * s.w; ++pixel, to += s.c) {
            const Member *first = members.all.data() + members.starts[pixel];
            const Member *end = members.all.data() + members.starts[pixel + 1];
            channels(s.c, [=](int64_t c, auto like) {
                decltype(like) sum{};
                for (const Member *each = first; each < end; ++each) {
                    const auto value = take<decltype(like)>(given + each->from + c);
                    if (LARGEST) sum += chosen(places + each->from + c, each->place, value);
                    else sum += value * each->share;
                }
                put(to + c, sum);
            });
        }
    });
}

// Windows of one pixel: maximum and mean are the pixel itself.
template <class T>
void single(const Shape &s, const T *x, T *y) {
    images(s, [&](int64_t n) {
        for (int64_t oy = 0; oy < s.oh; ++oy)
            for (int64_t ox = 0; ox < s.ow; ++ox)
                std::memcpy(y + ((n * s.oh + oy) * s.ow + ox) * s.c,
                            x + ((n * s.h + oy * s.sh) * s.w + ox * s.sw) * s.c, s.c * sizeof(T));
    });
}

template <class T>
void single_back(const Shape &s, const T *gradient, T *back) {
    images(s, [&](int64_t n) {
        std::memset(back + n * s.h * s.w * s.c, 0, s.h * s.w * s.c * sizeof(T));
        for (int64_t oy = 0; oy < s.oh; ++oy)
            for (int64_t ox = 0; ox < s.ow; ++ox)
                std::memcpy(back + ((n * s.h + oy * s.sh) * s.w + ox * s.sw) * s.c,
                            gradient + ((n * s.oh + oy) * s.ow + ox) * s.c, s.c * sizeof(T));
    });
}

template <class T>
void forward(const Shape &s, const T *x, T *y, uint8_t *place, bool largest) {
    if (s.is_single()) single(s, x, y);
    else if (largest) maximum(s, x, y, place);
    else mean(s, x, y);
}

template <class T>
void to_bottom(const Shape &s, const T *gradient, const uint8_t *place, T *back) {
    if (s.is_single()) single_back(s, gradient, back);
    else if (place) backward<true>(s, gradient, place, back);
    else backward<false>(s, gradient, place, back);
}

}  // namespace

extern "C" {

// low: whether values are in bfloat16. shape: N, H, W, channels, kernel (2), stride (2), pad (2), size of the top (2).
// The kernel has at most 256 places.

void pool_maximum(int low, const int64_t *shape, const void *x, void *y, uint8_t *place) {
    const Shape s = shape_of(shape);
    if (low) forward(s, static_cast<const Low *>(x), static_cast<Low *>(y), place, true);
    else forward(s, static_cast<const float *>(x), static_cast<float *>(y), place, true);
}

void pool_mean(int low, const int64_t *shape, const void *x, void *y) {
    const Shape s = shape_of(shape);
    if (low) forward(s, static_cast<const Low *>(x), static_cast<Low *>(y), nullptr, false);
    else forward(s, static_cast<const float *>(x), static_cast<float *>(y), nullptr, false);
}

// place: what pool_maximum has found; null for a mean.
void pool_backward(int low, const int64_t *shape, const void *gradient, const uint8_t *place, void *back) {
    const Shape s = shape_of(shape);
    if (low) to_bottom(s, static_cast<const Low *>(gradient), place, static_cast<Low *>(back));
    else to_bottom(s, static_cast<const float *>(gradient), place, static_cast<float *>(back));
}
}
