// The event-driven engine: a chain of layers, exact in the chip's integers, output-stationary.
//
// The spikes of a layer are listed row by row (x, then channel) as byte offsets of the weight rows of the layer that
// reads them. For a block of neurons at one pixel the sums stay in registers while the rows of all spikes under the
// kernel are added; the membranes of the block then go through all time steps before the next pixel, so that they
// are touched in the first-level cache only. Samples are spread over threads; with fewer samples than threads, all
// threads work on one sample, tile by tile.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <vector>

#if defined(__x86_64__) || defined(__i386__)
#define X86 1
#include <cpuid.h>
#include <immintrin.h>
#endif

#define EXPORT __attribute__((visibility("default")))
#define ALWAYS_INLINE __attribute__((always_inline))
#define MEMBER inline ALWAYS_INLINE
#define INLINE static MEMBER

#if defined(__clang__)
#pragma clang diagnostic ignored "-Wpsabi"
#else
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between inlined functions only
#endif

#include "system.h"

namespace {

const int32_t STATE_MAX = 1 << 23;
enum { MOST_LANES = 128, MOST_STEPS = 16, MOST_WORDS = 256, ROWS = 8 };
enum Kind { GRADED16, GRADED32, EVENTS8, EVENTS16, EVENTS32 };
enum Current { FITS, WRAPS, DECAYS, FREE };  // what u needs besides the new input; FREE: nor does v need clipping
enum Decay { GONE, BY_SHIFT, BY_PRODUCT, BY_TABLE, BY_WIDE_TABLE };   // what v keeps

}  // namespace

extern "C" {

// A window of the kernel over the slots of one group, and where its rows of weights begin.
struct Read {
    int32_t group, ky, kh, kx, kw, pixel_bytes;
    int64_t offset;
};

// One layer as snn2chip/simulate/events/plan.py lays it out; ctypes mirrors it field by field.
struct Layer {
    int32_t in_h, in_w, in_channels, in_slots, out_h, out_w, out_channels;
    int32_t kh, kw, sy, sx, py, px, dy, dx;
    int32_t groups, rows, blocks, lanes;
    int32_t kind, row_shift, limit, scale;
    int32_t current, decay, current_keep, voltage_keep, voltage_shift, threshold, leak_shift, bias_stride;
    int32_t segments, length, pad_h, pad_w;
    int64_t block_bytes, nothing;  // `nothing`: where a row of zeros begins
    const void *weights;
    const int32_t *bias, *leak, *lift, *over;
    const int32_t *block_group, *group_first, *group_last, *slot_channel;
    const int32_t *block_reads;
    const uint32_t *valid;
    const Read *reads;
};

// Words of a row whose bits are counted at one place, up to the last.
struct Words {
    int32_t last, place;
};

// How the spikes of one layer are counted by classes. All words of a row of pixels are gone through once a pass, masked to
// the bits of one class each: masks (passes, words), and where those are counted, in pieces of MOST_WORDS words. The rows
// come by classes; `place` is how much further the bits of each are counted.
struct Classes {
    const uint32_t *masks;
    const Words *places;
    const int32_t *row, *place;
    int32_t passes, words, high;
};

// ROWS sums over the counts of the classes from `first` to before `last`: adds (1 + classes, ROWS), the first row what
// they begin with. Each is added where `to` says; of those with -1 only the largest counts, which `bound` is not less than.
struct Group {
    const double *adds;
    const int32_t *to;
    double bound;
    int32_t first, last;
};

// What is counted of the port and each layer: of each step `given` sums and the largest of the others, in groups by
// falling bounds; and spikes by class, all together.
struct Counting {
    const Classes *layers;
    const Group *groups;
    double *steps;   // (samples, T, given + 1)
    int64_t *total;  // (classes,)
    int32_t size, given, classes;
};

// Where a run reads and writes: port integers (samples, T, ...), and one pointer a layer, null for what is not kept.
struct Run {
    const int64_t *port;
    int64_t samples, steps, sample_stride, step_stride;
    int64_t low, high;  // what the layout was made for; other values are refused
    uint8_t **spikes;
    int32_t **voltage;
    int64_t *scores, *counts, *largest;
    int64_t *nanoseconds;  // null, or two a layer: making lists of its input, and the rest; of one thread
    const Counting *counting;  // null: nothing
    int64_t before;            // steps that these samples have run already, in earlier runs
    int32_t *const *states;  // null, or two a layer: v and u of all samples (samples, pixels, slots), read and written
};
}

