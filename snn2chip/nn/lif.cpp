// The LIF layer of snn2chip/nn/neuron.py over all time steps at once: forward, and backward from the currents.
//
// Compiled by snn2chip/native.py. Currents are T rows of M floats, a row's start `stride` floats behind the last
// (0: the same row at every step). Arithmetic is that of the plain loop, operation for operation: no contraction into
// fused multiply-adds, no reordering. A block of neurons passes all its steps while it is in the cache, so that memory
// is read and written once. With `whole` what is left of a membrane is rounded toward zero to 64ths, as the chip does:
// exact in doubles, where the product of 24 and 12 bits fits. Sums (of trainable constants) are one a block, added up
// by the caller in one order: the same bits with any number of threads.
//
// `fire` is the same neuron for what quantization compares, with nothing rounded to floats but the sums: in doubles,
// which hold the float network's states and every number of the chip's.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace {

constexpr int64_t BLOCK = 128;  // neurons: with 4 steps of all that backward touches, a quarter of the smallest cache

enum Surrogate { RECTANGULAR = 0, TRIANGULAR = 1, ARCTAN = 2 };

template <bool WHOLE>
inline float left_over(float kept, float tau) {
    return WHOLE ? float(std::trunc(double(kept) * (64 * double(tau))) / 64) : tau * kept;
}

struct Options {
    float tau, threshold, width;
    float slope;          // pi / width, for arctan
    float half, inverse;  // width / 2 and 1 / width
    bool whole;
};

template <int KIND>
inline float surrogate(float x, const Options& o) {
    const float size = x < 0 ? -x : x;
    if (KIND == RECTANGULAR) return size < o.half ? o.inverse : 0.0f;
    if (KIND == TRIANGULAR) {
        const float left = 1 - size / o.width;
        return (left < 0 ? 0.0f : left) / o.width;
    }
    const float scaled = x * o.slope;
    return 1 / (o.width * (1 + scaled * scaled));
}

template <bool WHOLE>
void forward_block(const float* current, int64_t stride, float* spikes, int64_t steps, int64_t all, int64_t count,
                   float tau, float threshold) {
    float kept[BLOCK];
    for (int64_t t = 0; t < steps; t++) {
        const float* in = current + t * stride;
        float* out = spikes + t * all;
        if (t == 0) {
#pragma omp simd
            for (int64_t i = 0; i < count; i++) {
                const float u = in[i];
                kept[i] = u > threshold ? 0.0f : u;
                out[i] = u > threshold ? 1.0f : 0.0f;
            }
        } else {
#pragma omp simd
            for (int64_t i = 0; i < count; i++) {
                const float u = in[i] + left_over<WHOLE>(kept[i], tau);
                kept[i] = u > threshold ? 0.0f : u;
                out[i] = u > threshold ? 1.0f : 0.0f;
            }
        }
    }
}

// Membranes of a block but the first step's.
template <bool WHOLE>
void later_membranes(const float* current, int64_t stride, float* membranes, int64_t steps, int64_t count, float tau,
                     float threshold) {
    for (int64_t t = 1; t < steps; t++) {
        const float* in = current + t * stride;
        const float* before = membranes + (t - 1) * BLOCK;
        float* u = membranes + t * BLOCK;
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            u[i] = in[i] + left_over<WHOLE>(before[i] > threshold ? 0.0f : before[i], tau);
    }
}

