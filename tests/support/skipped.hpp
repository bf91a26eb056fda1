// Test cases that cannot run where they are. Catch2 2 knows none: summary.py counts the line.
#pragma once

#include "catch.hpp"

#include <iostream>

/// Ends the test case.
#define SKIPPED(reason)                                                                                                \
  do {                                                                                                                 \
    std::cout << "SKIPPED: " << Catch::getResultCapture().getCurrentTestName() << ": " << (reason) << std::endl;       \
    return;                                                                                                            \
  } while (false)
