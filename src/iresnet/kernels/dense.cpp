// Training's passes of chains of dense residual blocks on a CPU.
//
// Operation by operation, each layer of a batch is written to memory and read back for the next one, and a narrow chain spends
// much of its time on the calls themselves. Here each thread takes some rows through all blocks while they are in its cache; the
// products are torch's own. What is computed is told in contract/pullback.py, whose formulas these are tested against.
//
// Shapes: G blocks of L layers for B rows of d numbers, m probes a row. Lists of weights (h, h'), offsets (h) or (B, h) hold the
// layers of the first block, then those of the second, and so on; lists of hidden values hold a tensor (G, B, h) a layer. Before
// a block may stand an affine map, x exp(log_scale) + shift; empty tensors where there is none. All are dense and of one type.

#include <ATen/Dispatch.h>
#include <ATen/ops/add.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "common.h"

namespace {

// t *= slopes, where h (n, units) are the values; row i of t stands for row index[i] of h if there is an index.
template <typename Act>
void times_slopes(Tensor& t, const Tensor& h, const int64_t* index = nullptr) {
  AT_DISPATCH_FLOATING_TYPES(t.scalar_type(), "times_slopes", [&] {
    const int64_t units = t.size(1);
    scalar_t* const all = t.data_ptr<scalar_t>();
    const scalar_t* const values = h.const_data_ptr<scalar_t>();
    for (int64_t row = 0; row < t.size(0); ++row) {
      scalar_t* __restrict const to = all + row * units;
      const scalar_t* const value = values + (index ? index[row] : row) * units;
      for (int64_t i = 0; i < units; ++i) to[i] *= Act::slope(value[i]);
    }
  });
}

template <typename T>
T dot(const T* a, const T* b, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// total = left^T right where `first`, and is increased by it otherwise.
void add_product(Tensor total, const Tensor& left, const Tensor& right, bool first) {
  at::addmm_out(total, total, left.t(), right, first ? 0 : 1, 1);
}

// total = the sum of t over rows where `first`, and is increased by it otherwise.
void add_rows(Tensor total, const Tensor& t, bool first) {
  if (first) at::sum_out(total, t, {0});
  else total.add_(t.sum(0));
}

// Tensors (split, *) like those of the list, for sums over each part of the rows. Of no rows, the sum is zero.
Tensors sums(List like, int64_t split, int64_t batch) {
  Tensors found;
  for (const auto& one : like) {
    std::vector<int64_t> shape{split};
    shape.insert(shape.end(), one.sizes().begin(), one.sizes().end());
    found.push_back(batch ? empty(shape, one) : at::zeros(shape, one.options()));
  }
  return found;
}

Tensors total(const Tensors& sums) {
  Tensors found(sums.size());
  in_parallel(sums.size(), [&](int64_t from, int64_t to) {
    for (int64_t index = from; index < to; ++index) {
      const Tensor& parts = sums[index];
      if (parts.size(0) == 1) {
        found[index] = parts[0];
        continue;
      }
      found[index] = empty(parts.sizes().slice(1), parts);  // a new tensor: parts are not kept for one
      at::add_out(found[index], parts[0], parts[1]);
      for (int64_t part = 2; part < parts.size(0); ++part) found[index].add_(parts[part]);
    }
  });
  return found;
}

// What enters each block (G, B, d), the hidden values of each layer, and what leaves the last block (B, d).
std::tuple<Tensor, Tensors, Tensor> values(const Tensor& x, List weights, List offsets, List log_scales, List shifts,
                                           Name activation) {
  const int64_t blocks = log_scales.size(), depth = weights.size() / blocks, batch = x.size(0), features = x.size(1);
  Tensors hidden, scales;
  for (int64_t layer = 0; layer + 1 < depth; ++layer)
    hidden.push_back(empty({blocks, batch, weights[layer].size(0)}, x));
  at::AutoDispatchBelowADInplaceOrView below;
  for (const auto& log_scale : log_scales) scales.push_back(log_scale.exp());
  Tensor inputs = empty({blocks, batch, features}, x), last = at::empty_like(x);
  with_activation(activation, [&](auto act) {
    const auto nothing = [] { return 0; };
    for_rows(1, batch, parts(1, batch), nothing, [&](int64_t, int64_t, const Rows& rows, int) {
      Tensor now = rows(x);
      for (int64_t block = 0; block < blocks; ++block) {
        Tensor input = rows(inputs[block]);
        if (scales[block].numel()) at::addcmul_out(input, shifts[block], now, scales[block]);
        else input.copy_(now);
        now = block + 1 < blocks ? rows(inputs[block + 1]) : rows(last);  // overwritten by the next block
        Tensor from = input;
        for (int64_t layer = 0; layer < depth; ++layer) {
          const Tensor& offset = offsets[block * depth + layer];
          Tensor out = layer + 1 < depth ? rows(hidden[layer][block]) : now;
          at::addmm_out(out, offset.dim() == 1 ? offset : rows(offset), from, weights[block * depth + layer].t());
          if (layer + 1 < depth) decltype(act)::apply(out);
          from = out;
        }
        now.add_(input);
      }
    });
  });
  return {inputs, hidden, last};
}

// Which rows of v are not zero.
template <typename T>
std::vector<int64_t> alive(const T* v, int64_t count, int64_t features) {
  std::vector<int64_t> found;
  for (int64_t row = 0; row < count; ++row)
    if (std::any_of(v + row * features, v + (row + 1) * features, [](T one) { return one != T(0); })) found.push_back(row);
  return found;
}

// total = factor u where `first`, and is increased by it otherwise.
template <typename T>
void add_times(T* __restrict total, const T* u, T factor, int64_t n, bool first) {
  if (first) for (int64_t i = 0; i < n; ++i) total[i] = factor * u[i];
  else for (int64_t i = 0; i < n; ++i) total[i] += factor * u[i];
}

// With u_k = (J^T)^k v for v (m, G, B, d): the sums (m, G, B) of by_power[k - 1] <u_k, v>, those (m, G, B, d) of shares[k] u_k,
// which begin with v itself, and the last u_k; without shares nothing stands for the second. All of it while the hidden values of
// some rows are in the cache. Rows of zeros, those for which a roulette has stopped, cost nothing.
std::tuple<Tensor, Tensor, Tensor> sums_from_left(List weights, List hidden, const Tensor& vector, at::ArrayRef<double> by_power,
                                                  at::ArrayRef<double> shares, Name activation) {
  const int64_t probes = vector.size(0), blocks = vector.size(1), batch = vector.size(2), features = vector.size(3);
  const int64_t depth = weights.size() / blocks, size = kRows * widest(weights), count = by_power.size();
  TORCH_CHECK(count > 0 && (shares.empty() || static_cast<int64_t>(shares.size()) == count + 1), "v and each power have a share");
  Tensor summed = at::zeros({probes, blocks, batch}, vector.options()), last = empty(vector.sizes(), vector);
  Tensor shared = shares.empty() ? at::empty({0}, vector.options()) : empty(vector.sizes(), vector);
  with_activation(activation, [&](auto act) {
    const auto scratch = [&] { return Scratch(5, size, vector); };
    for_rows(blocks, batch, parts(blocks, batch), scratch, [&](int64_t block, int64_t, const Rows& rows, const Scratch& memory) {
      for (int64_t probe = 0; probe < probes; ++probe) {
        AT_DISPATCH_FLOATING_TYPES(vector.scalar_type(), "sums_from_left", [&] {
          Tensor now = rows(vector[probe][block]), out = rows(last[probe][block]);
          const scalar_t* from = now.const_data_ptr<scalar_t>();
          const std::vector<int64_t> index = alive(from, rows.count, features);
          const int64_t left = index.size();
          const bool all = left == rows.count;
          const auto share = [&](const scalar_t* u, int64_t power) {
            if (shares.empty() || (power > 0 && shares[power] == 0)) return;
            scalar_t* const to = rows(shared[probe][block]).data_ptr<scalar_t>();
            const auto factor = static_cast<scalar_t>(shares[power]);
            if (all || power == 0) return add_times(to, u, factor, rows.count * features, power == 0);
            for (int64_t row = 0; row < left; ++row) add_times(to + index[row] * features, u + row * features, factor, features, false);
          };
          share(from, 0);
          if (!all) {
            now = memory(4, left, features);
            for (int64_t row = 0; row < left; ++row)
              std::copy_n(from + index[row] * features, features, now.data_ptr<scalar_t>() + row * features);
            from = now.const_data_ptr<scalar_t>();
            out.zero_();
          }
          scalar_t* const to = summed.data_ptr<scalar_t>() + (probe * blocks + block) * batch + rows.begin;
          for (int64_t power = 1; power <= count; ++power) {
            for (int64_t layer = depth - 1; layer > 0; --layer) {
              const Tensor& weight = weights[block * depth + layer];
              Tensor next = memory(layer % 2, left, weight.size(1));
              at::mm_out(next, now, weight);
              times_slopes<decltype(act)>(next, rows(hidden[layer - 1][block]), all ? nullptr : index.data());
              now = next;
            }
            Tensor found = all && power == count ? out : memory(2 + power % 2, left, features);
            at::mm_out(found, now, weights[block * depth]);
            now = found;
            const scalar_t* const u = now.const_data_ptr<scalar_t>();
            share(u, power);
            const auto factor = static_cast<scalar_t>(by_power[power - 1]);
            for (int64_t row = 0; row < left && factor != 0; ++row)
              to[all ? row : index[row]] += factor * dot(u + row * features, from + row * features, features);
          }
          if (all) return;
          for (int64_t row = 0; row < left; ++row)
            std::copy_n(now.const_data_ptr<scalar_t>() + row * features, features, out.data_ptr<scalar_t>() + index[row] * features);
        });
      }
    });
  });
  return {summed, shared, last};
}

// K (h_2, h_1) with tr J = s_2^T K s_1, of a branch with two hidden layers; (1, h_1) with tr J = K s_1, of one with one.
Tensors trace_kernels(List weights, int64_t blocks) {
  const int64_t depth = weights.size() / blocks;
  TORCH_CHECK(depth == 2 || depth == 3, "a trace has a closed form for one or two hidden layers");
  Tensors found(blocks);
  in_parallel(blocks, [&](int64_t from, int64_t to) {
    for (int64_t block = from; block < to; ++block) {
      const List own = weights.slice(block * depth, depth);
      found[block] = depth == 2 ? own[0].mul(own[1].t()).sum(1).unsqueeze(0) : own[1].mul(at::mm(own[0], own[2]).t());
    }
  });
  return found;
}

// tr J (G, B), of branches with one or two hidden layers, and T (G, 1 or B, h_1) with tr J the sum of T s_1 over units.
std::tuple<Tensor, Tensor> traces(List weights, List hidden, Name activation) {
  const int64_t blocks = hidden[0].size(0), batch = hidden[0].size(1), units = hidden[0].size(2), layers = hidden.size();
  const Tensors kernels = trace_kernels(weights, blocks);
  Tensor trace = at::empty({blocks, batch}, hidden[0].options());
  Tensor half = empty({blocks, layers == 1 ? 1 : batch, units}, hidden[0]);
  for (int64_t block = 0; layers == 1 && block < blocks; ++block) half[block].copy_(kernels[block]);
  with_activation(activation, [&](auto act) {
    const auto scratch = [&] { return Scratch(2, kRows * widest(weights), trace); };
    for_rows(blocks, batch, parts(blocks, batch), scratch, [&](int64_t block, int64_t, const Rows& rows, const Scratch& memory) {
      const auto slopes = [&](int64_t layer) {
        Tensor found = memory(layer, rows.count, hidden[layer].size(2));
        found.fill_(1);
        times_slopes<decltype(act)>(found, rows(hidden[layer][block]));
        return found;
      };
      Tensor mine = layers == 1 ? half[block] : rows(half[block]);
      if (layers == 2) at::mm_out(mine, slopes(1), kernels[block]);
      const Tensor first = slopes(0);
      AT_DISPATCH_FLOATING_TYPES(trace.scalar_type(), "traces", [&] {
        const scalar_t *const a = first.const_data_ptr<scalar_t>(), *const b = mine.const_data_ptr<scalar_t>();
        scalar_t* const to = trace.data_ptr<scalar_t>() + block * batch + rows.begin;
        for (int64_t row = 0; row < rows.count; ++row) to[row] = dot(a + row * units, layers == 1 ? b : b + row * units, units);
      });
    });
  });
  return {trace, half};
}

// Adds the gradients of tr J by the weights, from those by `trace_kernels`.
void add_trace_gradients(Tensors& by_weights, List weights, const Tensors& by_kernels) {
  const int64_t blocks = by_kernels.size(), depth = weights.size() / blocks;
  in_parallel(blocks, [&](int64_t from, int64_t to) {
    for (int64_t block = from; block < to; ++block) {
      const List own = weights.slice(block * depth, depth);
      Tensor* const by = by_weights.data() + block * depth;
      if (depth == 2) {
        by[0].addcmul_(by_kernels[block].t(), own[1].t());
        by[1].addcmul_(by_kernels[block], own[0].t());
      } else {
        const Tensor by_inner = by_kernels[block].mul(own[1]).t();
        by[0].addmm_(by_inner, own[2].t());
        by[1].addcmul_(by_kernels[block], at::mm(own[0], own[2]).t());
        by[2].addmm_(own[0].t(), by_inner);
      }
    }
  });
}

// What enters the layer after values h (n, units): `both` (m n + n, units) are the m probes, `pushed` times the slopes, and h.
template <typename Act>
void enter(Tensor& both, const Tensor& pushed, const Tensor& h) {
  AT_DISPATCH_FLOATING_TYPES(both.scalar_type(), "enter", [&] {
    const int64_t n = h.numel(), m = pushed.numel() / std::max<int64_t>(n, 1);
    scalar_t* const to = both.data_ptr<scalar_t>();
    const scalar_t *const from = pushed.const_data_ptr<scalar_t>(), *const at = h.const_data_ptr<scalar_t>();
    for (int64_t probe = 0; probe < m; ++probe) {
      scalar_t* __restrict const mine = to + probe * n;
      for (int64_t i = 0; i < n; ++i) mine[i] = from[probe * n + i] * Act::slope(at[i]);
    }
    std::copy_n(at, n, to + m * n);
  });
}

// Carries gradients on from the values h (n, units) of a hidden layer to its pre-activations. The first m n rows of `by` are
// products of the probes from the left, whose next factor are the slopes; the last n are the gradient by h. What leaves the layer
// from the right, `pushed` (m n, units), makes with the former the gradient by the slopes; tr J adds its own, if it is defined.
template <typename Act>
void carry(Tensor& by, const Tensor& pushed, const Tensor& h, const Tensor& trace) {
  AT_DISPATCH_FLOATING_TYPES(by.scalar_type(), "carry", [&] {
    constexpr int64_t kFew = 1024;  // numbers that stay in the smallest cache from one loop to the next
    const int64_t all = h.numel(), m = pushed.numel() / std::max<int64_t>(all, 1);
    for (int64_t start = 0; start < all; start += kFew) {
      const int64_t n = std::min(kFew, all - start);
      const scalar_t* const at = h.const_data_ptr<scalar_t>() + start;
      scalar_t* __restrict const value = by.data_ptr<scalar_t>() + m * all + start;
      if (trace.defined()) {
        const scalar_t* const more = trace.const_data_ptr<scalar_t>() + start;
        for (int64_t i = 0; i < n; ++i) value[i] += Act::bend(at[i], more[i]);
      }
      for (int64_t probe = 0; probe < m; ++probe) {
        scalar_t* __restrict const left = by.data_ptr<scalar_t>() + probe * all + start;
        const scalar_t* const right = pushed.const_data_ptr<scalar_t>() + probe * all + start;
        for (int64_t i = 0; i < n; ++i) value[i] += Act::bend(at[i], left[i] * right[i]);
        for (int64_t i = 0; i < n; ++i) left[i] *= Act::slope(at[i]);
      }
      for (int64_t i = 0; i < n; ++i) value[i] *= Act::slope(at[i]);
    }
  });
}

// Carries `by` (n, d), the gradient by the outcome y = x exp(log_scale) + shift, on to x, and adds those by log_scale and shift.
void leave_affine(Tensor& by, const Tensor& y, const Tensor& scale, const Tensor& shift, Tensor by_log_scale, Tensor by_shift,
                  bool first) {
  if (first) by_log_scale.zero_(), by_shift.zero_();
  AT_DISPATCH_FLOATING_TYPES(by.scalar_type(), "leave_affine", [&] {
    const int64_t features = by.size(1);
    scalar_t *__restrict const of_scale = by_log_scale.data_ptr<scalar_t>(), *__restrict const of_shift = by_shift.data_ptr<scalar_t>();
    const scalar_t *const s = scale.const_data_ptr<scalar_t>(), *const t = shift.const_data_ptr<scalar_t>();
    for (int64_t row = 0; row < by.size(0); ++row) {
      scalar_t* __restrict const mine = by.data_ptr<scalar_t>() + row * features;
      const scalar_t* const at = y.const_data_ptr<scalar_t>() + row * features;
      for (int64_t i = 0; i < features; ++i) {
        of_scale[i] += mine[i] * (at[i] - t[i]);
        of_shift[i] += mine[i];
        mine[i] *= s[i];
      }
    }
  });
}

// Gradients by x, weights, offsets, log_scales and shifts, in one list, of <by_last, last> + sum of by_logdet (G, B) times (the
// mean of <left, J right> over probes, plus tr J), summed over rows. The constants left and right are (m, G, B, d), `inputs` and
// `hidden` what `values` gave, and `half` what `traces` gave; without a `half`, tr J is left out. What enters and leaves a layer
// for the probes stands above what does for the value, so that each weight has one product with both.
Tensors gradients(const Tensor& inputs, List hidden, List weights, List offsets, List log_scales, List shifts,
                  const Tensor& by_last, const Tensor& by_logdet, const Tensor& left, const Tensor& right,
                  const std::optional<Tensor>& half, Name activation) {
  const int64_t blocks = inputs.size(0), batch = inputs.size(1), features = inputs.size(2), probes = left.size(0);
  const int64_t layers = hidden.size(), depth = layers + 1, split = parts(1, batch);
  Tensors by_weights = sums(weights, split, batch), by_offsets, by_kernels, kernels, scales;
  Tensors by_log_scales = sums(log_scales, split, batch), by_shifts = sums(shifts, split, batch);
  for (const auto& offset : offsets)
    by_offsets.push_back(offset.dim() == 1 ? sums({offset}, split, batch)[0] : at::empty_like(offset));
  at::AutoDispatchBelowADInplaceOrView below;
  for (const auto& log_scale : log_scales) scales.push_back(log_scale.exp());
  if (half) {
    kernels = trace_kernels(weights, blocks);
    by_kernels = sums(kernels, split, batch);
  }
  Tensor by_x = at::empty_like(by_last);
  with_activation(activation, [&](auto act) {
    using Act = decltype(act);
    const auto scratch = [&] { return Scratch(2 * depth + 5, (probes + 1) * kRows * widest(weights), inputs); };
    for_rows(1, batch, split, scratch, [&](int64_t, int64_t part, const Rows& rows, const Scratch& memory) {
      const int64_t count = rows.count, above = probes * count;
      Tensor by = memory(0, count, features);  // the gradient by what leaves the block
      by.copy_(rows(by_last));
      for (int64_t block = blocks - 1; block >= 0; --block) {
        const List own = weights.slice(block * depth, depth);
        const Tensor scale = by_logdet[block].narrow(0, rows.begin, count).unsqueeze(1);
        Tensors entering, pushed;
        for (int64_t layer = 0; layer < depth; ++layer) {
          Tensor both = memory(3 + 2 * layer, above + count, own[layer].size(1));
          if (layer > 0) {
            enter<Act>(both, pushed[layer - 1], rows(hidden[layer - 1][block]));
          } else {
            both.narrow(0, above, count).copy_(rows(inputs[block]));
            for (int64_t probe = 0; probe < probes; ++probe) both.narrow(0, probe * count, count).copy_(rows(right[probe][block]));
          }
          entering.push_back(both);
          if (layer == layers) break;
          pushed.push_back(memory(4 + 2 * layer, above, own[layer].size(0)));
          at::mm_out(pushed[layer], both.narrow(0, 0, above), own[layer].t());
        }
        Tensors trace(layers);  // gradients of tr J by the slopes
        if (half) {
          const auto slopes = [&](int64_t layer, int64_t where) {
            Tensor found = memory(where, count, hidden[layer].size(2));
            found.fill_(1);
            times_slopes<Act>(found, rows(hidden[layer][block]));
            return found;
          };
          trace[0] = memory(2 * depth + 2, count, hidden[0].size(2));
          at::mul_out(trace[0], layers == 1 ? (*half)[block] : rows((*half)[block]), scale);
          Tensor first = slopes(0, 2 * depth + 3).mul_(scale), by_kernel = by_kernels[block][part];
          if (layers == 1) {
            add_rows(by_kernel[0], first, rows.first);
          } else {
            add_product(by_kernel, slopes(1, 1), first, rows.first);
            trace[1] = memory(2 * depth + 4, count, hidden[1].size(2));
            at::mm_out(trace[1], first, kernels[block].t());
          }
        }
        Tensor now = memory(1, above + count, features);
        for (int64_t probe = 0; probe < probes; ++probe) {
          Tensor mine = now.narrow(0, probe * count, count);
          at::mul_out(mine, rows(left[probe][block]), scale);
          if (probes > 1) mine.div_(probes);
        }
        now.narrow(0, above, count).copy_(by);
        for (int64_t layer = layers; layer >= 0; --layer) {
          add_product(by_weights[block * depth + layer][part], now, entering[layer], rows.first);
          const Tensor of_value = now.narrow(0, above, count);
          Tensor& by_offset = by_offsets[block * depth + layer];
          if (offsets[block * depth + layer].dim() == 1) add_rows(by_offset[part], of_value, rows.first);
          else rows(by_offset).copy_(of_value);
          if (layer == 0) {
            at::addmm_out(by, by, of_value, own[0]);
            break;
          }
          Tensor next = memory(1 + (layers - layer + 1) % 2, above + count, own[layer].size(1));
          at::mm_out(next, now, own[layer]);
          carry<Act>(next, pushed[layer - 1], rows(hidden[layer - 1][block]), trace[layer - 1]);
          now = next;
        }
        if (scales[block].numel()) {
          leave_affine(by, rows(inputs[block]), scales[block], shifts[block], by_log_scales[block][part], by_shifts[block][part],
                       rows.first);
        }
      }
      rows(by_x).copy_(by);
    });
  });
  Tensors found = total(by_weights);
  if (half) add_trace_gradients(found, weights, total(by_kernels));
  found.insert(found.begin(), by_x);
  for (size_t index = 0; index < by_offsets.size(); ++index)
    found.push_back(offsets[index].dim() == 1 ? by_offsets[index].sum(0) : by_offsets[index]);
  for (const auto& by : {by_log_scales, by_shifts})
    for (const auto& sum : total(by)) found.push_back(sum);
  return found;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(iresnet, m) {
  m.def(
      "values(Tensor x, Tensor[] weights, Tensor[] offsets, Tensor[] log_scales, Tensor[] shifts, str activation) "
      "-> (Tensor, Tensor[], Tensor)");
  m.def(
      "sums_from_left(Tensor[] weights, Tensor[] hidden, Tensor vector, float[] by_power, float[] shares, str activation) "
      "-> (Tensor, Tensor, Tensor)");
  m.def("traces(Tensor[] weights, Tensor[] hidden, str activation) -> (Tensor, Tensor)");
  m.def(
      "gradients(Tensor inputs, Tensor[] hidden, Tensor[] weights, Tensor[] offsets, Tensor[] log_scales, Tensor[] shifts, "
      "Tensor by_last, Tensor by_logdet, Tensor left, Tensor right, Tensor? half, str activation) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(iresnet, CPU, m) {
  m.impl("values", &values);
  m.impl("sums_from_left", &sums_from_left);
  m.impl("traces", &traces);
  m.impl("gradients", &gradients);
}
