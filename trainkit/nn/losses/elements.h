// Losses of single elements: value = Σ w e(y, t) / norm, dy = w e'(y, t) / norm, with the weight w of the sample.
#pragma once
#include "core/cpp/vector.h"

// F has value(c, y, t) and derivative(c, y, t), of the element in column c. y and dy (N, C) have padded rows, t has none.
template <int N, int C, bool MEAN, class F> struct Elements {
  using Target = T;
  static constexpr int P = pad(C), TARGETS = C;
  F f;

  // What the sum is divided by.
  static double count(int rows, const T*, const T* weight) {
    if (!MEAN) return 1;
    if (!weight) return double(rows) * C;
    double sum = 0;
    for (int n = 0; n < rows; n++) sum += weight[n];
    return sum * C;
  }

  // Return Σ w e of the first `rows` samples, and write dy times `scale`, which is 0 in the others.
  INLINE T sum(int rows, const T* y, const T* t, const T* weight, T scale, T* dy) const {
    T total = 0;
    for (int n = 0; n < rows; n++) {
      T w = weight ? weight[n] : 1;
      for (int c = 0; c < C; c++) {
        T a = y[n * P + c], b = t[n * C + c];
        if (!weight || w > 0) total += w * f.value(c, a, b);  // a weight of 0 counts as no row, also where e is not finite
        dy[n * P + c] = !weight || w > 0 ? w * scale * f.derivative(c, a, b) : 0;
      }
    }
    std::memset(dy + rows * P, 0, (N - rows) * P * sizeof(T));
    return total;
  }
};
