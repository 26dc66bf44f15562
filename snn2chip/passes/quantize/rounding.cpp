// The integers of rounding.py, compiled: operation for operation as its numpy, so that both make the same.
//
// Part of the library that snn2chip/native.py calls NN; nothing here may be contracted or reordered.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

namespace {

// As numpy adds up a row: eight sums side by side, halves of what is longer than 128.
double sum_of(const double* values, int64_t count) {
    if (count < 8) {
        double sum = -0.0;
        for (int64_t i = 0; i < count; i++) sum += values[i];
        return sum;
    }
    if (count > 128) {
        const int64_t half = count / 2 - count / 2 % 8;
        return sum_of(values, half) + sum_of(values + half, count - half);
    }
    double part[8];
    std::copy(values, values + 8, part);
    int64_t i = 8;
    for (; i < count - count % 8; i += 8)
        for (int64_t k = 0; k < 8; k++) part[k] += values[i + k];
    double sum = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
    for (; i < count; i++) sum += values[i];
    return sum;
}

// Moves those of `near` whose errors are the worst in the direction of their sum, by one step each, so that the sum
// comes within half a step; of equal ones the first.
void move(double* near, const double* errors, int64_t count, std::vector<double>& ranked) {
    const double moves = std::nearbyint(sum_of(errors, count));
    const int64_t some = int64_t(std::fabs(moves));
    if (!some) return;
    const double sign = moves > 0 ? 1 : -1;
    if (some == 1) {
        int64_t worst = 0;
        for (int64_t i = 1; i < count; i++)
            if (sign * errors[i] > sign * errors[worst]) worst = i;
        if (sign * errors[worst] > 0) near[worst] -= sign;
        return;
    }
    ranked.resize(count);
    for (int64_t i = 0; i < count; i++) ranked[i] = sign * errors[i];
    std::nth_element(ranked.begin(), ranked.begin() + (some - 1), ranked.end(), std::greater<double>());
    const double least = ranked[some - 1];
    int64_t equal = some;  // how many as bad as the least may move
    for (int64_t i = 0; i < count; i++) equal -= sign * errors[i] > least;
    for (int64_t i = 0; i < count; i++) {
        const double error = sign * errors[i];
        if (error > 0 && (error > least || (error == least && equal-- > 0))) near[i] -= sign;
    }
}

}  // namespace

extern "C" {

// Integers of weights (outputs, kernels, pixels), each output's times `scales[0]` or its own, rounded to the nearest or,
// if `sums`, so that the sums of kernels and of outputs are kept; all times `factor`. Returns the largest |integer|.
int64_t snn2chip_round(const double* weights, const double* scales, int each_scale, int64_t outputs, int64_t kernels,
                    int64_t pixels, int sums, int64_t factor, int64_t* out, int threads) {
    const int64_t count = kernels * pixels;
    int64_t largest = 0;
#pragma omp parallel num_threads(threads) reduction(max : largest)
    {
        std::vector<double> near(count), errors(count), ranked;
#pragma omp for schedule(guided)
        for (int64_t output = 0; output < outputs; output++) {
            const double* from = weights + output * count;
            const double scale = scales[each_scale ? output : 0];
            for (int64_t i = 0; i < count; i++) near[i] = std::nearbyint(from[i] * scale);
            // kernels first, then all of an output; where each weight is a kernel, outputs alone
            for (const int64_t size : {pixels, count}) {
                if (!sums || (size == pixels && kernels == count)) continue;
                for (int64_t i = 0; i < count; i++) errors[i] = near[i] - from[i] * scale;
                for (int64_t first = 0; first < count; first += size)
                    move(near.data() + first, errors.data() + first, size, ranked);
            }
            for (int64_t i = 0; i < count; i++) {
                const int64_t whole = factor * int64_t(near[i]);
                out[output * count + i] = whole;
                largest = std::max(largest, whole < 0 ? -whole : whole);
            }
        }
    }
    return largest;
}
}
