// What this host's ports and memory can do, for the lower bound of a report.
#pragma once

#include <string>

namespace weightcast::agent {

// Bytes/s of the port that leads to a transport's exported address ("tcp://HOST:PORT"), as the
// system reports it; 0 if it leads through no port (loopback, shared memory) or is unknown.
double port_rate_towards(const std::string& address);

// Bytes/s of memcpy by one thread between warm buffers, measured once per process.
double memory_copy_rate();

}  // namespace weightcast::agent
