//! What the pages of `docs/` say about the tests.

use std::{fs, path::Path};

/// Every Rust file below a folder, as one text.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(&path).expect("it is UTF-8");
        }
    }
    text
}

#[test]
fn every_fault_in_the_operator_s_table_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/operations.md")).expect("the page is there");
    let tests = sources(&root.join("tests/it"))
        + &sources(&root.join("crates/callback-source/src"))
        + &sources(&root.join("crates/callback-source-cli/tests"));
    let (_, table) = page
        .split_once("\n## Faults\n")
        .expect("the section is there");
    let (table, _) = table.split_once("\n## ").unwrap_or((table, ""));
    let rows: Vec<_> = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .collect();
    assert!(rows.len() > 30, "{}", rows.len());
    for row in rows {
        let named = row.split('`').filter_map(|text| text.split_once("::"));
        let named: Vec<_> = named.map(|(_, test)| format!("fn {test}(")).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for test in named {
            assert!(tests.contains(&test), "{test}");
        }
    }
}
