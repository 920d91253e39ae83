// Activations: y = f(x), dx = dy f'(x), as in activation.py. `saved` is x or y, as there.
#pragma once
#include "../native/vector.h"

// A function of single numbers over N rows of C. F has f(x), d(saved, dy) for a vector of any width, and SAVES_X.
// Where f(0) is not 0, the padding is cleared, so that no product meets it.
template <int N, int C, class F> struct Elementwise {
  static constexpr int P = pad(C), w = lanes(C);
  static constexpr bool SAVES_X = F::SAVES_X;
  F f;

  INLINE void fwd(const T* x, T* y) const {
    for (int i = 0; i < N * P; i += w) store<w>(y + i, f.template f<w>(load<w>(x + i)));
    if constexpr (!F::ZERO_AT_ZERO && P > C)
      for (int n = 0; n < N; n++)
        for (int c = C; c < P; c++) y[n * P + c] = 0;
  }
  INLINE void bwd(const T* saved, const T* dy, T* dx) const {
    for (int i = 0; i < N * P; i += w) store<w>(dx + i, f.template d<w>(load<w>(saved + i), load<w>(dy + i)));
  }
};

struct ReLU {
  static constexpr bool SAVES_X = false, ZERO_AT_ZERO = true;
  template <int w> INLINE Vec<w> f(Vec<w> x) const { return x < 0 ? Vec<w>{} : x; }  // NaN stays NaN
  template <int w> INLINE Vec<w> d(Vec<w> y, Vec<w> dy) const { return y <= 0 ? Vec<w>{} : dy; }
};

struct LeakyReLU {
  static constexpr bool SAVES_X = true, ZERO_AT_ZERO = true;
  T a;
  template <int w> INLINE Vec<w> f(Vec<w> x) const { return x > 0 ? x : x * a; }
  template <int w> INLINE Vec<w> d(Vec<w> x, Vec<w> dy) const { return x > 0 ? dy : dy * a; }
};

struct Tanh {
  static constexpr bool SAVES_X = false, ZERO_AT_ZERO = true;
  template <int w> INLINE Vec<w> f(Vec<w> x) const { return tanh<w>(x); }
  template <int w> INLINE Vec<w> d(Vec<w> y, Vec<w> dy) const { return dy * (1 - y * y); }
};

struct Sigmoid {
  static constexpr bool SAVES_X = false, ZERO_AT_ZERO = false;
  template <int w> INLINE Vec<w> f(Vec<w> x) const { return sigmoid<w>(x); }
  template <int w> INLINE Vec<w> d(Vec<w> y, Vec<w> dy) const { return dy * y * (1 - y); }
};

struct ELU {
  static constexpr bool SAVES_X = true, ZERO_AT_ZERO = true;
  T a;
  template <int w> INLINE Vec<w> f(Vec<w> x) const { return x > 0 ? x : a * expm1<w>(x); }
  template <int w> INLINE Vec<w> d(Vec<w> x, Vec<w> dy) const { return x > 0 ? dy : dy * a * exp<w>(x); }
};

struct SiLU {
  static constexpr bool SAVES_X = true, ZERO_AT_ZERO = true;
  template <int w> INLINE Vec<w> f(Vec<w> x) const { return x * sigmoid<w>(x); }
  template <int w> INLINE Vec<w> d(Vec<w> x, Vec<w> dy) const {
    Vec<w> s = sigmoid<w>(x);
    return dy * s * (1 + x * (1 - s));
  }
};
