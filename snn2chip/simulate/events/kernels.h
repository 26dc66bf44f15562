// What touches spikes and membranes, in vectors of VEC bytes. engine.cpp includes this once per instruction set, with
// VEC and ISA (a namespace) defined and the compiler's target set. Every function is exact in integers; sums of
// int16 never leave int16, because they are moved to int32 after at most `limit` weights.

namespace ISA {

#include "vectors.h"

#include "sums.h"

#include "neurons.h"

// --------------------------------------------------------------------------------------- a tile: pixels of a block

// `sums_of(step, y, x, to)` writes sums, or gives false where they are those of the step before.
template <class Sums> INLINE void tile_with(const Layer &L, const Job &job, int block, int y0, int y1, Sums sums_of) {
    alignas(64) int32_t sums[MOST_STEPS][MOST_LANES], local_voltage[MOST_LANES], local_current[MOST_LANES];
    const int32_t *drive[MOST_STEPS];
    const int lanes = L.lanes, slots = L.blocks * lanes, words = slots / 32, pixels = L.out_h * L.out_w;
    const Neurons run = neurons_of(L);
    Seen seen{};
    Block B{};
    const int64_t first = job.before + job.start;
    B.steps = job.steps, B.fresh = first == 0;
    B.valid = L.valid + block * lanes / 32;
    B.bits_stride = (size_t)pixels * words;
    B.table = (size_t)first * slots + (size_t)block * lanes, B.table_stride = slots;
    for (int y = y0; y < y1; ++y) {
        for (int x = 0; x < L.out_w; ++x) {
            const int pixel = y * L.out_w + x;
            const size_t at = (size_t)pixel * slots + (size_t)block * lanes;
            for (int step = 0; step < job.steps; ++step)
                drive[step] = sums_of(step, y, x, sums[step], seen) ? sums[step] : drive[step - 1];
            B.voltage = job.voltage ? job.voltage + at : nullptr;
            B.current = job.current ? job.current + at : nullptr;
            B.bias = L.bias + (size_t)pixel * L.bias_stride + block * lanes;
            B.bits = job.bits + (size_t)pixel * words + block * lanes / 32;
            if (!job.watched) {
                run(L, B, drive, seen);
                continue;
            }
            Block one = B;  // somebody looks at every step
            one.steps = 1;
            if (!one.voltage) one.voltage = local_voltage;
            if (!one.current) one.current = local_current;
            for (int step = 0; step < job.steps; ++step) {
                run(L, one, drive + step, seen);
                keep_step(L, job, block, pixel, step, one.voltage, one.bits);
                one.fresh = false;
                one.bits += one.bits_stride;
                one.table += one.table_stride;
            }
        }
    }
    report(job, seen.spikes, seen.largest() << L.scale);
}

template <class Rows, bool LIMIT> void tile_as(const Layer &L, const Job &job, int block, int y0, int y1) {
    const Lists lists = job.lists;
    tile_with(L, job, block, y0, y1, [&](int step, int y, int x, int32_t *sums, Seen &seen) ALWAYS_INLINE {
        gather<Rows, LIMIT>(L, lists, step, block, y, x, sums, seen);
        return true;
    });
}

template <class Rows> void tile_of(const Layer &L, const Job &job, int block, int y0, int y1) {
    L.limit ? tile_as<Rows, true>(L, job, block, y0, y1) : tile_as<Rows, false>(L, job, block, y0, y1);
}

template <int UNITS> void graded_tile(const Layer &L, const Job &job, int block, int y0, int y1) {
    tile_with(L, job, block, y0, y1, [&](int step, int y, int x, int32_t *sums, Seen &seen) ALWAYS_INLINE {
        if (step && job.source[step] == job.source[step - 1]) return false;  // the same input: the same sums
        const size_t offset = (size_t)job.source[step] * job.image;
        if (L.kind == GRADED16) graded16<UNITS>(L, (const int16_t *)job.input + offset, block, y, x, sums);
        else graded32<UNITS>(L, (const int32_t *)job.input + offset, block, y, x, sums);
        seen.look(sums, L.lanes);
        return true;
    });
}

void tile(const Layer &L, const Job &job, int block, int y0, int y1) {
    const int units = L.lanes / 32;
    switch (L.kind) {
    case EVENTS8:
        return units == 1   ? tile_of<Rows8<1>>(L, job, block, y0, y1)
               : units == 2 ? tile_of<Rows8<2>>(L, job, block, y0, y1)
                            : tile_of<Rows8<4>>(L, job, block, y0, y1);
    case EVENTS16:
        return units == 1   ? tile_of<Rows16<1>>(L, job, block, y0, y1)
               : units == 2 ? tile_of<Rows16<2>>(L, job, block, y0, y1)
                            : tile_of<Rows16<4>>(L, job, block, y0, y1);
    case EVENTS32:
        return units == 1   ? tile_of<Rows32<1>>(L, job, block, y0, y1)
               : units == 2 ? tile_of<Rows32<2>>(L, job, block, y0, y1)
                            : tile_of<Rows32<4>>(L, job, block, y0, y1);
    default:
        return units == 1   ? graded_tile<1>(L, job, block, y0, y1)
               : units == 2 ? graded_tile<2>(L, job, block, y0, y1)
                            : graded_tile<4>(L, job, block, y0, y1);
    }
}

// --------------------------------------------------------------------------------------------- bits to entries

// The spikes of 32 neurons as byte offsets of their weight rows; writes up to 32 entries, gives how many are valid.
INLINE uint32_t list_word(uint32_t bits, uint32_t base, int shift, uint32_t *to) {
#if VEC == 64
    const __m512i count = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i offset = _mm512_add_epi32(_mm512_slli_epi32(count, shift), _mm512_set1_epi32((int)base));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32((__mmask16)bits, offset));
    const uint32_t half = __builtin_popcount(bits & 0xFFFF);
    const __m512i upper = _mm512_add_epi32(offset, _mm512_set1_epi32(16 << shift));
    _mm512_storeu_si512(to + half, _mm512_maskz_compress_epi32((__mmask16)(bits >> 16), upper));
    return half + __builtin_popcount(bits >> 16);
#elif VEC == 32
    uint32_t *start = to;
    for (int byte = 0; byte < 4; ++byte) {
        const uint32_t some = (bits >> (8 * byte)) & 255;
        const __m256i place = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)PLACES.of[some]));
        const __m256i from = _mm256_set1_epi32((int)(base + ((uint32_t)(8 * byte) << shift)));
        _mm256_storeu_si256((__m256i *)to, _mm256_add_epi32(_mm256_slli_epi32(place, shift), from));
        to += __builtin_popcount(some);
    }
    return (uint32_t)(to - start);
