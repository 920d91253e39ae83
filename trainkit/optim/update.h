// What all updates share: the gradient with its sign and decay, and the descent.
//
// An update has the arguments p, g, the slots, their length n, the scalars of `Optimizer.scalar_names` as a row, and whether it
// is the first of a run.
#pragma once
#include "core/cpp/vector.h"

constexpr int WIDE = VECTOR_BYTES / sizeof(T);
using Wide = Vec<WIDE>;

template <bool MAXIMIZES, bool DECAYS> INLINE Wide gradient(const T* p, const T* g, T decay) {
  Wide d = load<WIDE>(g);
  if (MAXIMIZES) d = -d;
  return DECAYS ? d + decay * load<WIDE>(p) : d;
}

// p -= lr d. A rate of 0 leaves p unchanged, also where d is not finite.
INLINE void descend(T* p, Wide d, T lr) {
  if (lr != 0) store<WIDE>(p, load<WIDE>(p) - lr * d);
}

INLINE Wide root(Wide x) {
  Wide y;
  for (int i = 0; i < WIDE; i++) y[i] = std::sqrt(x[i]);  // one instruction
  return y;
}
