// Convolution of spikes, forward and the gradient of its weights, with work for the spikes alone: where a dense
// convolution multiplies each input by its weights, a row of weights (or of gradients) is added for every spike.
//
// Compiled by snn2chip/native.py. Spikes are bits, a row of 64-bit words a pixel; other tensors are float32 with
// channels last. Rows are blocks of output channels that stay in registers while the spikes pass by. In what order a
// sum's terms come follows from the shapes alone: the same bits with any number of threads. Weights that are small
// integers are added as int16, twice as many at a time, and half as many bytes of them want a place in the cache.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
#elif defined(__AVX__)
constexpr int64_t LANES = 8;
#else
constexpr int64_t LANES = 4;
#endif
constexpr int64_t WORD = 64;               // channels in a word of bits, and in a block of inputs
constexpr int64_t BAND = 256;              // outputs that pass while a block of weights is in the cache
constexpr int64_t NEAR = 32 << 10;         // bytes of gradients that stay in the smallest cache
constexpr int64_t TASKS = 16;              // at least so many parts of the weights' gradient, for as many threads
constexpr int64_t MOST = 3;                // rows and columns of a kernel that are in registers together

typedef float Row __attribute__((vector_size(LANES * sizeof(float))));

template <typename Weight>
constexpr int64_t WIDE = sizeof(Row) / sizeof(Weight);

template <typename Vector = Row>
inline Vector load(const void* from) {
    Vector row;
    std::memcpy(&row, from, sizeof row);
    return row;
}

template <typename Vector>
inline void store(void* to, Vector row) {
    std::memcpy(to, &row, sizeof row);
}

// Room for `count` values from the start of a cache line on, so that no row of them lies across two; zeros at first.
template <typename T>
struct Lines {
    static constexpr int64_t LINE = 64;
    std::vector<T> space;
    T* at;
    explicit Lines(int64_t count) : space(count + LINE / int64_t(sizeof(T))), at(space.data()) {
        while (reinterpret_cast<uintptr_t>(at) % LINE) at++;
    }
};

