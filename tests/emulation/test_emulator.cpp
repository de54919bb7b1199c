// The emulator must run correct kernels and catch faulty ones.
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpp/check.h"
#include "cuda/runtime.cuh"

using lbp::cuda::Stream;

namespace {

constexpr int kThreads = 96, kWarps = kThreads / 32;
constexpr unsigned kAll = 0xffffffffu;
constexpr unsigned kSeeds = 20;

struct Arguments {
  const float* in;
  float* out;
  int size;
};

LBP_DEVICE float warp_sum(float value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAll, value, step);
  return value;
}

// out[block] = sum of a block's numbers.
template <typename T>
LBP_KERNEL void LBP_LAUNCH_BOUNDS(kThreads, 1) sum_kernel(const Arguments args) {
  LBP_SHARED(T, warps, kWarps);
  const int at = int(blockIdx.x * blockDim.x + threadIdx.x);
  const T sum = warp_sum(at < args.size ? args.in[at] : T(0));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    T total = 0;
    for (int warp = 0; warp < kWarps; ++warp) total += warps[warp];
    args.out[blockIdx.x] = total;
  }
}

// Every thread takes over its neighbour's number through shared memory.
enum class Rotation { kCorrect, kWithoutBarrier, kPastSharedEnd, kUninitialised, kPastGlobalEnd };

template <Rotation kRotation>
LBP_KERNEL void rotate_kernel(const Arguments args) {
  LBP_DYNAMIC_SHARED(float, shared);
  const int thread = int(threadIdx.x);
  if (kRotation != Rotation::kUninitialised || thread != 5) shared[thread] = args.in[thread];
  if (kRotation != Rotation::kWithoutBarrier) __syncthreads();
  const int source = kRotation == Rotation::kPastSharedEnd ? thread + 1 : (thread + kThreads - 1) % kThreads;
  args.out[kRotation == Rotation::kPastGlobalEnd ? thread + 1 : thread] = shared[source];
}

template <int>
LBP_KERNEL void named_kernel(const Arguments) {}

enum class Divergence { kEarlyExit, kTwoBarriers, kLaneMissing, kLaneOutsideMask, kSourceOutsideMask, kLaneLeft };

