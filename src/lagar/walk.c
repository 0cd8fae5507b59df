/* Walks rows through trees and adds up what their leaves hold, in the order of the trees.

   Several rows (or, for one row, several trees) go side by side, one step each in turn: a step waits for memory or for
   a comparison, and the others fill the wait. No model is compiled: trees are data, and this file is all the code.

   A node's children stand together: `next` and `next + 1`. A row goes to the first where its value is not above the
   split. The lowest bit of `column` says that a missing value (NaN) goes to the second. A leaf is its own first child,
   with a NaN for a split, to which nothing compares; the NaN's low bits are the number of the leaf's row in the table.
   Only additions of float64 in a fixed order: any compiler gives the same bits, unless told to be fast and loose. */

#include <stdint.h>
#include <string.h>

#define LANES 8

struct trees {
    const void *nodes;
    const int32_t *roots;
    const int32_t *targets; /* per tree the first target that its leaves add to */
    const double *table;    /* rows of `each` values */
    int64_t each, all;      /* values of a leaf; targets in all */
    int64_t count, width;   /* trees; columns of a row */
};

#define WALK(NAME, REAL, BITS, MASK)                                                                                   \
    struct node_##NAME {                                                                                               \
        REAL split;                                                                                                    \
        uint32_t column;                                                                                               \
        int32_t next;                                                                                                  \
    };                                                                                                                 \
                                                                                                                       \
    static inline int32_t step_##NAME(const struct node_##NAME *node, const REAL *row)                                 \
    {                                                                                                                  \
        REAL value = row[node->column >> 1];                                                                           \
        return node->next + ((value > node->split) | ((value != value) & (node->column & 1)));                         \
    }                                                                                                                  \
                                                                                                                       \
    /* From where each lane is to its leaf; lane after lane the row begins `stride` further on. */                     \
    static inline __attribute__((always_inline)) void down_##NAME(const struct node_##NAME *nodes, int32_t *at,        \
                                                                  const REAL *row, int64_t stride, int lanes)          \
    {                                                                                                                  \
        int32_t moved;                                                                                                 \
        do {                                                                                                           \
            moved = 0;                                                                                                 \
            _Pragma("GCC unroll 8") for (int lane = 0; lane < lanes; lane++)                                           \
            {                                                                                                          \
                int32_t to = step_##NAME(nodes + at[lane], row + lane * stride);                                       \
                moved |= to ^ at[lane];                                                                                \
                at[lane] = to;                                                                                         \
            }                                                                                                          \
        } while (moved);                                                                                               \
    }                                                                                                                  \
                                                                                                                       \
    static inline void add_##NAME(const struct trees *trees, const struct node_##NAME *leaf, double *sums)             \
    {                                                                                                                  \
        BITS bits;                                                                                                     \
        memcpy(&bits, &leaf->split, sizeof bits);                                                                      \
        const double *values = trees->table + (int64_t)(bits & MASK) * trees->each;                                    \
        for (int64_t index = 0; index < trees->each; index++)                                                          \
            sums[index] += values[index];                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    void many_##NAME(const struct trees *trees, const REAL *rows, int64_t n, double *sums)                             \
    {                                                                                                                  \
        const struct node_##NAME *nodes = trees->nodes;                                                                \
        int64_t width = trees->width;                                                                                  \
        for (int64_t tree = 0; tree < trees->count; tree++)                                                            \
            for (int64_t first = 0; first < n; first += LANES) {                                                       \
                const REAL *row = rows + first * width;                                                                \
                int32_t at[LANES];                                                                                     \
                int lanes = n - first < LANES ? (int)(n - first) : LANES;                                              \
                for (int lane = 0; lane < LANES; lane++)                                                               \
                    at[lane] = trees->roots[tree];                                                                     \
                if (lanes == LANES)                                                                                    \
                    down_##NAME(nodes, at, row, width, LANES);                                                         \
                else                                                                                                   \
                    down_##NAME(nodes, at, row, width, lanes);                                                         \
                for (int lane = 0; lane < lanes; lane++)                                                               \
                    add_##NAME(trees, nodes + at[lane], sums + (first + lane) * trees->all + trees->targets[tree]);    \
            }                                                                                                          \
    }                                                                                                                  \
                                                                                                                       \
    void one_##NAME(const struct trees *trees, const REAL *row, double *sums)                                          \
    {                                                                                                                  \
        const struct node_##NAME *nodes = trees->nodes;                                                                \
        for (int64_t first = 0; first < trees->count; first += LANES) {                                                \
            int32_t at[LANES];                                                                                         \
            int lanes = trees->count - first < LANES ? (int)(trees->count - first) : LANES;                            \
            for (int lane = 0; lane < lanes; lane++)                                                                   \
                at[lane] = trees->roots[first + lane];                                                                 \
            if (lanes == LANES)                                                                                        \
                down_##NAME(nodes, at, row, 0, LANES);                                                                 \
            else                                                                                                       \
                down_##NAME(nodes, at, row, 0, lanes);                                                                 \
            for (int lane = 0; lane < lanes; lane++)                                                                   \
                add_##NAME(trees, nodes + at[lane], sums + trees->targets[first + lane]);                              \
        }                                                                                                              \
    }

WALK(single, float, uint32_t, 0x003fffff)
WALK(double, double, uint64_t, 0x0007ffffffffffff)
