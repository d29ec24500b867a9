# The commands of CONTRIBUTING.md, for those who have `just`.

# Run the receiver on the DNS server it brings along
demo:
    cargo run -p receiver -- --embedded-dns

# What a change has to pass
ci:
    .ci/run

test:
    cargo test --workspace --all-features

lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps

# Known vulnerabilities; needs the advisory database, so it is not part of `ci`
advisories:
    cargo deny check advisories

# Instruction counts against their limits; needs valgrind and gungraun-runner
bench:
    cargo bench -p callback-source --bench instructions

# Load on the bare route, with the layer, and behind nginx and Caddy; needs these and wrk, and a quiet machine
compare:
    bench/compare.py run
    bench/compare.py plot
