#include "agent/publish.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <mutex>

#include "agent/source_files.h"
#include "base/file.h"
#include "base/worker_pool.h"
#include "model/safetensors.h"

namespace weightcast::agent {
namespace {

Result<model::Layout> make_layout(const model::Manifest& manifest, std::uint64_t chunk_bytes) {
    if (!std::has_single_bit(chunk_bytes)) {
        return Error{Code::invalid_input, 0,
                     fmt::format("chunk size {} is not a power of two", chunk_bytes)};
    }
    model::LayoutOptions options;
    options.chunk_shift = static_cast<std::uint32_t>(std::countr_zero(chunk_bytes));
    options.chunks_per_bucket = options.chunk_shift >= 26 ? 1 : 1U << (26 - options.chunk_shift);
    std::vector<std::uint64_t> sizes;
    for (const model::Artifact& artifact : manifest.artifacts) sizes.push_back(artifact.bytes);
    return model::Layout::make(options, sizes);
}

void sort_tensors(model::Manifest& manifest) {
    std::sort(manifest.tensors.begin(), manifest.tensors.end(),
              [](const model::TensorRecord& a, const model::TensorRecord& b) {
                  return std::tie(a.name, a.artifact) < std::tie(b.name, b.artifact);
              });
}

Result<void> index_tensors(model::Manifest& manifest, const SourceFiles& files) {
    std::map<std::string, model::SafetensorsHeader> headers;
    for (std::uint32_t i = 0; i < manifest.artifacts.size(); ++i) {
        model::Artifact& artifact = manifest.artifacts[i];
        if (!artifact.path.ends_with(".safetensors")) continue;
        WEIGHTCAST_TRY(auto header,
                       model::read_safetensors_header(files.file(i).fd.get(), artifact.path));
        artifact.kind = model::ArtifactKind::safetensors;
        for (const model::TensorEntry& entry : header.tensors) {
            manifest.tensors.push_back({entry.name, i, header.data_offset + entry.offset,
                                        entry.bytes, entry.dtype, entry.shape});
        }
        headers.emplace(artifact.path, std::move(header));
    }
    sort_tensors(manifest);
    constexpr std::string_view kIndex = ".safetensors.index.json";
    for (std::uint32_t i = 0; i < manifest.artifacts.size(); ++i) {
        const model::Artifact& artifact = manifest.artifacts[i];
        if (!artifact.path.ends_with(kIndex)) continue;
        WEIGHTCAST_TRY(const std::string text, files.read_text(i));
        const std::string folder = artifact.path.substr(0, artifact.path.rfind('/') + 1);
        std::map<std::string, const model::SafetensorsHeader*> shards;
        for (const auto& [path, header] : headers) {
            const bool beside =
                path.starts_with(folder) && path.find('/', folder.size()) == std::string::npos;
            if (beside) shards[path.substr(folder.size())] = &header;
        }
        auto checked = model::check_shard_index(text, shards);
        if (!checked) {
            Error error = checked.error();
            error.message = fmt::format("{}: {}", artifact.path, error.message);
            return error;
        }
    }
    return success();
}

// Digests all chunks on all cores; `read` gives a chunk's bytes, in the buffer or elsewhere.
template <typename Read>
Result<void> digest_chunks(model::Manifest& manifest, const Read& read) {
    const model::Layout& layout = manifest.layout;
    manifest.chunk_digests.resize(layout.chunk_count());
    std::mutex mutex;
    Result<void> outcome = success();
    constexpr std::uint32_t kBatch = 16;
    const std::size_t batches = (layout.chunk_count() + kBatch - 1) / kBatch;
    parallel_for(batches, [&](std::size_t batch) {
        std::vector<std::byte> buffer(layout.chunk_bytes());
        const auto first = static_cast<std::uint32_t>(batch) * kBatch;
        const auto last = std::min(first + kBatch, layout.chunk_count());
        for (std::uint32_t chunk = first; chunk < last; ++chunk) {
            auto digest = read(layout.chunk_range(chunk), buffer);
            if (digest) {
                manifest.chunk_digests[chunk] = digest.value();
                continue;
            }
            const std::lock_guard lock(mutex);
            if (outcome) outcome = digest.error();
            return;
        }
    });
    return outcome;
}

}  // namespace

NamedManifest name_manifest(model::Manifest manifest, std::uint64_t version) {
    manifest.version = version;
    NamedManifest named;
    named.encoded = model::encode_manifest(manifest);
    named.name = model::sha256(named.encoded);
    named.manifest = std::make_shared<const model::Manifest>(std::move(manifest));
    return named;
}

Result<Draft> draft_from_files(std::span<const std::string> paths, const PublishOptions& options) {
    WEIGHTCAST_CHECK(model::check_model_name(options.model));
    WEIGHTCAST_TRY(std::shared_ptr<SourceFiles> files, SourceFiles::open(paths));
    Draft draft;
    draft.manifest.model = options.model;
    for (std::size_t i = 0; i < files->count(); ++i) {
        const SourceFile& file = files->file(i);
        draft.manifest.artifacts.push_back(
            {file.path, model::ArtifactKind::opaque, file.executable, file.bytes});
    }
    WEIGHTCAST_CHECK(index_tensors(draft.manifest, *files));
    WEIGHTCAST_TRY(draft.manifest.layout, make_layout(draft.manifest, options.chunk_bytes));
    WEIGHTCAST_CHECK(digest_chunks(draft.manifest,
                                   [&](const model::ArtifactRange& range,
                                       std::span<std::byte> buffer) -> Result<model::Digest> {
                                       const SourceFile& file = files->file(range.artifact);
                                       const auto bytes = buffer.first(range.bytes);
                                       WEIGHTCAST_CHECK(read_exactly(file.fd.get(), bytes,
                                                                     range.offset, file.path));
                                       return model::digest_chunk(bytes);
                                   }));
    // What was hashed is what will be served only if nobody wrote meanwhile.
    WEIGHTCAST_CHECK(files->check_unchanged());
    for (std::uint32_t i = 0; i < files->count(); ++i) {
        const SourceFile& file = files->file(i);
        if (file.bytes == 0) continue;
        draft.memory.push_back(
            {draft.manifest.layout.place_of(i), {file.pages.span(), file.fd.get(), 0, true}});
    }
    draft.check_source = [files] { return files->check_unchanged(); };
    draft.owner = files;
    return draft;
}

Result<Draft> draft_from_memory(std::span<const TensorView> tensors,
                                const PublishOptions& options) {
    WEIGHTCAST_CHECK(model::check_model_name(options.model));
    std::vector<model::TensorEntry> entries;
    for (const TensorView& tensor : tensors) {
        const auto dtype = model::parse_dtype(tensor.dtype);
        if (!dtype) {
            return Error{
                Code::invalid_input, 0,
                fmt::format("tensor {} has an unknown dtype {}", tensor.name, tensor.dtype)};
        }
        entries.push_back({tensor.name, *dtype, tensor.shape, 0, tensor.bytes.size()});
    }
    WEIGHTCAST_TRY(const auto header, model::write_safetensors_header(entries, {{"format", "pt"}}));
    struct Owner {
        SharedMemory header;
        std::vector<std::span<const std::byte>> pieces;  // of the artifact, in order
        std::vector<std::uint64_t> offsets;              // of each piece
    };
    auto owner = std::make_shared<Owner>();
    WEIGHTCAST_TRY(owner->header, SharedMemory::create("weightcast-header", header.size()));
    std::memcpy(owner->header.pages.data(), header.data(), header.size());
    Draft draft;
    draft.memory.push_back({0, {owner->header.pages.span(), owner->header.fd.get(), 0, false}});
    owner->pieces.push_back(owner->header.pages.span());
    owner->offsets.push_back(0);
    std::uint64_t end = header.size();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const auto bytes = tensors[i].bytes;
        draft.manifest.tensors.push_back(
            {entries[i].name, 0, end, bytes.size(), entries[i].dtype, entries[i].shape});
        if (bytes.empty()) continue;
        owner->pieces.push_back(bytes);
        owner->offsets.push_back(end);
        // Peers only read. Tensors that lie one behind the other become one region.
        auto* data = const_cast<std::byte*>(bytes.data());
        std::span<std::byte>& last = draft.memory.back().memory.bytes;
        if (draft.memory.size() > 1 && last.data() + last.size() == data) {
            last = {last.data(), last.size() + bytes.size()};
        } else {
            draft.memory.push_back({end, {{data, bytes.size()}, -1, 0, false}});
        }
        end += bytes.size();
    }
    draft.manifest.model = options.model;
    draft.manifest.artifacts.push_back(
        {"model.safetensors", model::ArtifactKind::safetensors, false, end});
    sort_tensors(draft.manifest);
    WEIGHTCAST_TRY(draft.manifest.layout, make_layout(draft.manifest, options.chunk_bytes));
    WEIGHTCAST_CHECK(digest_chunks(
        draft.manifest,
        [&](const model::ArtifactRange& range, std::span<std::byte>) -> Result<model::Digest> {
            model::ChunkHasher hasher;
            const auto next =
                std::upper_bound(owner->offsets.begin(), owner->offsets.end(), range.offset);
            auto at = static_cast<std::size_t>(next - owner->offsets.begin()) - 1;
            for (std::uint64_t done = 0; done < range.bytes; ++at) {
                const std::uint64_t skip = range.offset + done - owner->offsets[at];
                const auto rest = owner->pieces[at].subspan(skip);
                const auto piece =
                    rest.first(std::min<std::uint64_t>(rest.size(), range.bytes - done));
                hasher.update(piece);
                done += piece.size();
            }
            return hasher.finish();
        }));
    draft.owner = owner;
    return draft;
}

}  // namespace weightcast::agent
