// The one product of all layers, on blocks of registers.
#pragma once
#include "core/cpp/vector.h"

// Rows m to m + MB of the columns p to p + NB w: end(m, p, start(p) + Σₖ A[m sm + k sk] B[k ldb + p]).
template <int MB, int NB, int K, int w, int sm, int sk, int ldb, class Start, class End>
INLINE void block(const T* __restrict A, const T* __restrict B, int m, int p, Start start, End end) {
  Vec<w> sum[MB][NB];
#pragma GCC unroll 16
  for (int i = 0; i < MB; i++)
#pragma GCC unroll 8
    for (int j = 0; j < NB; j++) sum[i][j] = start(m + i, p + j * w);
#pragma GCC unroll 2
  for (int k = 0; k < K; k++) {
    Vec<w> b[NB];
#pragma GCC unroll 8
    for (int j = 0; j < NB; j++) b[j] = load<w>(B + k * ldb + p + j * w);
#pragma GCC unroll 16
    for (int i = 0; i < MB; i++) {
      T a = A[(m + i) * sm + k * sk];
#pragma GCC unroll 8
      for (int j = 0; j < NB; j++) sum[i][j] += a * b[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MB; i++)
#pragma GCC unroll 8
    for (int j = 0; j < NB; j++) end(m + i, p + j * w, sum[i][j]);
}

// The rows of a block: as many as the registers hold, without a thin rest.
constexpr int block_rows(int M, int most) {
  int best = 1;
  double least = 1e9;
  for (int b = 1; b <= most && b <= M; b++) {
    int full = M / b, rest = M % b;
    double cost = full * (b + 1.0) + (rest ? rest + 1.0 + (rest < 4 ? 1 : 0) : 0);
    if (cost <= least) least = cost, best = b;
  }
  return best;
}

// C (M, P), P padded: end(m, p, start(m, p) + Σₖ A[m sm + k sk] B[k P + p]) for every row m and every vector p of columns.
template <int M, int K, int P, int sm, int sk, class Start, class End>
INLINE void product(const T* A, const T* B, Start start, End end) {
  constexpr int w = lanes(P), vectors = P / w;
  constexpr int NB = vectors % 4 == 0 && REGISTERS == 32 ? 4 : vectors % 2 == 0 ? 2 : vectors % 3 == 0 ? 3 : 1;
  constexpr int most = (REGISTERS - NB - 2) / NB, MB = block_rows(M, most < 10 ? most : 10), rest = M % MB;
  for (int p = 0; p < P; p += NB * w) {
    int m = 0;
    for (; m + MB <= M; m += MB) block<MB, NB, K, w, sm, sk, P>(A, B, m, p, start, end);
    if constexpr (rest > 0) block<rest, NB, K, w, sm, sk, P>(A, B, m, p, start, end);
  }
}