namespace {

struct Lists {
    uint32_t *starts, *entries;
    size_t capacity;
};

struct Figures {
    std::atomic<int64_t> spikes{0}, largest{0};
};

// What a tile needs besides its layer.
struct Job {
    int64_t before;  // steps of earlier runs
    int start, steps, total;
    Lists lists;
    uint32_t *bits;
    int32_t *voltage, *current;  // null: the state stays in the tile
    const void *input;
    const int32_t *source;  // which image each step shows
    size_t image;           // values of one padded image
    Figures *figures;
    bool watched;
    uint8_t *kept_spikes;
    int32_t *kept_voltage;
    int64_t *scores;  // of the last layer, else null
    bool membrane;
};

// The neurons of one block at one pixel, for the steps that run together.
struct Block {
    int steps;
    bool fresh;                  // the first steps of a sample: state is zero
    int32_t *voltage, *current;  // null: nobody needs the state afterwards
    const int32_t *bias;
    size_t table, table_stride;  // where this step's row of the tables begins, and how far the next one is
    uint32_t *bits;
    size_t bits_stride;
    const uint32_t *valid;
};

void report(const Job &job, int64_t spikes, int64_t largest) {
    job.figures->spikes.fetch_add(spikes, std::memory_order_relaxed);
    int64_t seen = job.figures->largest.load(std::memory_order_relaxed);
    while (largest > seen && !job.figures->largest.compare_exchange_weak(seen, largest, std::memory_order_relaxed)) {
    }
}

void keep_step(const Layer &L, const Job &job, int block, int pixel, int step, const int32_t *voltage,
               const uint32_t *bits) {
    const size_t pixels = (size_t)L.out_h * L.out_w, now = (size_t)(job.start + step);
    const int32_t *channel = L.slot_channel + block * L.lanes;
    for (int i = 0; i < L.lanes; ++i) {
        if (channel[i] < 0) continue;
        const size_t neuron = channel[i] * pixels + pixel, at = now * L.out_channels * pixels + neuron;
        const int spike = bits[i / 32] >> (i % 32) & 1;
        if (job.kept_spikes) job.kept_spikes[at] = (uint8_t)spike;
        if (job.kept_voltage) job.kept_voltage[at] = voltage[i];
        if (!job.scores) continue;
        if (!job.membrane) job.scores[neuron] += spike;
        else if ((int)now == job.total - 1) job.scores[neuron] = voltage[i];
    }
}

// For every byte, the places of its ones.
struct Places {
    uint8_t of[256][8];
    Places() {
        for (int byte = 0; byte < 256; ++byte) {
            int count = 0;
            for (int bit = 0; bit < 8; ++bit) of[byte][bit] = 0;
            for (int bit = 0; bit < 8; ++bit)
                if (byte >> bit & 1) of[byte][count++] = (uint8_t)bit;
        }
    }
};
const Places PLACES;

#define VEC 16
#define ISA portable
#include "kernels.h"
#undef VEC
#undef ISA

#ifdef X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt")
#endif
#define VEC 32
#define ISA avx2
#include "kernels.h"
#undef VEC
#undef ISA
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi,bmi2,popcnt")
#endif
#define VEC 64
#define ISA avx512
#include "kernels.h"
#undef VEC
#undef ISA
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

struct Kernels {
    void (*tile)(const Layer &, const Job &, int, int, int);
    void (*list_row)(const Layer &, const uint32_t *, const Lists &, int, int, int);
    void (*count)(const uint32_t *, const Classes &, int32_t *);
    void (*weigh)(const Counting &, const int32_t *, double *, int64_t *);
    bool (*within)(const int64_t *, size_t, int64_t, int64_t);
    void (*pack)(const int64_t *, int, int, uint32_t *);
};

enum Simd { PORTABLE, AVX2, AVX512 };

// What processor and system have, from cpuid and xgetbv (Intel's manual, volume 2A, CPUID, and volume 1, 13.2 and 15.2):
// `__builtin_cpu_supports` says no to everything where zig compiles, whose run-time library has a stub for it.
int best_simd() {
#ifdef X86
    unsigned a, b, c, d, kept, high;
    const auto has = [](unsigned word, std::initializer_list<int> bits) {
        return std::all_of(bits.begin(), bits.end(), [word](int bit) { return word >> bit & 1; });
    };
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, {23, 27})) return PORTABLE;  // popcnt, osxsave
    __asm__ volatile("xgetbv" : "=a"(kept), "=d"(high) : "c"(0));  // registers that the system keeps
    if (!has(kept, {1, 2}) || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has(b, {3, 5, 8})) return PORTABLE;
    // of the last: bmi, avx2, bmi2; now masks and 512 bits, and avx512 f, dq, bw, vl
    return has(kept, {5, 6, 7}) && has(b, {16, 17, 30, 31}) ? AVX512 : AVX2;