template <Divergence kDivergence>
LBP_KERNEL void divergent_kernel(const Arguments args) {
  const unsigned thread = threadIdx.x;
  if (kDivergence == Divergence::kEarlyExit) {
    if (thread == 7) return;
    __syncthreads();
  } else if (kDivergence == Divergence::kTwoBarriers) {
    if (thread < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if (kDivergence == Divergence::kLaneMissing) {
    if (thread % 32 < 16) {
      args.out[thread] = __shfl_xor_sync(kAll, args.in[thread], 1);
    } else {
      __syncthreads();
    }
  } else if (kDivergence == Divergence::kLaneOutsideMask) {
    args.out[thread] = __shfl_xor_sync(0xffffu, args.in[thread], 1);
  } else if (kDivergence == Divergence::kSourceOutsideMask) {
    if (thread % 32 < 16) args.out[thread] = __shfl_xor_sync(0xffffu, args.in[thread], 16);
  } else {
    if (thread % 32 == 31) return;
    args.out[thread] = __shfl_down_sync(kAll, args.in[thread], 1);
  }
}

LBP_KERNEL void count_kernel(const Arguments args) {
  auto* counts = reinterpret_cast<unsigned*>(args.out);
  const unsigned odd = __ballot_sync(kAll, threadIdx.x % 2);
  if (threadIdx.x % 32 == 0) atomicAdd(&counts[0], unsigned(__builtin_popcount(odd)));
  if (__any_sync(kAll, threadIdx.x == 64)) atomicAdd(&counts[1], 1u);
  if (__all_sync(kAll, threadIdx.x < 64)) atomicMax(&counts[2], threadIdx.x);
}

struct Buffers {
  std::vector<float> in = std::vector<float>(kThreads), out = std::vector<float>(kThreads, -1.0f);
  Buffers() {
    for (int i = 0; i < kThreads; ++i) in[i] = float(i);
  }
  Arguments arguments() { return {in.data(), out.data(), kThreads}; }
};

template <auto kKernel>
std::vector<float> run(std::size_t shared_bytes = 0) {
  Buffers buffers;
  const Stream stream = nullptr;
  LBP_LAUNCH(kKernel, 1, kThreads, shared_bytes, stream, buffers.arguments());
  return buffers.out;
}

template <Rotation kRotation>
bool rotates() {
  const std::vector<float> out = run<rotate_kernel<kRotation>>(kThreads * sizeof(float));
  for (int i = 0; i < kThreads; ++i) {
    if (!(out[i] == float((i + kThreads - 1) % kThreads))) return false;
  }
  return true;
}

template <auto kKernel>
std::string error_of() {
  try {
    run<kKernel>();
  } catch (const lbp::emulate::Error& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

#if defined(__SANITIZE_ADDRESS__)
// Whether AddressSanitizer ends a process that runs the body.
template <typename Body>
bool dies(const Body& body) {
  std::cout.flush();
  const pid_t child = fork();
  if (child == 0) {
    static_cast<void>(!freopen("/dev/null", "w", stderr));
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}
#endif

}  // namespace

TEST(blocks_sum_in_every_order) {
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    lbp::emulate::set_seed(seed);
    std::vector<float> in(250, 1.0f), out(3);
    const Arguments arguments = {in.data(), out.data(), 250};
    LBP_LAUNCH((sum_kernel<float>), 3, kThreads, 0, nullptr, arguments);
    CHECK(out == (std::vector<float>{96.0f, 96.0f, 58.0f})) << out[0] << " " << out[1] << " " << out[2];
  }
}

TEST(votes_and_atomics_count) {
  lbp::emulate::set_seed(3);
  std::vector<unsigned> counts(3);
  const Arguments arguments = {nullptr, reinterpret_cast<float*>(counts.data()), 0};
  LBP_LAUNCH(count_kernel, dim3(2, 1, 2), dim3(32, 3), 0, nullptr, arguments);
  CHECK(counts[0] == 4 * 48u && counts[1] == 0 && counts[2] == 31) << counts[0] << " " << counts[1] << " " << counts[2];
}

TEST(a_correct_exchange_works_in_every_order) {
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    lbp::emulate::set_seed(seed);
    CHECK(rotates<Rotation::kCorrect>()) << seed;
  }
}

TEST(a_missing_barrier_shows_in_some_order) {
  unsigned caught = 0;
  for (unsigned seed = 1; seed < kSeeds; ++seed) {
    lbp::emulate::set_seed(seed);
    caught += !rotates<Rotation::kWithoutBarrier>();
  }
  CHECK(caught == kSeeds - 1) << caught;
}

TEST(the_same_seed_gives_the_same_order) {
  lbp::emulate::set_seed(11);
  const auto first = run<rotate_kernel<Rotation::kWithoutBarrier>>(kThreads * sizeof(float));
  const auto second = run<rotate_kernel<Rotation::kWithoutBarrier>>(kThreads * sizeof(float));
  for (int i = 0; i < kThreads; ++i) CHECK((first[i] == first[i]) == (second[i] == second[i])) << i;
}

TEST(an_uninitialised_shared_value_spoils_the_result) {
  lbp::emulate::set_seed(0);
  const auto out = run<rotate_kernel<Rotation::kUninitialised>>(kThreads * sizeof(float));
  CHECK(out[6] != out[6]) << out[6];
}

TEST(divergence_is_an_error_that_names_the_line) {
  for (unsigned seed = 0; seed < kSeeds; ++seed) {
    lbp::emulate::set_seed(seed);
    std::string error = error_of<divergent_kernel<Divergence::kEarlyExit>>();
    CHECK(has(error, "thread (7, 0, 0) of block (0, 0, 0) has left the kernel") && has(error, "test_emulator.cpp:"))
        << error;
    error = error_of<divergent_kernel<Divergence::kTwoBarriers>>();
    CHECK(has(error, "divergent barrier")) << error;
    error = error_of<divergent_kernel<Divergence::kLaneMissing>>();
    CHECK(has(error, "not all threads arrive")) << error;
    error = error_of<divergent_kernel<Divergence::kLaneOutsideMask>>();
    CHECK(has(error, "which is not in its own mask 0xffff")) << error;
    error = error_of<divergent_kernel<Divergence::kSourceOutsideMask>>();
    CHECK(has(error, "reads lane") && has(error, "mask 0xffff")) << error;
    error = error_of<divergent_kernel<Divergence::kLaneLeft>>();
    CHECK(has(error, "has left the kernel")) << error;
  }
}

TEST(launched_kernels_are_known_by_name) {
  const auto was_launched = [](const char* ending) {
    for (const lbp::emulate::Kernel* kernel : lbp::emulate::Kernel::all()) {
      const std::string& name = kernel->name();
      if (name.size() >= std::strlen(ending) && name.compare(name.size() - std::strlen(ending), name.npos, ending) == 0)
        return kernel->was_launched();
    }
    throw std::logic_error(std::string("no kernel ends with ") + ending);
  };
  CHECK(!was_launched("named_kernel<1>"));
  run<named_kernel<0>>();
  CHECK(was_launched("named_kernel<0>") && !was_launched("named_kernel<1>"));
  run<named_kernel<1>>();
  CHECK(was_launched("named_kernel<1>"));
}

TEST(launches_beyond_the_limits_are_errors) {
  const auto launch = [](dim3 grid, dim3 block, std::size_t shared) {
    try {
      Buffers buffers;
      LBP_LAUNCH(rotate_kernel<Rotation::kCorrect>, grid, block, shared, nullptr, buffers.arguments());
    } catch (const lbp::emulate::Error&) {
      return false;
    }
    return true;
  };
  const std::size_t bytes = kThreads * sizeof(float);
  CHECK(launch(1, kThreads, bytes));
  CHECK(!launch(0, kThreads, bytes));
  CHECK(!launch(dim3(1, 65536), kThreads, bytes));
  CHECK(!launch(1, 0, bytes));
  CHECK(!launch(1, 1056, bytes));
  CHECK(!launch(1, kThreads, 228 * 1024));
}

#if defined(__SANITIZE_ADDRESS__)
TEST(accesses_out_of_bounds_are_fatal) {
  lbp::emulate::set_seed(0);
  CHECK(!dies([] { rotates<Rotation::kCorrect>(); }));
  CHECK(dies([] { rotates<Rotation::kPastSharedEnd>(); }));
  CHECK(dies([] { rotates<Rotation::kPastGlobalEnd>(); }));
}
#endif

int main() { return check::run_all(); }
