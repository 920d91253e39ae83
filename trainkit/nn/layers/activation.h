// Activations: y = f(x), dx = dy f'(x), as in activation.py. `saved` is x or y, as there.
#pragma once
#include <limits>

#include "core/cpp/vector.h"

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

struct GELU {
  static constexpr bool SAVES_X = true, ZERO_AT_ZERO = true;
  template <int w> INLINE Vec<w> f(Vec<w> x) const {
    Vec<w> e;
    return x * normal<w>(x, e);
  }
  template <int w> INLINE Vec<w> d(Vec<w> x, Vec<w> dy) const {
    Vec<w> e, phi = normal<w>(x, e);
    return dy * (phi + x * e * T(0.39894228040143267794));  // Φ(x) + x φ(x)
  }
};

struct TanhGELU {
  static constexpr bool SAVES_X = true, ZERO_AT_ZERO = true;
  static constexpr T k = 0.79788456080286535588, a = 0.044715;  // √(2/π)
  template <int w> INLINE Vec<w> f(Vec<w> x) const { return T(0.5) * x * (1 + tanh<w>(k * (x + a * x * x * x))); }
  template <int w> INLINE Vec<w> d(Vec<w> x, Vec<w> dy) const {
    Vec<w> t = tanh<w>(k * (x + a * x * x * x));
    return dy * T(0.5) * ((1 + t) + x * (1 - t * t) * k * (1 + 3 * a * x * x));
  }
};

struct Softplus {
  static constexpr T MAX = std::numeric_limits<T>::max();
  static constexpr bool SAVES_X = true, ZERO_AT_ZERO = false;
  T beta, threshold;
  template <int w> INLINE Vec<w> f(Vec<w> x) const {
    Vec<w> u = x * beta, e = exp<w>(u), z = log1p<w>(u > 0 ? 1 / e : e);
    return u > threshold ? x : (u > 0 ? (e > MAX ? e : u + z) : z) / beta;  // infinite where eᵘ is, as in Python
  }
  template <int w> INLINE Vec<w> d(Vec<w> x, Vec<w> dy) const {
    Vec<w> u = x * beta, e = exp<w>(u);
    return u > threshold ? dy : dy * (e / (e + 1));
  }
};

// y = eˣ / Σ eˣ over the columns, or with LOG its logarithm. `saved` is y.
template <int N, int C, bool LOG> struct SoftmaxOfRows {
  static constexpr int P = pad(C);
  INLINE void fwd(const T* x, T* y) const {
    for (int n = 0; n < N; n++, x += P, y += P) {
      T top = x[0], sum = 0;
      for (int c = 1; c < C; c++) top = x[c] > top || x[c] != x[c] ? x[c] : top;
      for (int c = 0; c < C; c++) y[c] = std::exp(x[c] - top), sum += y[c];
      const T log_sum = std::log(sum), factor = 1 / sum;
      for (int c = 0; c < C; c++) y[c] = LOG ? x[c] - top - log_sum : y[c] * factor;
      for (int c = C; c < P; c++) y[c] = 0;
    }
  }
  INLINE void bwd(const T* y, const T* dy, T* dx) const {
    for (int n = 0; n < N; n++, y += P, dy += P, dx += P) {
      T sum = 0;
      for (int c = 0; c < C; c++) sum += LOG ? dy[c] : dy[c] * y[c];
      for (int c = 0; c < C; c++) dx[c] = LOG ? dy[c] - std::exp(y[c]) * sum : y[c] * (dy[c] - sum);
      for (int c = C; c < P; c++) dx[c] = 0;
    }
  }
};
