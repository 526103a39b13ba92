// A part of an image whose bytes lie pixel by pixel, mirrored or not, as one plane for each channel.

#include "common.h"

namespace {

// Pixels as they come, of one or four bytes.
typedef uint8_t One __attribute__((may_alias));
typedef uint32_t Four __attribute__((may_alias, aligned(1)));

// Each byte of a row of pixels into a row of its own.
void divide(const One *from, int64_t count, uint8_t *const *rows) { std::memcpy(rows[0], from, count); }

void divide(const Four *pixels, int64_t count, uint8_t *const *rows) {
    const uint8_t *from = reinterpret_cast<const uint8_t *>(pixels);
    uint8_t *one = rows[0], *two = rows[1], *three = rows[2], *four = rows[3];
#pragma GCC ivdep
    for (int64_t x = 0; x < count; ++x) {
        one[x] = from[4 * x];
        two[x] = from[4 * x + 1];
        three[x] = from[4 * x + 2];
        four[x] = from[4 * x + 3];
    }
}

template <class Pixel> void cut(const uint8_t *pixels, const int64_t *shape, uint8_t *out) {
    const int64_t across = shape[0], top = shape[1], left = shape[2], height = shape[3], width = shape[4];
    const bool is_mirrored = shape[5];
    // Caffe's order is blue, green, red; a fourth byte is alpha, or means nothing.
    const int64_t channels = shape[6], plane = height * width, places[4] = {channels == 1 ? 0 : 2, 1, 0, 3};
    std::vector<uint8_t> unused(width);
    std::vector<Pixel> turned(width);
    for (int64_t y = 0; y < height; ++y) {
        const Pixel *from = reinterpret_cast<const Pixel *>(pixels) + (top + y) * across + left;
        if (is_mirrored) {
            for (int64_t x = 0; x < width; ++x) turned[x] = from[width - 1 - x];
            from = turned.data();
        }
        uint8_t *rows[4];
        for (int64_t byte = 0; byte < 4; ++byte)
            rows[byte] = places[byte] < channels ? out + places[byte] * plane + y * width : unused.data();
        divide(from, width, rows);
    }
}

}  // namespace

extern "C" {

// pixels: of one byte for one channel, else of four. shape: pixels in a row of the image; top, left, height and width of
// the part; whether it is mirrored; channels. out: (channels, height, width).
void picture_cut(const uint8_t *pixels, const int64_t *shape, uint8_t *out) {
    const auto one = shape[6] == 1 ? cut<One> : cut<Four>;
    one(pixels, shape, out);
}
}
