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
