// What one decoding step does between its matrix products, each row by itself, so that no row depends on its batch.
//
// In: rows of one token each, and a cache of keys and values. Out: the same rows, mixed.
// The prompt's keys stand once for all the completions of that prompt; each row reads exactly the places it may see.
// Beware: compiled for the machine it runs on (native.py), in float32 and in bfloat16 with float32 sums.

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
        uint32_t wide = (uint32_t)bits << 16;
        float value;
        std::memcpy(&value, &wide, 4);
        return value;
    }
    bf16() = default;
    bf16(float value) {
        uint32_t wide;
        std::memcpy(&wide, &value, 4);
        bits = (uint16_t)((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
    }
};

static inline float inverse_rms(const float* x, int64_t n) {
    float sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
    return 1.0f / std::sqrt(sum / n + 1.1920929e-7f);
}

// x += added (may be null); x = scale * x + back * first (first may be null); out = x over its root mean square.
template <typename T>
static void residual_norm(float* x, const T* added, const float* first, float scale, float back, T* out, int64_t rows,
                          int64_t width) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
        float* mine = x + row * width;
        if (added)
            for (int64_t i = 0; i < width; ++i) mine[i] += (float)added[row * width + i];
        if (first)
            for (int64_t i = 0; i < width; ++i) mine[i] = scale * mine[i] + back * first[row * width + i];
        float factor = inverse_rms(mine, width);
        for (int64_t i = 0; i < width; ++i) out[row * width + i] = T(mine[i] * factor);
    }
}

template <typename T>
static void squared_relu(T* x, int64_t count) {
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < count; block += 4096) {
        int64_t end = block + 4096 < count ? block + 4096 : count;
        for (int64_t i = block; i < end; ++i) {
            float value = (float)x[i];
            value = value > 0 ? value : 0;
            x[i] = T(value * value);
        }
    }
}

struct Shape {
    int64_t rows, heads, head_width, prompt_room, own_room;
};

// Sixteen float32 numbers, in as many registers as the processor needs for them.
typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(64), aligned(4), may_alias));
const int64_t LANES = 16;

// sum + many * one, lane by lane: `many` holds PACK numbers a lane, `one` is PACK numbers for all lanes.
static inline Lanes multiply(Lanes sum, const float* many, const float* one) { return sum + *(const Lanes*)many * *one; }

static inline Lanes multiply(Lanes sum, const bf16* many, const bf16* one) {
#ifdef __AVX512BF16__
    int pair;
    std::memcpy(&pair, one, 4);
    return (Lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_loadu_si512(many), (__m512bh)_mm512_set1_epi32(pair));
#else
    Words pairs = *(const Words*)many;
    return sum + (Lanes)(pairs << 16) * (float)one[0] + (Lanes)(pairs & 0xffff0000u) * (float)one[1];
#endif
}

template <typename T>
constexpr int64_t PACK = 4 / sizeof(T);

// Keys stand in blocks of 16 places, (D / PACK, 16, PACK) each; values in groups of PACK places, (D, PACK) each.
template <typename T>
static inline int64_t key_at(int64_t t, int64_t i, int64_t D) {
    return t / LANES * LANES * D + i / PACK<T> * LANES * PACK<T> + t % LANES * PACK<T> + i % PACK<T>;
}

template <typename T>
static inline int64_t value_at(int64_t t, int64_t i, int64_t D) {
    return t / PACK<T> * PACK<T> * D + i * PACK<T> + t % PACK<T>;
}

template <typename T>
static void enter(const T* from, T* to, float* wide, const float* cosine, const float* sine, int64_t D) {
    for (int64_t i = 0; i < D; ++i) wide[i] = (float)from[i];
    float factor = inverse_rms(wide, D);
    for (int64_t i = 0; i < D / 2; ++i) {
        float a = wide[i] * factor, b = wide[i + D / 2] * factor;
        to[i] = T(a * cosine[i] - b * sine[i]);
        to[i + D / 2] = T(b * cosine[i] + a * sine[i]);
    }
}

