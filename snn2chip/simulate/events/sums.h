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
