// The operations between the matmuls of one decoding step. Each row is computed by itself, so no row depends on its batch.
//
// Input: rows of one token each, and a KV cache. Output: the rows after the operation.
// A prompt's keys and values are stored once for all its completions; each row reads only the positions it may see.
// Compiled for the processor it runs on (native_decoder.py), in float32 and in bfloat16 with float32 sums.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

struct bf16 {
    uint16_t bits;
    operator float() const {
        uint32_t float_bits = (uint32_t)bits << 16;
        float number;
        std::memcpy(&number, &float_bits, 4);
        return number;
    }
    bf16() = default;
    bf16(float number) {
        uint32_t float_bits;
        std::memcpy(&float_bits, &number, 4);
        bits = (uint16_t)((float_bits + 0x7fff + ((float_bits >> 16) & 1)) >> 16);
    }
};

static inline float inverse_rms(const float* x, int64_t n) {
    float sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
    return 1.0f / std::sqrt(sum / n + 1.1920929e-7f);
}

// x += added (may be null); x = residual_scale * x + embedding_scale * embedding (may be null); out = RMS norm of x.
template <typename T>
static void residual_norm(float* x, const T* added, const float* embedding, float residual_scale, float embedding_scale,
                          T* out, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
        float* x_row = x + row * width;
        if (added)
            for (int64_t i = 0; i < width; ++i) x_row[i] += (float)added[row * width + i];
        if (embedding)
            for (int64_t i = 0; i < width; ++i)
                x_row[i] = residual_scale * x_row[i] + embedding_scale * embedding[row * width + i];
        float factor = inverse_rms(x_row, width);
        for (int64_t i = 0; i < width; ++i) out[row * width + i] = T(x_row[i] * factor);
    }
}

template <typename T>
static void squared_relu(T* x, int64_t count) {
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < count; block += 4096) {
        int64_t end = block + 4096 < count ? block + 4096 : count;
        for (int64_t i = block; i < end; ++i) {
            float positive = (float)x[i] > 0 ? (float)x[i] : 0;
            x[i] = T(positive * positive);
        }
    }
}

struct Shape {
    int64_t rows, heads, head_width, prompt_length, own_length;
};

// Sixteen float32 numbers; the compiler splits them into the registers that the processor has.
typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(64), aligned(4), may_alias));
const int64_t LANES = 16;

// sum + vector * scalar in each lane: `vector` holds PACK numbers per lane, `scalar` PACK numbers for all lanes.
static inline Lanes multiply_add(Lanes sum, const float* vector, const float* scalar) {
    return sum + *(const Lanes*)vector * *scalar;
}

static inline Lanes multiply_add(Lanes sum, const bf16* vector, const bf16* scalar) {
#ifdef __AVX512BF16__
    int pair;
    std::memcpy(&pair, scalar, 4);
    return (Lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_loadu_si512(vector), (__m512bh)_mm512_set1_epi32(pair));
#else
    Words pairs = *(const Words*)vector;
    return sum + (Lanes)(pairs << 16) * (float)scalar[0] + (Lanes)(pairs & 0xffff0000u) * (float)scalar[1];
#endif
}

template <typename T>
constexpr int64_t PACK = 4 / sizeof(T);

// Keys are stored in blocks of 16 positions, (D / PACK, 16, PACK) each; values in groups of PACK positions, (D, PACK) each.
template <typename T>
static inline int64_t key_offset(int64_t t, int64_t i, int64_t D) {
    return t / LANES * LANES * D + i / PACK<T> * LANES * PACK<T> + t % LANES * PACK<T> + i % PACK<T>;
}

template <typename T>
static inline int64_t value_offset(int64_t t, int64_t i, int64_t D) {
    return t / PACK<T> * PACK<T> * D + i * PACK<T> + t % PACK<T>;
}

// out = RMS norm of `raw`, then RoPE; `normed` is scratch memory. All have D numbers.
template <typename T>
static void norm_and_rotate(const T* raw, T* out, float* normed, const float* cosine, const float* sine, int64_t D) {
    for (int64_t i = 0; i < D; ++i) normed[i] = (float)raw[i];
    float factor = inverse_rms(normed, D);
    for (int64_t i = 0; i < D / 2; ++i) {
        float a = normed[i] * factor, b = normed[i + D / 2] * factor;
        out[i] = T(a * cosine[i] - b * sine[i]);
        out[i + D / 2] = T(b * cosine[i] + a * sine[i]);
    }
}