#else
    uint32_t count = 0;
    for (; bits; bits &= bits - 1) to[count++] = base + ((uint32_t)__builtin_ctz(bits) << shift);
    return count;
#endif
}

// Lists of the spikes of one input row, for one group of the layer that reads it.
void list_row(const Layer &L, const uint32_t *bits, const Lists &lists, int step, int group, int y) {
    const size_t at = ((size_t)step * L.groups + group) * L.in_h + y;
    uint32_t *starts = lists.starts + at * (L.in_w + 1), *entries = lists.entries + at * lists.capacity, count = 0;
    const int words = L.in_slots / 32;
    const uint32_t *row = bits + ((size_t)step * L.in_h + y) * L.in_w * words;
    const int first = L.group_first[group], last = L.group_last[group];
    for (int x = 0; x < L.in_w; ++x, row += words) {
        starts[x] = count;
        const uint32_t base = (uint32_t)(x * (last - first)) << L.row_shift;
        if (first % 32 == 0 && last % 32 == 0) {
            for (int word = first / 32; word < last / 32; ++word)
                count += list_word(row[word], base + ((uint32_t)(word * 32 - first) << L.row_shift), L.row_shift,
                                   entries + count);
            continue;
        }
        for (int word = first / 32; word * 32 < last; ++word) {
            for (uint32_t some = row[word]; some; some &= some - 1) {
                const int slot = word * 32 + __builtin_ctz(some);
                if (slot >= first && slot < last)
                    entries[count++] = base + ((uint32_t)(slot - first) << L.row_shift);
            }
        }
    }
    starts[L.in_w] = count;
}

// What is found in one step, counted by classes: `add(piece, y, x, some, to)` adds that of `some` places from x of row y
// to as many sums. They are kept by columns for as long as the class of rows is the same.
template <class Add> INLINE void count_with(int high, int wide, const Tally &T, size_t at, Add add) {
    enum { SOME = 64 };
    int32_t sums[SOME] = {};
    for (int i = 0; i < T.size; ++i) {
        int32_t *const counts = T.counts + (at * T.channels + T.pieces[i].channels) * T.rows * T.columns;
        for (int x = 0; x < wide; x += SOME) {
            const int some = std::min<int>(SOME, wide - x);
            for (int y = 0; y < high; ++y) {
                add(T.pieces[i], y, x, some, sums);
                if (y + 1 < high && T.row_class[y + 1] == T.row_class[y]) continue;
                int32_t *const to = counts + T.row_class[y] * T.columns;
                for (int place = 0; place < some; ++place) {
                    to[T.column_class[x + place]] += sums[place];
                    sums[place] = 0;
                }
            }
        }
    }
}

// Spikes of the channels of one class at a pixel. Of an odd number of words, the mask leaves out what follows.
INLINE int32_t spikes_of(const Piece &piece, const uint32_t *pair) {
    return __builtin_popcountll(((uint64_t)pair[1] << 32 | pair[0]) & piece.mask);
}

// The spikes in one of the steps in `bits`; `at` is its number among all of the run.
void count_step(const uint32_t *bits, int high, int wide, int words, const Tally &T, size_t at, int step) {
    const size_t size = (size_t)T.channels * T.rows * T.columns;
    for (size_t i = 0; i < size; i += 16) __builtin_prefetch(T.counts + at * size + i, 1);  // a run's are many: not near
    bits += (size_t)step * high * wide * words;
    if (high * wide == 1) {
        for (int i = 0; i < T.size; ++i)
            T.counts[at * T.channels + T.pieces[i].channels] += spikes_of(T.pieces[i], bits + 2 * T.pieces[i].pair);
        return;
    }
    count_with(high, wide, T, at, [=](const Piece &piece, int y, int x, int some, int32_t *to) ALWAYS_INLINE {
        const uint32_t *pair = bits + ((size_t)y * wide + x) * words + 2 * piece.pair;
        for (int i = 0; i < some; ++i, pair += words) to[i] += spikes_of(piece, pair);
    });
}

// The values of an image (C, H, W) that are not 0.
void count_values(const int64_t *port, int high, int wide, const Tally &T, size_t at) {
    count_with(high, wide, T, at, [=](const Piece &piece, int y, int x, int some, int32_t *to) ALWAYS_INLINE {
        for (uint64_t left = piece.mask; left; left &= left - 1) {
            const int64_t channel = 64 * (int64_t)piece.pair + __builtin_ctzll(left);
            const int64_t *values = port + (channel * high + y) * wide + x;
            for (int i = 0; i < some; ++i) to[i] += values[i] != 0;
        }
    });
}

}  // namespace ISA
