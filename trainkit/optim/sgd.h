// The updates of sgd.py, over all n parameters of a model, in vectors. p, g and the slots have padded rows.
#pragma once
#include "../nn/native/vector.h"

template <bool MOMENTUM, bool NESTEROV, bool DECAYS, bool MAXIMIZES> struct SGD {
  static constexpr int slots = MOMENTUM ? 1 : 0;
  T dampening;
  // row: lr, momentum, weight_decay
  INLINE void update(T* p, const T* g, T* const* slot, int n, const double* row) const {
    constexpr int w = VECTOR_BYTES / sizeof(T);
    const T lr = row[0], momentum = row[1], decay = row[2];
    for (int i = 0; i < n; i += w) {
      Vec<w> q = load<w>(p + i), d = load<w>(g + i);
      if (MAXIMIZES) d = -d;
      if (DECAYS) d += decay * q;
      if (MOMENTUM) {
        Vec<w> m = momentum * load<w>(slot[0] + i) + (1 - dampening) * d;
        store<w>(slot[0] + i, m);
        d = NESTEROV ? d + momentum * m : m;
      }
      store<w>(p + i, q - lr * d);
    }
  }
};
