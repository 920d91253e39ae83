// y = (x₁, ..., x_F, w₁[k₁], ..., w_C[k_C]), as EmbedColumns in embedding.py.
#pragma once
#include "core/cpp/vector.h"

template <int N, int FEATURES, int DIM, int... CATEGORIES> struct EmbedColumns {
  static constexpr int C = sizeof...(CATEGORIES), F = FEATURES - C, OUT = F + C * DIM;
  static constexpr int IP = pad(FEATURES), OP = pad(OUT), WP = pad(DIM), size = (CATEGORIES + ...) * WP, derived = 0;

  const T* p;  // w with padded rows
  T* g;        // dw

  void bind(const T* parameters, T* gradient, T*) { p = parameters, g = gradient; }
  template <int SHARES> void changed(int) {}

  // Call f(row of w, column of y) for each code of the sample x.
  template <class Do> static INLINE void each_code(const T* x, Do f) {
    constexpr int categories[] = {CATEGORIES...};
    for (int c = 0, first = 0; c < C; first += categories[c++]) {
      const T code = x[F + c] + T(0.5);
      const int k = code >= categories[c] ? categories[c] - 1 : code >= 0 ? int(code) : 0;  // within w, whatever x holds
      f(first + k, F + c * DIM);
    }
  }

  INLINE void fwd(const T* x, T* y) const {
    for (int n = 0; n < N; n++, x += IP, y += OP) {
      std::memcpy(y, x, F * sizeof(T));
      each_code(x, [&](int k, int at) { std::memcpy(y + at, p + k * WP, DIM * sizeof(T)); });
    }
  }

  INLINE void bwd(const T* x, const T* dy, T* dx) {
    bwd_params(x, dy);
    for (int n = 0; n < N; n++, dx += IP, dy += OP) {
      std::memcpy(dx, dy, F * sizeof(T));
      std::memset(dx + F, 0, (IP - F) * sizeof(T));  // for the codes
    }
  }

  INLINE void bwd_params(const T* x, const T* dy) {
    for (int n = 0; n < N; n++, x += IP, dy += OP)
      each_code(x, [&](int k, int at) {
        for (int i = 0; i < DIM; i++) g[k * WP + i] += dy[at + i];  // dw[k] += dy
      });
  }
};
