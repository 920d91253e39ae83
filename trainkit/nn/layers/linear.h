// y = x wᵀ + b, as in linear.py. x (N, IN) and y (N, OUT) with padded rows.
#pragma once
#include "product.h"

template <int N, int IN, int OUT, bool BIAS> struct Linear {
  static constexpr int IP = pad(IN), OP = pad(OUT), wi = lanes(IN), wo = lanes(OUT);
  static constexpr int size = OUT * IP + (BIAS ? OP : 0);  // of the parameters with padded rows: w (OUT, IP), b (OP)

  const T* p;                      // the parameters
  T* g;                            // their gradient
  alignas(64) T wt[IN * OP] = {};  // wᵀ

  // Copy the parameters, or a slot, between their own layout and the one with padded rows.
  static const T* unpack(const T* from, T* to) {
    for (int o = 0; o < OUT; o++, from += IN) std::memcpy(to + o * IP, from, IN * sizeof(T));
    if (BIAS) std::memcpy(to + OUT * IP, from, OUT * sizeof(T));
    return from + (BIAS ? OUT : 0);
  }
  static T* pack(const T* from, T* to) {
    for (int o = 0; o < OUT; o++, to += IN) std::memcpy(to, from + o * IP, IN * sizeof(T));
    if (BIAS) std::memcpy(to, from + OUT * IP, OUT * sizeof(T));
    return to + (BIAS ? OUT : 0);
  }

  // After each change of the parameters.
  void changed() {
    for (int i = 0; i < IN; i++)
      for (int o = 0; o < OUT; o++) wt[i * OP + o] = p[o * IP + i];
  }

  INLINE void fwd(const T* x, T* y) const {
    const T* b = p + OUT * IP;
    product<N, IN, OP, IP, 1>(
        x, wt, [&](int, int o) { return BIAS ? load<wo>(b + o) : Vec<wo>{}; },
        [&](int n, int o, Vec<wo> v) { store<wo>(y + n * OP + o, v); });
  }

  INLINE void bwd(const T* x, const T* dy, T* dx) {
    bwd_params(x, dy);
    product<N, OUT, IP, OP, 1>(  // dx = dy w
        dy, p, [](int, int) { return Vec<wi>{}; }, [&](int n, int i, Vec<wi> v) { store<wi>(dx + n * IP + i, v); });
  }

  INLINE void bwd_params(const T* x, const T* dy) {
    product<OUT, N, IP, 1, OP>(  // dw += dyᵀ x
        dy, x, [&](int o, int i) { return load<wi>(g + o * IP + i); },
        [&](int o, int i, Vec<wi> v) { store<wi>(g + o * IP + i, v); });
    if (BIAS)  // db += Σₙ dy
      for (int o = 0; o < OP; o += wo) {
        Vec<wo> sum = load<wo>(g + OUT * IP + o);
        for (int n = 0; n < N; n++) sum += load<wo>(dy + n * OP + o);
        store<wo>(g + OUT * IP + o, sum);
      }
  }
};