inline int64_t over(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Shape {  // as `dims` in kernels.py
    int64_t images, channels, height, width, outputs, out_height, out_width;
    int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x;
    int64_t words() const { return over(channels, WORD); }
    int64_t pixels() const { return height * width; }
    int64_t out_pixels() const { return out_height * out_width; }
};

// Vectors in a block of outputs: each spike costs those, and about two more to get there, in every block.
int64_t vectors(int64_t outputs, int64_t lanes) {
    int64_t best = 4;
    for (int64_t v : {2, 1})
        if (over(outputs, v * lanes) * (v + 2) < over(outputs, best * lanes) * (best + 2)) best = v;
    return best;
}

// Weights (O, C, KY, KX) with strides, as [block of outputs][word][ky][kx][channel][outputs of the block].
template <typename Weight>
void block_weights(const Shape& s, const Weight* weights, const int64_t* strides, int64_t lanes, Weight* out,
                   int threads) {
    const int64_t blocks = over(s.outputs, lanes), words = s.words(), pixel = WORD * lanes;
#pragma omp parallel for schedule(guided) num_threads(threads)
    for (int64_t part = 0; part < blocks * words; part++) {
        const int64_t first = part / words * lanes, channel = part % words * WORD;
        const int64_t valid = std::min(lanes, s.outputs - first), here = std::min(WORD, s.channels - channel);
        Weight* to = out + part * s.kernel_y * s.kernel_x * pixel;
        for (int64_t ky = 0; ky < s.kernel_y; ky++)
            for (int64_t kx = 0; kx < s.kernel_x; kx++, to += pixel)
                for (int64_t c = 0; c < here; c++) {
                    const Weight* from =
                        weights + first * strides[0] + (channel + c) * strides[1] + ky * strides[2] + kx * strides[3];
                    for (int64_t o = 0; o < lanes; o++) to[c * lanes + o] = o < valid ? from[o * strides[0]] : Weight(0);
                }
    }
}

// The spikes of one image as offsets into a row of kernel pixels: for each word of channels and each row, those of each
// pixel from starts[x] on.
void list_rows(const Shape& s, const uint64_t* bits, int64_t lanes, uint32_t* entries, uint32_t* starts) {
    uint32_t at = 0;
    for (int64_t word = 0; word < s.words(); word++)
        for (int64_t y = 0; y < s.height; y++) {
            for (int64_t x = 0; x < s.width; x++) {
                *starts++ = at;
                const uint64_t* found = bits + (y * s.width + x) * s.words() + word;
                for (uint64_t left = *found; left; left &= left - 1)
                    entries[at++] = uint32_t((x * WORD + __builtin_ctzll(left)) * lanes);
            }
            *starts++ = at;
        }
}

// One row of the kernel over the spikes of one row of pixels: added to the sums of a row of outputs.
template <int64_t VECTORS, typename Weight>
void add_row(const Shape& s, const Weight* weights, const uint32_t* entries, const uint32_t* starts, Weight* sums) {
    constexpr int64_t each = WIDE<Weight>, lanes = VECTORS * each;
    typedef Weight Part __attribute__((vector_size(each * sizeof(Weight))));
    for (int64_t ox = 0; ox < s.out_width; ox++, sums += lanes) {
        const int64_t left = ox * s.stride_x - s.pad_x;
        const int64_t first = std::max<int64_t>(left, 0), last = std::min(left + s.kernel_x, s.width);
        if (first >= last) continue;
        const uint32_t *entry = entries + starts[first], *end = entries + starts[last];
        if (entry == end) continue;
        const int64_t origin = -left * WORD * lanes;
        Part sum[VECTORS];
        for (int64_t p = 0; p < VECTORS; p++) sum[p] = load<Part>(sums + p * each);
        for (; entry < end; entry++) {
            const Weight* row = weights + (origin + int64_t(*entry));
            for (int64_t p = 0; p < VECTORS; p++) sum[p] += load<Part>(row + p * each);
        }
        for (int64_t p = 0; p < VECTORS; p++) store(sums + p * each, sum[p]);
    }
}

// After which rows of a block's kernel the sums are widened, so that no spikes whatever take them out of int16.
std::vector<bool> widenings(const int16_t* weights, int64_t parts, int64_t pixel, int64_t lanes) {
    std::vector<bool> after(parts);
    std::vector<int32_t> up(lanes), down(lanes);
    int64_t reached = 0;
    for (int64_t part = 0; part < parts; part++, weights += pixel) {
        std::fill(up.begin(), up.end(), 0);
        std::fill(down.begin(), down.end(), 0);
        for (int64_t at = 0; at < pixel; at += lanes)
            for (int64_t lane = 0; lane < lanes; lane++) {
                up[lane] += std::max<int32_t>(weights[at + lane], 0);
                down[lane] -= std::min<int32_t>(weights[at + lane], 0);
            }
        const int64_t here = std::max(*std::max_element(up.begin(), up.end()), *std::max_element(down.begin(), down.end()));
        if (part && reached + here > INT16_MAX) {
            after[part - 1] = true;
            reached = 0;
        }
        reached += here;
    }
    after[parts - 1] = true;
    return after;
}

template <int64_t VECTORS, typename Weight>
void forward(const Shape& s, const uint64_t* bits, const Weight* weights, const float* bias, float factor, float* out,
             int threads) {
    constexpr bool whole = std::is_same<Weight, int16_t>::value;
    constexpr int64_t lanes = VECTORS * WIDE<Weight>;
    const int64_t words = s.words(), blocks = over(s.outputs, lanes), parts = words * s.kernel_y;
    const int64_t pixel = s.kernel_x * WORD * lanes;
    const int64_t band = std::max<int64_t>(1, std::min(s.out_height, BAND / s.out_width));  // rows of outputs
    const int64_t group = std::max<int64_t>(1, BAND / s.out_pixels());                      // images
    const int64_t each_start = words * s.height * (s.width + 1), each_entry = s.channels * s.pixels();
    std::vector<std::vector<bool>> widen(blocks);
#pragma omp parallel num_threads(threads)
    {
        if constexpr (whole) {
#pragma omp for schedule(static)
            for (int64_t block = 0; block < blocks; block++)
                widen[block] = widenings(weights + block * parts * pixel, parts, pixel, lanes);
        }
        std::vector<uint32_t> starts(group * each_start), entries(group * each_entry);
        const int64_t size = group * band * s.out_width * lanes;
        Lines<float> sums(size);
        Lines<Weight> narrow(whole ? size : 0);  // what is added since they were widened
        Weight* to;
        if constexpr (whole)
            to = narrow.at;
        else
            to = sums.at;
#pragma omp for schedule(dynamic)
        for (int64_t image = 0; image < s.images; image += group) {
            const int64_t count = std::min(group, s.images - image);
            for (int64_t i = 0; i < count; i++)
                list_rows(s, bits + (image + i) * s.pixels() * words, lanes, entries.data() + i * each_entry,
                          starts.data() + i * each_start);
            for (int64_t block = 0; block < blocks; block++)
                for (int64_t top = 0; top < s.out_height; top += band) {
                    const int64_t rows = std::min(band, s.out_height - top), row = s.out_width * lanes;
                    const int64_t valid = std::min(lanes, s.outputs - block * lanes);
                    for (int64_t at = 0; at < count * rows * row; at++)
                        sums.at[at] = bias && at % lanes < valid ? bias[block * lanes + at % lanes] : 0.0f;
                    for (int64_t part = 0; part < parts; part++) {
                        const int64_t word = part / s.kernel_y, ky = part % s.kernel_y;
                        for (int64_t i = 0; i < count; i++)
                            for (int64_t y = 0; y < rows; y++) {
                                const int64_t in = (top + y) * s.stride_y - s.pad_y + ky;
                                if (in < 0 || in >= s.height) continue;
                                add_row<VECTORS>(s, weights + (block * parts + part) * pixel,
                                                 entries.data() + i * each_entry,
                                                 starts.data() + i * each_start + (word * s.height + in) * (s.width + 1),
                                                 to + (i * rows + y) * row);
                            }
                        if (whole && widen[block][part])
                            for (int64_t at = 0; at < count * rows * row; at++) {
                                sums.at[at] += factor * float(narrow.at[at]);
                                narrow.at[at] = 0;
                            }
                    }
                    for (int64_t i = 0; i < count; i++)
                        for (int64_t at = 0; at < rows * s.out_width; at++)
                            std::memcpy(out + ((image + i) * s.out_pixels() + top * s.out_width + at) * s.outputs +
                                            block * lanes,
                                        sums.at + (i * rows * s.out_width + at) * lanes, valid * sizeof(float));
                }
        }
    }
}

template <typename Weight>
void convolve(const Shape& s, const uint64_t* bits, const Weight* weights, const int64_t* strides, const float* bias,
              float factor, float* out, int threads) {
    const int64_t count = vectors(s.outputs, WIDE<Weight>), lanes = count * WIDE<Weight>;
    Lines<Weight> blocked(over(s.outputs, lanes) * lanes * s.words() * WORD * s.kernel_y * s.kernel_x);
    block_weights(s, weights, strides, lanes, blocked.at, threads);
    switch (count) {
        case 4: return forward<4>(s, bits, blocked.at, bias, factor, out, threads);
        case 2: return forward<2>(s, bits, blocked.at, bias, factor, out, threads);
        default: return forward<1>(s, bits, blocked.at, bias, factor, out, threads);
    }
}

// ------------------------------------------------------------------------------------- the gradient of the weights

// A kernel weight at (ky, kx) meets, at a spike in (y, x), the output at ((y + pad - ky) / stride, ...), where that is
// whole. Spikes whose y and x leave the same rest by the strides, a class, so meet the same part of the kernel, at
// distances that are the same for all of them.
struct Pieces {
    int64_t classes, rows, columns;   // rows and columns of the spikes of a class
    int64_t band, bands, count;       // rows of a piece, pieces of an image, pieces of all images
    int64_t top, left;                // zeros around the gradients of a piece, so that no distance leads outside
    int64_t height, width, group;     // of the gradients of a piece with their zeros; pieces of a group
    Pieces(const Shape& s, int64_t lanes) {
        classes = s.stride_y * s.stride_x;
        rows = over(s.height, s.stride_y);
        columns = over(s.width, s.stride_x);
        top = std::max<int64_t>(0, over(s.kernel_y - 1 - s.pad_y, s.stride_y));
        left = std::max<int64_t>(0, over(s.kernel_x - 1 - s.pad_x, s.stride_x));
        const int64_t below = (s.stride_y - 1 + s.pad_y) / s.stride_y, right = (s.stride_x - 1 + s.pad_x) / s.stride_x;
        width = left + columns + right;
        const int64_t fit = std::max<int64_t>(1, NEAR / (width * lanes * int64_t(sizeof(float))));
        band = std::max<int64_t>(std::min<int64_t>(rows, 4), std::min(rows, fit - top - below));
        bands = over(rows, band);
        count = s.images * bands;
        height = top + band + below;
        group = std::max<int64_t>(1, fit / height);
    }
};

// For each class and channel the spikes of a group of pieces, as offsets into its gradients.
struct Lists {
    std::vector<uint32_t> entries, starts;
};

void list_channels(const Shape& s, const Pieces& p, const uint64_t* bits, int64_t first, int64_t lanes, Lists& lists,
                   std::vector<uint32_t>& at) {
    const int64_t last = std::min(first + p.group, p.count);
    lists.starts.assign(p.classes * s.channels + 1, 0);
    for (int pass = 0; pass < 2; pass++) {  // how many of each, then which
        if (pass == 1) {
            for (int64_t k = 0; k < p.classes * s.channels; k++) lists.starts[k + 1] += lists.starts[k];
            lists.entries.resize(lists.starts.back());
            at.assign(lists.starts.begin(), lists.starts.end() - 1);
        }
        for (int64_t piece = first; piece < last; piece++) {
            const int64_t image = piece / p.bands, from = piece % p.bands * p.band * s.stride_y;
            const int64_t to = std::min(from + p.band * s.stride_y, s.height);
            for (int64_t y = from; y < to; y++)
                for (int64_t x = 0; x < s.width; x++) {
                    const int64_t here = (y % s.stride_y * s.stride_x + x % s.stride_x) * s.channels;
                    const int64_t row = (piece - first) * p.height + (y - from) / s.stride_y;
                    const uint32_t entry = uint32_t((row * p.width + x / s.stride_x) * lanes);
                    const uint64_t* pixel = bits + (image * s.pixels() + y * s.width + x) * s.words();
                    for (int64_t word = 0; word < s.words(); word++)
                        for (uint64_t rest = pixel[word]; rest; rest &= rest - 1) {
                            const int64_t k = here + word * WORD + __builtin_ctzll(rest);
                            if (pass == 0)
                                lists.starts[k + 1]++;
                            else
                                lists.entries[at[k]++] = entry;
                        }
                }
        }
    }
}

// Adds to KY x KX rows of the weights' gradient what one channel's spikes see of the gradients.
template <int64_t KY, int64_t KX, int64_t VECTORS>
void add_channel(const uint32_t* entry, const uint32_t* end, const float* gradients, int64_t row, float* out,
                 int64_t step_y, int64_t step_x) {
    Row sum[KY][KX][VECTORS] = {};
    for (; entry < end; entry++) {
        const float* at = gradients + *entry;
        for (int64_t y = 0; y < KY; y++)
            for (int64_t x = 0; x < KX; x++)
                for (int64_t v = 0; v < VECTORS; v++)
                    sum[y][x][v] += load(at - y * row - (x * VECTORS - v) * LANES);
    }
    for (int64_t y = 0; y < KY; y++)
        for (int64_t x = 0; x < KX; x++)
            for (int64_t v = 0; v < VECTORS; v++) {
                float* to = out + y * step_y + x * step_x + v * LANES;
                store(to, load(to) + sum[y][x][v]);
            }
}

using AddChannel = void (*)(const uint32_t*, const uint32_t*, const float*, int64_t, float*, int64_t, int64_t);

template <int64_t V>
AddChannel add_channel_of(int64_t rows, int64_t columns) {
    static const AddChannel all[MOST][MOST] = {
        {add_channel<1, 1, V>, add_channel<1, 2, V>, add_channel<1, 3, V>},
        {add_channel<2, 1, V>, add_channel<2, 2, V>, add_channel<2, 3, V>},
        {add_channel<3, 1, V>, add_channel<3, 2, V>, add_channel<3, 3, V>},
    };
    return all[rows - 1][columns - 1];
}

// One group of pieces: its gradients for a block of outputs, with zeros around them.
void copy_gradients(const Shape& s, const Pieces& p, const float* grad, int64_t first, int64_t block, int64_t lanes,
                    float* to) {
    const int64_t valid = std::min(lanes, s.outputs - block * lanes);
    for (int64_t piece = first; piece < std::min(first + p.group, p.count); piece++)
        for (int64_t row = 0; row < p.height; row++, to += p.width * lanes) {
            const int64_t y = piece % p.bands * p.band + row - p.top;
            if (y < 0 || y >= s.out_height) {
                std::memset(to, 0, p.width * lanes * sizeof(float));
                continue;
            }
            const float* from = grad + (piece / p.bands * s.out_pixels() + y * s.out_width) * s.outputs + block * lanes;
            for (int64_t column = 0; column < p.width; column++) {
                float* here = to + column * lanes;
                const int64_t x = column - p.left;
                if (x < 0 || x >= s.out_width) {
                    std::memset(here, 0, lanes * sizeof(float));
                } else {
                    std::memcpy(here, from + x * s.outputs, valid * sizeof(float));
                    std::memset(here + valid, 0, (lanes - valid) * sizeof(float));
                }
            }
        }
}

// All classes of a group: every channel's spikes against the part of the kernel that they meet.
template <int64_t VECTORS>
void add_group(const Shape& s, const Pieces& p, const Lists& lists, const float* gradients, float* out) {
    constexpr int64_t lanes = VECTORS * LANES;
    const int64_t row = p.width * lanes, step_y = s.stride_y * s.kernel_x * lanes, step_x = s.stride_x * lanes;
    for (int64_t ry = 0; ry < s.stride_y; ry++)
        for (int64_t rx = 0; rx < s.stride_x; rx++) {
            const int64_t first_y = (ry + s.pad_y) % s.stride_y, first_x = (rx + s.pad_x) % s.stride_x;
            for (int64_t ky = first_y; ky < s.kernel_y; ky += MOST * s.stride_y)
                for (int64_t kx = first_x; kx < s.kernel_x; kx += MOST * s.stride_x) {
                    const int64_t y = (ry + s.pad_y - ky) / s.stride_y, x = (rx + s.pad_x - kx) / s.stride_x;
                    const AddChannel add =
                        add_channel_of<VECTORS>(std::min(MOST, over(s.kernel_y - ky, s.stride_y)),
                                                std::min(MOST, over(s.kernel_x - kx, s.stride_x)));
                    const float* origin = gradients + (p.top + y) * row + (p.left + x) * lanes;
                    const uint32_t* starts = lists.starts.data() + (ry * s.stride_x + rx) * s.channels;
                    for (int64_t c = 0; c < s.channels; c++)
                        if (starts[c] < starts[c + 1])
                            add(lists.entries.data() + starts[c], lists.entries.data() + starts[c + 1], origin, row,
                                out + ((c * s.kernel_y + ky) * s.kernel_x + kx) * lanes, step_y, step_x);
                }
        }
}

template <int64_t VECTORS>
void weights_gradient(const Shape& s, const uint64_t* bits, const float* grad, float* out, const int64_t* strides,
                      int threads) {
    constexpr int64_t lanes = VECTORS * LANES;
    const Pieces p(s, lanes);
    const int64_t groups = over(p.count, p.group), blocks = over(s.outputs, lanes);
    const int64_t slices = std::min(groups, over(TASKS, blocks));
    const int64_t each = s.channels * s.kernel_y * s.kernel_x * lanes;
    std::vector<Lists> lists(groups);
    std::vector<float> sums(slices * blocks * each);
#pragma omp parallel num_threads(threads)
    {
        std::vector<uint32_t> at;
#pragma omp for schedule(dynamic)
        for (int64_t group = 0; group < groups; group++)
            list_channels(s, p, bits, group * p.group, lanes, lists[group], at);
        std::vector<float> gradients(p.group * p.height * p.width * lanes);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < slices * blocks; task++)
            for (int64_t group = task / blocks; group < groups; group += slices) {
                copy_gradients(s, p, grad, group * p.group, task % blocks, lanes, gradients.data());
                add_group<VECTORS>(s, p, lists[group], gradients.data(), sums.data() + task * each);
            }
#pragma omp for schedule(static)
        for (int64_t o = 0; o < s.outputs; o++)
            for (int64_t k = 0; k < s.channels * s.kernel_y * s.kernel_x; k++) {
                float sum = 0;
                for (int64_t slice = 0; slice < slices; slice++)
                    sum += sums[(slice * blocks + o / lanes) * each + k * lanes + o % lanes];
                const int64_t kx = k % s.kernel_x, ky = k / s.kernel_x % s.kernel_y, c = k / s.kernel_x / s.kernel_y;
                out[o * strides[0] + c * strides[1] + ky * strides[2] + kx * strides[3]] = sum;
            }
    }
}

