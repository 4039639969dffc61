// A fuzz target is one source file that defines the two functions below. Linked with fuzz_main.cpp
// it is a program of its own (PROGRAM COUNT [SEED] runs COUNT inputs mutated from the target's
// seeds, PROGRAM --seeds DIRECTORY writes the seeds as files, PROGRAM --file PATH... runs files);
// with -Dfuzz=true and clang, libFuzzer drives it instead (make a corpus with --seeds first).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// Inputs that reach deep: valid ones of each shape, and interesting broken ones. At least one.
std::vector<std::string> fuzz_seeds();

// Feeds one input to the code under test, and asserts with WEIGHTCAST_ASSERT what must hold
// whatever the input is. Returns 0. Keeps no state between calls.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
