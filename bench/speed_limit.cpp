// What this machine can do at best of the work that the event engine does, one thread: adding rows of int8 weights,
// multiplying graded input, updating neurons. Each function does nothing else; the engine cannot be faster than these
// with the same way to add. Compiled by speed_limit.py for the processor it runs on.

#include <cstdint>
#include <cstring>

#if defined(__AVX512BW__)
#include <immintrin.h>
enum { VEC = 64 };
#elif defined(__AVX2__)
#include <immintrin.h>
enum { VEC = 32 };
#else
enum { VEC = 16 };
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

typedef int16_t I16 __attribute__((vector_size(VEC), may_alias));
typedef int32_t I32 __attribute__((vector_size(VEC), may_alias));
typedef int16_t Half __attribute__((vector_size(VEC / 2), may_alias));

template <class V> static inline V load(const void *from) {
    V value;
    memcpy(&value, from, sizeof value);
    return value;
}

// Rows of `VECTORS` vectors of int8 weights in pairs (see kernels.h: one load, one shift and two adds a vector).
template <class V, int VECTORS>
static int64_t rows(const uint8_t *table, const uint32_t *order, int64_t count, int64_t repeats) {
    int64_t total = 0;
    for (int64_t turn = 0; turn < repeats; ++turn) {
        V word[VECTORS] = {}, upper[VECTORS] = {};
        const uint32_t *entry = order, *end = order + count / 4 * 4;
        for (; entry < end; entry += 4)
            for (int k = 0; k < 4; ++k)
                for (int i = 0; i < VECTORS; ++i) {
                    V pair = load<V>(table + entry[k] + i * sizeof(V));
                    word[i] += pair;
                    upper[i] += pair >> 8;
                }
        for (int i = 0; i < VECTORS; ++i) total += word[i][0] + upper[i][0];
    }
    return total;
}

// Rows of `lanes` (32, 64 or 128) weights at the offsets `order`; `count` is a multiple of 4.
EXPORT int64_t add_rows(const uint8_t *table, const uint32_t *order, int64_t count, int lanes, int64_t repeats) {
    if (lanes < VEC) return rows<Half, 1>(table, order, count, repeats);
    if (lanes == 32) return rows<I16, 32 / VEC ? 32 / VEC : 1>(table, order, count, repeats);
    if (lanes == 64) return rows<I16, 64 / VEC>(table, order, count, repeats);
    return rows<I16, 128 / VEC>(table, order, count, repeats);
}

// Pairs of int16 inputs times the weights of 64 neurons: 128 multiply-adds a pair.
EXPORT int64_t multiply_rows(const int16_t *weights, const int16_t *input, int64_t pairs, int64_t repeats) {
    enum { VECTORS = 256 / VEC };
    int64_t total = 0;
    for (int64_t turn = 0; turn < repeats; ++turn) {
        I32 sums[VECTORS] = {};
        for (int64_t pair = 0; pair < pairs; ++pair) {
            int32_t both;
            memcpy(&both, input + 2 * pair, sizeof both);
            for (int i = 0; i < VECTORS; ++i) {
                const I16 row = load<I16>(weights + pair * 128 + i * (VEC / 2));
#if defined(__AVX512BW__)
                sums[i] += (I32)_mm512_madd_epi16((__m512i)row, _mm512_set1_epi32(both));
#elif defined(__AVX2__)
                sums[i] += (I32)_mm256_madd_epi16((__m256i)row, _mm256_set1_epi32(both));
#else
                for (int lane = 0; lane < VEC / 4; ++lane)
                    sums[i][lane] += row[2 * lane] * (int16_t)both + row[2 * lane + 1] * (int16_t)(both >> 16);
#endif
            }
        }
        for (int i = 0; i < VECTORS; ++i) total += sums[i][0];
    }
    return total;
}

// `steps` steps of 64 neurons at a time, v = v / 4 + 64 * sum + bias, in registers from the first step to the last;
// `sums` are (blocks, steps, 64). What it gives means nothing.
EXPORT int64_t neurons(const int32_t *sums, const int32_t *bias, int64_t blocks, int steps, int32_t threshold,
                       int64_t repeats) {
    enum { VECTORS = 256 / VEC };
    I32 spikes[VECTORS] = {};
    const I32 over_all = threshold - (I32){};
    int64_t kept = 0;
    for (int64_t turn = 0; turn < repeats; ++turn)
        for (int64_t block = 0; block < blocks; ++block) {
            I32 v[VECTORS] = {}, lift[VECTORS];
            for (int i = 0; i < VECTORS; ++i) lift[i] = load<I32>(bias + i * (VEC / 4));
            const int32_t *at = sums + block * steps * 64;
            for (int step = 0; step < steps; ++step, at += 64)
                for (int i = 0; i < VECTORS; ++i) {
                    v[i] = ((v[i] + ((v[i] >> 31) & 3)) >> 2) + (load<I32>(at + i * (VEC / 4)) << 6) + lift[i];
#if defined(__AVX512BW__)
                    const __mmask16 rest = _mm512_cmple_epi32_mask((__m512i)v[i], (__m512i)over_all);
                    v[i] = (I32)_mm512_maskz_mov_epi32(rest, (__m512i)v[i]);
                    kept += rest;  // every bit is needed, as spikes are
#else
                    const I32 over = v[i] > over_all;
                    v[i] &= ~over;
                    spikes[i] -= over;
#endif
                }
        }
    int64_t total = kept;
    for (int i = 0; i < VECTORS; ++i)
        for (int lane = 0; lane < VEC / 4; ++lane) total += spikes[i][lane];
    return total;
}
