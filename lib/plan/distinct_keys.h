// Refuses a JSON text with a key twice in one object, of which a tree keeps only the last.
#pragma once

#include <cstddef>
#include <string_view>

#include "weightcast/result.h"

namespace weightcast::plan {

// Errors: invalid_input (malformed, deeper than `depth_max`, more than `fields_max` fields in an
// object, a field twice).
Result<void> check_keys_distinct(std::string_view json, std::size_t depth_max,
                                 std::size_t fields_max);

}  // namespace weightcast::plan
