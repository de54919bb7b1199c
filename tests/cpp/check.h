// The little that these tests need of a test framework: TEST(name) { CHECK(condition) << values; } and a main function.
#pragma once

#include <cstdio>
#include <iostream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

namespace check {

struct Test {
  const char* name;
  void (*body)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> registered;
  return registered;
}

inline long failures = 0;
constexpr long kPrintedFailures = 20;

struct Registration {
  Registration(const char* name, void (*body)()) { tests().push_back({name, body}); }
};

// Collects the values that explain a failed condition and prints them when it goes out of scope.
class Failure {
 public:
  Failure(const char* condition, const char* file, int line) {
    text_.precision(std::numeric_limits<double>::max_digits10);
    text_ << file << ":" << line << ": failed: " << condition << "  ";
  }
  ~Failure() {
    if (++failures <= kPrintedFailures) std::cout << text_.str() << "\n";
  }
  template <typename T>
  Failure& operator<<(const T& value) {
    text_ << value;
    return *this;
  }

 private:
  std::ostringstream text_;
};

inline int run_all() {
  for (const Test& test : tests()) {
    const long before = failures;
    test.body();
    std::cout << (failures == before ? "passed  " : "FAILED  ") << test.name << std::endl;
  }
  if (failures > kPrintedFailures) std::cout << failures << " failures, the first " << kPrintedFailures << " shown\n";
  return failures == 0 ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                                      \
  static void name();                                                   \
  static const check::Registration name##_registration(#name, &(name)); \
  static void name()

#define CHECK(condition) \
  if (condition) {       \
  } else                 \
    check::Failure(#condition, __FILE__, __LINE__)
