#include "agent/publish.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>

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

void sort_tensors(std::vector<model::TensorRecord>& tensors) {
    std::sort(tensors.begin(), tensors.end(),
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
    sort_tensors(manifest.tensors);
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
    constexpr std::uint32_t kBatch = 16;
    const std::size_t batches = (layout.chunk_count() + kBatch - 1) / kBatch;
    return parallel_try(batches, [&](std::size_t batch) -> Result<void> {
        std::vector<std::byte> buffer(layout.chunk_bytes());
        const auto first = static_cast<std::uint32_t>(batch) * kBatch;
        const auto last = std::min(first + kBatch, layout.chunk_count());
        for (std::uint32_t chunk = first; chunk < last; ++chunk) {
            WEIGHTCAST_TRY(manifest.chunk_digests[chunk], read(layout.chunk_range(chunk), buffer));
        }
        return success();
    });
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

Result<Draft> draft_from_bytes(const std::string& path, std::shared_ptr<SharedMemory> bytes,
                               const PublishOptions& options) {
    Draft draft;
    const std::span<std::byte> pages = bytes->pages.span();
    draft.manifest.model = options.model;
    draft.manifest.artifacts.push_back({path, model::ArtifactKind::opaque, false, pages.size()});
    WEIGHTCAST_TRY(draft.manifest.layout, make_layout(draft.manifest, options.chunk_bytes));
    WEIGHTCAST_CHECK(digest_chunks(
        draft.manifest,
        [&](const model::ArtifactRange& range, std::span<std::byte>) -> Result<model::Digest> {
            return model::digest_chunk(pages.subspan(range.offset, range.bytes));
        }));
    draft.memory.push_back({0, {pages, bytes->fd.get(), 0, false}});
    draft.owner = std::move(bytes);
    return draft;
}

Result<std::shared_ptr<TensorMemory>> TensorMemory::make(std::span<const TensorView> tensors) {
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
    auto made = std::make_shared<TensorMemory>();
    WEIGHTCAST_TRY(made->header_, SharedMemory::create("weightcast-header", header.size()));
    const std::span<std::byte> head = made->header_.pages.span();
    std::memcpy(head.data(), header.data(), header.size());
    made->memory_.push_back({0, {head, made->header_.fd.get(), 0, false}});
    made->pieces_.push_back(head);
    made->offsets_.push_back(0);
    std::uint64_t end = header.size();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const auto bytes = tensors[i].bytes;
        made->tensors_.push_back(
            {entries[i].name, 0, end, bytes.size(), entries[i].dtype, entries[i].shape});
        if (bytes.empty()) continue;
        made->pieces_.push_back(bytes);
        made->offsets_.push_back(end);
        // Peers only read. Tensors that lie one behind the other become one region.
        auto* data = const_cast<std::byte*>(bytes.data());
        std::span<std::byte>& last = made->memory_.back().memory.bytes;
        if (made->memory_.size() > 1 && last.data() + last.size() == data) {
            last = {last.data(), last.size() + bytes.size()};
        } else {
            made->memory_.push_back({end, {{data, bytes.size()}, -1, 0, false}});
        }
        end += bytes.size();
    }
    made->bytes_ = end;
    sort_tensors(made->tensors_);
    return made;
}

Result<std::vector<char>> TensorMemory::chunks_to_digest(
    const model::Manifest& manifest, const model::Manifest& before,
    const std::vector<std::string>& changed) const {
    const model::Layout& layout = manifest.layout;
    // Another chunk size, say.
    if (!(before.layout == layout)) return std::vector<char>(layout.chunk_count(), 1);
    std::vector<char> chunks(layout.chunk_count(), 0);
    for (const std::string& name : changed) {
        const auto found = std::ranges::lower_bound(tensors_, name, {}, &model::TensorRecord::name);
        if (found == tensors_.end() || found->name != name) {
            return Error{Code::not_found, 0, fmt::format("there is no tensor {}", name)};
        }
        if (found->bytes == 0) continue;
        const std::uint64_t first = found->offset / layout.chunk_bytes();
        const std::uint64_t last = (found->offset + found->bytes - 1) / layout.chunk_bytes();
        for (std::uint64_t chunk = first; chunk <= last; ++chunk) chunks[chunk] = 1;
    }
    return chunks;
}

template <typename Use>
void TensorMemory::each_piece(std::uint64_t offset, std::uint64_t bytes, const Use& use) const {
    const auto next = std::ranges::upper_bound(offsets_, offset);
    auto at = static_cast<std::size_t>(next - offsets_.begin()) - 1;
    for (std::uint64_t done = 0; done < bytes; ++at) {
        const auto rest = pieces_[at].subspan(offset + done - offsets_[at]);
        const auto piece = rest.first(std::min<std::uint64_t>(rest.size(), bytes - done));
        use(piece);
        done += piece.size();
    }
}

void TensorMemory::read(std::uint64_t offset, std::span<std::byte> bytes) const {
    std::byte* to = bytes.data();
    each_piece(offset, bytes.size(), [&to](std::span<const std::byte> piece) {
        std::memcpy(to, piece.data(), piece.size());
        to += piece.size();
    });
}

Result<Draft> TensorMemory::draft(const PublishOptions& options, const model::Manifest* before,
                                  const std::vector<std::string>* changed) const {
    WEIGHTCAST_CHECK(model::check_model_name(options.model));
    Draft draft;
    draft.memory = memory_;
    draft.owner = std::const_pointer_cast<TensorMemory>(shared_from_this());
    model::Manifest& manifest = draft.manifest;
    manifest.model = options.model;
    manifest.artifacts.push_back(
        {"model.safetensors", model::ArtifactKind::safetensors, false, bytes_});
    manifest.tensors = tensors_;
    WEIGHTCAST_TRY(manifest.layout, make_layout(manifest, options.chunk_bytes));
    std::vector<char> fresh(manifest.layout.chunk_count(), 1);
    if (before != nullptr && changed != nullptr) {
        WEIGHTCAST_TRY(fresh, chunks_to_digest(manifest, *before, *changed));
    }
    WEIGHTCAST_CHECK(digest_chunks(
        manifest,
        [&](const model::ArtifactRange& range, std::span<std::byte>) -> Result<model::Digest> {
            const std::uint64_t chunk = range.offset / manifest.layout.chunk_bytes();
            if (fresh[chunk] == 0) return before->chunk_digests[chunk];
            model::ChunkHasher hasher;
            each_piece(range.offset, range.bytes,
                       [&hasher](std::span<const std::byte> piece) { hasher.update(piece); });
            return hasher.finish();
        }));
    return draft;
}

}  // namespace weightcast::agent