template <typename Value>
int64_t pack_pixels(const Value* values, uint64_t* words, int64_t pixels, int64_t channels, int threads) {
    const int64_t each = over(channels, WORD);
    int64_t spikes = 0, others = 0;
#pragma omp parallel for schedule(guided) num_threads(threads) reduction(+ : spikes, others)
    for (int64_t at = 0; at < pixels * each; at++) {
        const int64_t channel = at % each * WORD, width = std::min(WORD, channels - channel);
        const Value* in = values + at / each * channels + channel;
        uint64_t found = 0;
        for (int64_t i = 0; i < width; i++) found |= uint64_t(in[i] != 0) << i;
        for (int64_t i = 0; i < width; i++) others += !(in[i] == 0 || in[i] == 1);
        words[at] = found;
        spikes += __builtin_popcountll(found);
    }
    return others ? -1 : spikes;
}

}  // namespace

extern "C" {

// Bits of values (pixels, channels), floats or `bytes`, the words of a pixel one after the other; returns how many are 1,
// or -1 where one is neither 0 nor 1.
int64_t snn2chip_pack_pixels(const void* values, int bytes, uint64_t* words, int64_t pixels, int64_t channels,
                             int threads) {
    return bytes ? pack_pixels(static_cast<const uint8_t*>(values), words, pixels, channels, threads)
                 : pack_pixels(static_cast<const float*>(values), words, pixels, channels, threads);
}

// Sums (images, out_height, out_width, outputs); weights (outputs, channels, ky, kx) with strides, floats or, if `whole`,
// int16 that count `factor` times: WORD * kernel_x of them must add up to an int16. The bias may be null.
void snn2chip_spike_conv(const int64_t* dims, const uint64_t* bits, const void* weights, const int64_t* strides,
                         int whole, float factor, const float* bias, float* out, int threads) {
    const Shape& s = *reinterpret_cast<const Shape*>(dims);
    if (whole)
        convolve(s, bits, static_cast<const int16_t*>(weights), strides, bias, factor, out, threads);
    else
        convolve(s, bits, static_cast<const float*>(weights), strides, bias, factor, out, threads);
}

// Gradient of the weights, written to `out` with strides, from the gradient of the sums.
void snn2chip_spike_conv_weights(const int64_t* dims, const uint64_t* bits, const float* grad, float* out,
                                 const int64_t* strides, int threads) {
    const Shape& s = *reinterpret_cast<const Shape*>(dims);
    const int64_t met = std::min(MOST, over(s.kernel_y, s.stride_y)) * std::min(MOST, over(s.kernel_x, s.stride_x));
    // a second vector of outputs gives every spike more to do, where the sums of both still fit the registers
    if (met <= 4 && over(s.outputs, LANES) % 2 == 0)
        weights_gradient<2>(s, bits, grad, out, strides, threads);
    else
        weights_gradient<1>(s, bits, grad, out, strides, threads);
}
}
