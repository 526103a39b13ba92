// The update of SGD and Nesterov for several parameters in one call.

#include "common.h"

extern "C" {

// Of each of `count` parameters: its values, gradient and history, and how many values these have.
// share: what gradients are multiplied by first. signs: whether the decay pulls by the sign of a value (L1).
void update_sgd(int64_t count, float *const *values, const float *const *gradients, float *const *history,
                const int64_t *lengths, float rate, float decay, float momentum, float share, int signs, int nesterov) {
    for (int64_t each = 0; each < count; ++each) {
        float *w = values[each], *v = history[each];
        const float *g = gradients[each];
        const int64_t length = lengths[each];
        const int threads = threads_for(length);
#pragma omp parallel for simd num_threads(threads) schedule(static) if (threads > 1)
        for (int64_t i = 0; i < length; ++i) {
            const float value = w[i];
            const float pull = signs ? static_cast<float>((value > 0.0f) - (value < 0.0f)) : value;
            const float old = v[i], now = momentum * old + rate * (g[i] * share + decay * pull);
            v[i] = now;
            // Nesterov takes back momentum times the old velocity and steps by 1 + momentum times the new one.
            w[i] = value - (nesterov ? (1.0f + momentum) * now - momentum * old : now);
        }
    }
}
}
