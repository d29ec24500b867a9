//! Sets the cfg of the seam. The published package has no build script, so that no release can have it.

fn main() {
    println!("cargo::rustc-cfg=callback_source_simulation");
    println!("cargo::rerun-if-changed=build.rs");
}
