using T = $T;
#include <new>
#include <thread>
#include <vector>
$headers

// Training steps of one net, loss and optimizer. `source.py` fills in this template.

constexpr int N = $N, FEATURES = $features, TARGETS = $targets, SLOTS = $slots, SCALARS = $scalars;
using Target = $Target;  // of a sample: TARGETS of them

// The parameters in the order of the optimizer's buffers. One of shape (k,) is a row.
struct Shape { int rows, columns; };
constexpr Shape PARAMETERS[] = {$shapes};
constexpr int padded_size() {
  int size = 0;
  for (Shape s : PARAMETERS) size += s.rows * pad(s.columns);
  return (size + 15) / 16 * 16;
}

template <int n, int features> INLINE void add(const T* a, const T* b, T* sum) {
  constexpr int w = lanes(features);
  for (int i = 0; i < n * pad(features); i += w) store<w>(sum + i, load<w>(a + i) + load<w>(b + i));
}

// One model: its parameters with padded rows, the buffers of a step, and the step.
struct Model {
  static constexpr int SIZE = padded_size(), BUFFERS = 2 + SLOTS;  // p, g and the slots
  alignas(64) T buffer[BUFFERS][SIZE] = {};
  T *p = buffer[0], *g = buffer[1];
  $fields

  Model() {
    T *q = p, *d = g;
    $bind
  }

  // Copy between the optimizer's buffers, in which each parameter has the leading replica axis, and the model's.
  template <bool in> void copy(T* const* flat, long replica, long replicas) {
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

  void gather(const T* x, const Target* t, const int64_t* rows, Target* targets) {
    for (int n = 0; n < N; n++) {
      std::memcpy($x + n * pad(FEATURES), x + rows[n] * FEATURES, FEATURES * sizeof(T));
      std::memcpy(targets + n * TARGETS, t + rows[n] * TARGETS, TARGETS * sizeof(Target));
    }
  }

  T step(const Target* t, const double* row) {
    std::memset(g, 0, SIZE * sizeof(T));
    $forward
    $backward
    T* slot[SLOTS + 1];
    for (int i = 0; i < SLOTS; i++) slot[i] = buffer[2 + i];
    $rule.update(p, g, slot, SIZE, row);
    changed();
    return value;
  }
};

extern "C" long model_bytes() { return sizeof(Model); }

// The steps of one replica, from number `first` of the epoch on. table (count, SCALARS, replicas), losses (count, replicas).
static void run(Model* model, T* const* state, const T* x, const Target* t, const int64_t* order, const double* table,
                T* losses, long first, long count, long replica, long replicas, long samples) {
  new (model) Model;
  model->copy<true>(state, replica, replicas);
  model->changed();
  Target targets[N * TARGETS];
  const int64_t* rows = order + replica * samples + first * N;
  for (long k = 0; k < count; k++, rows += N) {
    double row[SCALARS];
    for (int i = 0; i < SCALARS; i++) row[i] = table[(k * SCALARS + i) * replicas + replica];
    model->gather(x, t, rows, targets);
    losses[k * replicas + replica] = model->step(targets, row);
  }
  model->copy<false>(state, replica, replicas);
}

// The steps of all replicas, on `threads` threads with a model each: replica r is on thread r mod threads.
extern "C" void steps(char* models, long threads, T* const* state, const T* x, const Target* t, const int64_t* order,
                      const double* table, T* losses, long first, long count, long replicas, long samples) {
  auto work = [=](long thread) {
    Model* model = reinterpret_cast<Model*>(models + thread * sizeof(Model));
    for (long r = thread; r < replicas; r += threads)
      run(model, state, x, t, order, table, losses, first, count, r, replicas, samples);
  };
  std::vector<std::thread> others;
  for (long i = 1; i < threads; i++) others.emplace_back(work, i);
  work(0);
  for (auto& other : others) other.join();
}
