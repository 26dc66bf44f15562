// What touches spikes and membranes, in vectors of VEC bytes. engine.cpp includes this once per instruction set, with
// VEC and ISA (a namespace) defined and the compiler's target set. Every function is exact in integers; sums of
// int16 never leave int16, because they are moved to int32 after at most `limit` weights.

namespace ISA {

typedef int16_t I16 __attribute__((vector_size(VEC), may_alias));
typedef int32_t I32 __attribute__((vector_size(VEC), may_alias));

enum { LANES16 = VEC / 2, LANES32 = VEC / 4 };

template <class V> INLINE V load(const void *from) {
    V value;
    memcpy(&value, from, sizeof value);
    return value;
}

template <class V> INLINE void store(void *to, V value) { memcpy(to, &value, sizeof value); }

INLINE I32 all32(int32_t value) { return value - (I32){}; }
INLINE I16 all16(int16_t value) { return value - (I16){}; }

INLINE I32 least(I32 a, I32 b) {
#if VEC == 64
    return (I32)_mm512_min_epi32((__m512i)a, (__m512i)b);
#elif VEC == 32
    return (I32)_mm256_min_epi32((__m256i)a, (__m256i)b);
#else
    return a < b ? a : b;
#endif
}

INLINE I32 most(I32 a, I32 b) {
#if VEC == 64
    return (I32)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif VEC == 32
    return (I32)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    return a > b ? a : b;
#endif
}

// Every lane shifted by the same number. On x86 a vector of counts is one operation, a scalar count two.
INLINE I32 shifted_left(I32 value, int count) {
#if VEC == 16
    return value << count;
#else
    return value << all32(count);
#endif
}

INLINE I32 shifted_right(I32 value, int count) {
#if VEC == 16
    return value >> count;
#else
    return value >> all32(count);
#endif
}

// The lower and the upper half of 16-bit sums, as int32, to two places: written, or added to what is there.
template <bool ADD> INLINE void put(I16 sums, int32_t *low, int32_t *high) {
#if VEC == 64
    I32 a = (I32)_mm512_cvtepi16_epi32(_mm512_castsi512_si256((__m512i)sums));
    I32 b = (I32)_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64((__m512i)sums, 1));
#elif VEC == 32
    I32 a = (I32)_mm256_cvtepi16_epi32(_mm256_castsi256_si128((__m256i)sums));
    I32 b = (I32)_mm256_cvtepi16_epi32(_mm256_extracti128_si256((__m256i)sums, 1));
#else
    I32 a, b;
    for (int i = 0; i < LANES32; ++i) {
        a[i] = sums[i];
        b[i] = sums[LANES32 + i];
    }
#endif
    if (ADD) {
        a += load<I32>(low);
        b += load<I32>(high);
    }
    store(low, a);
    store(high, b);
}

// What a tile has seen: the smallest and largest sums, in 16 bits where they fit, and spikes.
struct Seen {
    I32 low, high;
    I16 low16, high16;
    int64_t spikes;
    MEMBER void look(const int32_t *sums, int lanes) {
        for (int i = 0; i < lanes; i += LANES32) {
            low = least(low, load<I32>(sums + i));
            high = most(high, load<I32>(sums + i));
        }
    }
    MEMBER void look16(I16 sums) {
#if VEC == 64
        low16 = (I16)_mm512_min_epi16((__m512i)low16, (__m512i)sums);
        high16 = (I16)_mm512_max_epi16((__m512i)high16, (__m512i)sums);
#elif VEC == 32
        low16 = (I16)_mm256_min_epi16((__m256i)low16, (__m256i)sums);
        high16 = (I16)_mm256_max_epi16((__m256i)high16, (__m256i)sums);
#else
        low16 = low16 < sums ? low16 : sums;
        high16 = high16 > sums ? high16 : sums;
#endif
    }
    int64_t largest() const {
        int64_t found = 0;
        for (int i = 0; i < LANES32; ++i)
            found = std::max(found, std::max((int64_t)high[i], -(int64_t)low[i]));
        for (int i = 0; i < LANES16; ++i) found = std::max<int64_t>(found, std::max<int>(high16[i], -(int)low16[i]));
        return found;
    }
};

