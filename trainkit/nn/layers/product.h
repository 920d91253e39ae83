// The one product of all layers, on blocks of registers.
#pragma once
#include "core/cpp/vector.h"

// Rows m to m + MB of the columns p to p + NB w of C: start(m, p) + Σₖ A[m sm + k sk] B[k sb + p], for k below K.
template <int MB, int NB, int w, int sm, int sk, int sb, int sc, class Start>
INLINE void block(const T* __restrict A, const T* __restrict B, T* __restrict C, int K, int m, int p, Start start) {
  Vec<w> sum[MB][NB];
#pragma GCC unroll 16
  for (int i = 0; i < MB; i++)
#pragma GCC unroll 8
    for (int j = 0; j < NB; j++) sum[i][j] = start(m + i, p + j * w);
#pragma GCC unroll 2
  for (int k = 0; k < K; k++) {
    Vec<w> b[NB];
#pragma GCC unroll 8
    for (int j = 0; j < NB; j++) b[j] = load<w>(B + k * sb + p + j * w);
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
    for (int j = 0; j < NB; j++) store<w>(C + (m + i) * sc + p + j * w, sum[i][j]);
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

// As many k at a time as leave a block's columns of B in the innermost cache.
constexpr int LONGEST = 24 * 1024;  // bytes

// The columns p to p + NB w of all M rows of a product.
template <int M, int K, int NB, int w, int sm, int sk, int s, class Start>
INLINE void columns(const T* A, const T* B, T* C, int p, Start start) {
  constexpr int most = (REGISTERS - NB - 2) / NB, MB = block_rows(M, most < 10 ? most : 10), rest = M % MB;
  constexpr int most_k = LONGEST / (NB * w * int(sizeof(T))), parts = (K + most_k - 1) / most_k, KB = (K + parts - 1) / parts;
  auto add = [&](int k, int count, auto first) {
    const T *a = A + k * sk, *b = B + k * s;
    int m = 0;
    for (; m + MB <= M; m += MB) block<MB, NB, w, sm, sk, s, s>(a, b, C, count, m, p, first);
    if constexpr (rest > 0) block<rest, NB, w, sm, sk, s, s>(a, b, C, count, m, p, first);
  };
  add(0, KB, start);
  if constexpr (parts > 1)
    for (int k = KB; k < K; k += KB) add(k, K - k < KB ? K - k : KB, [&](int m, int p) { return load<w>(C + m * s + p); });
}

// C[m][p] = start(m, p) + Σₖ A[m sm + k sk] B[k][p] for m < M, k < K and all columns p; B and C with padded rows.
template <int M, int K, int COLUMNS, int sm, int sk, class Start>
INLINE void product(const T* A, const T* B, T* C, Start start) {
  constexpr int w = lanes(COLUMNS), vectors = (COLUMNS + w - 1) / w, s = pad(COLUMNS);
  constexpr int NB = vectors == 3 ? 3 : vectors == 1 ? 1 : 2, rest = vectors % NB;
  int p = 0;
  for (; p + NB * w <= vectors * w; p += NB * w) columns<M, K, NB, w, sm, sk, s>(A, B, C, p, start);
  if constexpr (rest > 0) columns<M, K, rest, w, sm, sk, s>(A, B, C, p, start);
}
