// The updates of adaptive.py, over all n parameters of a model, in vectors.
#pragma once
#include "update.h"

template <bool AMSGRAD, bool DECOUPLED, bool DECAYS, bool MAXIMIZES> struct Adam {
  T eps;
  // row: lr, weight_decay, β₁, β₂, 1 - β₁ᵗ, √(1 - β₂ᵗ)
  INLINE void update(T* p, const T* g, T* const* slot, int n, const double* row, bool first) const {
    const T lr = row[0], decay = row[1], to_m = 1 - row[2], beta2 = row[3], to_v = 1 - row[3];
    const T correction1 = 1 / row[4], correction2 = 1 / row[5], shrink = row[0] * row[1];  // 1 - shrink would lose its digits
    for (int i = 0; i < n; i += WIDE) {
      Wide d = gradient<MAXIMIZES, DECAYS && !DECOUPLED>(p + i, g + i, decay);
      if (DECOUPLED && DECAYS) descend(p + i, load<WIDE>(p + i), shrink);
      Wide m = load<WIDE>(slot[0] + i), v = load<WIDE>(slot[1] + i);
      m += to_m * (d - m);
      v = beta2 * v + to_v * d * d;
      store<WIDE>(slot[0] + i, m);
      store<WIDE>(slot[1] + i, v);
      if (AMSGRAD) {
        Wide largest = load<WIDE>(slot[2] + i);
        v = v > largest || v != v ? v : largest;
        store<WIDE>(slot[2] + i, v);
      }
      descend(p + i, m * correction1 / (root(v) * correction2 + eps), lr);
    }
  }
};

template <bool CENTERED, bool MOMENTUM, bool DECAYS, bool MAXIMIZES> struct RMSprop {
  T alpha, rest, eps;  // rest = 1 - alpha, rounded once
  // row: lr, weight_decay, momentum
  INLINE void update(T* p, const T* g, T* const* slot, int n, const double* row, bool first) const {
    const T lr = row[0], decay = row[1], momentum = row[2];
    for (int i = 0; i < n; i += WIDE) {
      Wide d = gradient<MAXIMIZES, DECAYS>(p + i, g + i, decay);
      Wide v = alpha * load<WIDE>(slot[0] + i) + rest * d * d, square = v;
      store<WIDE>(slot[0] + i, v);
      if (CENTERED) {
        Wide a = load<WIDE>(slot[1] + i);
        a += rest * (d - a);
        store<WIDE>(slot[1] + i, a);
        square = v - a * a;
      }
      d = d / (root(square) + eps);
      if (MOMENTUM) {
        T* m = slot[CENTERED ? 2 : 1] + i;
        d += momentum * load<WIDE>(m);
        store<WIDE>(m, d);
      }
      descend(p + i, d, lr);
    }
  }
};

template <bool DECAYS, bool MAXIMIZES> struct Adagrad {
  T eps;
  // row: lr, weight_decay, 1 / (1 + t lr_decay)
  INLINE void update(T* p, const T* g, T* const* slot, int n, const double* row, bool first) const {
    const T lr = row[0], decay = row[1], decline = row[2];
    for (int i = 0; i < n; i += WIDE) {
      Wide d = gradient<MAXIMIZES, DECAYS>(p + i, g + i, decay);
      Wide v = load<WIDE>(slot[0] + i) + d * d;
      store<WIDE>(slot[0] + i, v);
      descend(p + i, decline * d / (root(v) + eps), lr);
    }
  }
};
