#include "emulation/emulate.h"

#include <cstdlib>
#include <memory>
#include <random>
#include <sstream>
#include <vector>

#include "emulation/fiber.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace lbp::emulate {
namespace {

constexpr int kWarp = 32;

std::uint64_t current_seed = 0;

enum class State { kReady, kAtBarrier, kInExchange, kFinished };

struct Thread {
  uint3 index;
  int number;
  State state;
  Site site;
  // What it waits for in its warp, and what it brought.
  Exchange kind;
  unsigned mask;
  std::uint64_t value;
  int source;
  std::uint64_t result;
};

// One line of a file may have several addresses of its name.
bool same(Site a, Site b) { return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0); }

std::string describe(Site site) { return std::string(site.file) + ":" + std::to_string(site.line); }

std::string describe(const Thread& thread) {
  std::ostringstream text;
  text << "thread (" << thread.index.x << ", " << thread.index.y << ", " << thread.index.z << ") of block ("
       << blockIdx.x << ", " << blockIdx.y << ", " << blockIdx.z << ")";
  if (thread.state == State::kFinished) text << " has left the kernel";
  if (thread.state == State::kAtBarrier) text << " waits at the barrier " << describe(thread.site);
  if (thread.state == State::kInExchange)
    text << " waits at " << describe(thread.site) << " for the lanes of mask 0x" << std::hex << thread.mask;
  return text.str();
}

// The stacks are kept from launch to launch.
Fiber& fiber(int number) {
  static std::vector<std::unique_ptr<Fiber>> fibers;
  while (int(fibers.size()) <= number) fibers.push_back(std::make_unique<Fiber>());
  return *fibers[number];
}

// A heap array filled with NaN, whose ends AddressSanitizer knows.
class SharedArray {
 public:
  SharedArray(const void* identity, std::size_t bytes)
      : identity_(identity), bytes_(bytes), data_(std::malloc(bytes), &std::free) {
    std::memset(data_.get(), 0xff, bytes);
  }
  const void* identity() const { return identity_; }
  std::size_t bytes() const { return bytes_; }
  void* data() const { return data_.get(); }

 private:
  const void* identity_;
  std::size_t bytes_;
  std::unique_ptr<void, decltype(&std::free)> data_;
};

class Block {
 public:
  Block(std::size_t shared_bytes, const std::function<void()>& body, std::mt19937_64* shuffle)
      : body_(body), shuffle_(shuffle), dynamic_(nullptr, shared_bytes) {
    const int count = int(blockDim.x * blockDim.y * blockDim.z);
    for (int number = 0; number < count; ++number) {
      Thread thread = {};
      const unsigned n = unsigned(number);
      thread.index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
      thread.number = number;
      threads_.push_back(thread);
      ready_.push_back(number);
      fiber(number).start([](void* block) { static_cast<Block*>(block)->enter(); }, this);
    }
    unfinished_ = count;
  }

  void run() {
    while (unfinished_ > 0) {
      if (ready_.empty()) throw Error(deadlock());
      current_ = &threads_[take_ready()];
      threadIdx = current_->index;
      fiber(current_->number).resume();
      if (!failure_.empty()) throw Error(failure_);
    }
  }

  Thread& current() { return *current_; }

  void* shared(const void* identity, std::size_t bytes) {
    for (const SharedArray& array : arrays_) {
      if (array.identity() == identity) return array.data();
    }
    std::size_t total = bytes;
    for (const SharedArray& array : arrays_) total += array.bytes();
    if (total > cuda::kDefaultSharedBytes)
      fail("static shared memory of " + std::to_string(total) + " bytes passes 48 KiB");
    // A launch asks for more than the default only where its dynamic part alone needs it.
    const std::size_t limit = dynamic_.bytes() > cuda::kDefaultSharedBytes ? kSharedLimit : cuda::kDefaultSharedBytes;
    if (total + dynamic_.bytes() > limit)
      fail(std::to_string(total) + " bytes of static and " + std::to_string(dynamic_.bytes()) +
           " of dynamic shared memory cannot be launched");
    arrays_.emplace_back(identity, bytes);
    return arrays_.back().data();
  }

  void* dynamic() const { return dynamic_.data(); }

  void at_barrier(Site site) {
    wait(State::kAtBarrier, site, [this, site] {
      for (const Thread& thread : threads_) {
        if (thread.state != State::kAtBarrier) return;
        if (!same(thread.site, site)) fail("divergent barrier: " + describe(thread) + ", " + describe(*current_));
      }
      for (Thread& thread : threads_) make_ready(thread);
    });
  }

  std::uint64_t in_exchange(Exchange kind, unsigned mask, std::uint64_t value, int source, Site site) {
    Thread& self = *current_;
    self.site = site;
    self.mask = mask;
    if ((mask >> (self.number % kWarp) & 1) == 0) fail(mask_error(self, "which is not in its own"));
    if (kind == Exchange::kShuffle && (mask >> source & 1) == 0)
      fail(mask_error(self, "reads lane " + std::to_string(source) + ", which is not in the"));
    self.kind = kind;
    self.value = value;
    self.source = source;
    wait(State::kInExchange, site, [this] { complete_exchange(); });
    return self.result;
  }

