// Goal: what is published is described as it is, and bad sources are refused by name. Method: small
// trees and tensors made here.
#include "agent/publish.h"

#include <cstring>
#include <filesystem>

#include "model/safetensors.h"
#include "tests/kit/catch.h"
#include "tests/kit/scratch.h"

namespace weightcast::agent {
namespace {

namespace fs = std::filesystem;

std::string safetensors(const std::string& json, std::size_t data_bytes) {
    std::uint64_t length = json.size();
    std::string file(reinterpret_cast<const char*>(&length), 8);
    return file + json + std::string(data_bytes, 'x');
}

Result<Draft> draft(const kit::Scratch& scratch) {
    const std::vector<std::string> paths{scratch.path("src")};
    return draft_from_files(paths, {.model = "m"});
}

Result<Draft> draft_of(std::span<const TensorView> tensors, const PublishOptions& options) {
    WEIGHTCAST_TRY(const auto memory, TensorMemory::make(tensors));
    return memory->draft(options);
}

TEST_CASE("a tree becomes artifacts by path, its tensors an index") {
    kit::Scratch scratch;
    scratch.write("src/b.safetensors",
                  safetensors(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8));
    scratch.write("src/a/config.json", "{}");
    fs::create_symlink(scratch.write("blob", "linked"), scratch.path("src/z"));
    const auto made = draft(scratch);
    REQUIRE_OK(made);
    const model::Manifest& manifest = made.value().manifest;
    REQUIRE(manifest.artifacts.size() == 3);
    CHECK(manifest.artifacts[0].path == "a/config.json");
    CHECK(manifest.artifacts[1].kind == model::ArtifactKind::safetensors);
    CHECK(manifest.artifacts[2].bytes == 6);
    REQUIRE(manifest.tensors.size() == 1);
    CHECK(manifest.tensors[0].bytes == 8);
}

TEST_CASE("a corrupt safetensors file is refused with its name and the tensor's") {
    kit::Scratch scratch;
    scratch.write("src/bad.safetensors",
                  safetensors(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,9]}})", 9));
    const auto made = draft(scratch);
    REQUIRE(made.has_error());
    CHECK(made.error().code == Code::invalid_input);
    CHECK(made.error().message.find("bad.safetensors") != std::string::npos);
    CHECK(made.error().message.find("w") != std::string::npos);
}

TEST_CASE("two parts of a pipeline may have tensors of one name") {
    kit::Scratch scratch;
    const std::string file =
        safetensors(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4);
    scratch.write("src/vae/m.safetensors", file);
    scratch.write("src/unet/m.safetensors", file);
    const auto made = draft(scratch);
    REQUIRE_OK(made);
    CHECK(made.value().manifest.tensors.size() == 2);
    REQUIRE_OK(model::check_manifest(made.value().manifest));
}

TEST_CASE("an index that names a missing shard is refused") {
    kit::Scratch scratch;
    scratch.write("src/model.safetensors.index.json",
                  R"({"weight_map":{"w":"model-00001-of-00001.safetensors"}})");
    const auto made = draft(scratch);
    REQUIRE(made.has_error());
    CHECK(made.error().message.find("model-00001-of-00001.safetensors") != std::string::npos);
}

TEST_CASE("a file that changes after it was read is noticed") {
    kit::Scratch scratch;
    const std::string file = scratch.write("src/a", std::string(1000, 'a'));
    const auto made = draft(scratch);
    REQUIRE_OK(made);
    REQUIRE_OK(made.value().check_source());
    fs::resize_file(file, 10);
    const auto changed = made.value().check_source();
    REQUIRE(changed.has_error());
    CHECK(changed.error().code == Code::corrupt);
}

TEST_CASE("nothing, and what is not there, cannot be published") {
    kit::Scratch scratch;
    fs::create_directories(scratch.path("src"));
    CHECK(draft(scratch).has_error());
    const std::vector<std::string> missing{scratch.path("nowhere")};
    CHECK(draft_from_files(missing, {.model = "m"}).error().code == Code::not_found);
}

