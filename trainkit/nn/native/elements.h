// Losses of single elements: value = Σ w e(y, t) / norm, dy = w e'(y, t) / norm, with the weight w of the sample.
#pragma once
#include "vector.h"

// F has value(c, y, t) and derivative(c, y, t), of the element in column c. y and dy (N, C) have padded rows, t has none.
template <int N, int C, bool MEAN, class F> struct Elements {
  using Target = T;
  static constexpr int P = pad(C), TARGETS = C;
  F f;

  // What the sum is divided by.
  static double count(const T*, const T* weight) {
    if (!MEAN) return 1;
    if (!weight) return double(N) * C;
    double sum = 0;
    for (int n = 0; n < N; n++) sum += weight[n];
    return sum * C;
  }

  // Return Σ w e, and write dy times `scale`.
  INLINE T sum(const T* y, const T* t, const T* weight, T scale, T* dy) const {
    T total = 0;
    for (int n = 0; n < N; n++) {
      T w = weight ? weight[n] : 1;
      for (int c = 0; c < C; c++) {
        T a = y[n * P + c], b = t[n * C + c];
        if (!weight || w > 0) total += w * f.value(c, a, b);  // a weight of 0 counts as no row, also where e is not finite
        dy[n * P + c] = !weight || w > 0 ? w * scale * f.derivative(c, a, b) : 0;
      }
    }
    return total;
  }
};
