//! Sets the `cfg` flags for shuttle's primitives and for the planted faults. The published package has no build script,
//! so no release can have these flags.

fn main() {
    println!("cargo::rustc-cfg=callback_source_interleavings");
    println!("cargo::rustc-cfg=callback_source_simulation");
    println!("cargo::rerun-if-changed=build.rs");
}
