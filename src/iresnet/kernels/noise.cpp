// Random signs without state, as numerics/noise.py tells: bit for bit the same, without an array for each step of the mixing.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>

namespace {

// Writes the signs of (seed, row, column) for `rows` (B) to `to`, B rows of numbers.
void signs(const at::Tensor& rows, int64_t seed, at::Tensor to) {
  constexpr uint64_t kGolden = 0x9E3779B97F4A7C15, kFirst = 0xBF58476D1CE4E5B9, kSecond = 0x94D049BB133111EB;
  const auto mix = [](uint64_t word) {
    word = (word ^ (word >> 30)) * kFirst;
    word = (word ^ (word >> 27)) * kSecond;
    return word ^ (word >> 31);
  };
  TORCH_CHECK(rows.dim() == 1 && to.dim() > 0 && to.size(0) == rows.size(0), "a number for each row is needed");
  const int64_t count = rows.numel(), columns = count ? to.numel() / count : 0;
  const int64_t* const numbers = rows.const_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(to.scalar_type(), "signs", [&] {
    scalar_t* const all = to.data_ptr<scalar_t>();
    at::parallel_for(0, count, 256, [&](int64_t from, int64_t until) {
      for (int64_t row = from; row < until; ++row) {
        const uint64_t key = mix(mix(static_cast<uint64_t>(numbers[row]) * kGolden + static_cast<uint64_t>(seed)));
        scalar_t* __restrict const out = all + row * columns;
        for (int64_t start = 0; start < columns; start += 8) {
          const uint64_t word = mix(key + static_cast<uint64_t>(start / 8 + 1) * kGolden);
          const int64_t stop = std::min<int64_t>(8, columns - start);
          for (int64_t byte = 0; byte < stop; ++byte) out[start + byte] = (word >> (8 * byte + 7)) & 1 ? scalar_t(-1) : scalar_t(1);
        }
      }
    });
  });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(iresnet, m) {
  m.def("signs(Tensor rows, int seed, Tensor(a!) to) -> ()");
}

TORCH_LIBRARY_IMPL(iresnet, CPU, m) {
  m.impl("signs", &signs);
}
