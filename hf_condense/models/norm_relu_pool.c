/* Norm, ReLU and 2x2 average pooling of ConvNets, each way in one pass over a map that is in the cache.
 *
 * Maps are float32 [n, c, h, w], h and w even, w at most WIDEST. Channels are shared out to threads, so that sums over
 * images are taken in the same order on any number of them. */
#include <math.h>
#include <stdint.h>

enum { WIDEST = 1024, BAND = 1024 };

/* one map in [h, w] -> out [h/2, w/2], scaled and shifted, ReLU, pooled */
static inline void pooled(const float *in, float scale, float shift, float *out, int64_t h, int64_t w) {
    for (int64_t row = 0; row < h / 2; row++, in += 2 * w, out += w / 2) {
        const float *lower = in + w;
        float both[WIDEST];
#pragma omp simd
        for (int64_t i = 0; i < w; i++) {
            const float a = in[i] * scale + shift, b = lower[i] * scale + shift;
            both[i] = (a < 0 ? 0 : a) + (b < 0 ? 0 : b); /* not a number stays so */
        }
        for (int64_t i = 0; i < w / 2; i++) out[i] = 0.25f * (both[2 * i] + both[2 * i + 1]);
    }
}

/* x [n, c, h, w], scale and shift [c] -> y [n, c, h/2, w/2]: a batch norm with the statistics that it has */
void affine(const float *x, const float *scale, const float *shift, float *y, int64_t n, int64_t c, int64_t h, int64_t w,
            int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t map = 0; map < n * c; map++)
        pooled(x + map * h * w, scale[map % c], shift[map % c], y + map * h * w / 4, h, w);
}

/* x [n, c, h, w], weight and bias [c] -> y [n, c, h/2, w/2]; mean and rstd [n, c] of each map: instance norm */
void forward(const float *x, const float *weight, const float *bias, float *y, float *mean, float *rstd,
             int64_t n, int64_t c, int64_t h, int64_t w, float eps, int threads) {
    const int64_t size = h * w;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t channel = 0; channel < c; channel++)
        for (int64_t map = channel; map < n * c; map += c) {
            const float *in = x + map * size;
            float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < size; i++) sum += in[i];
            const float m = sum / size;
#pragma omp simd reduction(+ : squares)
            for (int64_t i = 0; i < size; i++) squares += (in[i] - m) * (in[i] - m);
            const float r = 1 / sqrtf(squares / size + eps), scale = r * weight[channel], shift = bias[channel] - m * scale;
            mean[map] = m;
            rstd[map] = r;
            pooled(in, scale, shift, y + map * size / 4, h, w);
        }
}

/* of the gradient dy [n, c, h/2, w/2] -> dx [n, c, h, w], dweight and dbias [c]
 *
 * Rows that do not fill vector registers, such as those of 8 to 28 columns, are gone over several at a time. */
void backward(const float *dy, const float *x, const float *weight, const float *bias, const float *mean, const float *rstd,
              float *dx, float *dweight, float *dbias, int64_t n, int64_t c, int64_t h, int64_t w, int threads) {
    const int64_t size = h * w, half = w / 2, most = w % 16 ? BAND / w : 1; /* rows at a time */
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t channel = 0; channel < c; channel++) {
        float of_weight = 0, of_bias = 0;
        for (int64_t map = channel; map < n * c; map += c) {
            const float *in = x + map * size, m = mean[map], r = rstd[map];
            const float scale = r * weight[channel], shift = bias[channel] - m * scale;
            float *out = dx + map * size, sum = 0, product = 0;
            for (int64_t row = 0; row < h; row += most) {
                const int64_t rows = h - row < most ? h - row : most;
                const float *from = in + row * w;
                float *to = out + row * w, quarter[BAND];
                for (int64_t r = 0; r < rows; r++) {
                    const float *pooled = dy + map * size / 4 + (row + r) / 2 * half;
                    for (int64_t i = 0; i < half; i++) quarter[r * w + 2 * i] = quarter[r * w + 2 * i + 1] = 0.25f * pooled[i];
                }
#pragma omp simd reduction(+ : sum, product)
                for (int64_t i = 0; i < rows * w; i++) {
                    const float active = from[i] * scale + shift > 0 ? quarter[i] : 0;
                    to[i] = active;
                    sum += active;
                    product += active * (from[i] - m);
                }
            }
            of_weight += product * r;
            of_bias += sum;
            const float level = sum / size, slope = product / size * r * r;
#pragma omp simd
            for (int64_t i = 0; i < size; i++) out[i] = scale * (out[i] - level - (in[i] - m) * slope);
        }
        dweight[channel] = of_weight;
        dbias[channel] = of_bias;
    }
}
