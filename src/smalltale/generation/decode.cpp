// What one decoding step does between its matrix products, each row by itself, so that no row depends on its batch.
//
// In: rows of one token each, and a cache of keys and values. Out: the same rows, mixed.
// The prompt's keys stand once for all the completions of that prompt; each row reads exactly the places it may see.
// Beware: compiled for the machine it runs on (native.py), in float32 and in bfloat16 with float32 sums.

#include <cmath>
#include <cstdint>
#include <cstring>

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

template <typename T>
static void enter(const T* from, float* to, const float* cosine, const float* sine, int64_t D) {
    for (int64_t i = 0; i < D; ++i) to[i] = (float)from[i];
    float factor = inverse_rms(to, D);
    for (int64_t i = 0; i < D / 2; ++i) {
        float a = to[i] * factor, b = to[i + D / 2] * factor;
        to[i] = a * cosine[i] - b * sine[i];
        to[i + D / 2] = b * cosine[i] + a * sine[i];
    }
}

template <typename T>
static void score(const float* q, const T* keys, int64_t length, int64_t D, float scale, float* out) {
    for (int64_t t = 0; t < length; ++t) {
        const T* key = keys + t * D;
        float sum = 0;
        for (int64_t i = 0; i < D; ++i) sum += q[i] * (float)key[i];
        out[t] = sum * scale;
    }
}

template <typename T>
static void mix(const float* weights, const T* values, int64_t length, int64_t D, float* out) {
    for (int64_t t = 0; t < length; ++t) {
        const T* value = values + t * D;
        float weight = weights[t];
        for (int64_t i = 0; i < D; ++i) out[i] += weight * (float)value[i];
    }
}

// qkv: (rows, 3, H, D). Caches of this layer: prompts (P, H, prompt_room, D), own (slots, H, own_room, D).
// Each row's key and value are written at its place, then it reads its prompt and its own places up to that one.
template <typename T>
static void attend(const T* qkv, const float* cosine, const float* sine, const T* prompt_keys, const T* prompt_values,
                   T* own_keys, T* own_values, const int64_t* prompt, const int64_t* prompt_length, const int64_t* slot,
                   const int64_t* place, T* out, Shape shape) {
    const int64_t H = shape.heads, D = shape.head_width;
    const float scale = 1.0f / std::sqrt((float)D);
#pragma omp parallel
    {
        float* weights = new float[shape.prompt_room + shape.own_room];
        float* q = new float[2 * D];
        float* sum = q + D;
#pragma omp for schedule(dynamic, 8)
        for (int64_t row = 0; row < shape.rows; ++row)
            for (int64_t h = 0; h < H; ++h) {
                const int64_t before = prompt_length[row], own = place[row] + 1, length = before + own;
                const float *c = cosine + (length - 1) * (D / 2), *s = sine + (length - 1) * (D / 2);
                const T* mine = qkv + (row * 3 * H + h) * D;
                T* keys = own_keys + (slot[row] * H + h) * shape.own_room * D;
                T* values = own_values + (slot[row] * H + h) * shape.own_room * D;
                enter(mine + H * D, q, c, s, D);
                for (int64_t i = 0; i < D; ++i) keys[place[row] * D + i] = T(q[i]);
                std::memcpy(values + place[row] * D, mine + 2 * H * D, D * sizeof(T));
                enter(mine, q, c, s, D);
                const int64_t start = (prompt[row] * H + h) * shape.prompt_room * D;
                score(q, prompt_keys + start, before, D, scale, weights);
                score(q, keys, own, D, scale, weights + before);
                float total = 0;  // QK-norm bounds a score by sqrt(D): exp cannot overflow
                for (int64_t t = 0; t < length; ++t) weights[t] = std::exp(weights[t]);
                for (int64_t t = 0; t < length; ++t) total += weights[t];
                for (int64_t i = 0; i < D; ++i) sum[i] = 0;
                mix(weights, prompt_values + start, before, D, sum);
                mix(weights + before, values, own, D, sum);
                for (int64_t i = 0; i < D; ++i) out[(row * H + h) * D + i] = T(sum[i] / total);
            }
        delete[] weights;
        delete[] q;
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
