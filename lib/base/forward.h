// Functions of a C library that is loaded when it is first wanted, under their own names: code
// calls ibv_open_device() as if it were linked, and a process that never gets that far neither
// loads the library nor needs it installed. UCX, once loaded, patches the process's memory
// functions.
//
//     #define LIBRARY(X) X(ibv_open_device, 1) X(ibv_alloc_pd, 1)   // with counts of parameters
//     WEIGHTCAST_FUNCTIONS(LIBRARY)   // in namespace ::, behind the library's headers
//
// defines them, and find_all(), for load_functions(). They are hidden: neither another library nor
// the real one, which calls itself, may get these. REQUIRES of each call: they were loaded.
#pragma once

#include <cstddef>
#include <tuple>

#include "base/shared_object.h"
#include "weightcast/result.h"

namespace weightcast {

template <typename Function>
struct Signature;
template <typename R, typename... Parameters>
struct Signature<R(Parameters...)> {
    using Result = R;
    template <std::size_t kIndex>
    using Parameter = std::tuple_element_t<kIndex, std::tuple<Parameters...>>;
};

// `find_all`: the first function that the library lacks, or nullptr.
// Error{unavailable}: the library is not there, or lacks one.
Result<void> load_functions(const char* library, const char* (*find_all)(const SharedObject&));

}  // namespace weightcast

#define WEIGHTCAST_RESULT(name) ::weightcast::Signature<decltype(name)>::Result
#define WEIGHTCAST_PARAMETER(name, index) ::weightcast::Signature<decltype(name)>::Parameter<index>

#define WEIGHTCAST_PARAMETERS_0(name)
#define WEIGHTCAST_PARAMETERS_1(name) WEIGHTCAST_PARAMETER(name, 0) a
#define WEIGHTCAST_PARAMETERS_2(name) WEIGHTCAST_PARAMETERS_1(name), WEIGHTCAST_PARAMETER(name, 1) b
#define WEIGHTCAST_PARAMETERS_3(name) WEIGHTCAST_PARAMETERS_2(name), WEIGHTCAST_PARAMETER(name, 2) c
#define WEIGHTCAST_PARAMETERS_4(name) WEIGHTCAST_PARAMETERS_3(name), WEIGHTCAST_PARAMETER(name, 3) d
#define WEIGHTCAST_PARAMETERS_5(name) WEIGHTCAST_PARAMETERS_4(name), WEIGHTCAST_PARAMETER(name, 4) e
#define WEIGHTCAST_PARAMETERS_6(name) WEIGHTCAST_PARAMETERS_5(name), WEIGHTCAST_PARAMETER(name, 5) f
#define WEIGHTCAST_PARAMETERS_7(name) WEIGHTCAST_PARAMETERS_6(name), WEIGHTCAST_PARAMETER(name, 6) g
#define WEIGHTCAST_ARGUMENTS_0
#define WEIGHTCAST_ARGUMENTS_1 a
#define WEIGHTCAST_ARGUMENTS_2 a, b
#define WEIGHTCAST_ARGUMENTS_3 a, b, c
#define WEIGHTCAST_ARGUMENTS_4 a, b, c, d
#define WEIGHTCAST_ARGUMENTS_5 a, b, c, d, e
#define WEIGHTCAST_ARGUMENTS_6 a, b, c, d, e, f
#define WEIGHTCAST_ARGUMENTS_7 a, b, c, d, e, f, g

#define WEIGHTCAST_FORWARD(name, count)                    \
    static decltype(&::name) found_##name;                 \
    [[gnu::visibility("hidden")]] WEIGHTCAST_RESULT(name)  \
        name(WEIGHTCAST_PARAMETERS_##count(name)) {        \
        return found_##name(WEIGHTCAST_ARGUMENTS_##count); \
    }

#define WEIGHTCAST_FIND(name, count) \
    if (!library.find(#name, found_##name)) return #name;

// clang-format off
#define WEIGHTCAST_FUNCTIONS(functions)                                    \
    functions(WEIGHTCAST_FORWARD)                                          \
    static const char* find_all(const weightcast::SharedObject& library) { \
        functions(WEIGHTCAST_FIND)                                         \
        return nullptr;                                                    \
    }
// clang-format on