#else
    return PORTABLE;
#endif
}

Kernels kernels_of(int simd) {
#ifdef X86
    if (simd == AVX512) return {avx512::tile, avx512::list_row, avx512::count, avx512::weigh, avx512::within, avx512::pack};
    if (simd == AVX2) return {avx2::tile, avx2::list_row, avx2::count, avx2::weigh, avx2::within, avx2::pack};
#endif
    return {portable::tile, portable::list_row, portable::count, portable::weigh, portable::within, portable::pack};
}

// What one sample needs while it runs.
struct Context {
    Buffer bits, starts, entries, input, source, counts, total;
    std::vector<Buffer> voltage, current;
    std::vector<std::atomic<int>> next;
    explicit Context(size_t layers) : voltage(layers), current(layers), next(layers) {}
};

struct Engine {
    std::vector<Layer> layers;
    bool membrane;
    Kernels kernels;
    int threads, chunk;
    Pool *pool = nullptr;
    std::vector<Context *> contexts;
    std::vector<Figures> figures;
    std::atomic<bool> strange{false};  // the port held a value out of range

    Engine(const Layer *given, int count, bool readout, int simd, int threads_, int chunk_)
        : layers(given, given + count), membrane(readout), kernels(kernels_of(simd)), threads(threads_),
          chunk(std::max(1, std::min<int>(chunk_, MOST_STEPS))),
          figures(count) {}
    ~Engine() {
        if (pool && pool->here()) delete pool;
        for (Context *context : contexts) delete context;
    }

    static size_t capacity(const Layer &L) { return (size_t)L.in_w * L.rows + 64; }
    static size_t neurons(const Layer &L) { return (size_t)L.out_h * L.out_w * L.blocks * L.lanes; }
    bool graded() const { return layers[0].kind == GRADED16 || layers[0].kind == GRADED32; }

    // All buffers before any thread starts: running out of memory is then said by one. They are kept for the next run.
    void prepare(Context *context, int steps, bool carried, const Counting *C) {
        size_t words = 1, starts = 1, entries = 1;
        for (size_t i = 0; i < layers.size(); ++i) {
            const Layer &L = layers[i];
            words = std::max(words, std::max(neurons(L) / 32, (size_t)L.in_h * L.in_w * ((L.in_slots + 31) / 32)));
            if (i || !graded()) {
                const size_t rows = (size_t)L.groups * L.in_h;
                starts = std::max(starts, rows * (L.in_w + 1));
                entries = std::max(entries, rows * capacity(L));
            }
            if (carried) {
                context->voltage[i].get<int32_t>(neurons(L));
                if (L.current == DECAYS) context->current[i].get<int32_t>(neurons(L));
            }
        }
        context->bits.get<uint32_t>(words * steps);
        context->starts.get<uint32_t>(starts * steps);
        context->entries.get<uint32_t>(entries * steps);
        context->source.get<int32_t>(steps);
        if (C) context->counts.get<int32_t>((size_t)steps * C->classes);
        if (C) std::fill_n(context->total.get<int64_t>(C->classes), C->classes, 0);
        const Layer &L = layers[0];
        if (graded()) context->input.get<int32_t>((size_t)L.pad_h * L.pad_w * L.in_slots * steps + 64);
    }

