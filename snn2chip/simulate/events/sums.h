// Sums of rows of weights: over spikes, and over graded input. Part of kernels.h, inside of its namespace.

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

// The sums of one block of neurons at one pixel and step while the spikes under the kernel are gone through. Spikes are
// collected first, as offsets of their rows, and added eight at a time, with rows of zeros to fill up: a loop for every
// row of the kernel would end where no processor foresees it.
template <class Rows, bool LIMIT> struct Sums {
    enum { ROOM = 512, AT_ONCE = 64, FEW = 8 };
    const Layer &L;
    int32_t *sums;
    Seen &seen;
    Rows rows;
    int count = 0, held = 0;
    alignas(64) uint32_t entries[ROOM + AT_ONCE];

    MEMBER Sums(const Layer &layer, int32_t *to, Seen &seen_) : L(layer), sums(to), seen(seen_) {
        rows.clear();
        if (LIMIT) memset(sums, 0, sizeof(int32_t) * L.lanes);
    }
    MEMBER void add_held() {
        for (int i = 0; i < FEW; i += LANES32) store(entries + held + i, all32((int32_t)L.nothing));
        const uint8_t *const base = (const uint8_t *)L.weights;
        const uint32_t *entry = entries, *const end = entries + held;
        held = 0;
        while (entry < end) {
            const uint32_t *stop = end;
            if (LIMIT) stop = std::min(end, entry + (L.limit - count) / FEW * FEW);
            const uint32_t *const first = entry;
            for (; entry < stop; entry += FEW)
                for (int i = 0; i < FEW; ++i) rows.add(base + entry[i]);
            count += (int)(entry - first);
            if (LIMIT && L.limit - count < FEW) {
                rows.template flush<true>(count, sums, seen);
                rows.clear();
                count = 0;
            }
        }
    }
    // Entries of one run, whose rows begin `origin` bytes after the weights; up to AT_ONCE may be read beyond the last.
    MEMBER void collect(const uint32_t *entry, int some, uint32_t origin) {
        while (some > AT_ONCE) {
            if (held > ROOM - AT_ONCE) add_held();
            hold<AT_ONCE>(entry, origin);
            held += AT_ONCE, entry += AT_ONCE, some -= AT_ONCE;
        }
        if (held > ROOM - AT_ONCE) add_held();
        hold<AT_ONCE / 2>(entry, origin);
        if (some > AT_ONCE / 2) hold<AT_ONCE>(entry, origin);
        held += some;
    }
    template <int MANY> MEMBER void hold(const uint32_t *entry, uint32_t origin) {
        for (int i = 0; i < MANY; i += LANES32) store(entries + held + i, load<U32>(entry + i) + origin);
    }
    MEMBER void finish() {
        add_held();
        rows.template flush<LIMIT>(count, sums, seen);
        if (LIMIT) seen.look(sums, L.lanes);
    }
};

// Sums of one block of neurons at one pixel and step, over all spikes under the kernel.
template <class Rows, bool LIMIT>
INLINE void gather(const Layer &L, const Lists &lists, int step, int block, int y, int x, int32_t *to, Seen &seen) {
    Sums<Rows, LIMIT> sums(L, to, seen);
    const Read *read = L.reads + L.block_reads[block], *const end = L.reads + L.block_reads[block + 1];
    for (; read < end; ++read) {
        const Read &R = *read;
        const int left = x * L.sx - L.px + R.kx * L.dx, top = y * L.sy - L.py + R.ky * L.dy;
        const int runs = L.dx == 1 ? 1 : R.kw, wide = L.dx == 1 ? R.kw : 1;
        const size_t list = ((size_t)step * L.groups + R.group) * L.in_h;
        const uint32_t pixel_bytes = R.pixel_bytes, row_bytes = R.kw * pixel_bytes;
        uint32_t origin = (uint32_t)R.offset - left * pixel_bytes;
        for (int ky = 0, iy = top; ky < R.kh; ++ky, iy += L.dy, origin += row_bytes) {
            if (iy < 0 || iy >= L.in_h) continue;
            const uint32_t *starts = lists.starts + (list + iy) * (L.in_w + 1);
            const uint32_t *entries = lists.entries + (list + iy) * lists.capacity;
            for (int run = 0; run < runs; ++run) {
                const int at = left + run * L.dx, first = std::max(at, 0), last = std::min(at + wide, L.in_w);
                if (first >= last) continue;
                sums.collect(entries + starts[first], (int)(starts[last] - starts[first]),
                             origin + (run - run * L.dx) * pixel_bytes);
            }
        }
    }
    sums.finish();
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