// Which of the lanes are true (all ones), as bits.
INLINE uint32_t bits_of(I32 truth) {
#if VEC == 64
    return _mm512_movepi32_mask((__m512i)truth);
#elif VEC == 32
    return (uint32_t)_mm256_movemask_ps((__m256)truth);
#elif defined(__SSE2__)
    return (uint32_t)_mm_movemask_ps((__m128)truth);
#else
    uint32_t bits = 0;
    for (int i = 0; i < LANES32; ++i) bits |= (uint32_t)(truth[i] & 1) << i;
    return bits;
#endif
}

// ------------------------------------------------------------------------------- sums of the rows of weights

// int8 weights in pairs: a 16-bit word holds (b << 8) + (a + 128) for two weights a and b. Adding whole words and, apart
// from that, their arithmetic upper halves gives both sums modulo 2^16, and they fit int16: one load, one shift
// and two adds for VEC weights. In every 32 bytes the first halves are 16 neurons, the second the next 16.
template <int UNITS> struct Rows8 {
    enum { VECTORS = UNITS * 32 / VEC };
    I16 word[VECTORS], upper[VECTORS];
    MEMBER void clear() {
        for (int i = 0; i < VECTORS; ++i) word[i] = upper[i] = (I16){};
    }
    MEMBER void add(const uint8_t *row) {
        for (int i = 0; i < VECTORS; ++i) {
            I16 pair = load<I16>(row + i * VEC);
            word[i] += pair;
            upper[i] += pair >> 8;
        }
    }
    template <bool ADD> MEMBER void flush(int count, int32_t *sums, Seen &seen) {
        I16 shifted = all16((int16_t)(count * 128));
        for (int i = 0; i < VECTORS; ++i) {
            I16 lower = word[i] - (upper[i] << 8) - shifted;
            if (!ADD) {
                seen.look16(lower);
                seen.look16(upper[i]);
            }
#if VEC == 16
            int32_t *at = sums + (i / 2) * 32 + (i % 2) * 8;
            put<ADD>(lower, at, at + 4);
            put<ADD>(upper[i], at + 16, at + 20);
#elif VEC == 32
            int32_t *at = sums + i * 32;
            put<ADD>(lower, at, at + 8);
            put<ADD>(upper[i], at + 16, at + 24);
#else
            int32_t *at = sums + i * 64;
            put<ADD>(lower, at, at + 32);
            put<ADD>(upper[i], at + 16, at + 48);
#endif
        }
    }
};

// One unit of 32 neurons does not fill 64 bytes.
#if VEC == 64
template <> struct Rows8<1> {
    __m256i word, upper;
    MEMBER void clear() { word = upper = _mm256_setzero_si256(); }
    MEMBER void add(const uint8_t *row) {
        __m256i pair = _mm256_loadu_si256((const __m256i *)row);
        word = _mm256_add_epi16(word, pair);
        upper = _mm256_add_epi16(upper, _mm256_srai_epi16(pair, 8));
    }
    template <bool ADD> MEMBER void flush(int count, int32_t *sums, Seen &seen) {
        __m256i lower = _mm256_sub_epi16(word, _mm256_slli_epi16(upper, 8));
        lower = _mm256_sub_epi16(lower, _mm256_set1_epi16((int16_t)(count * 128)));
        I32 a = (I32)_mm512_cvtepi16_epi32(lower), b = (I32)_mm512_cvtepi16_epi32(upper);
        if (ADD) {
            a += load<I32>(sums);
            b += load<I32>(sums + 16);
        }
        store(sums, a);
        store(sums + 16, b);
        if (!ADD) seen.look(sums, 32);
    }
};
#endif