    // The port's integers of some steps: padded images, channels last, one for steps that show the same; or bits.
    void read(const Run &run, Context &context, int64_t sample, int start, int steps) {
        const Layer &L = layers[0];
        const size_t pixels = (size_t)L.in_h * L.in_w, values = L.in_channels * pixels;
        const size_t image = (size_t)L.pad_h * L.pad_w * L.in_slots, words = pixels * ((L.in_channels + 31) / 32);
        const int64_t *port = run.port + sample * run.sample_stride + start * run.step_stride;
        const int64_t low = graded() ? std::min<int64_t>(run.low, 0) : run.low;
        const int64_t high = graded() ? std::max<int64_t>(run.high, 0) : run.high;
        const Counting *const C = run.counting;
        uint32_t *bits = context.bits.get<uint32_t>(1);
        int32_t *counts = context.counts.get<int32_t>(1), *const source = context.source.get<int32_t>(1);
        if (C) memset(counts, 0, sizeof(int32_t) * steps * C->classes);
        for (int step = 0; step < steps; ++step, port += run.step_stride, counts += C ? C->classes : 0) {
            const bool same = step && (!run.step_stride || !memcmp(port, port - run.step_stride, sizeof(int64_t) * values));
            source[step] = step ? source[step - 1] + !same : 0;
            if (same) {
                if (C) memcpy(counts, counts - C->classes, sizeof(int32_t) * C->classes);
                if (!graded()) memcpy(bits, bits - words, sizeof(uint32_t) * words), bits += words;
                continue;
            }
            if (!kernels.within(port, values, low, high)) strange = true;
            if (C || !graded()) kernels.pack(port, L.in_channels, (int)pixels, bits);
            if (C) kernels.count(bits, C->layers[0], counts);
            if (!graded()) bits += words;
            else if (L.kind == GRADED16) pad(L, port, context.input.get<int16_t>(1) + source[step] * image, image);
            else pad(L, port, context.input.get<int32_t>(1) + source[step] * image, image);
        }
    }

    template <class T> static void pad(const Layer &L, const int64_t *port, T *to, size_t image) {
        memset(to, 0, sizeof(T) * image);
        for (int channel = 0; channel < L.in_slots; ++channel)
            for (int y = 0; y < L.in_h && y + L.py < L.pad_h; ++y)
                for (int x = 0; x < L.in_w && x + L.px < L.pad_w; ++x)
                    to[((size_t)(y + L.py) * L.pad_w + x + L.px) * L.in_slots + channel] =
                        (T)port[((size_t)channel * L.in_h + y) * L.in_w + x];
    }

    void sample(const Run &run, Context &context, int64_t number, int rank, int team, Barrier &barrier) {
        const Layer &end = layers.back();
        const size_t classes = (size_t)end.out_h * end.out_w * end.out_channels;
        int64_t *scores = run.scores + number * classes;
        if (rank == 0) memset(scores, 0, sizeof(int64_t) * classes);
        for (int start = 0; start < run.steps; start += chunk) {
            const int steps = (int)std::min<int64_t>(chunk, run.steps - start);
            if (rank == 0) {
                read(run, context, number, start, steps);
                context.next[0] = 0;
            }
            barrier.wait();
            const bool timed = run.nanoseconds && rank == 0 && &context == contexts[0];
            int64_t before = timed ? now() : 0;
            for (size_t i = 0; i < layers.size(); ++i) {
                const Layer &L = layers[i];
                Job job{};
                job.before = run.before, job.start = start, job.steps = steps, job.total = (int)run.steps;
                job.lists = {context.starts.get<uint32_t>(1), context.entries.get<uint32_t>(1), capacity(L)};
                job.bits = context.bits.get<uint32_t>(1);
                if (run.states) {
                    job.voltage = run.states[2 * i] + number * neurons(L);
                    if (L.current == DECAYS) job.current = run.states[2 * i + 1] + number * neurons(L);
                } else if (chunk < run.steps) {
                    job.voltage = context.voltage[i].get<int32_t>(1);
                    if (L.current == DECAYS) job.current = context.current[i].get<int32_t>(1);
                }
                job.input = context.input.get<int32_t>(1);
                job.source = context.source.get<int32_t>(1);
                job.image = (size_t)L.pad_h * L.pad_w * L.in_slots;
                job.figures = &figures[i];
                const size_t kept = (size_t)number * run.steps * L.out_channels * L.out_h * L.out_w;
                if (run.spikes && run.spikes[i]) job.kept_spikes = run.spikes[i] + kept;
                if (run.voltage && run.voltage[i]) job.kept_voltage = run.voltage[i] + kept;
                if (i + 1 == layers.size()) job.scores = scores;
                job.membrane = membrane;
                job.watched = job.kept_spikes || job.kept_voltage || job.scores;
                if (i || !graded()) {
                    const int rows = steps * L.groups * L.in_h;
                    for (int row = rank; row < rows; row += team)
                        kernels.list_row(L, job.bits, job.lists, row / L.in_h / L.groups, row / L.in_h % L.groups,
                                         row % L.in_h);
                    if (rank == 0) context.next[i] = 0;
                    barrier.wait();
                    if (timed) {
                        const int64_t listed = now();
                        run.nanoseconds[2 * i] += listed - before;
                        before = listed;
                    }
                }
                const int high = team == 1 ? L.out_h : std::max(1, L.out_h * L.blocks / (8 * team));
                const int parts = (L.out_h + high - 1) / high, tiles = parts * L.blocks;
                for (int tile; (tile = context.next[i].fetch_add(1, std::memory_order_relaxed)) < tiles;) {
                    const int y = tile % parts * high;
                    kernels.tile(L, job, tile / parts, y, std::min(y + high, L.out_h));
                }
                barrier.wait();
                if (run.counting) {
                    const size_t classes = run.counting->classes;
                    for (int step = rank; step < steps; step += team)
                        kernels.count(job.bits + step * neurons(L) / 32, run.counting->layers[i + 1],
                                      context.counts.get<int32_t>(1) + step * classes);
                    barrier.wait();
                }
                if (timed) {
                    const int64_t done = now();
                    run.nanoseconds[2 * i + 1] += done - before;
                    before = done;
                }
            }
            if (rank == 0 && run.counting) add_up(run, context, number * run.steps + start, steps);
        }
    }

