// Weights held below a norm by Gram iteration, and the gradient, on a CPU: many matrices at once.
//
// Each thread takes its matrices through the whole iteration while they are in its cache. What is computed, and why it is sound,
// is told in numerics/norms.py, whose operations are repeated here in their order.

#include <ATen/Dispatch.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "common.h"

namespace {

template <typename T>
double dot(const T* a, const T* b, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

template <typename T>
T largest(const T* a, int64_t n) {
  T peak = 0;
#pragma omp simd reduction(max : peak)
  for (int64_t i = 0; i < n; ++i) peak = std::abs(a[i]) > peak ? std::abs(a[i]) : peak;
  return peak;
}

template <typename T>
void multiply(T* a, T factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) a[i] *= factor;
}

struct Schatten {
  double norm, length;  // NaN for weights that are not finite
};

// The norm of order 2 (2^steps + 1) of `weight` (r, c); its gradient is the length times `direction`. `memory` is three matrices
// of the smaller side and one like the weight.
template <typename T>
Schatten schatten(const Tensor& weight, int64_t steps, Tensor direction, Tensor (&memory)[4]) {
  const int64_t n = weight.numel();
  const bool wide = weight.size(0) <= weight.size(1);
  const T* const from = weight.const_data_ptr<T>();
  const T peak = largest(from, n);
  const int limit = static_cast<int>(0.8 * std::log2(static_cast<double>(std::numeric_limits<T>::max())));
  int exponent = 0;
  if (peak > 0 && std::isfinite(peak)) std::frexp(peak, &exponent);
  exponent = std::clamp(exponent, -limit, limit);
  Tensor &scaled = memory[3], *gram = &memory[0], *next = &memory[1];
  const T unit = static_cast<T>(std::ldexp(1.0, -exponent));  // powers of two, so that scaling rounds nothing
  std::copy_n(from, n, scaled.data_ptr<T>());
  multiply(scaled.data_ptr<T>(), unit, n);
  if (wide) at::mm_out(*gram, scaled, scaled.t());
  else at::mm_out(*gram, scaled.t(), scaled);
  double shift = 0;  // gram is M^(2^step) / 2^shift
  for (int64_t step = 0; step < steps; ++step) {
    if (step > 0) {
      at::mm_out(*next, *gram, *gram);
      std::swap(gram, next);
      shift *= 2;
    }
    if (step % 2) continue;
    const double size = std::sqrt(dot(gram->const_data_ptr<T>(), gram->const_data_ptr<T>(), gram->numel()));
    int more = 0;
    if (size > 0 && std::isfinite(size)) std::frexp(size, &more);
    multiply(gram->data_ptr<T>(), static_cast<T>(std::ldexp(1.0, -more)), gram->numel());
    shift += more;
  }
  Tensor half = memory[2];
  if (wide) at::mm_out(half, *gram, scaled), at::mm_out(direction, *gram, half);
  else at::mm_out(half, scaled, *gram), at::mm_out(direction, half, *gram);
  const double square = dot(half.const_data_ptr<T>(), half.const_data_ptr<T>(), n), order = std::ldexp(1.0, static_cast<int>(steps)) + 1;
  const double norm = std::exp2(shift / order) * std::pow(square, 0.5 / order);
  return {std::ldexp(norm, exponent), square > 0 ? norm / square : (square == 0 ? 0.0 : square)};
}

// W t / max(b, t) for each of the weights, with t = share and b its norm times its inflation; and what `hold_gradient` needs.
std::tuple<Tensors, Tensors, Tensor> hold(List weights, double share, int64_t steps, at::ArrayRef<double> inflation) {
  const int64_t count = weights.size();
  Tensors held, directions;
  for (const auto& weight : weights) {
    held.push_back(empty(weight.sizes(), weight));
    directions.push_back(empty(weight.sizes(), weight));
  }
  Tensor factors = at::empty({count, 2}, weights[0].options());
  in_parallel(count, [&](int64_t from, int64_t to) {
    const Scratch scratch(4, largest_of(weights), weights[0]);
    for (int64_t index = from; index < to; ++index) {
      const Tensor& weight = weights[index];
      const int64_t rows = weight.size(0), columns = weight.size(1), small = std::min(rows, columns);
      Tensor memory[4] = {scratch(0, small, small), scratch(1, small, small), scratch(2, rows, columns), scratch(3, rows, columns)};
      AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "hold", [&] {
        const auto [norm, length] = schatten<scalar_t>(weight, steps, directions[index], memory);
        const double bound = norm * inflation[index];
        double factor = bound <= share ? 1.0 : share / bound;
        if (factor < std::numeric_limits<scalar_t>::min()) factor = 0;  // subnormal numbers have too few digits to be sound
        scalar_t* const told = factors.data_ptr<scalar_t>() + 2 * index;
        told[0] = static_cast<scalar_t>(factor);
        told[1] = bound > share ? static_cast<scalar_t>(factor * length / norm) : scalar_t(0);
        scalar_t* const out = held[index].data_ptr<scalar_t>();
        std::copy_n(weight.const_data_ptr<scalar_t>(), weight.numel(), out);
        multiply(out, told[0], weight.numel());
      });
    }
  });
  return {held, directions, factors};
}

// The gradients by the weights, from those by what `hold` gave.
Tensors hold_gradient(List weights, List by_held, List directions, const Tensor& factors) {
  Tensors found;
  for (const auto& weight : weights) found.push_back(empty(weight.sizes(), weight));
  in_parallel(weights.size(), [&](int64_t from, int64_t to) {
    AT_DISPATCH_FLOATING_TYPES(factors.scalar_type(), "hold_gradient", [&] {
      for (int64_t index = from; index < to; ++index) {
        const int64_t size = weights[index].numel();
        const scalar_t* const by = by_held[index].const_data_ptr<scalar_t>();
        const scalar_t* const direction = directions[index].const_data_ptr<scalar_t>();
        const scalar_t* const told = factors.const_data_ptr<scalar_t>() + 2 * index;
        const scalar_t along = told[1] * static_cast<scalar_t>(dot(weights[index].const_data_ptr<scalar_t>(), by, size));
        const scalar_t factor = told[0];
        scalar_t* __restrict const out = found[index].data_ptr<scalar_t>();
        for (int64_t i = 0; i < size; ++i) out[i] = by[i] * factor - direction[i] * along;
      }
    });
  });
  return found;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(iresnet, m) {
  m.def("hold(Tensor[] weights, float share, int steps, float[] inflation) -> (Tensor[], Tensor[], Tensor)");
  m.def("hold_gradient(Tensor[] weights, Tensor[] by_held, Tensor[] directions, Tensor factors) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(iresnet, CPU, m) {
  m.impl("hold", &hold);
  m.impl("hold_gradient", &hold_gradient);
}