// int16 weights in their own order.
template <int UNITS> struct Rows16 {
    enum { VECTORS = UNITS * 64 / VEC };
    I16 sum[VECTORS];
    MEMBER void clear() {
        for (int i = 0; i < VECTORS; ++i) sum[i] = (I16){};
    }
    MEMBER void add(const uint8_t *row) {
        for (int i = 0; i < VECTORS; ++i) sum[i] += load<I16>(row + i * VEC);
    }
    template <bool ADD> MEMBER void flush(int, int32_t *sums, Seen &seen) {
        for (int i = 0; i < VECTORS; ++i) {
            if (!ADD) seen.look16(sum[i]);
            put<ADD>(sum[i], sums + i * LANES16, sums + i * LANES16 + LANES32);
        }
    }
};

// int32 weights: for those that no int16 holds.
template <int UNITS> struct Rows32 {
    enum { VECTORS = UNITS * 128 / VEC };
    I32 sum[VECTORS];
    MEMBER void clear() {
        for (int i = 0; i < VECTORS; ++i) sum[i] = (I32){};
    }
    MEMBER void add(const uint8_t *row) {
        for (int i = 0; i < VECTORS; ++i) sum[i] += load<I32>(row + i * VEC);
    }
    template <bool ADD> MEMBER void flush(int, int32_t *sums, Seen &seen) {
        for (int i = 0; i < VECTORS; ++i) {
            I32 total = sum[i];
            if (ADD) total += load<I32>(sums + i * LANES32);
            store(sums + i * LANES32, total);
        }
        if (!ADD) seen.look(sums, UNITS * 32);
    }
};

template <class Rows> INLINE void add_rows(Rows &rows, const uint8_t *base, const uint32_t *entry, const uint32_t *end) {
    for (; end - entry >= 4; entry += 4) {
        rows.add(base + entry[0]);
        rows.add(base + entry[1]);
        rows.add(base + entry[2]);
        rows.add(base + entry[3]);
    }
    for (; entry < end; ++entry) rows.add(base + *entry);
}

// Adds to rows what the spikes under one window of the kernel are worth, for a block at one pixel and step.
template <class Rows, bool LIMIT>
INLINE void add_read(const Layer &L, const Lists &lists, const Read &R, int step, int y, int x, Rows &rows, int &count,
                     int32_t *sums, Seen &seen) {
    const int left = x * L.sx - L.px + R.kx * L.dx, top = y * L.sy - L.py + R.ky * L.dy;
    const int runs = L.dx == 1 ? 1 : R.kw, wide = L.dx == 1 ? R.kw : 1;
    const size_t list = ((size_t)step * L.groups + R.group) * L.in_h;
    const int64_t pixel_bytes = R.pixel_bytes, row_bytes = R.kw * pixel_bytes;
    const uint8_t *weights = (const uint8_t *)L.weights + R.offset - left * pixel_bytes;
    for (int ky = 0, iy = top; ky < R.kh; ++ky, iy += L.dy, weights += row_bytes) {
        if (iy < 0 || iy >= L.in_h) continue;
        const uint32_t *starts = lists.starts + (list + iy) * (L.in_w + 1);
        const uint32_t *entries = lists.entries + (list + iy) * lists.capacity;
        for (int run = 0; run < runs; ++run) {
            int first = left + run * L.dx, last = first + wide;
            const int64_t origin = (run - run * L.dx) * pixel_bytes;
            if (first < 0) first = 0;
            if (last > L.in_w) last = L.in_w;
            if (first >= last) continue;
            const uint32_t *entry = entries + starts[first], *end = entries + starts[last];
            if (!LIMIT) {
                count += (int)(end - entry);
                add_rows(rows, weights + origin, entry, end);
                continue;
            }
            while (entry < end) {
                int some = (int)(end - entry);
                if (some > L.limit - count) some = L.limit - count;
                add_rows(rows, weights + origin, entry, entry + some);
                entry += some;
                count += some;
                if (count == L.limit) {
                    rows.template flush<true>(count, sums, seen);
                    rows.clear();
                    count = 0;
                }
            }
        }
    }
}

