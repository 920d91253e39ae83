// Losses for independent binary targets, as in binary.py. `weight` and `positive` hold one number per column.
#pragma once
#include "elements.h"

template <int C> struct BinaryError {
  T weight[C];
  INLINE T value(int c, T y, T t) const {
    T p = std::log(y), q = std::log1p(-y);
    return -weight[c] * (t * (p < -100 ? -100 : p) + (1 - t) * (q < -100 ? -100 : q));
  }
  INLINE T derivative(int c, T y, T t) const {
    T v = y * (1 - y);
    return weight[c] * (y - t) / (v < T(1e-12) ? T(1e-12) : v);
  }
};

template <int C> struct BinaryErrorOfLogits {
  T weight[C], positive[C];
  INLINE T value(int c, T y, T t) const {  // log(1 + e⁻ʸ) in a form that does not overflow
    T softplus = (y < 0 ? -y : 0) + std::log1p(std::exp(-std::abs(y)));
    return weight[c] * ((1 - t) * y + (1 + (positive[c] - 1) * t) * softplus);
  }
  INLINE T derivative(int c, T y, T t) const {
    T e = std::exp(-std::abs(y)), sigmoid = (y < 0 ? 1 : e) / (1 + e);  // of -y
    return weight[c] * ((1 - t) - (1 + (positive[c] - 1) * t) * sigmoid);
  }
};
