// Stacks that a thread switches between.
#pragma once

#include <cstddef>

namespace lbp::emulate {

// A stack with a function on it. The function never returns: it switches away for the last time by leave().
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the next resume() call entry(context) from the top of the stack; what was on it is forgotten.
  void start(void (*entry)(void*), void* context);
  // From the main stack: runs the fiber until it calls pause() or leave().
  void resume();
  // From the fiber: back to the main stack.
  void pause();
  [[noreturn]] void leave();

 private:
  static void begin();
  void switch_to_main(bool forever);

  struct Context;
  Context* context_;
  char* memory_;
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
};

}  // namespace lbp::emulate
