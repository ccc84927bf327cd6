// What the kernels share: activations, memory that is used again, and rows shared out among threads.

#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/elu.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tanh.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <string>
#include <unordered_map>
#include <vector>

extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int);  // of the library that torch's own products are from

namespace {  // each source has its own: nothing is called between them

using at::Tensor;
using Tensors = std::vector<Tensor>;
using List = at::TensorList;
using Name = const std::string&;

constexpr int64_t kRows = 256;  // with 128 units in float32, a layer of so many rows is 64 KiB: a dozen stay in a core's cache

// Activations: `apply` overwrites pre-activations by values h, `slope` tells the slope s from the value, and `bend` carries a
// gradient by the slope on to the value.

struct ReLU {
  static void apply(Tensor& t) { at::relu_(t); }
  template <typename T> static T slope(T h) { return h > T(0) ? T(1) : T(0); }
  template <typename T> static T bend(T, T) { return T(0); }
};

struct ELU {
  static void apply(Tensor& t) { at::elu_(t); }
  template <typename T> static T slope(T h) { return std::min(h, T(0)) + T(1); }
  template <typename T> static T bend(T h, T by_slope) { return h < T(0) ? by_slope : T(0); }
};

struct Tanh {
  static void apply(Tensor& t) { at::tanh_(t); }
  template <typename T> static T slope(T h) { return T(1) - h * h; }
  template <typename T> static T bend(T h, T by_slope) { return T(-2) * h * by_slope; }
};

struct Sigmoid {
  static void apply(Tensor& t) { at::sigmoid_(t); }
  template <typename T> static T slope(T h) { return h * (T(1) - h); }
  template <typename T> static T bend(T h, T by_slope) { return (T(1) - T(2) * h) * by_slope; }
};

template <typename F>
void with_activation(Name name, F f) {
  if (name == "ReLU") return f(ReLU{});
  if (name == "ELU") return f(ELU{});
  if (name == "Tanh") return f(Tanh{});
  if (name == "Sigmoid") return f(Sigmoid{});
  TORCH_CHECK(false, "no kernels for the activation ", name);
}

// Memory that was given back, by its size, for the next tensor of that size. A step of training asks for the same tensors as the
// last one, and pages that come new from the system are cleared first, which takes as long as all that is written to them.
class Pool {
 public:
  Tensor empty(at::IntArrayRef shape, const at::TensorOptions& options) {
    const int64_t bytes = c10::multiply_integers(shape) * static_cast<int64_t>(options.dtype().itemsize());
    if (bytes < kSmall) return at::empty(shape, options);
    return at::from_blob(take(bytes), shape, [this, bytes](void* memory) { give(memory, bytes); }, options);
  }
  static Pool& shared() {
    static Pool* const pool = new Pool;  // never destroyed: tensors may outlive all static objects
    return *pool;
  }

 private:
  static constexpr int64_t kSmall = 1 << 15, kMost = 1 << 28;

  void* take(int64_t bytes) {
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      auto& unused = unused_[bytes];
      if (!unused.empty()) {
        void* const memory = unused.back();
        unused.pop_back();
        held_ -= bytes;
        return memory;
      }
    }
    void* const memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    TORCH_CHECK(memory, "out of memory: ", bytes, " bytes were asked for");
    return memory;
  }
  void give(void* memory, int64_t bytes) {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (held_ + bytes > kMost) {  // of sizes that are no longer asked for, most likely
      for (auto& [size, blocks] : unused_) {
        for (void* const block : blocks) std::free(block);
        blocks.clear();
      }
      held_ = 0;
    }
    if (bytes > kMost) return std::free(memory);
    unused_[bytes].push_back(memory);
    held_ += bytes;
  }

  std::mutex mutex_;
  std::unordered_map<int64_t, std::vector<void*>> unused_;
  int64_t held_ = 0;
};

Tensor empty(at::IntArrayRef shape, const Tensor& like) { return Pool::shared().empty(shape, like.options()); }

// Memory of one thread: `count` tensors, each of at most so many numbers.
class Scratch {
 public:
  Scratch(int64_t count, int64_t size, const Tensor& like) : size_(size), memory_(empty({count * size}, like)) {}
  Tensor operator()(int64_t index, int64_t rows, int64_t columns) const {
    return memory_.narrow(0, index * size_, rows * columns).view({rows, columns});
  }

 private:
  int64_t size_;
  Tensor memory_;
};

struct Rows {
  int64_t begin, count;
  bool first;  // of those that are summed together
  Tensor operator()(const Tensor& t) const { return t.narrow(-2, begin, count); }
};

int64_t widest(List weights) {
  int64_t width = 1;
  for (const auto& weight : weights) width = std::max({width, weight.size(0), weight.size(1)});
  return width;
}

int64_t largest_of(List weights) {
  int64_t size = 1;
  for (const auto& weight : weights) size = std::max(size, weight.numel());
  return size;
}

// In how many parts the rows of each of `items` are taken, so that threads are busy alike.
int64_t parts(int64_t items, int64_t batch) {
  const int64_t threads = at::get_num_threads();
  return std::clamp<int64_t>(batch / 32, 1, threads / std::gcd(threads, items));
}

// While it lives, one thread of `several` multiplies for itself, and MKL knows: otherwise it first copies both factors, as it does
// where threads share a product. That takes up to a quarter of one.
class Alone {
 public:
  explicit Alone(bool several) : told_(several && MKL_Set_Num_Threads_Local), before_(told_ ? MKL_Set_Num_Threads_Local(1) : 0) {}
  ~Alone() { if (told_) MKL_Set_Num_Threads_Local(before_); }
  Alone(const Alone&) = delete;
  Alone& operator=(const Alone&) = delete;

 private:
  bool told_;
  int before_;
};

// f(from, to) for parts of 0 to count, a thread each. Autograd records nothing in it.
template <typename F>
void in_parallel(int64_t count, F f) {
  at::parallel_for(0, count, 1, [&](int64_t from, int64_t to) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const Alone alone(count > 1);
    f(from, to);
  });
}

// f(item, part, rows) for all rows of all items, at most kRows at once. make() is what a thread has of its own, and is handed to
// f last.
template <typename M, typename F>
void for_rows(int64_t items, int64_t batch, int64_t split, M make, F f) {
  in_parallel(items * split, [&](int64_t from, int64_t to) {
    const auto own = make();
    for (int64_t index = from; index < to; ++index) {
      const int64_t part = index % split, start = batch * part / split, stop = batch * (part + 1) / split;
      for (int64_t begin = start; begin < stop; begin += kRows)
        f(index / split, part, Rows{begin, std::min(kRows, stop - begin), begin == start}, own);
    }
  });
}

}  // namespace
