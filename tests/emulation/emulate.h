// CUDA's vocabulary for kernels that run on the host: every thread of a block is a fiber, and a fiber runs until it
// waits for others. runtime.cuh includes this header where LBP_EMULATE is defined.
//
// What it catches, as an Error that names the source line: a barrier that not all threads of the block reach, lanes
// missing from a mask or not arriving, a shuffle from a lane outside the mask, a launch beyond the hardware's limits.
// Shared memory is one heap array each, filled with NaN: AddressSanitizer sees its ends, and uninitialised values spoil
// the result. A missing barrier shows when the order in which threads run is shuffled by a seed.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/named_kernel.h"
#include "cuda/stream.h"

#define LBP_KERNEL inline
#define LBP_SHARED(type, name, size)   \
  static const char name##_identity{}; \
  type* const name = ::lbp::emulate::shared_array<type>(&name##_identity, size)
#define LBP_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::lbp::emulate::dynamic_shared())

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1) : x(x_size), y(y_size), z(z_size) {}
};

// Of the fiber that runs.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace lbp::emulate {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Where in the source a thread waits.
struct Site {
  const char* file;
  int line;
};

constexpr std::size_t kSharedLimit = 227 * 1024, kArgumentsLimit = 4096;

// 0 runs threads in their order; any other seed shuffles them, the same way every time.
void set_seed(std::uint64_t seed);

// Runs body once for every thread of every block. Throws Error.
void run(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body);

// A kernel that some launcher names.
class Kernel {
 public:
  explicit Kernel(const char* signature) : name_(cuda::name_of_kernel(signature)) { all().push_back(this); }
  static std::vector<Kernel*>& all() {
    static std::vector<Kernel*> kernels;
    return kernels;
  }
  // The names of kernels in the order of their launches, those that nobody has taken yet.
  static std::vector<std::string>& launches() {
    static std::vector<std::string> names;
    return names;
  }
  const std::string& name() const { return name_; }
  bool was_launched() const { return was_launched_; }
  void note_launch() {
    was_launched_ = true;
    launches().push_back(name_);
  }

 private:
  std::string name_;
  bool was_launched_ = false;
};

template <auto kKernel, typename Arguments>
int launch(dim3 grid, dim3 block, std::size_t shared_bytes, void*, const Arguments& arguments) {
  static_assert(std::is_trivially_copyable_v<Arguments>, "a kernel's arguments are copied to the device as bytes");
  static_assert(sizeof(Arguments) <= kArgumentsLimit, "too many arguments for a launch");
  run(grid, block, shared_bytes, [&] { kKernel(arguments); });
  cuda::Named<Kernel, kKernel>::instance.note_launch();
  return 0;
}

// The calling block's array that belongs to `identity`.
void* shared_bytes_of(const void* identity, std::size_t bytes);
void* dynamic_shared();

template <typename T>
T* shared_array(const void* identity, std::size_t size) {
  return static_cast<T*>(shared_bytes_of(identity, size * sizeof(T)));
}

enum class Exchange { kSync, kShuffle, kBallot };

void synchronize_block(Site site);
// Waits for all lanes of the mask; returns the value of lane `source` (kShuffle) or a bit per lane (kBallot).
std::uint64_t exchange(Exchange kind, unsigned mask, std::uint64_t value, int source, Site site);
int lane();

template <typename T>
T shuffle(unsigned mask, T value, int source, Site site) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t) && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(Exchange::kShuffle, mask, bits, source, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace lbp::emulate

// The caller's line, by default arguments.
#define LBP_SITE_PARAMETERS const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(LBP_SITE_PARAMETERS) { lbp::emulate::synchronize_block({file, line}); }

inline void __syncwarp(unsigned mask = 0xffffffffu, LBP_SITE_PARAMETERS) {
  lbp::emulate::exchange(lbp::emulate::Exchange::kSync, mask, 0, 0, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, LBP_SITE_PARAMETERS) {
  return unsigned(lbp::emulate::exchange(lbp::emulate::Exchange::kBallot, mask, predicate != 0, 0, {file, line}));
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }

inline int __any_sync(unsigned mask, int predicate, LBP_SITE_PARAMETERS) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, LBP_SITE_PARAMETERS) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, LBP_SITE_PARAMETERS) {
  const int first = lbp::emulate::lane() / width * width;
  return lbp::emulate::shuffle(mask, value, first + source % width, {file, line});
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, LBP_SITE_PARAMETERS) {
  const int own = lbp::emulate::lane(), source = own ^ lane_mask;
  return lbp::emulate::shuffle(mask, value, source / width > own / width ? own : source, {file, line});
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, LBP_SITE_PARAMETERS) {
  const int own = lbp::emulate::lane(), source = own + int(delta);
  return lbp::emulate::shuffle(mask, value, source / width == own / width ? source : own, {file, line});
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, LBP_SITE_PARAMETERS) {
  const int own = lbp::emulate::lane(), source = own - int(delta);
  return lbp::emulate::shuffle(mask, value, source >= own / width * width ? source : own, {file, line});
}

#undef LBP_SITE_PARAMETERS

// A fiber is never interrupted, so these are plain operations. On integers only: the order of a sum must not matter.
template <typename T>
T atomicAdd(T* address, T value) {
  static_assert(std::is_integral_v<T>, "sums of floating-point numbers by atomics are not deterministic");
  const T old = *address;
  *address = T(old + value);
  return old;
}

template <typename T>
T atomicMax(T* address, T value) {
  static_assert(std::is_integral_v<T>);
  const T old = *address;
  *address = old > value ? old : value;
  return old;
}

template <typename T>
T atomicMin(T* address, T value) {
  static_assert(std::is_integral_v<T>);
  const T old = *address;
  *address = old < value ? old : value;
  return old;
}
