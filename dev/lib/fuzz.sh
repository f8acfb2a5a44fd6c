# shellcheck shell=bash
# Part of ./run: the fuzz targets, built with stable Rust and libFuzzer. docs/fuzzing.md describes them.

FUZZ="$ROOT/fuzz"
FUZZ_TARGET="$ROOT/target/fuzz"
FUZZ_HOST=
# What cargo-fuzz passes as well, but for the sanitizers, which only nightly Rust has.
FUZZ_FLAGS=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Ccodegen-units=1
    --cfg fuzzing
)

fuzz_names() {
    sed -n 's/^name = "\([a-z0-9_]*\)"$/\1/p' "$FUZZ/Cargo.toml"
}

# fuzz_build TARGET...: the binaries of these targets, or of all. Their dependencies are exactly those of the project.
fuzz_build() {
    local name chosen=()
    FUZZ_HOST=$(rustc -vV | sed -n 's/^host: //p')
    cp "$ROOT/Cargo.lock" "$FUZZ/Cargo.lock"
    for name in "$@"; do chosen+=(--bin "$name"); done
    build_quietly "the fuzz targets (minutes the first time)" fuzz \
        env RUSTFLAGS="${FUZZ_FLAGS[*]}" CARGO_TARGET_DIR="$FUZZ_TARGET" \
        cargo build --release --target "$FUZZ_HOST" --manifest-path "$FUZZ/Cargo.toml" "${chosen[@]}"
}

# fuzz_run TARGET ARGUMENTS...: seeds are read and never written; new inputs go to the corpus.
fuzz_run() {
    local name=$1 options=(-max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1)
    shift
    mkdir -p "$FUZZ/corpus/$name" "$FUZZ/artifacts/$name"
    [ ! -e "$FUZZ/dictionaries/$name.dict" ] || options+=(-dict="$FUZZ/dictionaries/$name.dict")
    "$FUZZ_TARGET/$FUZZ_HOST/release/$name" "${options[@]}" -artifact_prefix="$FUZZ/artifacts/$name/" "$@"
}
