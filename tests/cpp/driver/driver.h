// What the stand-in for the CUDA driver keeps of the calls.
#pragma once

constexpr int kDriverError = 209;  // what loading the image "wrong architecture" returns

struct Record {
  int contexts[2];  // how often the primary context of each device was retained
  int modules, launches;
  int shared_attribute, shared_limit;
  unsigned extents[6], shared_bytes;
  void* stream;
  double argument;
  int device;
};
