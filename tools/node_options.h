// Options of the tools that are peers.
#pragma once

#include <boost/program_options/options_description.hpp>
#include <boost/program_options/variables_map.hpp>

#include "tools/cli.h"
#include "weightcast/node.h"

namespace weightcast::cli {

// Adds those that p2p-serve and p2p-pull have in common; they are parsed into `node`, borrowed.
void add_node_options(boost::program_options::options_description& known, NodeOptions& node);
// Takes over what needs checking, once the options are parsed, and sets how much `program` tells.
// Errors: invalid_input.
Result<void> finish_node_options(const boost::program_options::variables_map& values,
                                 const Program& program, NodeOptions& node);

}  // namespace weightcast::cli