// out[t] = exp(scale * q . keys[t]), then 0 from `length` to the end of its block. Returns their sum.
template <typename T>
static float score(const T* q, const T* keys, int64_t length, int64_t D, float scale, float* out) {
    const int64_t P = PACK<T>;
    int64_t end = 0;
    for (int64_t t = 0; t < length; t += LANES, end = t) {
        Lanes a = {}, b = {}, c = {}, d = {};
        const T* block = keys + t * D;
        for (int64_t i = 0; i < D; i += 4 * P) {
            a = multiply_add(a, block + i * LANES, q + i);
            b = multiply_add(b, block + (i + P) * LANES, q + i + P);
            c = multiply_add(c, block + (i + 2 * P) * LANES, q + i + 2 * P);
            d = multiply_add(d, block + (i + 3 * P) * LANES, q + i + 3 * P);
        }
        *(Lanes*)(out + t) = ((a + b) + (c + d)) * scale;
    }
    float total = 0;
    for (int64_t t = 0; t < end; ++t) out[t] = std::exp(out[t]);  // no overflow: QK-norm bounds a score by sqrt(D)
    for (int64_t t = length; t < end; ++t) out[t] = 0;
    for (int64_t t = 0; t < end; ++t) total += out[t];
    return total;
}

// sum[i] += weights . values[:, i]; weights are 0 from `length` to the end of their block.
template <typename T>
static void mix(const T* weights, const T* values, int64_t length, int64_t D, float* sum) {
    const int64_t P = PACK<T>;
    int64_t i = 0;
    for (; i + 4 * LANES <= D; i += 4 * LANES) {
        Lanes even[4] = {}, odd[4] = {};
        for (int64_t t = 0; t < length; t += 2 * P)
            for (int64_t j = 0; j < 4; ++j) {
                even[j] = multiply_add(even[j], values + t * D + (i + j * LANES) * P, weights + t);
                odd[j] = multiply_add(odd[j], values + (t + P) * D + (i + j * LANES) * P, weights + t + P);
            }
        for (int64_t j = 0; j < 4; ++j) *(Lanes*)(sum + i + j * LANES) += even[j] + odd[j];
    }
    for (; i < D; i += LANES) {
        Lanes lane_sum = {};
        for (int64_t t = 0; t < length; t += P) lane_sum = multiply_add(lane_sum, values + t * D + i * P, weights + t);
        *(Lanes*)(sum + i) += lane_sum;
    }
}