TEST_CASE("tensors in memory become the safetensors file that they would be") {
    const std::string first = kit::noise(300'000, 1);
    const std::string second = kit::noise(50'000, 2);
    const std::vector<TensorView> tensors{{"b", "U8", {300, 1000}, std::as_bytes(std::span(first))},
                                          {"a", "BF16", {25000}, std::as_bytes(std::span(second))}};
    const auto memory = draft_of(tensors, {.model = "m", .chunk_bytes = 65536});
    REQUIRE_OK(memory);

    std::vector<model::TensorEntry> entries{{"b", model::Dtype::u8, {300, 1000}, 0, 300'000},
                                            {"a", model::Dtype::bf16, {25000}, 0, 50'000}};
    const auto header = model::write_safetensors_header(entries, {{"format", "pt"}});
    REQUIRE_OK(header);
    std::string file(reinterpret_cast<const char*>(header.value().data()), header.value().size());
    kit::Scratch scratch;
    scratch.write("src/model.safetensors", file + first + second);
    const std::vector<std::string> paths{scratch.path("src")};
    const auto disk = draft_from_files(paths, {.model = "m", .chunk_bytes = 65536});
    REQUIRE_OK(disk);
    CHECK(name_manifest(memory.value().manifest, 1).name ==
          name_manifest(disk.value().manifest, 1).name);
}

TEST_CASE("a tensor whose bytes do not fit its shape is refused") {
    const std::string bytes(10, 'x');
    const std::vector<TensorView> tensors{{"w", "F32", {3}, std::as_bytes(std::span(bytes))}};
    const auto made = draft_of(tensors, {.model = "m"});
    REQUIRE(made.has_error());
    CHECK(made.error().message.find("w") != std::string::npos);
}

TEST_CASE("digests of tensors that did not change are taken over") {
    constexpr std::size_t kBytes = 3 * 65536 + 100;
    std::vector<std::byte> memory(3 * kBytes);
    const auto at = [&](std::size_t i) { return std::span(memory).subspan(i * kBytes, kBytes); };
    const std::vector<TensorView> tensors{
        {"a", "U8", {kBytes}, at(0)}, {"b", "U8", {kBytes}, at(1)}, {"c", "U8", {kBytes}, at(2)}};
    const PublishOptions options{.model = "m", .chunk_bytes = 65536};
    const auto made = TensorMemory::make(tensors);
    REQUIRE_OK(made);
    const TensorMemory& source = *made.value();
    const auto before = source.draft(options);
    REQUIRE_OK(before);
    const model::Manifest& old = before.value().manifest;
    for (std::size_t i = 0; i < 3; ++i) at(i)[kBytes / 2] = std::byte{1};
    const std::vector<std::string> changed{"b"};
    const auto after = source.draft(options, &old, &changed);
    const auto all = source.draft(options);
    REQUIRE_OK(after);
    REQUIRE_OK(all);
    const auto& digests = after.value().manifest.chunk_digests;
    REQUIRE(digests.size() == old.chunk_digests.size());
    // Only b is looked at: what was written to a and c, against what was said, is not noticed.
    std::size_t kept = 0;
    for (std::size_t i = 0; i < digests.size(); ++i) {
        kept += digests[i] == old.chunk_digests[i] ? 1 : 0;
        const bool known = digests[i] == old.chunk_digests[i] ||
                           digests[i] == all.value().manifest.chunk_digests[i];
        CHECK(known);
    }
    CHECK(kept == digests.size() - 1);
    const std::vector<std::string> unknown{"d"};
    CHECK(source.draft(options, &old, &unknown).error().code == Code::not_found);
    // With another chunk size nothing of it can be taken over.
    const auto other = source.draft({.model = "m", .chunk_bytes = 131072}, &old, &changed);
    const auto fresh = source.draft({.model = "m", .chunk_bytes = 131072});
    REQUIRE_OK(other);
    REQUIRE_OK(fresh);
    CHECK(other.value().manifest.chunk_digests == fresh.value().manifest.chunk_digests);
}

}  // namespace
}  // namespace weightcast::agent