    void add_up(const Run &run, Context &context, int64_t first, int steps) {
        const Counting &C = *run.counting;
        const int32_t *counts = context.counts.get<int32_t>(1);
        int64_t *const total = context.total.get<int64_t>(1);
        for (int step = 0; step < steps; ++step, counts += C.classes)
            kernels.weigh(C, counts, C.steps + (first + step) * (C.given + 1), total);
    }

    // Whether all input was in range.
    bool run(const Run &run_) {
        strange = false;
        const int most = (int)std::min<int64_t>(threads, std::max<int64_t>(1, run_.samples));
        if (pool && !pool->here()) pool = nullptr;  // a forked child has none of these threads, nor can it end them
        if (!pool) pool = new Pool(threads);
        while ((int)contexts.size() < most) contexts.push_back(new Context(layers.size()));
        for (Context *context : contexts)
            prepare(context, (int)std::min<int64_t>(chunk, run_.steps), chunk < run_.steps && !run_.states,
                    run_.counting);
        for (Figures &figure : figures) figure.spikes = 0, figure.largest = 0;
        const int64_t alone = run_.samples / threads * threads;  // these are spread, the rest shared
        std::atomic<int64_t> next{0};
        Barrier single(1), all(threads);
        pool->run([&](int rank) {
            for (int64_t number; (number = next.fetch_add(1, std::memory_order_relaxed)) < alone;)
                sample(run_, *contexts[rank], number, 0, 1, single);
            for (int64_t number = alone; number < run_.samples; ++number)
                sample(run_, *contexts[0], number, rank, threads, all);
        });
        for (size_t i = 0; i < layers.size(); ++i) {
            run_.counts[i] = figures[i].spikes;
            run_.largest[i] = figures[i].largest;
        }
        const Counting *const C = run_.counting;
        for (Context *context : contexts)
            for (int i = 0; C && i < C->classes; ++i) C->total[i] += context->total.get<int64_t>(1)[i];
        return !strange;
    }
};

}  // namespace

extern "C" {

EXPORT int snn2chip_events_layer_bytes() { return (int)sizeof(Layer); }
EXPORT int snn2chip_events_simd() { return best_simd(); }

EXPORT void *snn2chip_events_make(const Layer *layers, int count, int membrane, int simd, int threads, int chunk) {
    Engine *made = nullptr;
    const int level = std::min(simd, best_simd());
    guarded([&] { return (made = new Engine(layers, count, membrane != 0, level, threads, chunk)) == nullptr; }, 1);
    return made;
}

// 0 done, 1 out of memory or threads, 2 input out of range.
EXPORT int snn2chip_events_run(void *engine, const Run *run) {
    return guarded([&] { return static_cast<Engine *>(engine)->run(*run) ? 0 : 2; }, 1);
}

EXPORT void snn2chip_events_free(void *engine) { delete static_cast<Engine *>(engine); }
}
