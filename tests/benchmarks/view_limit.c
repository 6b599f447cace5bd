/* The hand-vectorised limit of bench_view: the sampling of one int16 view in AVX-512 intrinsics, written for this
 * shape only (16 pixels a row, int16 voxels).
 *
 * The same result as extract_view to the last fixed-point step or two: 4 loads of neighbour pairs a pixel, trilinear
 * blend, window, clamp, int16. Patches that leave the volume take the scalar way. Two ways to load:
 *     GATHER   vpgatherdd, 16 pairs an instruction
 *     INSERT   16 scalar loads put together in registers (gathers are microcoded on some processors)
 * each with and without asking for the next patch's cache lines. The limit is the fastest of the four.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if !defined(__AVX512F__) || !defined(__AVX512BW__)
#error "this processor has no AVX-512"
#endif

enum { PX = 16 };

typedef struct {
    const int16_t *voxels;
    int64_t nx, ny, nz;
    const double *first;   /* [n, 3] pixel (0, 0) of each patch, voxels */
    int64_t n;
    double column[3], row[3]; /* voxels from pixel to pixel, and from row to row */
    float gain, offset, outside;
    int16_t *out;          /* [n, 16, 16] */
} View;

static inline __m512i gather(const int16_t *at, __m512i index) { return _mm512_i32gather_epi32(index, at, 2); }

static inline int32_t pair(const int16_t *at, int32_t index) {
    int32_t value;
    memcpy(&value, at + index, 4);
    return value;
}

static inline __m128i four(const int16_t *at, const int32_t *i) {
    __m128i v = _mm_cvtsi32_si128(pair(at, i[0]));
    v = _mm_insert_epi32(v, pair(at, i[1]), 1);
    v = _mm_insert_epi32(v, pair(at, i[2]), 2);
    return _mm_insert_epi32(v, pair(at, i[3]), 3);
}

static inline __m512i insert(const int16_t *at, const int32_t *i) {
    __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(four(at, i)), four(at, i + 4), 1);
    __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(four(at, i + 8)), four(at, i + 12), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

static inline __m512 mix(__m512 a, __m512 b, __m512 share) { return _mm512_fmadd_ps(share, _mm512_sub_ps(b, a), a); }

static inline __m512 along_x(__m512i pairs, __m512 share) {
    __m512 first = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(pairs, 16), 16));
    return mix(first, _mm512_cvtepi32_ps(_mm512_srai_epi32(pairs, 16)), share);
}

static void patch_anywhere(const View *v, int64_t p) {
    for (int r = 0; r < PX; r++)
        for (int c = 0; c < PX; c++) {
            double at[3], low[3];
            for (int a = 0; a < 3; a++) {
                at[a] = v->first[3 * p + a] + c * v->column[a] + r * v->row[a];
                low[a] = floor(at[a]);
            }
            double sum = 0;
            for (int corner = 0; corner < 8; corner++) {
                int64_t i = (int64_t)low[0] + (corner & 1), j = (int64_t)low[1] + (corner >> 1 & 1),
                        k = (int64_t)low[2] + (corner >> 2);
                int in = i >= 0 && i < v->nx && j >= 0 && j < v->ny && k >= 0 && k < v->nz;
                double weight = 1;
                for (int a = 0; a < 3; a++) {
                    double share = at[a] - low[a];
                    weight *= corner >> a & 1 ? share : 1 - share;
                }
                sum += weight * (in ? v->voxels[(k * v->ny + j) * v->nx + i] : v->outside);
            }
            double value = sum * v->gain + v->offset;
            v->out[(p * PX + r) * PX + c] = (int16_t)rint(value > 32767 ? 32767 : value < -32767 ? -32767 : value);
        }
}

