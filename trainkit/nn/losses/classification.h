// Losses of classes, as in classification.py: value = -Σ q log p / norm.
#pragma once
#include "core/cpp/vector.h"

// q of a row is class_weight ((1 - smoothing) t + smoothing / C) times the weight of the sample, t being the probabilities of the
// row, or with INDEX those of the class of that index; 0 at an ignored index.
// LOGITS: y holds logits, p = softmax y, dy = (p Σq - q) / norm; else y holds log p, dy = -q / norm.
template <int N, int C, bool MEAN, bool LOGITS, bool INDEX> struct ClassLoss {
  using Target = std::conditional_t<INDEX, int64_t, T>;
  static constexpr int P = pad(C), TARGETS = INDEX ? 1 : C, w = lanes(C);
  T class_weight[C], smoothing;
  bool ignores;
  int64_t ignored;

  // Whether the row n counts, and the probability of class c there.
  bool counts(const Target* t, int n) const { return !INDEX || !ignores || t[n] != ignored; }
  static T target(const Target* t, int n, int c) { return INDEX ? T(c == t[n]) : T(t[n * TARGETS + (INDEX ? 0 : c)]); }

  double count(int rows, const Target* t, const T* weight) const {
    if (!MEAN) return 1;
    double sum = 0;
    for (int n = 0; n < rows; n++)
      if (counts(t, n)) sum += (INDEX ? double(class_weight[int(t[n])]) : 1) * (weight ? weight[n] : 1);
    return sum;
  }

  // Return -Σ q log p of the first `rows` samples, and write dy times `scale`, which is 0 in the others.
  INLINE T sum(int rows, const T* y, const Target* t, const T* weight, T scale, T* dy) const {
    alignas(64) T shifted[N * P];  // y - max y, then log p
    T top[N], norm[N], total = 0;
    if (LOGITS) {
      for (int n = 0; n < N; n++) {
        T m = y[n * P];
        for (int c = 1; c < C; c++) m = y[n * P + c] > m || y[n * P + c] != y[n * P + c] ? y[n * P + c] : m;
        top[n] = m;
      }
      for (int n = 0; n < N; n++)
        for (int p = 0; p < P; p += w) {
          Vec<w> d = load<w>(y + n * P + p) - top[n];
          store<w>(shifted + n * P + p, d);
          store<w>(dy + n * P + p, exp<w>(d));
        }
      for (int n = 0; n < N; n++) {
        norm[n] = 0;
        for (int c = 0; c < C; c++) norm[n] += dy[n * P + c];
      }
    }
    for (int n = 0; n < rows; n++) {
      T* d = dy + n * P;
      for (int c = C; c < P; c++) d[c] = 0;
      T own = weight ? weight[n] : 1;
      if (!counts(t, n) || (weight && own == 0)) {
        for (int c = 0; c < C; c++) d[c] = 0;
        continue;
      }
      const T log_norm = LOGITS ? std::log(norm[n]) : 0, *z = LOGITS ? shifted + n * P : y + n * P;
      if (INDEX && smoothing == 0) {
        const int index = t[n];
        T q = own * class_weight[index], k = LOGITS ? q * scale / norm[n] : 0, others = 0;
        total -= q * (z[index] - log_norm);
        for (int c = 0; c < C; c++) d[c] = LOGITS ? d[c] * k : 0, others += c == index ? 0 : d[c];
        d[index] = LOGITS ? -others : -q * scale;  // p - 1 as -Σ p of the others, since it would lose its digits near p = 1
      } else {
        T sum_q = 0, q[C];
        for (int c = 0; c < C; c++) {
          q[c] = own * class_weight[c] * ((1 - smoothing) * target(t, n, c) + smoothing / C);
          sum_q += q[c];
          if (q[c] != 0 || !(weight || ignores)) total -= q[c] * (z[c] - log_norm);
        }
        for (int c = 0; c < C; c++) d[c] = scale * ((LOGITS ? d[c] / norm[n] * sum_q : 0) - q[c]);
      }
    }
    std::memset(dy + rows * P, 0, (N - rows) * P * sizeof(T));
    return total;
  }
};
