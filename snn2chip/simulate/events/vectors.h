// Vectors of VEC bytes, and what they see. Part of kernels.h, inside of its namespace.

typedef int16_t I16 __attribute__((vector_size(VEC), may_alias));
typedef int32_t I32 __attribute__((vector_size(VEC), may_alias));
typedef uint32_t U32 __attribute__((vector_size(VEC), may_alias));
typedef double F64 __attribute__((vector_size(VEC), may_alias));

enum { LANES16 = VEC / 2, LANES32 = VEC / 4, LANES64 = VEC / 8 };

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
