// What evaluating linear bounds over the input region needs, whichever way the coefficients lie in memory.
#pragma once

#include "arguments.h"
#include "dispatch.h"
#include "math/box.h"
