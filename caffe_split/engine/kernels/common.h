// What the kernels have in common: the two types of values, and how work is divided among threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#ifdef _OPENMP
#include <omp.h>
#else
static inline int omp_get_max_threads() { return 1; }
static inline int omp_get_thread_num() { return 0; }
static inline int omp_get_num_threads() { return 1; }
#endif

// A value in bfloat16: the upper half of a float.
struct Low {
    uint16_t bits;
};

static inline float load(const float *from) { return *from; }

static inline float load(const Low *from) {
    const uint32_t bits = static_cast<uint32_t>(from->bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void store(float *to, float value) { *to = value; }

// To the nearest, halves to even. Rounding could make an infinity of a nan, which stays one.
static inline void store(Low *to, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    to->bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// Sixteen values at once; where the processor's registers are narrower, the compiler takes several.
typedef float Sixteen __attribute__((vector_size(64), aligned(4), may_alias));
const int64_t LANES = 16;

static inline Sixteen load16(const float *from) { return *reinterpret_cast<const Sixteen *>(from); }

static inline void store16(float *to, const Sixteen &values) { *reinterpret_cast<Sixteen *>(to) = values; }

typedef uint16_t Halves __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint32_t Words __attribute__((vector_size(64)));

static inline Sixteen load16(const Low *from) {
#ifdef __AVX512F__
    return (Sixteen)_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from))), 16);
#else
    return (Sixteen)(__builtin_convertvector(*reinterpret_cast<const Halves *>(from), Words) << 16);
#endif
}

// As the store of one value; by the processor's own instruction values below 2^-126 become 0.
static inline void store16(Low *to, const Sixteen &values) {
#ifdef __AVX512BF16__
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)values);
    std::memcpy(to, &rounded, sizeof rounded);
#else
    const Words bits = (Words)values;
    const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Words nan = (Words)((bits & 0x7fffffffu) > 0x7f800000u);
    *reinterpret_cast<Halves *>(to) = __builtin_convertvector((nan & 0x7fc0u) | (~nan & rounded), Halves);
#endif
}

// The same for one value and for sixteen, so that what is written once computes both.
template <class V, class T> static inline V take(const T *from) {
    if constexpr (std::is_same<V, float>::value) return load(from);
    else return load16(from);
}

template <class T> static inline void put(T *to, float value) { store(to, value); }
template <class T> static inline void put(T *to, const Sixteen &values) { store16(to, values); }

// Zeros that begin with a line of the cache.
template <class T> struct Lines {
    std::vector<T> all;
    T *values;
    explicit Lines(int64_t count) : all(count + 64 / sizeof(T), T{}) {
        const uintptr_t first = reinterpret_cast<uintptr_t>(all.data());
        values = reinterpret_cast<T *>((first + 63) / 64 * 64);
    }
};

// Values for which a thread more pays.
static const int64_t PER_THREAD = 1 << 15;

static inline int threads_for(int64_t values) {
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(omp_get_max_threads(), values / PER_THREAD)));
}
