// Training steps of one net, loss and optimizer: `source.py` fills in this template.
using T = $T;
#include <atomic>
#include <new>
#include <system_error>
#include <thread>
#include <vector>
$headers

// The most samples of a pass, the passes of a step, the models that divide a pass, and the most samples of one of them.
constexpr int ROWS = $rows, PARTS = $parts, SHARES = $shares, N = (ROWS + SHARES - 1) / SHARES;
constexpr int FEATURES = $features, SLOTS = $slots, SCALARS = $scalars, MASKS = $masks;
constexpr bool CLIPS_VALUE = $clips_value, CLIPS_NORM = $clips_norm;

// The parameters in the order of the optimizer's buffers. One of shape (k,) is a row.
struct Shape { int rows, columns; };
constexpr Shape PARAMETERS[] = {$shapes};
constexpr int wide(int n) { return (n + WIDE - 1) / WIDE * WIDE; }
constexpr int padded_size() {
  int size = 0;
  for (Shape s : PARAMETERS) size += s.rows * pad(s.columns);
  return wide(size);
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

// Threads that wait for each other. A thread without a core of its own leaves it to the others after a while.
struct Barrier {
  long threads;
  std::atomic<long> arrived{0}, round{0};

  explicit Barrier(long threads) : threads(threads) {}
  void wait() {
    if (threads == 1) return;
    const long now = round;
    if (++arrived == threads) {
      arrived = 0;
      round = now + 1;
    } else {
      for (int spins = 0; round == now; spins++)
        if (spins > 10000) std::this_thread::yield();
    }
  }
};

// One model: its parameters with padded rows, and the buffers of a pass. A large model is a team of SHARES: each computes the
// gradient of its share of the samples, and then updates its share of the parameters, which all read from the first.
struct Model {
  static constexpr int SIZE = padded_size(), BUFFERS = 2 + SLOTS;  // p, g and the slots
  alignas(64) T buffer[BUFFERS][SIZE] = {};
  $fields
  alignas(64) T derived[$derived + WIDE] = {};  // what the modules compute from the parameters
  alignas(64) T own[SHARES > 1 ? SIZE : 1] = {};  // the gradient of a share

  using Target = decltype($loss)::Target;
  static constexpr int TARGETS = decltype($loss)::TARGETS;
  Target t[PARTS][ROWS * TARGETS];
  T weight[PARTS][ROWS];
  double sum, squares;  // of the losses of a share of the samples, and of the gradient of a share of the parameters

  T* gradient() { return SHARES > 1 ? own : buffer[1]; }

  // Let the modules read the parameters of `first`, and add to this model's gradient.
  void bind(Model& first) {
    T *q = first.buffer[0], *d = gradient(), *e = first.derived;
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

  void changed(int share) { $changed }

  // Add the gradient of `rows` samples, those at `at`, and return the sum of the loss. Other rows are finite, and count nothing.
  T pass(const T* samples, const int64_t* at, int rows, const Target* t, const T* weight, T scale) {
    for (int n = 0; n < rows; n++) std::memcpy($x + n * pad(FEATURES), samples + at[n] * FEATURES, FEATURES * sizeof(T));
    if (rows < N) std::memset($x + rows * pad(FEATURES), 0, (N - rows) * pad(FEATURES) * sizeof(T));
    $forward
    T sum = $loss.sum(rows, $y, t, weight, scale, $dy);
    $backward
    return sum;
  }

  // Compute the gradient of the share `share` of step k of replica r, whose samples are at `order`. Return the loss's divisor.
  double differentiate(const Call& c, long r, long k, const int64_t* order, int share) {
    const long most = (c.size + PARTS - 1) / PARTS;  // samples of a part, except the last
    double count = 0;
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
    const T scale = count == 0 ? 0 : 1 / count;
    const int begin = share * N;
    std::memset(gradient(), 0, SIZE * sizeof(T));
    sum = 0;
    for (int part = 0; part < PARTS; part++) {
      const int mine = rows[part] - begin < N ? rows[part] - begin : N;
      if (mine <= 0) continue;
      $set_masks
      const T* w = c.weight ? weight[part] + begin : nullptr;
      sum += pass(c.x, order + part * most + begin, mine, t[part] + begin * TARGETS, w, scale);
    }
    return count;
  }

  // Where the share `share` of the parameters begins.
  static constexpr int at(int share) { return share < SHARES ? wide(SIZE / SHARES * share) : SIZE; }
};

// Add up the gradients of a team, clip the values, and return the sum of the squares: of the share `share` of the parameters.
double gather(Model* team, int share) {
  T* g = team->buffer[1];
  const int begin = Model::at(share), end = Model::at(share + 1);
  if (SHARES > 1)
    for (int j = begin; j < end; j += WIDE) {
      Wide d = load<WIDE>(team[0].own + j);
      for (int i = 1; i < SHARES; i++) d += load<WIDE>(team[i].own + j);
      store<WIDE>(g + j, d);
    }
  if (CLIPS_VALUE) {
    const T limit = $value_limit;
    for (int j = begin; j < end; j++) g[j] = g[j] < -limit ? -limit : g[j] > limit ? limit : g[j];
  }
  double squares = 0;
  if (CLIPS_NORM)
    for (int j = begin; j < end; j++) squares += double(g[j]) * g[j];
  return squares;
}

// Update the share `share` of the parameters of a team after step k.
void update(Model* team, const Call& c, long r, long k, int share) {
  T(&b)[Model::BUFFERS][Model::SIZE] = team->buffer;
  const int begin = Model::at(share), end = Model::at(share + 1);
  if (CLIPS_NORM) {
    double squares = 0;
    for (int i = 0; i < SHARES; i++) squares += team[i].squares;
    const double scale = $norm_limit / (std::sqrt(squares) + 1e-6);
    if (!(scale >= 1))
      for (int j = begin; j < end; j++) b[1][j] *= T(scale);
  }
  double row[SCALARS];
  for (int i = 0; i < SCALARS; i++) row[i] = c.table[(k * SCALARS + i) * c.replicas + r];
  T* slot[SLOTS + 1];
  for (int i = 0; i < SLOTS; i++) slot[i] = b[2 + i] + begin;
  team->$rule.update(b[0] + begin, b[1] + begin, slot, end - begin, row, c.is_first && k == 0);
}

// The steps of replica r by a team. This thread has the shares of the numbers thread, thread + threads, and so on.
void run(Model* team, const Call& c, long r, long thread, long threads, Barrier& all) {
  if (thread == 0) team->copy<true>(c.state, r, c.replicas);
  for (long i = thread; i < SHARES; i += threads) team[i].bind(*team);
  all.wait();
  for (long i = thread; i < SHARES; i += threads) team[i].changed(i);
  const int64_t* order = c.order + r * c.samples + c.begin;
  for (long k = 0; k < c.count; k++, order += c.size) {
    double count = 0;
    all.wait();
    for (long i = thread; i < SHARES; i += threads) count = team[i].differentiate(c, r, k, order, i);
    all.wait();
    for (long i = thread; i < SHARES; i += threads) team[i].squares = gather(team, i);
    if (CLIPS_NORM) all.wait();
    for (long i = thread; i < SHARES; i += threads) update(team, c, r, k, i);
    all.wait();
    for (long i = thread; i < SHARES; i += threads) team[i].changed(i);
    if (thread == 0) {
      double sum = 0;
      for (int i = 0; i < SHARES; i++) sum += team[i].sum;
      c.losses[k * c.replicas + r] = count == 0 ? (PARTS == 1 ? T(NAN) : 0) : T(sum / count);
    }
  }
  if (thread == 0) team->copy<false>(c.state, r, c.replicas);
}

extern "C" long team_bytes() { return SHARES * sizeof(Model); }

extern "C" long shares() { return SHARES; }

extern "C" void create(Model* models, long teams) {
  for (long i = 0; i < teams * SHARES; i++) new (models + i) Model;
}

// The steps of all replicas. Several have a team for each thread, and replica r is on thread r mod threads; one has all threads.
extern "C" void steps(Model* models, long threads, const Call* call) {
  const bool is_one = call->replicas == 1;
  Barrier all(is_one ? threads : 1);
  auto work = [&](long thread) {
    FlushSubnormals flush;
    if (is_one) return run(models, *call, 0, thread, threads, all);
    for (long r = thread; r < call->replicas; r += threads) run(models + thread * SHARES, *call, r, 0, 1, all);
  };
  std::vector<std::thread> others;
  try {
    while (others.size() + 1 < std::size_t(threads)) others.emplace_back(work, others.size() + 1);
  } catch (const std::system_error&) {  // the system refuses a thread: this one does its work
    if (is_one) threads = all.threads = 1;
  }
  for (long i = 0; i < threads; i = i ? i + 1 : others.size() + 1) work(i);
  for (auto& other : others) other.join();
}
