// Vectors of T, as wide as the processor's registers, and functions of them. T is defined by the file that includes this one.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int VECTOR_BYTES = 16, REGISTERS = 32;
#else
constexpr int VECTOR_BYTES = 16, REGISTERS = 16;
#endif

// The lanes of a vector that holds rows of n numbers: those of a whole register, or fewer where n is smaller.
constexpr int lanes(int n) {
  int w = 16 / sizeof(T);
  while (w < n && w * int(sizeof(T)) < VECTOR_BYTES) w *= 2;
  return w;
}

// n numbers, filled up to whole vectors. Every row of a buffer has this length, and its padding is 0. Where the distance of long
// rows would be a multiple of 256 bytes, the numbers of a column would compete for a few places of the cache: another vector.
constexpr int pad(int n) {
  const int whole = (n + lanes(n) - 1) / lanes(n) * lanes(n), bytes = whole * sizeof(T);
  return bytes >= 512 && bytes % 256 == 0 ? whole + VECTOR_BYTES / int(sizeof(T)) : whole;
}

using Integer = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
template <int w> struct Vector { typedef T type __attribute__((vector_size(w * sizeof(T)))); };
template <int w> struct Integers { typedef Integer type __attribute__((vector_size(w * sizeof(T)))); };
template <int w> using Vec = typename Vector<w>::type;
template <int w> using Ints = typename Integers<w>::type;

// At any address: an unaligned instruction takes no longer where the address is aligned.
template <int w> INLINE Vec<w> load(const T* p) {
  Vec<w> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <int w> INLINE void store(T* p, Vec<w> v) { std::memcpy(p, &v, sizeof v); }

constexpr bool SINGLE = sizeof(T) == 4;

// The transpose of a square block.
template <int B> INLINE void transpose_block(Vec<B> (&v)[B]) {
  if constexpr (B == 2) {
    const Vec<B> first = __builtin_shuffle(v[0], v[1], Ints<B>{0, 2});
    v[1] = __builtin_shuffle(v[0], v[1], Ints<B>{1, 3});
    v[0] = first;
  } else {
    static_assert(B == 4);
    const Ints<B> low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, first = {0, 1, 4, 5}, second = {2, 3, 6, 7};
    const Vec<B> a = __builtin_shuffle(v[0], v[1], low), b = __builtin_shuffle(v[0], v[1], high);
    const Vec<B> c = __builtin_shuffle(v[2], v[3], low), d = __builtin_shuffle(v[2], v[3], high);
    v[0] = __builtin_shuffle(a, c, first), v[1] = __builtin_shuffle(a, c, second);
    v[2] = __builtin_shuffle(b, d, first), v[3] = __builtin_shuffle(b, d, second);
  }
}

// Aᵀ (COLUMNS, ROWS) of A (ROWS, COLUMNS), both with padded rows, in square blocks of 16 bytes a row: the share `share` of it.
template <int ROWS, int COLUMNS, int SHARES> INLINE void transpose(const T* A, T* At, int share) {
  constexpr int B = 16 / sizeof(T), AP = pad(COLUMNS), TP = pad(ROWS), blocks = (ROWS + B - 1) / B;
  for (int i = blocks * share / SHARES * B; i < blocks * (share + 1) / SHARES * B; i += B)
    for (int j = 0; j < COLUMNS; j += B) {
      Vec<B> v[B];
#pragma GCC unroll 4
      for (int k = 0; k < B; k++) v[k] = i + k < ROWS ? load<B>(A + (i + k) * AP + j) : Vec<B>{};
      transpose_block<B>(v);
#pragma GCC unroll 4
      for (int k = 0; k < B; k++)
        if (j + k < COLUMNS) store<B>(At + (j + k) * TP + i, v[k]);
    }
}

// 2ⁿ for integers n in the range of T's exponents.
template <int w> INLINE Vec<w> power_of_two(Vec<w> n) {
  Ints<w> bits = (__builtin_convertvector(n, Ints<w>) + (SINGLE ? 127 : 1023)) << (SINGLE ? 23 : 52);
  Vec<w> v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// eˣ - 1 = 2ⁿ (eʳ - 1) + (2ⁿ - 1) with x = n log 2 + r, |r| <= log(2)/2, and eʳ - 1 by its series. Exact near 0 too.
template <int w> INLINE Vec<w> expm1_by_parts(Vec<w> x, Vec<w>& two_n) {
  const T low = SINGLE ? -87 : -708, high = SINGLE ? 88 : 709;
  x = x < low ? Vec<w>{} + low : x;
  x = x > high ? Vec<w>{} + high : x;
  const T to_integer = SINGLE ? T(12582912) : T(6755399441055744.0);  // 1.5 2^23 and 1.5 2^52: adding it rounds
  Vec<w> n = (x * T(1.44269504088896340736) + to_integer) - to_integer;
  const T log2_high = SINGLE ? T(0.693359375) : T(6.93147180369123816490e-01);
  const T log2_low = SINGLE ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
  Vec<w> r = (x - n * log2_high) - n * log2_low;
  constexpr int terms = SINGLE ? 7 : 13;
  constexpr double factorial[] = {1, 1, 2, 6, 24, 120, 720, 5040, 40320, 362880, 3628800, 39916800, 479001600, 6227020800.0};
  Vec<w> sum = Vec<w>{} + T(1 / factorial[terms]);
#pragma GCC unroll 16
  for (int i = terms - 1; i >= 2; i--) sum = sum * r + T(1 / factorial[i]);
  two_n = power_of_two<w>(n);
  return two_n * (sum * r * r + r);  // 2ⁿ (eʳ - 1)
}

template <int w> INLINE Vec<w> exp(Vec<w> x) {
  Vec<w> two_n, q = expm1_by_parts<w>(x, two_n);
  return q + two_n;
}

template <int w> INLINE Vec<w> expm1(Vec<w> x) {
  Vec<w> two_n, q = expm1_by_parts<w>(x, two_n);
  return q + (two_n - 1);
}

// tanh |x| = e / (e + 2) with e = exp(2 |x|) - 1, which has all digits near 0.
template <int w> INLINE Vec<w> tanh(Vec<w> x) {
  Vec<w> a = x < 0 ? -x : x;
  a = a > 20 ? Vec<w>{} + 20 : a;
  Vec<w> e = expm1<w>(2 * a), y = e / (e + 2);
  return x < 0 ? -y : y;
}

template <int w> INLINE Vec<w> sigmoid(Vec<w> x) { return 1 / (1 + exp<w>(-x)); }

// A function of the C library, lane by lane: slow, for the few that no loop needs often.
template <int w, class F> INLINE Vec<w> each(F f, Vec<w> x) {
  Vec<w> y;
  for (int i = 0; i < w; i++) y[i] = f(x[i]);
  return y;
}
