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

// ----------------------------------------------------------------------------------------------------- counting

INLINE U32 ones_by_byte(U32 x) {
    x -= x >> 1 & 0x55555555;
    x = (x & 0x33333333) + (x >> 2 & 0x33333333);
    return (x + (x >> 4)) & 0x0F0F0F0F;
}

// The spikes of one step by classes, added to `counts`. Rows of one class are added up in bytes, which hold 31 words.
void count(const uint32_t *bits, const Classes &C, int32_t *counts) {
    enum { MOST_ROWS = 31 };
    int32_t found[MOST_WORDS];
    const uint32_t *masks = C.masks;
    const Words *places = C.places, *next;
    for (int pass = 0; pass < C.passes; ++pass, masks += C.words) {
        for (int word = 0; word < C.words; word += MOST_WORDS) {
            const int some = std::min<int>(MOST_WORDS, C.words - word);
            for (int row = 0, end; row < C.high; row = end) {
                for (end = row + 1; end < C.high && end < row + MOST_ROWS && C.place[end] == C.place[row];) ++end;
                for (int i = 0; i < some; i += LANES32) {
                    const U32 mask = load<U32>(masks + word + i);
                    U32 ones{};
                    for (int y = row; y < end; ++y)
                        ones += ones_by_byte(load<U32>(bits + (size_t)C.row[y] * C.words + word + i) & mask);
                    ones = (ones & 0xFF00FF) + (ones >> 8 & 0xFF00FF);
                    store(found + i, (ones & 0xFFFF) + (ones >> 16));
                }
                for (int i = 1; i < some; ++i) found[i] += found[i - 1];
                next = places;
                for (int last = -1, before = 0; last + 1 < some; ++next) {
                    last = next->last;
                    counts[next->place + C.place[row]] += found[last] - before;
                    before = found[last];
                }
            }
            places = next;
        }
    }
}

// What the counts of one step come to: the sums that are given, the largest of the others, and all steps together.
void weigh(const Counting &C, const int32_t *counts, double *to, int64_t *total) {
    double largest = 0;
    std::fill_n(to, C.given, 0.0);
    for (const Group *G = C.groups; G < C.groups + C.size; ++G) {
        if (G->bound <= largest) break;  // nor can those that come exceed it
        double sums[ROWS];
        for (int r = 0; r < ROWS; r += LANES64) {
            const double *adds = G->adds + r;
            F64 even = load<F64>(adds), odd{};
            int i = G->first;
            for (adds += ROWS; i + 1 < G->last; i += 2, adds += 2 * ROWS) {
                even += (double)counts[i] * load<F64>(adds);
                odd += (double)counts[i + 1] * load<F64>(adds + ROWS);
            }
            if (i < G->last) even += (double)counts[i] * load<F64>(adds);
            store(sums + r, even + odd);
        }
        for (int r = 0; r < ROWS; ++r) {
            if (G->to[r] < 0) largest = std::max(largest, sums[r]);
            else to[G->to[r]] += sums[r];
        }
    }
    to[C.given] = largest;
    for (int i = 0; i < C.classes; ++i) total[i] += counts[i];
}

// Whether all values are in a range.
bool within(const int64_t *values, size_t count, int64_t low, int64_t high) {
    uint64_t beyond = 0;
    for (size_t i = 0; i < count; ++i) beyond |= (values[i] < low) | (values[i] > high);
    return !beyond;
}

// Which of some values are not 0, as bits.
INLINE uint32_t nonzero(const int64_t *values, int some, size_t apart) {
    uint32_t bits = 0;
    for (int i = 0; i < some; ++i) bits |= (uint32_t)(values[i * apart] != 0) << i;
    return bits;
}

// Which values of an image (C, H, W) are not 0, as the bits of its pixels.
void pack(const int64_t *port, int channels, int pixels, uint32_t *bits) {
    const int words = (channels + 31) / 32;
    for (int word = 0; word < words; ++word, port += (size_t)32 * pixels) {
        const int some = std::min(32, channels - word * 32);
        for (int pixel = 0; pixel < pixels; ++pixel)  // one pixel: without steps between, which the compiler is to know
            bits[(size_t)pixel * words + word] = pixels == 1 ? nonzero(port, some, 1) : nonzero(port + pixel, some, pixels);
    }
}

}  // namespace ISA
