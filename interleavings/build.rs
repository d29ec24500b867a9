//! Sets the cfg of shuttle's primitives, and the cfg of the planted faults. The published package has no build
//! script, so no release can have either.

fn main() {
    println!("cargo::rustc-cfg=callback_source_interleavings");
    println!("cargo::rustc-cfg=callback_source_simulation");
    println!("cargo::rerun-if-changed=build.rs");
}
