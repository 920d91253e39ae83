// Losses of classes, as in classification.py: `fwd_bwd` returns the value and writes dy. y and dy (N, C) have padded rows.
#pragma once
#include "../native/vector.h"

// t (N,) class indices: value = Σₙ (log Σ eʸ - y[t]), dy = softmax y - onehot t, both times `scale`.
template <int N, int C> struct CrossEntropyLoss {
  static constexpr int P = pad(C), w = lanes(C);
  T scale;
  INLINE T fwd_bwd(const T* y, const int64_t* t, T* dy) const {
    T top[N], total = 0;
    for (int n = 0; n < N; n++) {
      T m = y[n * P];
      for (int c = 1; c < C; c++) m = y[n * P + c] > m ? y[n * P + c] : m;
      top[n] = m;
    }
    for (int n = 0; n < N; n++)
      for (int p = 0; p < P; p += w) store<w>(dy + n * P + p, exp<w>(load<w>(y + n * P + p) - top[n]));
    for (int n = 0; n < N; n++) {
      T sum = 0;
      for (int c = 0; c < C; c++) sum += dy[n * P + c];
      total += std::log(sum) + top[n] - y[n * P + t[n]];
      T k = scale / sum;
      for (int c = 0; c < C; c++) dy[n * P + c] *= k;
      for (int c = C; c < P; c++) dy[n * P + c] = 0;
      dy[n * P + t[n]] -= scale;
    }
    return total * scale;
  }
};
