// The Destination that open_directory() gives (destination.h).
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "agent/destination.h"

namespace weightcast::agent {

class DirectoryDestination final : public Destination {
  public:
    DirectoryDestination(std::shared_ptr<const model::Manifest> manifest,
                         const model::Sha256& manifest_name, const DirectoryOptions& options);

    ~DirectoryDestination() override;

    // Errors: as open_directory().
    Result<void> open(const std::string& directory);

    const std::vector<std::uint32_t>& present() const override { return present_; }
    std::uint64_t bytes_shared() const override;
    std::span<std::byte> in_place(std::uint32_t) override { return {}; }
    Result<void> store(std::uint32_t chunk, std::span<const std::byte> bytes) override;
    std::vector<PlacedMemory> memory() const override;
    void abandon() override;
    Result<void> commit() override;

  private:
    Result<void> finish_swap();
    Result<void> look_for_foreign();
    Result<bool> adopt_existing();
    Result<void> open_stage();
    Result<bool> share_file(int root, std::uint32_t artifact);
    Result<void> stage_file(int root, std::uint32_t artifact);
    Result<void> map_files();
    Result<void> recover_chunks();
    Result<void> write_journal();
    bool right(int fd, std::uint32_t chunk) const;
    Error differs(const std::string& path, std::uint64_t offset) const;

    Result<void> write_subset();
    Result<void> sync_stage() const;
    Result<bool> swap_directory();
    Result<void> move_files();

    std::shared_ptr<const model::Manifest> manifest_;
    model::Sha256 manifest_name_;
    DirectoryOptions options_;
    std::set<std::string> expected_;
    std::set<std::string> expected_directories_;

    std::string directory_;
    std::string partial_;
    std::string swap_;
    UniqueFd lock_;                     // the directory itself, flock()ed
    std::vector<UniqueFd> existing_;    // of each artifact: a file found in the directory
    std::vector<char> existing_right_;  // of each chunk
    std::vector<UniqueFd> files_;       // of each artifact: the staged file
    std::vector<char> shared_;          // of each artifact: the file is another version's too
    std::vector<Mapping> mappings_;
    std::vector<std::uint32_t> present_;
    bool committed_ = false;

    std::mutex journal_mutex_;
    UniqueFd journal_;
    std::vector<std::byte> bitmap_;
    // What the journal lacks, in bytes of the bitmap, and the bytes of its chunks.
    std::size_t unwritten_first_ = SIZE_MAX;
    std::size_t unwritten_last_ = 0;
    std::uint64_t unwritten_bytes_ = 0;
};

}  // namespace weightcast::agent
