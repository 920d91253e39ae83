// Training steps of one net, loss and optimizer: `source.py` fills in this template.
using T = $T;
#include <new>
#include <thread>
#include <vector>
$headers

constexpr int N = $N, PARTS = $parts;  // most samples of a pass, and passes of a step
constexpr int FEATURES = $features, SLOTS = $slots, SCALARS = $scalars, MASKS = $masks;
constexpr bool CLIPS_VALUE = $clips_value, CLIPS_NORM = $clips_norm;

// The parameters in the order of the optimizer's buffers. One of shape (k,) is a row.
struct Shape { int rows, columns; };
constexpr Shape PARAMETERS[] = {$shapes};
constexpr int padded_size() {
  int size = 0;
  for (Shape s : PARAMETERS) size += s.rows * pad(s.columns);
  return (size + WIDE - 1) / WIDE * WIDE;
}

template <int n, int features> INLINE void add(const T* a, const T* b, T* sum) {
  constexpr int w = lanes(features);
  for (int i = 0; i < n * pad(features); i += w) store<w>(sum + i, load<w>(a + i) + load<w>(b + i));
}

// The arguments of a call that are the same for each replica.
struct Call {
  T* const* state;        // p, g and the slots; each parameter has the leading replica axis
  const T* x;             // (samples, FEATURES)
  const void* t;          // (samples, TARGETS)
  const T* weight;        // (samples,), or null
  const int64_t* order;   // (replicas, samples): those of the epoch
  const double* table;    // (count, SCALARS, replicas)
  const T* const* masks;  // MASKS tensors (count, PARTS, replicas, N, ...)
  T* losses;              // (count, replicas)
  long begin, size, count;  // the first sample, the samples of a step, and the steps
  long replicas, samples;
  long is_first;  // whether the first of these updates is the first of the run
};

// One model: its parameters with padded rows, the buffers of a pass, and the step.
struct Model {
  static constexpr int SIZE = padded_size(), BUFFERS = 2 + SLOTS;  // p, g and the slots
  alignas(64) T buffer[BUFFERS][SIZE] = {};
  T *p = buffer[0], *g = buffer[1];
  $fields

  using Target = decltype($loss)::Target;
  static constexpr int TARGETS = decltype($loss)::TARGETS;
  Target t[PARTS][N * TARGETS];
  T weight[PARTS][N];

  Model() {
    T *q = p, *d = g;
    $bind
  }

  // Copy between the optimizer's buffers and the model's. The padding may be that of a replica that diverged: it is cleared.
  template <bool in> void copy(T* const* flat, long replica, long replicas) {
    if (in) std::memset(buffer, 0, sizeof buffer);
    for (int b = 0; b < BUFFERS; b++) {
      T *from = flat[b], *own = buffer[b];
      for (Shape s : PARAMETERS) {
        T* row = from + replica * s.rows * s.columns;
        for (int r = 0; r < s.rows; r++, row += s.columns, own += pad(s.columns))
          in ? std::memcpy(own, row, s.columns * sizeof(T)) : std::memcpy(row, own, s.columns * sizeof(T));
        from += replicas * s.rows * s.columns;
      }
    }
  }

  void changed() {
    $changed
  }

  // Add the gradient of `rows` samples, those at `at`, and return the sum of the loss. Other rows are finite, and count nothing.
  T pass(const T* samples, const int64_t* at, int rows, int part, bool weighted, T scale) {
    for (int n = 0; n < rows; n++) std::memcpy($x + n * pad(FEATURES), samples + at[n] * FEATURES, FEATURES * sizeof(T));
    if (rows < N) std::memset($x + rows * pad(FEATURES), 0, (N - rows) * pad(FEATURES) * sizeof(T));
    $forward
    T sum = $loss.sum(rows, $y, t[part], weighted ? weight[part] : nullptr, scale, $dy);
    $backward
    return sum;
  }

  void clip() {
    if (CLIPS_VALUE) {
      const T limit = $value_limit;
      for (int i = 0; i < SIZE; i++) g[i] = g[i] < -limit ? -limit : g[i] > limit ? limit : g[i];
    }
    if (CLIPS_NORM) {
      double squares = 0;
      for (int i = 0; i < SIZE; i++) squares += double(g[i]) * g[i];
      const double scale = $norm_limit / (std::sqrt(squares) + 1e-6);
      if (!(scale >= 1))
        for (int i = 0; i < SIZE; i++) g[i] *= T(scale);
    }
  }

  // The steps of replica r.
  void run(const Call& c, long r) {
    copy<true>(c.state, r, c.replicas);
    changed();
    const int64_t* order = c.order + r * c.samples + c.begin;
    const long most = (c.size + PARTS - 1) / PARTS;  // samples of a part, except the last
    for (long k = 0; k < c.count; k++, order += c.size) {
      double row[SCALARS], count = 0, sum = 0;
      for (int i = 0; i < SCALARS; i++) row[i] = c.table[(k * SCALARS + i) * c.replicas + r];
      int rows[PARTS];
      for (int part = 0; part < PARTS; part++) {
        const long left = c.size - part * most;
        rows[part] = left < 0 ? 0 : left < most ? left : most;
        for (int n = 0; n < rows[part]; n++) {
          const int64_t at = order[part * most + n];
          std::memcpy(t[part] + n * TARGETS, static_cast<const Target*>(c.t) + at * TARGETS, TARGETS * sizeof(Target));
          if (c.weight) weight[part][n] = c.weight[at];
        }
        count += $loss.count(rows[part], t[part], c.weight ? weight[part] : nullptr);
      }
      if (!$is_mean) count = 1;
      const double scale = count == 0 ? 0 : 1 / count;
      std::memset(g, 0, SIZE * sizeof(T));
      for (int part = 0; part < PARTS; part++) {
        if (rows[part] == 0) continue;
        $set_masks
        sum += pass(c.x, order + part * most, rows[part], part, c.weight, T(scale));
      }
      c.losses[k * c.replicas + r] = count == 0 && PARTS == 1 ? T(NAN) : T(sum * scale);
      clip();
      T* slot[SLOTS + 1];
      for (int i = 0; i < SLOTS; i++) slot[i] = buffer[2 + i];
      $rule.update(p, g, slot, SIZE, row, c.is_first && k == 0);
      changed();
    }
    copy<false>(c.state, r, c.replicas);
  }
};

extern "C" long model_bytes() { return sizeof(Model); }

extern "C" void create(Model* models, long count) {
  for (long i = 0; i < count; i++) new (models + i) Model;
}

// The steps of all replicas, on `threads` threads with a model each: replica r is on thread r mod threads.
extern "C" void steps(Model* models, long threads, const Call* call) {
  auto work = [=](long thread) {
    for (long r = thread; r < call->replicas; r += threads) models[thread].run(*call, r);
  };
  std::vector<std::thread> others;
  for (long i = 1; i < threads; i++) others.emplace_back(work, i);
  work(0);
  for (auto& other : others) other.join();
}