// Sums of one block of neurons at one pixel and step, over all spikes under the kernel.
template <class Rows, bool LIMIT>
INLINE void gather(const Layer &L, const Lists &lists, int step, int block, int y, int x, int32_t *sums,
                   Seen &seen) {
    Rows rows;
    rows.clear();
    int count = 0;
    if (LIMIT) memset(sums, 0, sizeof(int32_t) * L.lanes);
    const Read *read = L.reads + L.block_reads[block], *const end = L.reads + L.block_reads[block + 1];
    for (; read < end; ++read) add_read<Rows, LIMIT>(L, lists, *read, step, y, x, rows, count, sums, seen);
    rows.template flush<LIMIT>(count, sums, seen);
    if (LIMIT) seen.look(sums, L.lanes);
}

// Sums of graded integers: every input under the kernel, zeros included. `input` is padded, channels last.
template <int UNITS> INLINE void graded16(const Layer &L, const int16_t *input, int block, int y, int x, int32_t *sums) {
    enum { VECTORS = UNITS * 32 / LANES32 };
    const int16_t *w = (const int16_t *)((const uint8_t *)L.weights + (size_t)block * L.block_bytes);
    const int16_t *corner = input + ((size_t)y * L.sy * L.pad_w + (size_t)x * L.sx) * L.in_slots;
    corner += L.block_group[block] * L.rows;
    I32 total[VECTORS] = {};
    for (int ky = 0; ky < L.kh; ++ky) {
        for (int across = 0; across < L.segments / L.kh; ++across) {
            const int16_t *in = corner + ((size_t)ky * L.dy * L.pad_w + (size_t)across * L.dx) * L.in_slots;
            for (int i = 0; i < L.length; i += 2, w += 64 * UNITS) {
                int32_t pair;
                memcpy(&pair, in + i, sizeof pair);
                for (int v = 0; v < VECTORS; ++v) {
                    const I16 weights = load<I16>(w + v * LANES16);
#if VEC == 64
                    total[v] += (I32)_mm512_madd_epi16((__m512i)weights, (__m512i)all32(pair));
#elif VEC == 32
                    total[v] += (I32)_mm256_madd_epi16((__m256i)weights, (__m256i)all32(pair));
#else
                    for (int lane = 0; lane < LANES32; ++lane)
                        total[v][lane] += (int32_t)in[i] * weights[2 * lane] + (int32_t)in[i + 1] * weights[2 * lane + 1];
#endif
                }
            }
        }
    }
    for (int v = 0; v < VECTORS; ++v) store(sums + v * LANES32, total[v]);
}

template <int UNITS> INLINE void graded32(const Layer &L, const int32_t *input, int block, int y, int x, int32_t *sums) {
    enum { VECTORS = UNITS * 32 / LANES32 };
    const int32_t *w = (const int32_t *)((const uint8_t *)L.weights + (size_t)block * L.block_bytes);
    const int32_t *corner = input + ((size_t)y * L.sy * L.pad_w + (size_t)x * L.sx) * L.in_slots;
    corner += L.block_group[block] * L.rows;
    I32 total[VECTORS] = {};
    for (int ky = 0; ky < L.kh; ++ky) {
        for (int across = 0; across < L.segments / L.kh; ++across) {
            const int32_t *in = corner + ((size_t)ky * L.dy * L.pad_w + (size_t)across * L.dx) * L.in_slots;
            for (int i = 0; i < L.length; ++i, w += 32 * UNITS)
                for (int v = 0; v < VECTORS; ++v) total[v] += load<I32>(w + v * LANES32) * all32(in[i]);
        }
    }
    for (int v = 0; v < VECTORS; ++v) store(sums + v * LANES32, total[v]);
}

// ------------------------------------------------------------------------------------------------- the neuron

// trunc0(state * keep / 2^(12 + more)) for |state| < 2^31 with a result that fits: see snn2chip.arith.decay.
INLINE I32 scaled(I32 state, I32 keep, int more) {
    I32 sign = state >> 31, size = (state ^ sign) - sign;
    I32 kept = ((size >> 12) * keep + (((size & 4095) * keep) >> 12)) >> more;
    return (kept ^ sign) - sign;
}

// What v keeps from one step to the next, before the new input: trunc0(v * keep / 4096), or of the tables.
template <int DECAY> INLINE I32 kept_of(const Layer &L, I32 v, I32 keep, I32 round, size_t at) {
    if (DECAY == BY_SHIFT) return shifted_right(v + ((v >> 31) & round), L.voltage_shift);
    if (DECAY == BY_PRODUCT) return scaled(v, keep, 0);
    if (DECAY == BY_TABLE) return scaled(v, load<I32>(L.leak + at), L.leak_shift - 12);
    return (I32){};
}

