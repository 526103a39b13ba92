// The softmax of scores, its loss and its gradient in one pass.

#include <cmath>

#include "common.h"

extern "C" {

// The sum over the rows of -log p of the label, each at least `least`, divided by `divisor`, into `loss`; its gradient by
// the scores into `gradient`. Returns 1 if a label is none of the classes; then nothing is written but part of `gradient`.
int softmax_loss(const float *scores, const float *labels, int64_t rows, int64_t classes, float least, float divisor,
                 float *loss, float *gradient) {
    double total = 0.0;
    for (int64_t row = 0; row < rows; ++row) {
        const float *score = scores + row * classes;
        float *out = gradient + row * classes;
        const float label = std::trunc(labels[row]);
        if (!(label >= 0.0f && label < static_cast<float>(classes))) return 1;
        float most = score[0];
        for (int64_t c = 1; c < classes; ++c) most = score[c] > most ? score[c] : most;
        float sum = 0.0f;
        for (int64_t c = 0; c < classes; ++c) sum += out[c] = std::exp(score[c] - most);
        const int64_t right = static_cast<int64_t>(label);
        const float log = score[right] - most - std::log(sum);
        total -= log < least ? least : log;
        for (int64_t c = 0; c < classes; ++c) out[c] /= sum * divisor;
        out[right] -= 1.0f / divisor;
    }
    *loss = static_cast<float>(total / divisor);
    return 0;
}
}
