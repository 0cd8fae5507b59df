/* Walks rows through trees and adds up what their leaves hold, in the order of the trees.

   Several rows (or, for one row, several trees) go side by side, one step each in turn: a step waits for memory or for
   a comparison, and the others fill the wait. No model is compiled: trees are data, and this file is all the code.

   A node's children stand together: `next` and `next + 1`. A row goes to the first where its value is not above the
   split. The lowest bit of `column` says that a missing value (NaN) goes to the second. A leaf is its own first child,
   with a NaN for a split, to which nothing compares; the NaN's low bits are the number of the leaf's row in the table.
   Only additions in a fixed order, in the precision of the library whose trees they are: any compiler gives the same
   bits, unless told to be fast and loose. */

#include <stdint.h>
#include <string.h>

#define LANES 8

struct trees {
    const void *nodes;
    const int32_t *roots;
    const int32_t *targets; /* per tree the first target that its leaves add to */
    const void *table;      /* rows of `each` values */
    int64_t each, all;      /* values of a leaf; targets in all */
    int64_t count, width;   /* trees; columns of a row */
};

#define WALK(NAME, REAL, BITS, MASK, SUM)                                                                              \
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
    static inline void add_##NAME(const struct trees *trees, const struct node_##NAME *leaf, SUM *sums)                \
    {                                                                                                                  \
        BITS bits;                                                                                                     \
        memcpy(&bits, &leaf->split, sizeof bits);                                                                      \
        const SUM *values = (const SUM *)trees->table + (int64_t)(bits & MASK) * trees->each;                          \
        for (int64_t index = 0; index < trees->each; index++)                                                          \
            sums[index] += values[index];                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    void many_##NAME(const struct trees *trees, const REAL *rows, int64_t n, SUM *sums)                                \
    {                                                                                                                  \
        const struct node_##NAME *nodes = trees->nodes;                                                                \
        int64_t width = trees->width;                                                                                  \
        for (int64_t tree = 0; tree < trees->count; tree++)                                                            \
            for (int64_t first = 0; first < n; first += LANES) {                                                       \
                const REAL *row = rows + first * width;                                                                \
                int32_t at[LANES];                                                                                     \
                int lanes = n - first < LANES ? (int)(n - first) : LANES;                                              \
                for (int lane = 0; lane < lanes; lane++)                                                               \
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
    void one_##NAME(const struct trees *trees, const REAL *row, SUM *sums)                                             \
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

/* One row of doubles, rounded to what the trees compare in; beyond that it is infinite. */
#define ROUNDED(NAME, SUM)                                                                                             \
    void rounded_##NAME(const struct trees *trees, const double *row, float *line, SUM *sums)                          \
    {                                                                                                                  \
        for (int64_t column = 0; column < trees->width; column++)                                                      \
            line[column] = (float)row[column];                                                                         \
        one_##NAME(trees, line, sums);                                                                                 \
    }

WALK(single, float, uint32_t, 0x003fffff, double)
WALK(double, double, uint64_t, 0x0007ffffffffffff, double)
WALK(narrow, float, uint32_t, 0x003fffff, float)
ROUNDED(single, double)
ROUNDED(narrow, float)

/* Symmetric trees: every level of a tree asks one question, and the answers are the bits of the leaf's number. */

#define BLOCK 64
#define WIDE 4
#define GROUPS 4

typedef float floats __attribute__((vector_size(4 * WIDE)));
typedef int32_t numbers __attribute__((vector_size(4 * WIDE)));

struct levels {
    const float *borders;   /* per tree and level: above it the bit is 1 */
    const int32_t *columns; /* per tree and level */
    const double *leaves;   /* per tree and leaf `each` values */
    int64_t count, depth, each;
};

void one_symmetric(const struct levels *trees, const float *row, double *sums)
{
    int64_t depth = trees->depth, each = trees->each;
    for (int64_t tree = 0; tree < trees->count; tree++) {
        const float *border = trees->borders + tree * depth;
        const int32_t *column = trees->columns + tree * depth;
        int64_t leaf = 0;
        for (int64_t level = 0; level < depth; level++)
            leaf |= (int64_t)(row[column[level]] > border[level]) << level;
        const double *values = trees->leaves + ((tree << depth) + leaf) * each;
        for (int64_t index = 0; index < each; index++)
            sums[index] += values[index];
    }
}

/* `table` holds the rows column by column, each column `stride` numbers: as many as rows, up to a whole block. */
void many_symmetric(const struct levels *trees, const float *table, int64_t stride, int64_t n, double *sums)
{
    int64_t depth = trees->depth, each = trees->each;
    for (int64_t first = 0; first < n; first += BLOCK)
        for (int64_t tree = 0; tree < trees->count; tree++) {
            const float *border = trees->borders + tree * depth;
            const int32_t *column = trees->columns + tree * depth;
            const double *leaves = trees->leaves + (tree << depth) * each;
            int64_t last = n < first + BLOCK ? n : first + BLOCK;
            for (int64_t start = first; start < last; start += WIDE * GROUPS) {
                numbers found[GROUPS] = {{0}};
                for (int64_t level = 0; level < depth; level++) {
                    const float *from = table + column[level] * stride + start;
                    float limit = border[level];
                    int32_t bit = (int32_t)1 << level;
                    floats limits = {limit, limit, limit, limit};
                    numbers bits = {bit, bit, bit, bit};
                    _Pragma("GCC unroll 4") for (int group = 0; group < GROUPS; group++)
                    {
                        floats values;
                        memcpy(&values, from + group * WIDE, sizeof values);
                        found[group] |= (numbers)(values > limits) & bits;
                    }
                }
                int32_t leaf[WIDE * GROUPS];
                memcpy(leaf, found, sizeof leaf);
                int64_t rows = last - start < WIDE * GROUPS ? last - start : WIDE * GROUPS;
                for (int64_t row = 0; row < rows; row++) {
                    const double *values = leaves + leaf[row] * each;
                    double *sum = sums + (start + row) * each;
                    for (int64_t index = 0; index < each; index++)
                        sum[index] += values[index];
                }
            }
        }
}
