// The neurons of a block, step by step. Part of kernels.h, inside of its namespace.

// trunc0(state * keep / 2^(12 + more)) for |state| < 2^31 with a result that fits: see snn2chip.chip.neuron.decay.
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

// All steps of a block of neurons at one pixel, see snn2chip.chip.neuron.step and step_voltage: `drive` are the sums of each
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
            uint32_t quiet = 0;
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
                __mmask16 rest = _mm512_cmple_epi32_mask((__m512i)u, (__m512i)threshold);
                quiet |= (uint32_t)rest << i;
                v[part] = (I32)_mm512_maskz_mov_epi32(rest, (__m512i)u);
                kept[part] = (I32)_mm512_maskz_mov_epi32(rest, (__m512i)after);
#else
                I32 rest = u <= threshold;
                quiet |= bits_of(rest) << i;
                v[part] = u & rest;
                kept[part] = after & rest;
#endif
            }
            const uint32_t fired = ~quiet & valid;
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
