//! The modules of the command, in the order of their `mod` lines.

use std::{
    fs,
    path::{Path, PathBuf},
};

#[test]
fn a_module_imports_only_modules_that_are_declared_before_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut imports = 0;
    for file in files(&src) {
        let path = file.strip_prefix(&src).unwrap().with_extension("");
        let mut module: Vec<_> = path.iter().map(|name| name.to_str().unwrap()).collect();
        module.retain(|name| !matches!(*name, "main" | "mod"));
        let Some((name, parents)) = module.split_last() else {
            continue;
        };
        let siblings = declared(
            &parents
                .iter()
                .fold(src.clone(), |path, name| path.join(name)),
        );
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (start, order, own) in [
            ("use crate::", &declared(&src), module[0]),
            ("use super::", &siblings, name),
        ] {
            let position = |name: &str| order.iter().position(|module| module == name);
            for name in code.split(start).skip(1).flat_map(first_names) {
                imports += 1;
                let is_before = position(name).is_some() && position(name) < position(own);
                assert!(is_before, "{} imports `{name}`", path.display());
            }
        }
    }
    assert!(imports > 80, "{imports} imports");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![path],
        })
        .collect()
}

/// Returns the modules that a folder's `mod` lines declare, in their order.
fn declared(folder: &Path) -> Vec<String> {
    let files = ["main.rs", "mod.rs"].map(|name| fs::read_to_string(folder.join(name)));
    let text = files.into_iter().find_map(Result::ok).unwrap();
    let lines = text.lines();
    let names = lines.filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

/// Returns the names at the start of an import: `a::b;` has `a`, and `{a::{b, c}, d};` has `a` and `d`.
fn first_names(import: &str) -> Vec<&str> {
    let mut depth = 0;
    let import = import.split(';').next().unwrap();
    let is_list = import.starts_with('{');
    let items = import.split(|char| {
        depth += i32::from(char == '{') - i32::from(char == '}');
        is_list && depth <= 1 && matches!(char, '{' | ',')
    });
    let names = items.map(|item| item.trim().split([':', '}', ' ']).next().unwrap());
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn the_first_names_of_an_import_are_read() {
    assert_eq!(first_names("a::b; c"), ["a"]);
    assert_eq!(first_names("a;"), ["a"]);
    assert_eq!(first_names("a::{B, C};"), ["a"]);
    let tree = "{\n    a::{self, B},\n    c, d::E as F,\n    g::{H, i::{J, K}},\n};";
    assert_eq!(first_names(tree), ["a", "c", "d", "g"]);
}
