#include "model/digest.h"

#define OPENSSL_SUPPRESS_DEPRECATED  // for the SHA-256 that needs no provider
#include <openssl/sha.h>

#include <algorithm>

#include "base/assert.h"
#include "base/hex.h"

#define XXH_STATIC_LINKING_ONLY  // for XXH3_state_t
#ifdef WEIGHTCAST_XXH_DISPATCH
// The library picks AVX-512, AVX2 or SSE2 when it first runs.
#include <xxh_x86dispatch.h>
#else
#define XXH_INLINE_ALL
#include <xxhash.h>
#endif

namespace weightcast::model {
namespace {

Digest canonical(XXH128_hash_t hash) {
    XXH128_canonical_t canonical_hash;
    XXH128_canonicalFromHash(&canonical_hash, hash);
    Digest digest;
    const auto* first = reinterpret_cast<const std::byte*>(canonical_hash.digest);
    std::copy_n(first, digest.bytes.size(), digest.bytes.begin());
    return digest;
}

XXH64_canonical_t digest_leaf(const std::byte* leaf, std::size_t bytes) {
    XXH64_canonical_t canonical_hash;
    XXH64_canonicalFromHash(&canonical_hash, XXH3_64bits(leaf, bytes));
    return canonical_hash;
}

template <typename T>
Result<T> parse_hex(std::string_view text, const char* what) {
    T value;
    const auto bytes = from_hex(text);
    if (!bytes || bytes->size() != value.bytes.size()) {
        return Error{Code::invalid_input, 0,
                     std::string(what) + " is not " + std::to_string(value.bytes.size() * 2) +
                         " lower-case hexadecimal digits"};
    }
    std::copy(bytes->begin(), bytes->end(), value.bytes.begin());
    return value;
}

// Leaf digests are collected in batches of this many; one batch is a chunk of 1 MiB.
constexpr std::size_t kLeavesPerBatch = 64;

}  // namespace

struct ChunkHasher::State {
    XXH3_state_t chunk;       // over leaf digests
    XXH3_state_t leaf;        // over the bytes of the unfinished leaf
    std::size_t leaf_filled;  // bytes of the unfinished leaf

    void add_leaf(XXH64_hash_t hash) {
        XXH64_canonical_t canonical_hash;
        XXH64_canonicalFromHash(&canonical_hash, hash);
        XXH3_128bits_update(&chunk, canonical_hash.digest, sizeof canonical_hash.digest);
    }
    void start() {
        XXH3_128bits_reset(&chunk);
        XXH3_64bits_reset(&leaf);
        leaf_filled = 0;
    }
    void finish_leaf() {
        add_leaf(XXH3_64bits_digest(&leaf));
        XXH3_64bits_reset(&leaf);
        leaf_filled = 0;
    }
};

ChunkHasher::ChunkHasher() : state_(std::make_unique<State>()) { state_->start(); }
ChunkHasher::~ChunkHasher() = default;

void ChunkHasher::update(std::span<const std::byte> piece) {
    State& state = *state_;
    while (!piece.empty()) {
        if (state.leaf_filled == 0 && piece.size() >= kLeafBytes) {
            state.add_leaf(XXH3_64bits(piece.data(), kLeafBytes));
            piece = piece.subspan(kLeafBytes);
            continue;
        }
        const std::size_t bytes = std::min(piece.size(), kLeafBytes - state.leaf_filled);
        XXH3_64bits_update(&state.leaf, piece.data(), bytes);
        state.leaf_filled += bytes;
        piece = piece.subspan(bytes);
        if (state.leaf_filled == kLeafBytes) state.finish_leaf();
    }
}

Digest ChunkHasher::finish() {
    if (state_->leaf_filled > 0) state_->finish_leaf();
    const Digest digest = canonical(XXH3_128bits_digest(&state_->chunk));
    state_->start();
    return digest;
}

Digest digest_chunk(std::span<const std::byte> chunk) {
    if (chunk.size() > kLeafBytes * kLeavesPerBatch) {
        ChunkHasher hasher;
        hasher.update(chunk);
        return hasher.finish();
    }
    std::array<XXH64_canonical_t, kLeavesPerBatch> leaves;
    std::size_t count = 0;
    for (std::size_t offset = 0; offset < chunk.size(); offset += kLeafBytes) {
        leaves[count++] =
            digest_leaf(chunk.data() + offset, std::min(kLeafBytes, chunk.size() - offset));
    }
    return canonical(XXH3_128bits(leaves.data(), count * sizeof(XXH64_canonical_t)));
}

Digest digest_of_digests(std::span<const Digest> digests) {
    static_assert(sizeof(Digest) == 16);
    return canonical(XXH3_128bits(digests.data(), digests.size_bytes()));
}

Sha256 sha256(std::span<const std::byte> bytes) {
    // Loading a provider, for one hash of a few KiB, would be a tenth of a pull's start.
    static_assert(sizeof(Sha256) == SHA256_DIGEST_LENGTH);
    Sha256 digest;
    ::SHA256_CTX context;
    ::SHA256_Init(&context);
    ::SHA256_Update(&context, bytes.data(), bytes.size());
    ::SHA256_Final(reinterpret_cast<unsigned char*>(digest.bytes.data()), &context);
    return digest;
}

std::string to_string(const Digest& digest) { return to_hex(digest.bytes); }
std::string to_string(const Sha256& digest) { return to_hex(digest.bytes); }

Result<Digest> parse_digest(std::string_view text) { return parse_hex<Digest>(text, "the digest"); }
Result<Sha256> parse_sha256(std::string_view text) {
    return parse_hex<Sha256>(text, "the SHA-256");
}

}  // namespace weightcast::model