static inline void ask_for(const View *v, int64_t p) {
    int64_t plane = v->nx * v->ny;
    for (int r = 0; r < PX; r++)
        for (int third = 0; third < 3; third++) {
            double c = 7.5 * third;
            int64_t i = (int64_t)(v->first[3 * p] + r * v->row[0] + c * v->column[0]);
            int64_t j = (int64_t)(v->first[3 * p + 1] + r * v->row[1] + c * v->column[1]);
            int64_t k = (int64_t)(v->first[3 * p + 2] + r * v->row[2] + c * v->column[2]);
            const int16_t *at = v->voxels + k * plane + j * v->nx + i;
            _mm_prefetch((const char *)at, _MM_HINT_T0);
            _mm_prefetch((const char *)(at + plane), _MM_HINT_T0);
        }
}

static inline __attribute__((always_inline)) void sample(const View *v, int by_gather, int prefetch) {
    const int32_t nx = (int32_t)v->nx, plane = (int32_t)(v->nx * v->ny);
    const int64_t shape[3] = {v->nx, v->ny, v->nz};
    const __m512 lane = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512 gain = _mm512_set1_ps(v->gain), offset = _mm512_set1_ps(v->offset);
    const __m512 most = _mm512_set1_ps(32767), least = _mm512_set1_ps(-32767);
    const __m512i wide = _mm512_set1_epi32(nx), deep = _mm512_set1_epi32(plane);
    __m512 across[3];
    double low[3], high[3];
    for (int a = 0; a < 3; a++) {
        double c = 15 * v->column[a], r = 15 * v->row[a];
        low[a] = (c < 0 ? c : 0) + (r < 0 ? r : 0), high[a] = (c > 0 ? c : 0) + (r > 0 ? r : 0);
        across[a] = _mm512_mul_ps(lane, _mm512_set1_ps((float)v->column[a]));
    }
    for (int64_t p = 0; p < v->n; p++) {
        double base[3];
        int inside = 1;
        for (int a = 0; a < 3; a++) {
            double lowest = v->first[3 * p + a] + low[a];
            inside &= lowest >= 1e-3 && v->first[3 * p + a] + high[a] <= shape[a] - 1 - 1e-3;
            base[a] = floor(lowest);
        }
        if (prefetch && p + 1 < v->n) ask_for(v, p + 1);
        if (!inside) {
            patch_anywhere(v, p);
            continue;
        }
        const int16_t *at = v->voxels + (int64_t)base[2] * plane + (int64_t)base[1] * nx + (int64_t)base[0];
        for (int r = 0; r < PX; r++) {
            __m512 x[3];
            __m512i cell[3];
            for (int a = 0; a < 3; a++) {
                x[a] = _mm512_add_ps(across[a], _mm512_set1_ps((float)(v->first[3 * p + a] + r * v->row[a] - base[a])));
                cell[a] = _mm512_cvttps_epi32(x[a]);
                x[a] = _mm512_sub_ps(x[a], _mm512_cvtepi32_ps(cell[a]));
            }
            __m512i index = _mm512_add_epi32(
                cell[0], _mm512_add_epi32(_mm512_mullo_epi32(cell[1], wide), _mm512_mullo_epi32(cell[2], deep)));
            __m512i q[4];
            if (by_gather) {
                q[0] = gather(at, index), q[1] = gather(at + nx, index);
                q[2] = gather(at + plane, index), q[3] = gather(at + plane + nx, index);
            } else {
                int32_t places[PX] __attribute__((aligned(64)));
                _mm512_store_si512(places, index);
                q[0] = insert(at, places), q[1] = insert(at + nx, places);
                q[2] = insert(at + plane, places), q[3] = insert(at + plane + nx, places);
            }
            __m512 value = mix(mix(along_x(q[0], x[0]), along_x(q[1], x[0]), x[1]),
                               mix(along_x(q[2], x[0]), along_x(q[3], x[0]), x[1]), x[2]);
            value = _mm512_max_ps(_mm512_min_ps(_mm512_fmadd_ps(value, gain, offset), most), least);
            _mm256_storeu_si256((__m256i *)(v->out + (p * PX + r) * PX),
                                _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(value)));
        }
    }
}

void view_gather(const View *v) { sample(v, 1, 0); }
void view_gather_prefetch(const View *v) { sample(v, 1, 1); }
void view_insert(const View *v) { sample(v, 0, 0); }
void view_insert_prefetch(const View *v) { sample(v, 0, 1); }
