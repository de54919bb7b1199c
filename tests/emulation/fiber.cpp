#include "emulation/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

// AddressSanitizer must know which stack is in use.
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define LBP_START_SWITCH(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define LBP_FINISH_SWITCH(saved, bottom, size) __sanitizer_finish_switch_fiber(saved, bottom, size)
#define LBP_FORGET_STACK(bottom, size) __asan_unpoison_memory_region(bottom, size)
#else
#define LBP_START_SWITCH(save, bottom, size) static_cast<void>(0)
#define LBP_FINISH_SWITCH(saved, bottom, size) static_cast<void>(0)
#define LBP_FORGET_STACK(bottom, size) static_cast<void>(0)
#endif

namespace lbp::emulate {
namespace {

constexpr std::size_t kStackBytes = 256 * 1024, kGuardBytes = 4096;

Fiber* running = nullptr;

// The main stack as AddressSanitizer describes it, and the state that it keeps for it.
[[maybe_unused]] const void* main_bottom = nullptr;
[[maybe_unused]] std::size_t main_size = 0;
[[maybe_unused]] void* main_fake_stack = nullptr;

}  // namespace

#if defined(__x86_64__)

// Saves the registers that a function must preserve and the stack pointer, and takes those of the other stack.
extern "C" void lbp_emulate_switch(void** save, void* load);
asm(R"(
.text
.type lbp_emulate_switch, @function
lbp_emulate_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lbp_emulate_switch, .-lbp_emulate_switch
)");

struct Fiber::Context {
  void* stack = nullptr;
  void* fake_stack = nullptr;
  static inline void* main = nullptr;

  void prepare(char* top, void (*function)()) {
    // As after a call: the function's address on top of the saved registers, the stack aligned to 16 less 8.
    auto* slots = reinterpret_cast<std::uintptr_t*>(top);
    *--slots = 0;
    *--slots = reinterpret_cast<std::uintptr_t>(function);
    for (int saved = 0; saved < 6; ++saved) *--slots = 0;
    stack = slots;
  }
  void enter() { lbp_emulate_switch(&main, stack); }
  void exit() { lbp_emulate_switch(&stack, main); }
};

#else

struct Fiber::Context {
  ucontext_t own;
  void* fake_stack = nullptr;
  static inline ucontext_t main;

  void prepare(char* top, void (*function)()) {
    getcontext(&own);
    own.uc_stack.ss_sp = top - kStackBytes;
    own.uc_stack.ss_size = kStackBytes;
    own.uc_link = nullptr;
    makecontext(&own, function, 0);
  }
  void enter() { swapcontext(&main, &own); }
  void exit() { swapcontext(&own, &main); }
};

#endif

Fiber::Fiber() : context_(new Context) {
  void* memory =
      mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kGuardBytes, PROT_NONE);
  memory_ = static_cast<char*>(memory) + kGuardBytes;
}

Fiber::~Fiber() {
  LBP_FORGET_STACK(memory_, kStackBytes);
  munmap(memory_ - kGuardBytes, kGuardBytes + kStackBytes);
  delete context_;
}

void Fiber::start(void (*entry)(void*), void* context) {
  LBP_FORGET_STACK(memory_, kStackBytes);
  entry_ = entry;
  argument_ = context;
  context_->fake_stack = nullptr;
  context_->prepare(memory_ + kStackBytes, &Fiber::begin);
}

void Fiber::begin() {
  LBP_FINISH_SWITCH(nullptr, &main_bottom, &main_size);
  running->entry_(running->argument_);
  running->leave();
}

void Fiber::resume() {
  running = this;
  LBP_START_SWITCH(&main_fake_stack, memory_, kStackBytes);
  context_->enter();
  LBP_FINISH_SWITCH(main_fake_stack, nullptr, nullptr);
}

void Fiber::switch_to_main(bool forever) {
  [[maybe_unused]] void** save = forever ? nullptr : &context_->fake_stack;
  LBP_START_SWITCH(save, main_bottom, main_size);
  context_->exit();
  LBP_FINISH_SWITCH(context_->fake_stack, &main_bottom, &main_size);
}

void Fiber::pause() { switch_to_main(false); }

void Fiber::leave() {
  switch_to_main(true);
  std::abort();
}

}  // namespace lbp::emulate
