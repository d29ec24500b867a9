//! Tests that the pages of `docs/` name only tests and files that exist.

use std::{fs, path::Path};

/// Returns the text of every Rust file below a folder.
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

/// Returns the table rows that name a test, from a section of a page.
fn rows(page: &str, section: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs").join(page)).expect("the page is there");
    let (_, section) = page.split_once(section).expect("the section is there");
    let (section, _) = section.split_once("\n## ").unwrap_or((section, ""));
    let is_row = |line: &&str| line.starts_with("| ") && line.contains('`') && line.contains("::");
    section.lines().filter(is_row).map(str::to_owned).collect()
}

fn each_names_tests_that_exist(rows: &[String]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = [
        "tests/it",
        "tests/wiring",
        "crates/callback-source/src",
        "crates/callback-source/tests",
        "crates/callback-source-cli",
    ];
    let tests: String = folders.map(|folder| sources(&root.join(folder))).concat();
    for row in rows {
        let (_, last) = row.rsplit_once(" | ").expect("a row has columns");
        let named = last.split('`').filter_map(|text| text.split_once("::"));
        let named: Vec<_> = named.map(|(_, test)| format!("fn {test}(")).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for test in named {
            assert!(tests.contains(&test), "{test}");
        }
    }
}

#[test]
fn every_fault_of_the_operator_s_table_names_a_test() {
    let rows = rows("operations.md", "\n## Faults\n");
    assert!(rows.len() > 70, "{}", rows.len());
    each_names_tests_that_exist(&rows);
}

#[test]
fn every_property_of_a_followed_firewall_names_a_test() {
    let rows = rows("firewall.md", "\n## Properties and their tests\n");
    assert!(rows.len() >= 16, "{}", rows.len());
    each_names_tests_that_exist(&rows);
}

#[test]
fn every_mistake_in_the_wiring_names_a_test() {
    let rows = rows("wiring.md", "# Mistakes in the wiring\n");
    assert!(rows.len() > 10, "{}", rows.len());
    each_names_tests_that_exist(&rows);
}

#[test]
fn every_input_that_broke_the_library_names_a_test() {
    let rows = rows("verification.md", "\n## The inputs that broke it\n");
    let numbers = (1..=43).map(|number| format!("| {number} |"));
    for number in numbers {
        let is_there = rows.iter().any(|row| row.starts_with(&number));
        assert!(is_there, "{number}");
    }
    each_names_tests_that_exist(&rows);
}

#[test]
fn every_replayed_schedule_that_a_page_names_is_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/verification.md")).expect("the page is there");
    let tests = sources(&root.join("simulate/src"));
    let named = page.split("`found::").skip(1);
    let named: Vec<_> = named.filter_map(|text| text.split('`').next()).collect();
    assert!(named.len() >= 5, "{named:?}");
    for test in named {
        assert!(tests.contains(&format!("fn {test}(")), "{test}");
    }
}

#[test]
fn every_file_that_answers_a_maintainer_s_question_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/architecture.md")).expect("the page is there");
    let (_, section) = page
        .split_once("\n## Ten questions\n")
        .expect("the section is there");
    let rows = section.lines().filter(|line| line.starts_with("| "));
    let names = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let files: Vec<_> = names.filter(|name| name.ends_with(".rs")).collect();
    assert!(files.len() > 15, "{files:?}");
    for file in files {
        let is_file = |folder: &str| root.join(folder).join(file).is_file();
        assert!(
            is_file("") || is_file("crates/callback-source/src"),
            "{file}"
        );
    }
}