// Membranes of a block, then back in time; see lif_backward in neuron.py for the equations.
template <int KIND, bool DETACH, bool SUMS>
void backward_block(const float* current, int64_t stride, const float* above, float* out, float* membranes,
                    int64_t steps, int64_t all, int64_t count, const Options& o, double* sums) {
    float later[BLOCK];
    float grad_tau[BLOCK], grad_threshold[BLOCK];
    const float tau = o.tau, threshold = o.threshold;
    std::memcpy(membranes, current, sizeof(float) * count);
    (o.whole ? later_membranes<true> : later_membranes<false>)(current, stride, membranes, steps, count, tau, threshold);
    const int64_t last = steps - 1;
    {
        const float* g = above + last * all;
        const float* u = membranes + last * BLOCK;
        float* d = out + last * all;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) {
            const float here = g[i] * surrogate<KIND>(u[i] - threshold, o);
            if (SUMS) grad_threshold[i] = here, grad_tau[i] = 0;
            d[i] = here;
            later[i] = here * tau;
        }
    }
    for (int64_t t = last - 1; t >= 0; t--) {
        const float* g = above + t * all;
        const float* u = membranes + t * BLOCK;
        const float* next = out + (t + 1) * all;
        float* d = out + t * all;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) {
            const float grad = DETACH ? g[i] : g[i] - later[i] * u[i];
            const float fire = grad * surrogate<KIND>(u[i] - threshold, o);
            const float here = fire + (u[i] <= threshold ? later[i] : 0.0f);
            if (SUMS) grad_threshold[i] += fire, grad_tau[i] += u[i] <= threshold ? next[i] * u[i] : 0.0f;
            d[i] = here;
            later[i] = here * tau;
        }
    }
    if (SUMS) {
        double all_tau = 0, all_threshold = 0;
        for (int64_t i = 0; i < count; i++) all_tau += grad_tau[i], all_threshold += grad_threshold[i];
        sums[0] = all_tau;
        sums[1] = -all_threshold;
    }
}

template <int KIND, bool DETACH, bool SUMS>
void backward(const float* current, int64_t stride, const float* above, float* out, double* sums, int64_t steps,
              int64_t all, const Options& o, int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> membranes(steps * BLOCK);
#pragma omp for schedule(static)
        for (int64_t start = 0; start < all; start += BLOCK)
            backward_block<KIND, DETACH, SUMS>(current + start, stride, above + start, out + start, membranes.data(),
                                               steps, all, std::min(BLOCK, all - start), o,
                                               SUMS ? sums + 2 * (start / BLOCK) : nullptr);
    }
}

template <int KIND>
void backward_of(const float* current, int64_t stride, const float* above, float* out, double* sums, int64_t steps,
                 int64_t all, const Options& o, bool detach, int threads) {
    if (detach)
        sums ? backward<KIND, true, true>(current, stride, above, out, sums, steps, all, o, threads)
             : backward<KIND, true, false>(current, stride, above, out, sums, steps, all, o, threads);
    else
        sums ? backward<KIND, false, true>(current, stride, above, out, sums, steps, all, o, threads)
             : backward<KIND, false, false>(current, stride, above, out, sums, steps, all, o, threads);
}

struct Cell {
    double factor, keep, threshold;
};

// A block of neurons from its sums, in doubles; `most` gathers the largest |sum|, and |membrane| before and after reset.
template <typename Sum, bool WHOLE>
void fire_block(const Sum* sums, int64_t stride, const double* bias, uint8_t* spikes, int64_t steps, int64_t all,
                int64_t count, const Cell& cell, double* most) {
    double kept[BLOCK] = {}, sum = most[0], before = most[1], after = most[2];
    for (int64_t t = 0; t < steps; t++) {
        const Sum* in = sums + t * stride;
        uint8_t* out = spikes + t * all;
#pragma omp simd reduction(max : sum, before, after)
        for (int64_t i = 0; i < count; i++) {
            const double left = WHOLE ? std::trunc(kept[i] * cell.keep) : kept[i] * cell.keep;
            const double u = cell.factor * (in[i] + bias[i]) + left;
            const bool fired = u > cell.threshold;
            kept[i] = fired ? 0.0 : u;
            out[i] = fired;
            sum = std::max(sum, std::fabs(double(in[i])));
            before = std::max(before, std::fabs(u));
            after = std::max(after, std::fabs(kept[i]));
        }
    }
    most[0] = sum, most[1] = before, most[2] = after;
}

template <typename Sum, bool WHOLE>
void fire(const Sum* sums, int64_t stride, const double* bias, int64_t each_bias, uint8_t* spikes,
          const uint8_t* wanted, int64_t images, int64_t steps, int64_t all, const Cell& cell, double* most,
          int64_t* counts, int threads) {
    const int64_t blocks = (all + BLOCK - 1) / BLOCK, each = stride ? steps * all : all;
    double sum = 0, before = 0, after = 0;
    int64_t fired = 0, differ = 0;
#pragma omp parallel for schedule(guided) num_threads(threads) reduction(max : sum, before, after) \
    reduction(+ : fired, differ)
    for (int64_t at = 0; at < images * blocks; at++) {
        const int64_t image = at / blocks, start = at % blocks * BLOCK, count = std::min(BLOCK, all - start);
        const int64_t place = image * steps * all + start;
        double here[3] = {};
        fire_block<Sum, WHOLE>(sums + image * each + start, stride, bias + image * each_bias + start, spikes + place,
                               steps, all, count, cell, here);
        sum = std::max(sum, here[0]), before = std::max(before, here[1]), after = std::max(after, here[2]);
        for (int64_t t = 0; t < steps; t++) {
            const uint8_t *out = spikes + place + t * all, *other = wanted ? wanted + place + t * all : out;
            int32_t ones = 0, others = 0;
            for (int64_t i = 0; i < count; i++) ones += out[i], others += out[i] ^ other[i];
            fired += ones, differ += others;
        }
    }
    most[0] = sum, most[1] = before, most[2] = after;
    counts[0] = fired, counts[1] = differ;
}

}  // namespace

