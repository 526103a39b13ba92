// Convolutions of small nets: direct ones, for which PyTorch's preparations would take longer than the sums.
//
// Values lie as (N, H, W, channels), weights as (outputs, channels, kernel height, kernel width). The bottom is copied
// into a frame of zeros, so that no place needs a check. Eight places times sixteen or thirty-two channels are summed in
// registers. One thread: the nets are too small for more.

#include "common.h"

namespace {

int64_t rounded(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

struct Shape {
    int64_t n, h, w, c, o, kh, kw, sh, sw, ph, pw, dh, dw, oh, ow;
    int64_t framed_h() const { return h + 2 * ph; }
    int64_t framed_w() const { return w + 2 * pw; }
    int64_t places() const { return n * oh * ow; }
    int64_t kernel() const { return kh * kw; }
};

Shape shape_of(const int64_t *s) {
    return {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12], s[13], s[14]};
}

// Where the window of each place of the top begins in the frame, in values, with `depth` values for each pixel.
std::vector<int64_t> starts(const Shape &s, int64_t depth) {
    std::vector<int64_t> found;
    found.reserve(s.places());
    for (int64_t n = 0; n < s.n; ++n)
        for (int64_t y = 0; y < s.oh; ++y)
            for (int64_t x = 0; x < s.ow; ++x)
                found.push_back(((n * s.framed_h() + y * s.sh) * s.framed_w() + x * s.sw) * depth);
    return found;
}

// Where value (y, x) of a window lies behind its beginning.
std::vector<int64_t> steps(const Shape &s, int64_t depth) {
    std::vector<int64_t> found;
    for (int64_t y = 0; y < s.kh; ++y)
        for (int64_t x = 0; x < s.kw; ++x) found.push_back((y * s.dh * s.framed_w() + x * s.dw) * depth);
    return found;
}

void frame(const Shape &s, const float *x, std::vector<float> &out) {
    out.assign(s.n * s.framed_h() * s.framed_w() * s.c, 0.0f);
    for (int64_t n = 0; n < s.n; ++n)
        for (int64_t y = 0; y < s.h; ++y)
            std::memcpy(out.data() + ((n * s.framed_h() + y + s.ph) * s.framed_w() + s.pw) * s.c,
                        x + (n * s.h + y) * s.w * s.c, s.w * s.c * sizeof(float));
}

template <int WIDE, int PLACES>
void forward(const Shape &s, const float *framed, const int64_t *start, const int64_t *step, const float *weights,
             int64_t o, const float *bias, float *y) {
    const int64_t depth = rounded(s.o), all = s.places();
    for (int64_t place = 0; place < all; place += PLACES) {
        const float *from[PLACES];
        for (int64_t p = 0; p < PLACES; ++p) from[p] = framed + start[std::min(place + p, all - 1)];
        Sixteen total[PLACES][WIDE];
        for (int64_t p = 0; p < PLACES; ++p)
            for (int v = 0; v < WIDE; ++v) total[p][v] = *reinterpret_cast<const Sixteen *>(bias + o + v * LANES);
        const float *weight = weights + o;
        for (int64_t k = 0; k < s.kernel(); ++k) {
            const int64_t at = step[k];
            for (int64_t c = 0; c < s.c; ++c, weight += depth)
                for (int v = 0; v < WIDE; ++v) {
                    const Sixteen factor = *reinterpret_cast<const Sixteen *>(weight + v * LANES);
#pragma GCC unroll 16
                    for (int64_t p = 0; p < PLACES; ++p) total[p][v] += from[p][at + c] * factor;
                }
        }
        for (int64_t p = 0; p < std::min<int64_t>(PLACES, all - place); ++p)
            for (int v = 0; v < WIDE; ++v) {
                const int64_t first = o + v * LANES;
                std::memcpy(y + (place + p) * s.o + first, &total[p][v],
                            std::min(LANES, s.o - first) * sizeof(float));
            }
    }
}

template <int WIDE, int PLACES>
void to_bottom(const Shape &s, const float *gradient, const int64_t *start, const int64_t *step, const float *weights,
               int64_t c, float *framed) {
    const int64_t depth = rounded(s.c), all = s.places();
    for (int64_t place = 0; place < all; place += PLACES) {
        const float *from[PLACES];
        for (int64_t p = 0; p < PLACES; ++p) from[p] = gradient + std::min(place + p, all - 1) * s.o;
        const float *weight = weights + c;
        for (int64_t k = 0; k < s.kernel(); ++k) {
            Sixteen total[PLACES][WIDE] = {};
            for (int64_t o = 0; o < s.o; ++o, weight += depth)
                for (int v = 0; v < WIDE; ++v) {
                    const Sixteen factor = *reinterpret_cast<const Sixteen *>(weight + v * LANES);
#pragma GCC unroll 8
                    for (int64_t p = 0; p < PLACES; ++p) total[p][v] += from[p][o] * factor;
                }
            for (int64_t p = 0; p < std::min<int64_t>(PLACES, all - place); ++p)
                for (int v = 0; v < WIDE; ++v) {
                    Sixteen *to = reinterpret_cast<Sixteen *>(framed + start[place + p] + step[k] + c + v * LANES);
                    *to += total[p][v];
                }
        }
    }
}

// The gradient of the weights of COUNT channels, whose values lie at `at` behind the start of each window, into `out`.
template <int COUNT, int WIDE>
void to_weights(const Shape &s, const float *framed, const float *gradient, int64_t depth, const int64_t *start,
                int64_t at, int64_t o, float *out) {
    Sixteen total[COUNT][WIDE] = {};
    for (int64_t place = 0; place < s.places(); ++place) {
        const float *x = framed + start[place] + at;
        const float *given = gradient + place * depth + o;
        for (int v = 0; v < WIDE; ++v) {
            const Sixteen factor = *reinterpret_cast<const Sixteen *>(given + v * LANES);
#pragma GCC unroll 16
            for (int c = 0; c < COUNT; ++c) total[c][v] += x[c] * factor;
        }
    }
    for (int c = 0; c < COUNT; ++c)
        for (int v = 0; v < WIDE; ++v)
            *reinterpret_cast<Sixteen *>(out + c * depth + o + v * LANES) = total[c][v];
}

// All outputs of a convolution. weights: packed, with `rounded(s.o)` values for each place of the window and channel.
void convolve(const Shape &s, const float *framed, const float *weights, const float *bias, float *y) {
    const int64_t depth = rounded(s.o);
    const std::vector<int64_t> start = starts(s, s.c), step = steps(s, s.c);
    int64_t o = 0;
    for (; o + 2 * LANES <= depth; o += 2 * LANES)
        forward<2, 8>(s, framed, start.data(), step.data(), weights, o, bias, y);
    if (o < depth) forward<1, 16>(s, framed, start.data(), step.data(), weights, o, bias, y);
}

// With steps of one the gradient of the bottom is itself a convolution, of the gradient by the mirrored kernel.
bool is_mirrored(const Shape &s) {
    return s.sh == 1 && s.sw == 1 && (s.kh - 1) * s.dh >= s.ph && (s.kw - 1) * s.dw >= s.pw;
}

Shape mirrored(const Shape &s) {
    return {s.n,  s.oh, s.ow, s.o, s.c, s.kh, s.kw, 1, 1, (s.kh - 1) * s.dh - s.ph, (s.kw - 1) * s.dw - s.pw,
            s.dh, s.dw, s.h,  s.w};
}

}  // namespace

