// The plain iteration x <- y - g(x) of a dense branch, on a CPU.
//
// Each thread takes some rows through all of their steps while they are in its cache, and a row that has stopped is no longer
// computed. When a row stops is told in numerics/iteration.py. Nothing here certifies: the bound of the error is made from the
// length of the last step there.

#include <ATen/Dispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "common.h"

namespace {

// When rows stop, see numerics/iteration.py.
struct Rule {
  bool contractive, last;
  int64_t limit, look, window, patience;
};

// What is known of a row that goes on.
struct Row {
  int64_t index, idle;
  double goal, least, before;
};

double distance(const float* a, const float* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(static_cast<double>(sum));
}

double distance(const double* a, const double* b, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

template <typename T>
void subtract_from(const T* y, T* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = y[i] - x[i];
}

bool stops(Row& row, double step, double size, int64_t number, const Rule& rule) {
  row.least = std::fmin(row.least, step);
  bool stop = step <= row.goal * size || number >= rule.limit;
  if (number % rule.window == 0) {
    row.idle = row.least < row.before ? 0 : row.idle + rule.window;
    row.before = row.least;
    stop = stop || !(step < std::numeric_limits<double>::infinity());
    stop = stop || (!rule.last && row.idle > 0 && step < 1e-2 * size) || (rule.contractive && row.idle >= rule.patience);
  }
  return stop;
}

// x+ (B, d), |x+ - x| (B) and the number of evaluations (B), from x = `start` on, with the `goal` (B) of each row.
std::tuple<Tensor, Tensor, Tensor> plain_steps(const Tensor& y, const Tensor& start, List weights, List offsets, const Tensor& goal,
                                               bool contractive, bool last, int64_t limit, int64_t look, int64_t window,
                                               int64_t patience, Name activation) {
  const Rule rule{contractive, last, limit, look, window, patience};
  const int64_t batch = y.size(0), features = y.size(1), depth = weights.size(), size = kRows * widest(weights);
  Tensor found = at::empty_like(y), length = at::empty({batch}, y.options());
  Tensor taken = at::empty({batch}, y.options().dtype(at::kLong));
  with_activation(activation, [&](auto act) {
    const auto scratch = [&] { return Scratch(5, size, y); };
    for_rows(1, batch, parts(1, batch), scratch, [&](int64_t, int64_t, const Rows& rows, const Scratch& memory) {
      AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "plain_steps", [&] {
        const std::vector<scalar_t> zero(features, 0);
        int64_t count = rows.count, here = 0;  // which of two tensors holds x
        memory(0, count, features).copy_(rows(start));
        Tensor target = memory(2, count, features);
        target.copy_(rows(y));
        scalar_t* const wanted = target.data_ptr<scalar_t>();
        std::vector<Row> left;
        for (int64_t row = 0; row < count; ++row) {
          const double infinite = std::numeric_limits<double>::infinity();
          const int64_t index = rows.begin + row;
          left.push_back({index, 0, static_cast<double>(goal.const_data_ptr<scalar_t>()[index]), infinite, infinite});
        }
        for (int64_t number = 1; count > 0; ++number) {
          Tensor x = memory(here, count, features), image = memory(1 - here, count, features), from = x;
          for (int64_t layer = 0; layer < depth; ++layer) {
            Tensor out = layer + 1 < depth ? memory(3 + layer % 2, count, weights[layer].size(0)) : image;
            at::addmm_out(out, offsets[layer], from, weights[layer].t());
            if (layer + 1 < depth) decltype(act)::apply(out);
            from = out;
          }
          scalar_t *const to = image.data_ptr<scalar_t>(), *const before = x.data_ptr<scalar_t>();
          subtract_from(wanted, to, count * features);
          here = 1 - here;
          if (number % rule.look && number < rule.limit) continue;
          int64_t going = 0;
          for (int64_t row = 0; row < count; ++row) {
            const scalar_t* const mine = to + row * features;
            const double step = distance(mine, before + row * features, features);
            if (stops(left[row], step, std::max(1.0, distance(mine, zero.data(), features)), number, rule)) {
              const int64_t index = left[row].index;
              std::copy_n(mine, features, found.data_ptr<scalar_t>() + index * features);
              length.data_ptr<scalar_t>()[index] = static_cast<scalar_t>(step);
              taken.data_ptr<int64_t>()[index] = number;
              continue;
            }
            if (going < row) {
              std::copy_n(mine, features, to + going * features);
              std::copy_n(wanted + row * features, features, wanted + going * features);
              left[going] = left[row];
            }
            ++going;
          }
          count = going;
        }
      });
    });
  });
  return {found, length, taken};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(iresnet, m) {
  m.def(
      "plain_steps(Tensor y, Tensor start, Tensor[] weights, Tensor[] offsets, Tensor goal, bool contractive, bool last, "
      "int limit, int look, int window, int patience, str activation) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(iresnet, CPU, m) {
  m.impl("plain_steps", &plain_steps);
}
