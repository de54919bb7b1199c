// Launches of kernels that are compiled just in time, on a driver that only keeps a record (driver/driver.cpp).
#include "cuda/compiled_kernel.h"

#include <dlfcn.h>

#include <cstring>

#include "check.h"
#include "cuda/device.h"
#include "driver/driver.h"

namespace lbp::cuda {

struct Scaling {
  double factor;
};

template <typename T, int kTimes>
void scale_kernel(Scaling) {}
void plain_kernel(Scaling) {}

}  // namespace lbp::cuda

extern "C" {
void lbp_jit_set_compiler(void (*compiler)(void*, const char*, int, int));
void lbp_jit_answer(void* request, const char* image, std::size_t bytes, const char* symbol);
void lbp_jit_refuse(void* request, const char* reason);
const char* lbp_jit_kernel(std::size_t number);
}

namespace {

using lbp::cuda::Scaling;
using lbp::cuda::jit::CompiledKernel;
using lbp::cuda::jit::Entry;

Record& record() {
  using Access = Record* (*)();
  static void* const library = dlopen("libcuda.so.1", RTLD_NOW);
  return *reinterpret_cast<Access>(dlsym(library, "driver_record"))();
}

std::string compiled_name;
int compiled_for = 0, compilations = 0;

void compile(void* request, const char* kernel, int major, int minor) {
  compiled_name = kernel;
  compiled_for = 10 * major + minor;
  ++compilations;
  lbp_jit_answer(request, "image", 5, "function");
}

void refuse(void* request, const char*, int, int) { lbp_jit_refuse(request, "there is no compiler"); }

void answer_for_another_device(void* request, const char*, int, int) {
  lbp_jit_answer(request, "wrong architecture", 18, "function");
}

void give_no_answer(void*, const char*, int, int) {}

template <auto kKernel>
int launch(std::size_t shared_bytes = 0) {
  const Scaling argument = {2.5};
  int stream = 0;
  return Entry<kKernel>::instance.launch({3, 2, 1}, {128, 1, 1}, shared_bytes, &stream, &argument);
}

TEST(every_kernel_that_is_launched_somewhere_is_in_the_registry) {
  std::string all;
  std::size_t count = 0;
  for (; lbp_jit_kernel(count) != nullptr; ++count) all += std::string(lbp_jit_kernel(count)) + "\n";
  CHECK(all.find("lbp::cuda::scale_kernel<float, 4>\n") != std::string::npos) << all;
  CHECK(all.find("lbp::cuda::scale_kernel<double, 4>\n") != std::string::npos) << all;
  CHECK(all.find("lbp::cuda::plain_kernel\n") != std::string::npos) << all;
}

TEST(without_a_compiler_a_launch_says_so) {
  CHECK(lbp::cuda::select_device(0) == 0);
  const int status = launch<lbp::cuda::scale_kernel<float, 4>>();
  CHECK(lbp::cuda::describe(status).find("no compiler is registered") == 0) << lbp::cuda::describe(status);
}

TEST(a_refusal_of_the_compiler_is_the_text_of_the_error) {
  lbp_jit_set_compiler(refuse);
  CHECK(lbp::cuda::describe(launch<lbp::cuda::scale_kernel<float, 4>>()) == "there is no compiler");
  lbp_jit_set_compiler(give_no_answer);
  const std::string text = lbp::cuda::describe(launch<lbp::cuda::scale_kernel<float, 4>>());
  CHECK(text == "the compiler of lbp::cuda::scale_kernel<float, 4> gave no answer") << text;
}

TEST(machine_code_of_another_device_is_explained) {
  lbp_jit_set_compiler(answer_for_another_device);
  const int status = launch<lbp::cuda::scale_kernel<float, 4>>();
  CHECK(status == kDriverError) << status;
  const std::string text = lbp::cuda::describe(status);
  CHECK(text.find("CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image is available; this device") == 0) << text;
  CHECK(record().launches == 0);
}

TEST(a_kernel_is_compiled_once_per_device_and_launched_as_asked) {
  lbp_jit_set_compiler(compile);
  for (int time = 0; time < 3; ++time) {
    CHECK((launch<lbp::cuda::scale_kernel<float, 4>>() == 0));
  }
  CHECK(compilations == 1) << compilations;
  CHECK(compiled_name == "lbp::cuda::scale_kernel<float, 4>") << compiled_name;
  CHECK(compiled_for == 90) << compiled_for;
  CHECK(record().launches == 3 && record().device == 0);
  const unsigned expected[] = {3, 2, 1, 128, 1, 1};
  CHECK(std::memcmp(record().extents, expected, sizeof(expected)) == 0);
  CHECK(record().argument == 2.5) << record().argument;

  CHECK(lbp::cuda::select_device(1) == 0);
  CHECK((launch<lbp::cuda::scale_kernel<float, 4>>() == 0));
  CHECK(compilations == 2 && compiled_for == 91) << compilations << " " << compiled_for;
  CHECK(record().device == 1) << record().device;
}

TEST(a_context_is_retained_only_where_another_device_was_current) {
  const int before = record().contexts[0];
  for (int time = 0; time < 3; ++time) CHECK(lbp::cuda::select_device(0) == 0);
  CHECK(record().contexts[0] == before + 1);
}

TEST(more_dynamic_shared_memory_than_usual_is_asked_for) {
  CHECK((launch<lbp::cuda::scale_kernel<double, 4>>(48 * 1024) == 0));
  CHECK(record().shared_limit == 0) << record().shared_limit;
  CHECK((launch<lbp::cuda::scale_kernel<double, 4>>(100 * 1024) == 0));
  CHECK(record().shared_limit == 100 * 1024 && record().shared_attribute == 8);
  CHECK(record().shared_bytes == 100 * 1024);
  CHECK((launch<lbp::cuda::plain_kernel>() == 0));
}

}  // namespace

int main() { return check::run_all(); }
