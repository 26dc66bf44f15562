// The engine for a browser: engine.cpp compiled to WebAssembly (snn2chip/simulate/events/browser.py), and what a page
// asks of it. Pointers are 32 bits; those of the layers come as offsets into the image that Python laid out.

#include <type_traits>

#include "engine.cpp"

extern "C" {

// `image` begins with its layers; null if memory ran out. It must stay where it is.
EXPORT void *snn2chip_browser_open(char *image, int count, int membrane, int chunk) {
    Layer *layers = reinterpret_cast<Layer *>(image);
    for (Layer *L = layers; L < layers + count; ++L) {
        const auto place = [image](auto &pointer) {
            if (pointer) pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(image + (size_t)pointer);
        };
        place(L->weights), place(L->reads), place(L->valid), place(L->bias);
        place(L->leak), place(L->lift), place(L->over);
        place(L->block_group), place(L->group_first), place(L->group_last), place(L->slot_channel);
        place(L->block_reads);
    }
    return snn2chip_events_make(layers, count, membrane, PORTABLE, 1, chunk);
}

// One sample through all steps: port integers (T, ...), or of one step that all show (step_stride 0); spikes and voltage
// of all layers, (T, ...) each, one layer after another. As `snn2chip_events_run`.
EXPORT int snn2chip_browser_run(void *engine, const int64_t *port, int steps, int step_stride, int low, int high,
                                uint8_t *spikes, int32_t *voltage, int64_t *scores) {
    const std::vector<Layer> &layers = static_cast<Engine *>(engine)->layers;
    std::vector<uint8_t *> spikes_of;
    std::vector<int32_t *> voltage_of;
    for (const Layer &L : layers) {
        const size_t kept = (size_t)steps * L.out_channels * L.out_h * L.out_w;
        spikes_of.push_back(spikes), voltage_of.push_back(voltage);
        spikes += kept, voltage += kept;
    }
    std::vector<int64_t> counts(layers.size()), largest(layers.size());
    Run run{};
    run.port = port, run.samples = 1, run.steps = steps;
    run.step_stride = step_stride, run.low = low, run.high = high;
    run.spikes = spikes_of.data(), run.voltage = voltage_of.data();
    run.scores = scores, run.counts = counts.data(), run.largest = largest.data();
    return snn2chip_events_run(engine, &run);
}

// The weights of one output channel, (in_channels, kh, kw), out of the rows that the engine adds.
EXPORT void snn2chip_browser_weights(void *engine, int layer, int channel, int32_t *to) {
    const std::vector<Layer> &layers = static_cast<Engine *>(engine)->layers;
    const Layer &L = layers[layer];
    const int kernel = L.kh * L.kw;
    memset(to, 0, sizeof(int32_t) * L.in_channels * kernel);
    int slot = 0;
    while (L.slot_channel[slot] != channel) ++slot;
    const int block = slot / L.lanes, lane = slot % L.lanes;
    if (L.kind == GRADED16 || L.kind == GRADED32) {
        const char *const weights = static_cast<const char *>(L.weights) + (size_t)block * L.block_bytes;
        const bool together = L.segments == L.kh;  // the columns of the kernel follow each other in a segment
        const int first = L.block_group[block] * L.rows, even = L.length + L.length % 2;
        for (int segment = 0; segment < L.segments; ++segment)
            for (int i = 0; i < L.length; ++i) {
                const int input = first + i % L.in_channels;
                const int place = together ? segment * L.kw + i / L.in_channels : segment;
                const size_t row = (size_t)segment * L.length + i;
                const size_t pair = (size_t)segment * even + i - i % 2;
                to[input * kernel + place] =
                    L.kind == GRADED16 ? reinterpret_cast<const int16_t *>(weights)[pair * L.lanes + 2 * lane + i % 2]
                                       : reinterpret_cast<const int32_t *>(weights)[row * L.lanes + lane];
            }
        return;
    }
    for (const Read *R = L.reads + L.block_reads[block]; R < L.reads + L.block_reads[block + 1]; ++R)
        for (int place = 0; place < R->kh * R->kw; ++place)
            for (int s = L.group_first[R->group]; s < L.group_last[R->group]; ++s) {
                const int input = layer ? layers[layer - 1].slot_channel[s] : s;
                if (input < 0 || input >= L.in_channels) continue;
                const char *const row = static_cast<const char *>(L.weights) + R->offset +
                                        (size_t)place * R->pixel_bytes +
                                        ((size_t)(s - L.group_first[R->group]) << L.row_shift);
                int32_t weight;
                if (L.kind == EVENTS8) {  // pairs of neurons, see Rows8
                    const int i = lane % 32;
                    const uint8_t byte = static_cast<uint8_t>(row[lane - i + i % 16 * 2 + i / 16]);
                    weight = i < 16 ? byte - 128 : static_cast<int8_t>(byte);
                } else if (L.kind == EVENTS16) {
                    weight = reinterpret_cast<const int16_t *>(row)[lane];
                } else {
                    weight = reinterpret_cast<const int32_t *>(row)[lane];
                }
                const int y = R->ky + place / R->kw, x = R->kx + place % R->kw;
                to[input * kernel + y * L.kw + x] = weight * (1 << L.scale);
            }
}
}