extern "C" {

int64_t snn2chip_block() { return BLOCK; }

// Sums (images, steps, all), floats or with `wide` doubles, with `stride` 0 the same at every step; biases are
// `each_bias` apart, 0 where all images have the same. Spikes (images, steps, all) are bytes, as are those `wanted`,
// which may be null. See `fire` in kernels.py.
void snn2chip_fire(const void* sums, int wide, int64_t stride, const double* bias, int64_t each_bias, uint8_t* spikes,
                   const uint8_t* wanted, int64_t images, int64_t steps, int64_t all, double factor, double keep,
                   double threshold, int whole, double* most, int64_t* counts, int threads) {
    const Cell cell{factor, keep, threshold};
    const auto of = [&](auto* from) {
        using Sum = std::remove_cv_t<std::remove_pointer_t<decltype(from)>>;
        (whole ? fire<Sum, true> : fire<Sum, false>)(from, stride, bias, each_bias, spikes, wanted, images, steps,
                                                     all, cell, most, counts, threads);
    };
    wide ? of(static_cast<const double*>(sums)) : of(static_cast<const float*>(sums));
}

void snn2chip_lif_forward(const float* current, int64_t stride, float* spikes, int64_t steps, int64_t all, float tau,
                          float threshold, int whole, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t start = 0; start < all; start += BLOCK)
        (whole ? forward_block<true> : forward_block<false>)(current + start, stride, spikes + start, steps, all,
                                                             std::min(BLOCK, all - start), tau, threshold);
}

// sums: 2 doubles a block (tau, threshold), or null where neither is trained.
void snn2chip_lif_backward(const float* current, int64_t stride, const float* above, float* out, double* sums,
                           int64_t steps, int64_t all, float tau, float threshold, float width, float slope, int kind,
                           int detach, int whole, int threads) {
    const Options o{tau, threshold, width, slope, width / 2, 1 / width, whole != 0};
    if (kind == RECTANGULAR)
        backward_of<RECTANGULAR>(current, stride, above, out, sums, steps, all, o, detach, threads);
    else if (kind == TRIANGULAR)
        backward_of<TRIANGULAR>(current, stride, above, out, sums, steps, all, o, detach, threads);
    else
        backward_of<ARCTAN>(current, stride, above, out, sums, steps, all, o, detach, threads);
}

// Bit i of the words is values[i], and back; returns how many values are neither 0 nor 1, and so are not said by bits.
int64_t snn2chip_pack(const float* values, uint64_t* words, int64_t count, int threads) {
    int64_t others = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : others)
    for (int64_t word = 0; word < (count + 63) / 64; word++) {
        const float* in = values + 64 * word;
        const int64_t width = std::min<int64_t>(64, count - 64 * word);
        uint64_t found = 0;
        for (int64_t i = 0; i < width; i++) found |= uint64_t(in[i] != 0) << i;
        for (int64_t i = 0; i < width; i++) others += !(in[i] == 0 || in[i] == 1);
        words[word] = found;
    }
    return others;
}

void snn2chip_unpack(const uint64_t* words, float* values, int64_t count, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t word = 0; word < (count + 63) / 64; word++) {
        float* out = values + 64 * word;
        const int64_t width = std::min<int64_t>(64, count - 64 * word);
        const uint32_t half[2] = {uint32_t(words[word]), uint32_t(words[word] >> 32)};
#pragma omp simd
        for (int64_t i = 0; i < width; i++) out[i] = float((half[i >> 5] >> (i & 31)) & 1u);
    }
}
}