static inline int64_t pad_to_lanes(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

// qkv: (rows, 3, H, D). Caches of this layer: prompts (P, H, prompt_length * width), own tokens (slots, H, own_length * width),
// in the layout of key_offset and value_offset, with D zero-padded to `width` and lengths that are multiples of LANES.
// Writes each row's key and value at its `position` of the own tokens, then attends to its prompt and to these up to there.
template <typename T>
static void attend(const T* qkv, const float* cosine, const float* sine, const T* prompt_keys, const T* prompt_values,
                   T* own_keys, T* own_values, const int64_t* prompt_slot, const int64_t* prompt_length,
                   const int64_t* slot, const int64_t* position, T* out, Shape shape) {
    const int64_t H = shape.heads, D = shape.head_width, width = pad_to_lanes(D);
    const int64_t length = shape.prompt_length + shape.own_length;
    const float scale = 1.0f / std::sqrt((float)D);
#pragma omp parallel
    {
        std::vector<float> weights(length), sum(width), normed(D);
        std::vector<T> rounded_weights(length), rotated(width);
#pragma omp for schedule(dynamic, 8)
        for (int64_t row = 0; row < shape.rows; ++row)
            for (int64_t h = 0; h < H; ++h) {
                const int64_t prompt_count = prompt_length[row], own_count = position[row] + 1;
                const int64_t table_offset = (prompt_count + position[row]) * (D / 2);
                const float *c = cosine + table_offset, *s = sine + table_offset;
                const T* q = qkv + (row * 3 * H + h) * D;
                const T *k = q + H * D, *v = q + 2 * H * D;
                T* keys = own_keys + (slot[row] * H + h) * shape.own_length * width;
                T* values = own_values + (slot[row] * H + h) * shape.own_length * width;
                norm_and_rotate(k, rotated.data(), normed.data(), c, s, D);
                for (int64_t i = 0; i < D; ++i) keys[key_offset<T>(position[row], i, width)] = rotated[i];
                for (int64_t i = 0; i < D; ++i) values[value_offset<T>(position[row], i, width)] = v[i];
                norm_and_rotate(q, rotated.data(), normed.data(), c, s, D);
                const int64_t prompt_offset = (prompt_slot[row] * H + h) * shape.prompt_length * width;
                float* own_weights = weights.data() + shape.prompt_length;
                T* own_rounded = rounded_weights.data() + shape.prompt_length;
                float total =
                    score(rotated.data(), prompt_keys + prompt_offset, prompt_count, width, scale, weights.data());
                total += score(rotated.data(), keys, own_count, width, scale, own_weights);
                for (int64_t t = 0; t < pad_to_lanes(prompt_count); ++t) rounded_weights[t] = T(weights[t]);
                for (int64_t t = 0; t < pad_to_lanes(own_count); ++t) own_rounded[t] = T(own_weights[t]);
                std::fill(sum.begin(), sum.end(), 0.0f);
                mix(rounded_weights.data(), prompt_values + prompt_offset, prompt_count, width, sum.data());
                mix(own_rounded, values, own_count, width, sum.data());
                for (int64_t i = 0; i < D; ++i) out[(row * H + h) * D + i] = T(sum[i] / total);
            }
    }
}

// The k largest numbers of each row and their indices, largest first; of equal numbers the first one.
// A row with NaN may have fewer; the rest is NaN at index 0. No token is sampled from such a row.
extern "C" void top_k(const float* x, int64_t rows, int64_t width, int64_t k, float* values, int64_t* indices) {
    const int64_t groups = width / LANES;
#pragma omp parallel
    {
        std::vector<float> group_maxima(groups);
        std::vector<int64_t> candidates;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; ++row) {
            const float* x_row = x + row * width;
            // At least k numbers of the row reach the k-th largest of the group maxima.
            float threshold = -std::numeric_limits<float>::max();
            if (groups > k) {
                for (int64_t g = 0; g < groups; ++g) {
                    float maximum = x_row[g * LANES];
                    for (int64_t i = 1; i < LANES; ++i) maximum = std::max(maximum, x_row[g * LANES + i]);
                    group_maxima[g] = maximum;
                }
                std::nth_element(group_maxima.begin(), group_maxima.begin() + k - 1, group_maxima.end(),
                                 std::greater<float>());
                threshold = group_maxima[k - 1];
            }
            candidates.clear();
            for (int64_t i = 0; i < width; ++i)
                if (x_row[i] >= threshold) candidates.push_back(i);
            std::sort(candidates.begin(), candidates.end(), [x_row](int64_t a, int64_t b) {
                return x_row[a] > x_row[b] || (x_row[a] == x_row[b] && a < b);
            });
            for (int64_t i = 0; i < k; ++i) {
                const bool exists = i < (int64_t)candidates.size();
                indices[row * k + i] = exists ? candidates[i] : 0;
                values[row * k + i] = exists ? x_row[candidates[i]] : std::numeric_limits<float>::quiet_NaN();
            }
        }
    }
}

#define FOR_TYPE(NAME, T)                                                                                              \
    extern "C" void residual_norm_##NAME(float* x, const T* added, const float* embedding, float residual_scale,       \
                                         float embedding_scale, T* out, int64_t rows, int64_t width) {                 \
        residual_norm<T>(x, added, embedding, residual_scale, embedding_scale, out, rows, width);                      \
    }                                                                                                                  \
    extern "C" void squared_relu_##NAME(T* x, int64_t count) { squared_relu<T>(x, count); }                            \
    extern "C" void attend_##NAME(const T* qkv, const float* cosine, const float* sine, const T* prompt_keys,          \
                                  const T* prompt_values, T* own_keys, T* own_values, const int64_t* prompt_slot,      \
                                  const int64_t* prompt_length, const int64_t* slot, const int64_t* position, T* out,  \
                                  int64_t rows, int64_t heads, int64_t head_width, int64_t cache_prompt_length,        \
                                  int64_t cache_own_length) {                                                          \
        attend<T>(qkv, cosine, sine, prompt_keys, prompt_values, own_keys, own_values, prompt_slot, prompt_length,     \
                  slot, position, out, Shape{rows, heads, head_width, cache_prompt_length, cache_own_length});         \
    }

FOR_TYPE(float32, float)
FOR_TYPE(bfloat16, bf16)