 private:
  void enter() {
    try {
      body_();
    } catch (const Error& error) {
      failure_ = error.what();
    }
    current_->state = State::kFinished;
    --unfinished_;
  }

  // Half of the picks take whoever became ready last, so that one warp can run far ahead of the others.
  int take_ready() {
    std::size_t at = 0;
    if (shuffle_ != nullptr) {
      const std::uint64_t random = (*shuffle_)();
      at = random & 1 ? ready_.size() - 1 : (random >> 1) % ready_.size();
    }
    const int number = ready_[at];
    if (shuffle_ != nullptr) {
      ready_[at] = ready_.back();
      ready_.pop_back();
    } else {
      ready_.erase(ready_.begin());
    }
    return number;
  }

  void make_ready(Thread& thread) {
    thread.state = State::kReady;
    ready_.push_back(thread.number);
  }

  // Waits until `arrived`, called now and by every later comer, has made this thread ready.
  template <typename Arrived>
  void wait(State state, Site site, const Arrived& arrived) {
    Thread& self = *current_;
    self.state = state;
    self.site = site;
    arrived();
    fiber(self.number).pause();
  }

  void complete_exchange() {
    const Thread& self = *current_;
    Thread* warp = &threads_[self.number / kWarp * kWarp];
    const int lanes = int(threads_.size()) - self.number / kWarp * kWarp;
    std::uint64_t ballot = 0;
    for (int lane = 0; lane < kWarp; ++lane) {
      if ((self.mask >> lane & 1) == 0) continue;
      if (lane >= lanes) fail(mask_error(self, "but the block has no lane " + std::to_string(lane) + " of the"));
      if (warp[lane].state == State::kFinished) fail("lane left: " + describe(self) + ", but " + describe(warp[lane]));
      if (warp[lane].state != State::kInExchange) return;
      if (warp[lane].mask != self.mask) return;
      if (warp[lane].kind != self.kind || !same(warp[lane].site, self.site))
        fail("divergent exchange: " + describe(self) + ", " + describe(warp[lane]));
      ballot |= (warp[lane].value & 1) << lane;
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      if ((self.mask >> lane & 1) == 0) continue;
      warp[lane].result = self.kind == Exchange::kBallot ? ballot : warp[warp[lane].source].value;
      make_ready(warp[lane]);
    }
  }

  static std::string mask_error(const Thread& thread, const std::string& problem) {
    std::ostringstream text;
    text << describe(thread.site) << ": " << describe(thread) << " " << problem << " mask 0x" << std::hex
         << thread.mask;
    return text.str();
  }

  // Ends the fiber; run() throws the error again.
  [[noreturn]] static void fail(const std::string& message) { throw Error(message); }

  std::string deadlock() const {
    const Thread* waiting = nullptr;
    const Thread* other = nullptr;
    for (const Thread& thread : threads_) {
      if (thread.state == State::kFinished) {
        other = &thread;
      } else if (waiting == nullptr) {
        waiting = &thread;
      } else if (other == nullptr && thread.site.line != waiting->site.line) {
        other = &thread;
      }
    }
    return "not all threads arrive: " + describe(*waiting) + (other == nullptr ? "" : ", but " + describe(*other));
  }

  const std::function<void()>& body_;
  std::mt19937_64* shuffle_;
  SharedArray dynamic_;
  std::vector<SharedArray> arrays_;
  std::vector<Thread> threads_;
  std::vector<int> ready_;
  Thread* current_ = nullptr;
  int unfinished_ = 0;
  std::string failure_;
};

Block* block_running = nullptr;

void check_limits(dim3 grid, dim3 block, std::size_t shared_bytes) {
  const std::size_t threads = std::size_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64)
    throw Error("a block of " + std::to_string(threads) + " threads cannot be launched");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    throw Error("a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
                std::to_string(grid.z) + " blocks cannot be launched");
  if (shared_bytes > kSharedLimit)
    throw Error(std::to_string(shared_bytes) + " bytes of shared memory cannot be launched");
}

}  // namespace

void set_seed(std::uint64_t seed) { current_seed = seed; }

void run(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body) {
  check_limits(grid, block, shared_bytes);
  std::mt19937_64 random(current_seed);
  gridDim = grid;
  blockDim = block;
  const std::uint64_t blocks = std::uint64_t(grid.x) * grid.y * grid.z;
  // Blocks run in any order too: forward or backward.
  const bool backward = current_seed % 2 == 1;
  for (std::uint64_t step = 0; step < blocks; ++step) {
    const std::uint64_t number = backward ? blocks - 1 - step : step;
    blockIdx = {unsigned(number % grid.x), unsigned(number / grid.x % grid.y), unsigned(number / grid.x / grid.y)};
    Block running(shared_bytes, body, current_seed == 0 ? nullptr : &random);
    block_running = &running;
    running.run();
  }
}

void* shared_bytes_of(const void* identity, std::size_t bytes) { return block_running->shared(identity, bytes); }
void* dynamic_shared() { return block_running->dynamic(); }
int lane() { return block_running->current().number % kWarp; }
void synchronize_block(Site site) { block_running->at_barrier(site); }
std::uint64_t exchange(Exchange kind, unsigned mask, std::uint64_t value, int source, Site site) {
  return block_running->in_exchange(kind, mask, value, source, site);
}

}  // namespace lbp::emulate