// All steps of a block of neurons at one pixel, see snn2chip.arith.step and step_voltage: `drive` are the sums of each
// step. Of 32 neurons at a time v (and u) stay in registers from the first step to the last. The next step's decay
// is computed while this step's spikes are still being compared: both wait for v, not for each other.
template <int CURRENT, int DECAY> void neurons(const Layer &L, const Block &B, const int32_t *const *drive, Seen &seen) {
    enum { PARTS = 32 / LANES32 };
    const int shift = 6 + L.scale, words = L.lanes / 32, steps = B.steps;
    const I32 current_keep = all32(L.current_keep), keep = all32(L.voltage_keep);
    const I32 round = all32((1 << L.voltage_shift) - 1), top = all32(STATE_MAX - 1), bottom = -top;
    const I32 fixed = all32(L.threshold);
    int64_t spikes = 0;
    for (int word = 0; word < words; ++word) {
        const uint32_t valid = B.valid[word];
        uint32_t *bits = B.bits + word;
        size_t table = B.table + (size_t)word * 32;
        I32 v[PARTS], kept[PARTS], current[PARTS], bias[PARTS], input[PARTS] = {};
        for (int part = 0; part < PARTS; ++part) {
            const int i = word * 32 + part * LANES32;
            bias[part] = load<I32>(B.bias + i);
            v[part] = B.fresh ? (I32){} : load<I32>(B.voltage + i);
            kept[part] = kept_of<DECAY>(L, v[part], keep, round, table + part * LANES32);
            if (CURRENT == DECAYS) current[part] = B.fresh ? (I32){} : load<I32>(B.current + i);
        }
        for (int step = 0; step < steps; ++step) {
            const int32_t *sums = drive[step] + word * 32;
            const bool fresh = CURRENT == DECAYS || !step || drive[step] != drive[step - 1];  // else as before
            const size_t next = step + 1 < steps ? table + B.table_stride : table;
            uint32_t fired = 0;
            for (int part = 0; part < PARTS; ++part) {
                const int i = part * LANES32;
                I32 u = input[part], threshold = fixed;
                if (fresh) {
                    u = shifted_left(load<I32>(sums + i), shift);
                    if (CURRENT == DECAYS) u += scaled(current[part], current_keep, 0);
                    if (CURRENT == WRAPS || CURRENT == DECAYS) {
                        I32 turn = all32(2 * STATE_MAX);
                        u += ((u <= -STATE_MAX) & turn) - ((u > STATE_MAX) & turn);
                    }
                    if (CURRENT == DECAYS) current[part] = u;
                    u += bias[part];
                    input[part] = u;
                }
                if (DECAY == BY_TABLE) {
                    u += load<I32>(L.lift + table + i);
                    threshold = load<I32>(L.over + table + i);
                }
                if (DECAY != GONE) u += kept[part];
                if (CURRENT != FREE) u = least(most(u, bottom), top);
                I32 after = kept_of<DECAY>(L, u, keep, round, next + i);
#if VEC == 64
                __mmask16 over = _mm512_cmpgt_epi32_mask((__m512i)u, (__m512i)threshold);
                __mmask16 rest = _mm512_cmple_epi32_mask((__m512i)u, (__m512i)threshold);
                fired |= (uint32_t)over << i;
                v[part] = (I32)_mm512_maskz_mov_epi32(rest, (__m512i)u);
                kept[part] = (I32)_mm512_maskz_mov_epi32(rest, (__m512i)after);
#else
                I32 over = u > threshold;
                fired |= bits_of(over) << i;
                v[part] = u & ~over;
                kept[part] = after & ~over;
#endif
            }
            fired &= valid;
            *bits = fired;
            bits += B.bits_stride;
            table = next;
            spikes += __builtin_popcount(fired);
        }
        if (!B.voltage) continue;
        for (int part = 0; part < PARTS; ++part) {
            const int i = word * 32 + part * LANES32;
            store(B.voltage + i, v[part]);
            if (CURRENT == DECAYS) store(B.current + i, current[part]);
        }
    }
    seen.spikes += spikes;
}