// out[t] = exp(scale * q . keys[t]); `out` has room for whole blocks, 0 behind `length`. Returns their sum.
template <typename T>
static float score(const T* q, const T* keys, int64_t length, int64_t D, float scale, float* out) {
    const int64_t P = PACK<T>;
    int64_t end = 0;
    for (int64_t t = 0; t < length; t += LANES, end = t) {
        Lanes a = {}, b = {}, c = {}, d = {};
        const T* block = keys + t * D;
        for (int64_t i = 0; i < D; i += 4 * P) {
            a = multiply(a, block + i * LANES, q + i);
            b = multiply(b, block + (i + P) * LANES, q + i + P);
            c = multiply(c, block + (i + 2 * P) * LANES, q + i + 2 * P);
            d = multiply(d, block + (i + 3 * P) * LANES, q + i + 3 * P);
        }
        *(Lanes*)(out + t) = ((a + b) + (c + d)) * scale;
    }
    float total = 0;
    for (int64_t t = 0; t < end; ++t) out[t] = std::exp(out[t]);  // QK-norm bounds a score by sqrt(D): no overflow
    for (int64_t t = length; t < end; ++t) out[t] = 0;
    for (int64_t t = 0; t < end; ++t) total += out[t];
    return total;
}

// sum[i] += weights . values[i]; weights are 0 up to a whole block.
template <typename T>
static void mix(const T* weights, const T* values, int64_t length, int64_t D, float* sum) {
    const int64_t P = PACK<T>;
    int64_t i = 0;
    for (; i + 4 * LANES <= D; i += 4 * LANES) {
        Lanes even[4] = {}, odd[4] = {};
        for (int64_t t = 0; t < length; t += 2 * P)
            for (int64_t j = 0; j < 4; ++j) {
                even[j] = multiply(even[j], values + t * D + (i + j * LANES) * P, weights + t);
                odd[j] = multiply(odd[j], values + (t + P) * D + (i + j * LANES) * P, weights + t + P);
            }
        for (int64_t j = 0; j < 4; ++j) *(Lanes*)(sum + i + j * LANES) += even[j] + odd[j];
    }
    for (; i < D; i += LANES) {
        Lanes all = {};
        for (int64_t t = 0; t < length; t += P) all = multiply(all, values + t * D + i * P, weights + t);
        *(Lanes*)(sum + i) += all;
    }
}

