//! Enables the simulation hooks. The published package has no build script, so no release can enable them.

fn main() {
    println!("cargo::rustc-cfg=callback_source_simulation");
    println!("cargo::rerun-if-changed=build.rs");
}
