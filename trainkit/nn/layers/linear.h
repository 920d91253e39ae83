// y = x wᵀ + b, as in linear.py. x (N, IN) and y (N, OUT) with padded rows.
#pragma once
#include "product.h"

template <int N, int IN, int OUT, bool BIAS> struct Linear {
  static constexpr int IP = pad(IN), OP = pad(OUT), wi = lanes(IN), wo = lanes(OUT);
  static constexpr int size = OUT * IP + (BIAS ? OP : 0);  // of the parameters with padded rows: w (OUT, IP), b (OP)
  static constexpr int derived = IN * OP;                  // the size of wᵀ

  const T* p;  // the parameters
  T* g;        // their gradient
  T* wt;       // wᵀ

  void bind(const T* parameters, T* gradient, T* transposed) { p = parameters, g = gradient, wt = transposed; }

  // After each change of the parameters: compute a share of wᵀ.
  template <int SHARES> void changed(int share) { transpose<OUT, IN, SHARES>(p, wt, share); }

  INLINE void fwd(const T* x, T* y) const {
    const T* b = p + OUT * IP;
    product<N, IN, OUT, IP, 1>(x, wt, y, [&](int, int o) { return BIAS ? load<wo>(b + o) : Vec<wo>{}; });
  }

  INLINE void bwd(const T* x, const T* dy, T* dx) {
    bwd_params(x, dy);
    product<N, OUT, IN, OP, 1>(dy, p, dx, [](int, int) { return Vec<wi>{}; });  // dx = dy w
  }

  INLINE void bwd_params(const T* x, const T* dy) {
    product<OUT, N, IN, 1, OP>(dy, x, g, [&](int o, int i) { return load<wi>(g + o * IP + i); });  // dw += dyᵀ x
    if (BIAS)  // db += Σₙ dy
      for (int o = 0; o < OP; o += wo) {
        Vec<wo> sum = load<wo>(g + OUT * IP + o);
        for (int n = 0; n < N; n++) sum += load<wo>(dy + n * OP + o);
        store<wo>(g + OUT * IP + o, sum);
      }
  }
};