// The time-varying neuron where numbers may leave int32 on the way: plain 64-bit arithmetic.
template <int CURRENT> void neurons_wide(const Layer &L, const Block &B, const int32_t *const *drive, Seen &seen) {
    for (int i = 0; i < L.lanes; ++i) {
        int32_t v = B.fresh ? 0 : B.voltage[i], last = CURRENT == DECAYS && !B.fresh ? B.current[i] : 0;
        for (int step = 0; step < B.steps; ++step) {
            const int32_t sum = drive[step][i];
            const size_t at = B.table + (size_t)step * B.table_stride + i;
            int64_t size = last < 0 ? -(int64_t)last : last, kept = size * L.current_keep >> 12;
            int32_t u = (int32_t)(((uint32_t)sum << (6 + L.scale)) + (uint32_t)(last < 0 ? -kept : kept));
            if (u > STATE_MAX) u -= 2 * STATE_MAX;
            else if (u <= -STATE_MAX) u += 2 * STATE_MAX;
            if (CURRENT == DECAYS) last = u;
            size = v < 0 ? -(int64_t)v : v;
            kept = size * L.leak[at] >> L.leak_shift;
            int64_t next = (v < 0 ? -kept : kept) + u + B.bias[i] + L.lift[at];
            next = next > STATE_MAX - 1 ? STATE_MAX - 1 : next < 1 - STATE_MAX ? 1 - STATE_MAX : next;
            const uint32_t spike = next > L.over[at] && B.valid[i / 32] >> i % 32 & 1;
            uint32_t *bits = B.bits + (size_t)step * B.bits_stride + i / 32;
            *bits = (i % 32 ? *bits : 0) | spike << i % 32;
            seen.spikes += spike;
            v = spike ? 0 : (int32_t)next;
        }
        if (!B.voltage) continue;
        B.voltage[i] = v;
        if (CURRENT == DECAYS) B.current[i] = last;
    }
}

typedef void (*Neurons)(const Layer &, const Block &, const int32_t *const *, Seen &);

template <int CURRENT> Neurons neurons_of(int decay) {
    switch (decay) {
    case BY_SHIFT: return neurons<CURRENT, BY_SHIFT>;
    case BY_PRODUCT: return neurons<CURRENT, BY_PRODUCT>;
    case BY_TABLE: return neurons<CURRENT, BY_TABLE>;
    case BY_WIDE_TABLE: return neurons_wide<CURRENT == DECAYS ? DECAYS : WRAPS>;
    default: return neurons<CURRENT, GONE>;
    }
}

INLINE Neurons neurons_of(const Layer &L) {
    switch (L.current) {
    case FREE: return neurons_of<FREE>(L.decay);
    case FITS: return neurons_of<FITS>(L.decay);
    case WRAPS: return neurons_of<WRAPS>(L.decay);
    default: return neurons_of<DECAYS>(L.decay);
    }
}

// --------------------------------------------------------------------------------------- a tile: pixels of a block

// `sums_of(step, y, x, to)` writes sums, or gives false where they are those of the step before.
template <class Sums> INLINE void tile_with(const Layer &L, const Job &job, int block, int y0, int y1, Sums sums_of) {
    alignas(64) int32_t sums[MOST_STEPS][MOST_LANES], local_voltage[MOST_LANES], local_current[MOST_LANES];
    const int32_t *drive[MOST_STEPS];
    const int lanes = L.lanes, slots = L.blocks * lanes, words = slots / 32, pixels = L.out_h * L.out_w;
    const Neurons run = neurons_of(L);
    Seen seen{};
    Block B{};
    B.steps = job.steps, B.fresh = job.start == 0;
    B.valid = L.valid + block * lanes / 32;
    B.bits_stride = (size_t)pixels * words;
    B.table = (size_t)job.start * slots + (size_t)block * lanes, B.table_stride = slots;
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

}  // namespace ISA
