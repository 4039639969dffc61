// Makes a C library's function that frees a handle the deleter of a unique_ptr.
#pragma once

namespace weightcast {

// std::unique_ptr<::ibv_pd, Freer<::ibv_dealloc_pd>>
template <auto kFree>
struct Freer {
    template <typename Handle>
    void operator()(Handle* handle) const noexcept {
        kFree(handle);
    }
};

}  // namespace weightcast
