#!/usr/bin/env bash
# Fuzzes one target guided by coverage, with the stable compiler and libFuzzer (a C++ compiler builds it):
#
#     tests/fuzz/run.sh TARGET [SECONDS] [more of libFuzzer's options]
#
# Targets are the folders of tests/fuzz/corpus. New inputs are kept in target/fuzz/corpus, failing
# ones in target/fuzz/found: copy what should be run for ever into the corpus.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${1:?"which target? one of: $(ls tests/fuzz/corpus | xargs)"}
seconds=${2:-60}
shift $(($# > 2 ? 2 : $#))

host=$(rustc -vV | sed -n 's/^host: //p')
flags=(-Cpasses=sancov-module)
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$option")
done
# Named, so that build scripts and macros are built without the flags.
RUSTFLAGS="${flags[*]}" cargo build --quiet --release --target "$host" --target-dir target/fuzz \
    --manifest-path tests/fuzz/coverage/Cargo.toml

mkdir -p "target/fuzz/corpus/$target" "target/fuzz/found/$target"
FUZZ_TARGET=$target exec "target/fuzz/$host/release/fuzz" -max_total_time="$seconds" -timeout=10 \
    -dict=tests/fuzz/coverage/words.dict -artifact_prefix="target/fuzz/found/$target/" "$@" \
    "target/fuzz/corpus/$target" "tests/fuzz/corpus/$target"