extern "C" {

// shape: N, H, W, channels, outputs, kernel (2), stride (2), pad (2), dilation (2), size of the top (2).

void conv_forward(const int64_t *shape, const float *x, const float *weight, const float *bias, float *y) {
    const Shape s = shape_of(shape);
    const int64_t depth = rounded(s.o);
    thread_local std::vector<float> framed, packed, biases;
    frame(s, x, framed);
    packed.assign(s.kernel() * s.c * depth, 0.0f);
    for (int64_t o = 0; o < s.o; ++o)
        for (int64_t c = 0; c < s.c; ++c)
            for (int64_t k = 0; k < s.kernel(); ++k)
                packed[(k * s.c + c) * depth + o] = weight[(o * s.c + c) * s.kernel() + k];
    biases.assign(depth, 0.0f);
    if (bias) std::copy(bias, bias + s.o, biases.begin());
    convolve(s, framed.data(), packed.data(), biases.data(), y);
}

// Each of the last three may be null: not wanted.
void conv_backward(const int64_t *shape, const float *x, const float *weight, const float *gradient, float *of_x,
                   float *of_weight, float *of_bias) {
    const Shape s = shape_of(shape);
    thread_local std::vector<float> framed, packed, sums;
    if (of_x) {
        const int64_t depth = rounded(s.c), last = s.kernel() - 1;
        const bool mirror = is_mirrored(s);
        packed.assign(s.kernel() * s.o * depth, 0.0f);
        for (int64_t o = 0; o < s.o; ++o)
            for (int64_t c = 0; c < s.c; ++c)
                for (int64_t k = 0; k < s.kernel(); ++k)
                    packed[((mirror ? last - k : k) * s.o + o) * depth + c] = weight[(o * s.c + c) * s.kernel() + k];
        if (mirror) {
            const Shape back = mirrored(s);
            frame(back, gradient, framed);
            sums.assign(depth, 0.0f);
            convolve(back, framed.data(), packed.data(), sums.data(), of_x);
        } else {
            framed.assign(s.n * s.framed_h() * s.framed_w() * depth, 0.0f);
            const std::vector<int64_t> start = starts(s, depth), step = steps(s, depth);
            int64_t c = 0;
            for (; c + 2 * LANES <= depth; c += 2 * LANES)
                to_bottom<2, 8>(s, gradient, start.data(), step.data(), packed.data(), c, framed.data());
            if (c < depth) to_bottom<1, 16>(s, gradient, start.data(), step.data(), packed.data(), c, framed.data());
            for (int64_t n = 0; n < s.n; ++n)
                for (int64_t y = 0; y < s.h; ++y)
                    for (int64_t w = 0; w < s.w; ++w)
                        std::memcpy(of_x + ((n * s.h + y) * s.w + w) * s.c,
                                    framed.data() + ((n * s.framed_h() + y + s.ph) * s.framed_w() + w + s.pw) * depth,
                                    s.c * sizeof(float));
        }
    }
    if (of_weight) {
        const int64_t depth = rounded(s.o);
        frame(s, x, framed);
        const float *given = gradient;
        if (depth != s.o) {
            packed.assign(s.places() * depth, 0.0f);
            for (int64_t place = 0; place < s.places(); ++place)
                std::memcpy(packed.data() + place * depth, gradient + place * s.o, s.o * sizeof(float));
            given = packed.data();
        }
        const std::vector<int64_t> start = starts(s, s.c), step = steps(s, s.c);
        sums.resize(s.c * depth);
        for (int64_t k = 0; k < s.kernel(); ++k) {
            for (int64_t c = 0, count; c < s.c; c += count) {
                count = s.c - c >= 16 ? 16 : s.c - c >= 8 ? 8 : 1;
                const auto one = count == 16 ? to_weights<16, 1> : count == 8 ? to_weights<8, 1> : to_weights<1, 1>;
                for (int64_t o = 0; o < depth; o += LANES)
                    one(s, framed.data(), given, depth, start.data(), step[k] + c, o, sums.data() + c * depth);
            }
            for (int64_t o = 0; o < s.o; ++o)
                for (int64_t each = 0; each < s.c; ++each)
                    of_weight[(o * s.c + each) * s.kernel() + k] = sums[each * depth + o];
        }
    }
    if (of_bias) {
        std::fill(of_bias, of_bias + s.o, 0.0f);
        for (int64_t place = 0; place < s.places(); ++place)
            for (int64_t o = 0; o < s.o; ++o) of_bias[o] += gradient[place * s.o + o];
    }
}
}
