// Losses of numbers, as in regression.py: `fwd_bwd` returns the value and writes dy. y and dy (N, C) have padded rows, t none.
#pragma once
#include "../native/vector.h"

template <int N, int C> struct MSELoss {
  static constexpr int P = pad(C);
  T scale;  // of the value: 1 / (N C) for the mean, 1 for the sum
  INLINE T fwd_bwd(const T* y, const T* t, T* dy) const {
    T sum = 0;
    for (int n = 0; n < N; n++)
      for (int c = 0; c < C; c++) {
        T d = y[n * P + c] - t[n * C + c];
        sum += d * d;
        dy[n * P + c] = 2 * scale * d;
      }
    return sum * scale;
  }
};
