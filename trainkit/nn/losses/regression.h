// Losses of the elementwise difference d = y - t, as in regression.py.
#pragma once
#include "elements.h"

struct SquaredError {
  INLINE T value(int, T y, T t) const { return (y - t) * (y - t); }
  INLINE T derivative(int, T y, T t) const { return 2 * (y - t); }
};

struct AbsoluteError {
  INLINE T value(int, T y, T t) const { return std::abs(y - t); }
  INLINE T derivative(int, T y, T t) const { return (y > t) - (y < t); }  // 0 at 0, and at NaN as in torch
};

struct HuberError {
  T delta;
  INLINE T value(int, T y, T t) const {
    T a = std::abs(y - t);
    return a <= delta ? T(0.5) * a * a : delta * (a - T(0.5) * delta);
  }
  INLINE T derivative(int, T y, T t) const {
    T d = y - t;
    return d < -delta ? -delta : d > delta ? delta : d;
  }
};
