// The updates of sgd.py, over all n parameters of a model, in vectors.
#pragma once
#include "update.h"

template <bool MOMENTUM, bool NESTEROV, bool DECAYS, bool MAXIMIZES> struct SGD {
  T dampening;
  // row: lr, momentum, weight_decay
  INLINE void update(T* p, const T* g, T* const* slot, int n, const double* row, bool first) const {
    const T lr = row[0], momentum = row[1], decay = row[2];
    for (int i = 0; i < n; i += WIDE) {
      Wide d = gradient<MAXIMIZES, DECAYS>(p + i, g + i, decay);
      if (MOMENTUM) {
        Wide m = first ? d : momentum * load<WIDE>(slot[0] + i) + (1 - dampening) * d;
        store<WIDE>(slot[0] + i, m);
        d = NESTEROV ? d + momentum * m : m;
      }
      descend(p + i, d, lr);
    }
  }
};

template <bool MOMENTUM, bool DECAYS, bool MAXIMIZES> struct SignSGD {
  // row: lr, momentum, weight_decay
  INLINE void update(T* p, const T* g, T* const* slot, int n, const double* row, bool first) const {
    const T lr = row[0], momentum = row[1], decay = row[2];
    for (int i = 0; i < n; i += WIDE) {
      Wide d = gradient<MAXIMIZES, DECAYS>(p + i, g + i, decay);
      if (MOMENTUM) {
        Wide m = load<WIDE>(slot[0] + i);
        d = m + (1 - momentum) * (d - m);
        store<WIDE>(slot[0] + i, d);
      }
      Wide one = Wide{} + 1;
      descend(p + i, d > 0 ? one : d < 0 ? -one : Wide{}, lr);  // 0 at 0, and at NaN as in torch
    }
  }
};
