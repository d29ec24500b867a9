//! Tests that no module of the library uses a module that is declared after it in `lib.rs`, that no two modules of a
//! folder use each other, and that each module of the command uses only modules that are declared before it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

type ModulePath = Vec<String>;

/// Collects the modules of a crate with their code, without comments and unit tests.
fn modules(folder: &Path, at: &ModulePath, modules: &mut BTreeMap<ModulePath, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut module = at.clone();
        if !["mod", "lib", "main"].contains(&name.as_str()) {
            module.push(name.clone());
        }
        if path.is_dir() {
            self::modules(&path, &module, modules);
        } else if name != "tests" && name != "model" {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let code = code.lines().map(|line| line.split("//").next().unwrap());
            modules.insert(module, code.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// Collects the paths of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(tree: &str, before: &str, found: &mut Vec<String>) {
    let (mut depth, mut start) = (0, 0);
    for (at, byte) in tree.bytes().chain([b',']).enumerate() {
        depth += i32::from(byte == b'{') - i32::from(byte == b'}');
        if depth == 0 && byte == b',' {
            let item = tree[start..at].trim();
            start = at + 1;
            match item.split_once('{') {
                Some((head, rest)) => {
                    let rest = rest.rsplit_once('}').unwrap().0;
                    paths(rest, &[before, head.trim()].concat(), found);
                }
                None if item.is_empty() => {}
                None => {
                    let item = item.split(" as ").next().unwrap();
                    found.push([before, item.trim()].concat());
                }
            }
        }
    }
}

/// Returns all imports of a module, and all paths in its code that start at the crate's root or at the parent module.
fn uses(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].rsplit('\n').next().unwrap().trim();
        if !["", "pub", "pub(crate)", "pub(super)"].contains(&before) {
            continue;
        }
        let tree = code[at + 4..].split(';').next().unwrap();
        paths(tree, "", &mut found);
    }
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            // This path is in a macro, so only the modules that use the macro also use the path.
            if code[..at].ends_with('$') {
                continue;
            }
            let is_path = |byte: char| byte.is_alphanumeric() || byte == '_' || byte == ':';
            let end = code[at..].find(|byte| !is_path(byte)).unwrap();
            found.push(code[at..at + end].to_owned());
        }
    }
    found
}

/// Returns the module in which a path ends, with re-exports followed.
fn target(modules: &BTreeMap<ModulePath, String>, from: &ModulePath, path: &str) -> ModulePath {
    let mut at = from.clone();
    for name in path.split("::").filter(|name| !name.is_empty()) {
        match name {
            "crate" => at.clear(),
            "self" => {}
            "super" => drop(at.pop()),
            _ => {
                let child = [at.clone(), vec![name.to_owned()]].concat();
                if modules.contains_key(&child) {
                    at = child;
                    continue;
                }
                let ending = format!("::{name}");
                let code = modules.get(&at).map_or("", String::as_str);
                let exported = uses(code).into_iter().find(|path| path.ends_with(&ending));
                match exported.filter(|path| !path.starts_with("super")) {
                    Some(path) => return target(modules, &at, &path),
                    None => return at,
                }
            }
        }
    }
    at
}

/// Returns the uses among the modules of each folder: `a/b.rs` that uses `a/c.rs` is `(a, b, c)`.
fn arrows(folder: &Path) -> BTreeSet<(ModulePath, String, String)> {
    let mut all = BTreeMap::new();
    modules(folder, &Vec::new(), &mut all);
    let mut arrows = BTreeSet::new();
    for (from, code) in &all {
        for path in uses(code) {
            let first = path.split("::").next().unwrap().to_owned();
            let is_child = all.contains_key(&[from.clone(), vec![first.clone()]].concat());
            if !["crate", "super", "self"].contains(&first.as_str()) && !is_child {
                continue;
            }
            let to = target(&all, from, &path);
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if let (Some(a), Some(b)) = (from.get(common), to.get(common)) {
                arrows.insert((from[..common].to_vec(), a.clone(), b.clone()));
            }
        }
    }
    arrows
}

/// Returns the uses that lead into a cycle among the modules of a folder. A use is removed if the used module has no
/// uses of its own, until no such use is left.
fn circles(arrows: &BTreeSet<(ModulePath, String, String)>) -> Vec<String> {
    let mut left: Vec<_> = arrows.iter().collect();
    loop {
        let before = left.len();
        let is_user = |at: &ModulePath, name: &String| {
            let mut left = left.iter();
            left.any(|(folder, user, _)| folder == at && user == name)
        };
        left = left
            .iter()
            .filter(|(folder, _, used)| is_user(folder, used))
            .copied()
            .collect();
        if left.len() == before {
            break;
        }
    }
    left.iter()
        .map(|(folder, user, used)| format!("{}: {user} uses {used}", folder.join("/")))
        .collect()
}

/// Returns the uses of a module that is declared after its user.
fn back(source: &Path, arrows: &BTreeSet<(ModulePath, String, String)>) -> Vec<String> {
    let is_back = |(folder, user, used): &&(ModulePath, String, String)| {
        let order = declared(&source.join(folder.join("/")));
        let place = |name: &String| order.iter().position(|module| module == name);
        place(user).expect(user) < place(used).expect(used)
    };
    let back = arrows.iter().filter(is_back);
    back.map(|(folder, user, used)| format!("{}: {user} uses {used}", folder.join("/")))
        .collect()
}

/// Returns the modules that a folder declares, in their order.
fn declared(folder: &Path) -> Vec<String> {
    let names = ["lib.rs", "main.rs", "mod.rs"];
    let files = names.map(|name| fs::read_to_string(folder.join(name)));
    let text = files.into_iter().find_map(Result::ok).unwrap();
    let names = text.lines().filter_map(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    names.map(str::to_owned).collect()
}

#[test]
fn no_module_of_the_library_uses_one_that_comes_after_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut arrows = arrows(&source);
    arrows.retain(|(folder, ..)| folder.is_empty());
    assert!(arrows.len() > 30, "{arrows:?}");
    let back = back(&source, &arrows);
    assert!(back.is_empty(), "{back:#?}");
}

#[test]
fn no_two_modules_of_the_library_use_each_other() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let circles = circles(&arrows(&source));
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn no_module_of_the_command_uses_one_that_comes_after_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../callback-source-cli/src");
    // The folder is missing in the published package.
    if source.is_dir() {
        let arrows = arrows(&source);
        assert!(arrows.len() > 80, "{arrows:?}");
        let back = back(&source, &arrows);
        assert!(back.is_empty(), "{back:#?}");
    }
}
