// y = x m, dx = dy m, as in dropout.py. m is the scaled mask of the step, drawn in Python, with rows of C numbers.
#pragma once
#include "core/cpp/vector.h"

template <int N, int C> struct Dropout {
  static constexpr int P = pad(C);
  const T* mask;  // of the step

  INLINE void fwd(const T* x, T* y) const { multiply(x, y); }
  INLINE void bwd(const T*, const T* dy, T* dx) const { multiply(dy, dx); }

  INLINE void multiply(const T* x, T* y) const {
    for (int n = 0; n < N; n++)
      for (int c = 0; c < C; c++) y[n * P + c] = x[n * P + c] * mask[n * C + c];
  }
};
