// What the kernels have in common: the two types of values, and how work is divided among threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

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

// Values for which a thread more pays.
static const int64_t PER_THREAD = 1 << 15;

static inline int threads_for(int64_t values) {
    return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(omp_get_max_threads(), values / PER_THREAD)));
}