static inline int64_t whole_lanes(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

// qkv: (rows, 3, H, D). Caches of this layer: prompts (P, H, prompt_room * width), own (slots, H, own_room * width), as
// key_at and value_at say, with D filled up to `width` by zeros and rooms that are whole blocks. Each row's key and value
// are written at its place, then it reads its prompt and its own places up to that one.
template <typename T>
static void attend(const T* qkv, const float* cosine, const float* sine, const T* prompt_keys, const T* prompt_values,
                   T* own_keys, T* own_values, const int64_t* prompt, const int64_t* prompt_length, const int64_t* slot,
                   const int64_t* place, T* out, Shape shape) {
    const int64_t H = shape.heads, D = shape.head_width, width = whole_lanes(D);
    const int64_t room = shape.prompt_room + shape.own_room;
    const float scale = 1.0f / std::sqrt((float)D);
#pragma omp parallel
    {
        std::vector<float> weights(room), sum(width), wide(D);
        std::vector<T> chances(room), entered(width);
#pragma omp for schedule(dynamic, 8)
        for (int64_t row = 0; row < shape.rows; ++row)
            for (int64_t h = 0; h < H; ++h) {
                const int64_t before = prompt_length[row], at = place[row], own = at + 1;
                const float *c = cosine + (before + at) * (D / 2), *s = sine + (before + at) * (D / 2);
                const T* mine = qkv + (row * 3 * H + h) * D;
                T* keys = own_keys + (slot[row] * H + h) * shape.own_room * width;
                T* values = own_values + (slot[row] * H + h) * shape.own_room * width;
                enter(mine + H * D, entered.data(), wide.data(), c, s, D);
                for (int64_t i = 0; i < D; ++i) keys[key_at<T>(at, i, width)] = entered[i];
                for (int64_t i = 0; i < D; ++i) values[value_at<T>(at, i, width)] = mine[2 * H * D + i];
                enter(mine, entered.data(), wide.data(), c, s, D);
                const int64_t start = (prompt[row] * H + h) * shape.prompt_room * width;
                float* after = weights.data() + shape.prompt_room;
                float total = score(entered.data(), prompt_keys + start, before, width, scale, weights.data());
                total += score(entered.data(), keys, own, width, scale, after);
                for (int64_t t = 0; t < whole_lanes(before); ++t) chances[t] = T(weights[t]);
                for (int64_t t = 0; t < whole_lanes(own); ++t) chances[shape.prompt_room + t] = T(after[t]);
                std::fill(sum.begin(), sum.end(), 0.0f);
                mix(chances.data(), prompt_values + start, before, width, sum.data());
                mix(chances.data() + shape.prompt_room, values, own, width, sum.data());
                for (int64_t i = 0; i < D; ++i) out[(row * H + h) * D + i] = T(sum[i] / total);
            }
    }
}

// The `count` largest numbers of each row, largest first, of equals the one that stands first, with their places.
// Fewer where there is NaN, which no row has that is drawn from; what is not found is NaN at place 0.
extern "C" void likeliest(const float* x, int64_t rows, int64_t width, int64_t count, float* values, int64_t* places) {
    const int64_t groups = width / LANES;
#pragma omp parallel
    {
        std::vector<float> largest(groups);
        std::vector<int64_t> found;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; ++row) {
            const float* mine = x + row * width;
            // each group's largest: at least `count` numbers reach the count-th largest of these
            float least = -std::numeric_limits<float>::max();
            if (groups > count) {
                for (int64_t g = 0; g < groups; ++g) {
                    float most = mine[g * LANES];
                    for (int64_t i = 1; i < LANES; ++i) most = std::max(most, mine[g * LANES + i]);
                    largest[g] = most;
                }
                std::nth_element(largest.begin(), largest.begin() + count - 1, largest.end(), std::greater<float>());
                least = largest[count - 1];
            }
            found.clear();
            for (int64_t i = 0; i < width; ++i)
                if (mine[i] >= least) found.push_back(i);
            std::sort(found.begin(), found.end(), [mine](int64_t a, int64_t b) {
                return mine[a] > mine[b] || (mine[a] == mine[b] && a < b);
            });
            for (int64_t i = 0; i < count; ++i) {
                const bool there = i < (int64_t)found.size();
                places[row * count + i] = there ? found[i] : 0;
                values[row * count + i] = there ? mine[found[i]] : std::numeric_limits<float>::quiet_NaN();
            }
        }
    }
}

#define FOR_TYPE(NAME, T)                                                                                              \
    extern "C" void residual_norm_##NAME(float* x, const T* added, const float* first, float scale, float back,       \
                                         T* out, int64_t rows, int64_t width) {                                        \
        residual_norm<T>(x, added, first, scale, back, out, rows, width);                                             \
    }                                                                                                                  \
    extern "C" void squared_relu_##NAME(T* x, int64_t count) { squared_relu<T>(x, count); }                           \
    extern "C" void attend_##NAME(const T* qkv, const float* cosine, const float* sine, const T* prompt_keys,         \
                                  const T* prompt_values, T* own_keys, T* own_values, const int64_t* prompt,          \
                                  const int64_t* prompt_length, const int64_t* slot, const int64_t* place, T* out,    \
                                  int64_t rows, int64_t heads, int64_t head_width, int64_t prompt_room,               \
                                  int64_t own_room) {                                                                  \
        attend<T>(qkv, cosine, sine, prompt_keys, prompt_values, own_keys, own_values, prompt, prompt_length, slot,   \
                  place, out, Shape{rows, heads, head_width, prompt_room, own_room});                                 \
    }

FOR_TYPE(float32, float)
FOR_TYPE(bfloat16, bf16)
