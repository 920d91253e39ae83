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

// While one exists, numbers below the normal range (1e-38 in single precision) are taken as 0 by its thread. Momenta of units that
// have died end there, and each instruction with one would take a hundred times as long.
struct FlushSubnormals {
#if defined(__SSE__)
  const unsigned before = __builtin_ia32_stmxcsr();
  FlushSubnormals() { __builtin_ia32_ldmxcsr(before | 0x8040); }
  ~FlushSubnormals() { __builtin_ia32_ldmxcsr(before); }
#endif
};

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

// The lanes of a and b, counted through, in another order. GCC before 12 lacks clang's name, and clang lacks GCC's.
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Ints<B>{__VA_ARGS__})
#endif

// The transpose of a square block.
template <int B> INLINE void transpose_block(Vec<B> (&v)[B]) {
  if constexpr (B == 2) {
    const Vec<B> first = SHUFFLE(v[0], v[1], 0, 2);
    v[1] = SHUFFLE(v[0], v[1], 1, 3);
    v[0] = first;
  } else {
    static_assert(B == 4);
    const Vec<B> a = SHUFFLE(v[0], v[1], 0, 4, 1, 5), b = SHUFFLE(v[0], v[1], 2, 6, 3, 7);
    const Vec<B> c = SHUFFLE(v[2], v[3], 0, 4, 1, 5), d = SHUFFLE(v[2], v[3], 2, 6, 3, 7);
    v[0] = SHUFFLE(a, c, 0, 1, 4, 5), v[1] = SHUFFLE(a, c, 2, 3, 6, 7);
    v[2] = SHUFFLE(b, d, 0, 1, 4, 5), v[3] = SHUFFLE(b, d, 2, 3, 6, 7);
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

// 2ⁿ⁻¹ for integers n such that n - 1 is one of T's exponents.
template <int w> INLINE Vec<w> half_power_of_two(Vec<w> n) {
  Ints<w> bits = (__builtin_convertvector(n, Ints<w>) + (SINGLE ? 126 : 1022)) << (SINGLE ? 23 : 52);
  Vec<w> v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// eʳ - 1 by its series, for x + low = n log 2 + r with |r| <= log(2)/2 + |low|. `low` holds digits of the argument below those
// of x. half = 2ⁿ⁻¹, since 2ⁿ would overflow below the largest eˣ; it is 0 where eˣ would be below the normal numbers.
template <int w> INLINE Vec<w> expm1_by_parts(Vec<w> x, Vec<w> low, Vec<w>& half) {
  const T lowest = SINGLE ? T(-87.6) : T(-708.7), highest = SINGLE ? T(88.73) : T(709.79);
  x = x < lowest ? Vec<w>{} + lowest : x;
  x = x > highest ? Vec<w>{} + highest : x;
  const T to_integer = SINGLE ? T(12582912) : T(6755399441055744.0);  // 1.5 2^23 and 1.5 2^52: adding it rounds
  Vec<w> n = (x * T(1.44269504088896340736) + to_integer) - to_integer;
  const T log2_high = SINGLE ? T(0.693359375) : T(6.93147180369123816490e-01);
  const T log2_low = SINGLE ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
  Vec<w> r = (x - n * log2_high) - n * log2_low + low;
  constexpr int terms = SINGLE ? 7 : 13;
  constexpr double factorial[] = {1, 1, 2, 6, 24, 120, 720, 5040, 40320, 362880, 3628800, 39916800, 479001600, 6227020800.0};
  Vec<w> sum = Vec<w>{} + T(1 / factorial[terms]);
#pragma GCC unroll 16
  for (int i = terms - 1; i >= 2; i--) sum = sum * r + T(1 / factorial[i]);
  half = half_power_of_two<w>(n);
  return sum * r * r + r;
}

// e^(x + low) = 2ⁿ (eʳ - 1) + 2ⁿ: 0 below the normal numbers, infinite above.
template <int w> INLINE Vec<w> exp(Vec<w> x, Vec<w> low = -Vec<w>{}) {
  Vec<w> half, q = expm1_by_parts<w>(x, low, half);
  return 2 * (half * q + half);
}

// eˣ - 1 = 2ⁿ (eʳ - 1) + (2ⁿ - 1), which has all digits near 0.
template <int w> INLINE Vec<w> expm1(Vec<w> x) {
  Vec<w> half, q = expm1_by_parts<w>(x, -Vec<w>{}, half);
  return 2 * (half * q + (half - T(0.5)));
}

// tanh |x| = e / (e + 2) with e = exp(2 |x|) - 1, which has all digits near 0.
template <int w> INLINE Vec<w> tanh(Vec<w> x) {
  Vec<w> a = x < 0 ? -x : x;
  a = a > 20 ? Vec<w>{} + 20 : a;
  Vec<w> e = expm1<w>(2 * a), y = e / (e + 2);
  return x < 0 ? -y : y;
}

template <int w> INLINE Vec<w> sigmoid(Vec<w> x) { return 1 / (1 + exp<w>(-x)); }

// log(1 + z) for z in [0, 1]: 2 artanh s with s = z / (z + 2) <= 1/3, by its series (Abramowitz, Stegun 1964, 4.1.29).
template <int w> INLINE Vec<w> log1p(Vec<w> z) {
  Vec<w> s = z / (z + 2), square = s * s, sum = {};
#pragma GCC unroll 16
  for (int i = SINGLE ? 6 : 15; i >= 1; i--) sum = sum * square + T(1.0 / (2 * i + 1));
  return 2 * (s + s * square * sum);
}

// The polynomial P of `normal`, from the highest power of t down: it interpolates Φ(-a) (a + 1) e^(a²/2) at the Chebyshev points
// of a <= LARGEST. Its relative error is 2e-9 in float32 and 6e-17 in float64.
constexpr T LARGEST = SINGLE ? 14 : 38;
constexpr double P_SINGLE[] = {-7.341340565e-5, -6.448406998e-5, 6.917958321e-4,  -3.011153126e-4, -5.003000057e-3, 1.793962901e-2,
                               -3.219762573e-2, 2.860002623e-2,  1.399962355e-2, -9.670346799e-2, 4.720532065e-1};
constexpr double P_DOUBLE[] = {
    2.434527847538534182e-10,  4.463055094435941868e-9,  1.128436554576784293e-8,  -1.923813493365270825e-8,
    -1.011949476002660128e-7,  3.268680494977053261e-9,  5.434410581463496785e-7,  4.017673452410303520e-7,
    -2.608255853187153021e-6,  -3.430414532804622699e-6, 1.362523844112969800e-5,  2.124938096826743709e-5,
    -8.785281388529542897e-5,  -9.443010393948004342e-5, 6.948970517556370979e-4,  -2.856231177023567614e-4,
    -5.002378586579854795e-3,  1.793609748107815471e-2,  -3.219783742828309060e-2, 2.860036405350549452e-2,
    1.399963472442889251e-2,   -9.670347732652538155e-2, 4.720532065098446704e-1};

// The normal distribution function Φ(x), and e = e^(-x²/2). With a = |x| and t = (a - 4) / (a + 4), Φ(-a) = e P(t) / (a + 1), one
// polynomial for all a. Source: Shepherd, Laframboise 1981, Chebyshev approximation of (1 + 2x) exp(x²) erfc x in 0 <= x < ∞. With
// z, the first half of a's digits, -a²/2 = -z²/2 - (a - z) (a + z) / 2 has the digits below the point of a large a² too.
template <int w> INLINE Vec<w> normal(Vec<w> x, Vec<w>& e) {
  Vec<w> a = x < 0 ? -x : x;
  a = a > LARGEST ? Vec<w>{} + LARGEST : a;
  Ints<w> bits;
  std::memcpy(&bits, &a, sizeof a);
  bits &= SINGLE ? ~Integer(0xfff) : ~Integer(0x7ffffff);
  Vec<w> z;
  std::memcpy(&z, &bits, sizeof z);
  e = exp<w>(T(-0.5) * z * z, T(-0.5) * (a - z) * (a + z));
  const Vec<w> t = (a - 4) / (a + 4);
  constexpr int degree = (SINGLE ? sizeof P_SINGLE : sizeof P_DOUBLE) / sizeof(double) - 1;
  Vec<w> sum = {};
#pragma GCC unroll 32
  for (int i = 0; i <= degree; i++) sum = sum * t + T(SINGLE ? P_SINGLE[i] : P_DOUBLE[i]);
  const Vec<w> tail = e * sum / (a + 1);
  return x < 0 ? tail : 1 - tail;
}
