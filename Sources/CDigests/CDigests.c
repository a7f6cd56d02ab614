#include "CDigests.h"

#include <string.h>

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
};

static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

int sciferry_sha256_is_offered(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3)) return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29));
}

#define WITH_SHA __attribute__((target("sha,sse4.1,ssse3")))

// The rounds of one stream wait for each other; those of two fill each other's gaps.
WITH_SHA static inline __attribute__((always_inline)) void compress(
    uint32_t *states[], const uint8_t *data[], size_t blocks, const int lanes) {
    __m128i abef[2], cdgh[2];
    const __m128i order = _mm_set_epi64x(0x0c0d0e0f08090a0bULL, 0x0405060700010203ULL);
    for (int lane = 0; lane < lanes; lane++) {
        __m128i low = _mm_loadu_si128((const __m128i *)states[lane]);
        __m128i high = _mm_loadu_si128((const __m128i *)(states[lane] + 4));
        low = _mm_shuffle_epi32(low, 0xB1);
        high = _mm_shuffle_epi32(high, 0x1B);
        abef[lane] = _mm_alignr_epi8(low, high, 8);
        cdgh[lane] = _mm_blend_epi16(high, low, 0xF0);
    }
    for (size_t block = 0; block < blocks; block++) {
        __m128i before[2], behind[2], words[2][4];
        for (int lane = 0; lane < lanes; lane++) {
            before[lane] = abef[lane];
            behind[lane] = cdgh[lane];
            for (int part = 0; part < 4; part++) {
                const __m128i *place = (const __m128i *)(data[lane] + 64 * block + 16 * part);
                words[lane][part] = _mm_shuffle_epi8(_mm_loadu_si128(place), order);
            }
        }
#pragma clang loop unroll(full)
        for (int group = 0; group < 16; group++) {
            const __m128i constant = _mm_loadu_si128((const __m128i *)(constants + 4 * group));
            for (int lane = 0; lane < lanes; lane++) {
                __m128i *w = words[lane];
                const __m128i sum = _mm_add_epi32(w[group & 3], constant);
                cdgh[lane] = _mm_sha256rnds2_epu32(cdgh[lane], abef[lane], sum);
                abef[lane] = _mm_sha256rnds2_epu32(abef[lane], cdgh[lane], _mm_shuffle_epi32(sum, 0x0E));
                if (group < 12) {
                    __m128i next = _mm_sha256msg1_epu32(w[group & 3], w[(group + 1) & 3]);
                    next = _mm_add_epi32(next, _mm_alignr_epi8(w[(group + 3) & 3], w[(group + 2) & 3], 4));
                    w[group & 3] = _mm_sha256msg2_epu32(next, w[(group + 3) & 3]);
                }
            }
        }
        for (int lane = 0; lane < lanes; lane++) {
            abef[lane] = _mm_add_epi32(abef[lane], before[lane]);
            cdgh[lane] = _mm_add_epi32(cdgh[lane], behind[lane]);
        }
    }
    for (int lane = 0; lane < lanes; lane++) {
        const __m128i low = _mm_shuffle_epi32(abef[lane], 0x1B);
        const __m128i high = _mm_shuffle_epi32(cdgh[lane], 0xB1);
        _mm_storeu_si128((__m128i *)states[lane], _mm_blend_epi16(low, high, 0xF0));
        _mm_storeu_si128((__m128i *)(states[lane] + 4), _mm_alignr_epi8(high, low, 8));
    }
}

WITH_SHA static __attribute__((noinline)) void compress_one(uint32_t *states[], const uint8_t *data[], size_t blocks) {
    compress(states, data, blocks, 1);
}

WITH_SHA static __attribute__((noinline)) void compress_two(uint32_t *states[], const uint8_t *data[], size_t blocks) {
    compress(states, data, blocks, 2);
}

// One piece on its way: first its own blocks, then what is padded.
struct lane {
    uint32_t state[8];
    const uint8_t *data;
    size_t blocks;
    uint8_t tail[128];
    size_t tail_blocks;
    uint8_t *digest;
};

static void begin(struct lane *lane, const uint8_t *data, size_t length, uint8_t *digest) {
    memcpy(lane->state, initial, sizeof initial);
    const size_t rest = length % 64;
    memset(lane->tail, 0, sizeof lane->tail);
    if (rest > 0) memcpy(lane->tail, data + (length - rest), rest);
    lane->tail[rest] = 0x80;
    lane->tail_blocks = rest < 56 ? 1 : 2;
    const uint64_t bits = (uint64_t)length * 8;
    for (int byte = 0; byte < 8; byte++) lane->tail[64 * lane->tail_blocks - 1 - byte] = (uint8_t)(bits >> (8 * byte));
    lane->data = data;
    lane->blocks = length / 64;
    lane->digest = digest;
}

// Whether it has anything left to do; what is done is written down.
static int goes_on(struct lane *lane) {
    if (lane->blocks > 0) return 1;
    if (lane->tail_blocks > 0) {
        lane->data = lane->tail;
        lane->blocks = lane->tail_blocks;
        lane->tail_blocks = 0;
        return 1;
    }
    for (int word = 0; word < 8; word++) {
        for (int byte = 0; byte < 4; byte++) lane->digest[4 * word + byte] = (uint8_t)(lane->state[word] >> (24 - 8 * byte));
    }
    return 0;
}

void sciferry_sha256_several(const uint8_t *const *pieces, const size_t *lengths, size_t count, uint8_t *digests) {
    struct lane lanes[2];
    int busy[2] = {0, 0};
    size_t next = 0;
    for (;;) {
        for (int number = 0; number < 2; number++) {
            while (!(busy[number] && goes_on(&lanes[number]))) {
                busy[number] = next < count;
                if (!busy[number]) break;
                begin(&lanes[number], pieces[next], lengths[next], digests + 32 * next);
                next++;
            }
        }
        if (!busy[0] && !busy[1]) return;
        uint32_t *states[2];
        const uint8_t *data[2];
        size_t blocks = SIZE_MAX;
        int active = 0;
        for (int number = 0; number < 2; number++) {
            if (!busy[number]) continue;
            states[active] = lanes[number].state;
            data[active] = lanes[number].data;
            if (lanes[number].blocks < blocks) blocks = lanes[number].blocks;
            active++;
        }
        if (active == 2) {
            compress_two(states, data, blocks);
        } else {
            compress_one(states, data, blocks);
        }
        for (int number = 0; number < 2; number++) {
            if (!busy[number]) continue;
            lanes[number].data += 64 * blocks;
            lanes[number].blocks -= blocks;
        }
    }
}

#else

int sciferry_sha256_is_offered(void) { return 0; }

void sciferry_sha256_several(const uint8_t *const *pieces, const size_t *lengths, size_t count, uint8_t *digests) {
    (void)pieces, (void)lengths, (void)count, (void)digests;
}

#endif
